"""What a model had predicted, against the label that was saved later."""

from __future__ import annotations

import gc
import resource
import shutil

import campaign_case as case
import nibabel
import numpy as np
import pytest
import torch
from campaign_case import HELD_OUT, label, list_files
from filelock import FileLock
from PIL import Image as Picture
from sqlalchemy import select

from coldstart.campaign import Campaign, LabelFile
from coldstart.campaign.curve import learning_curve
from coldstart.campaign.judging import Judge
from coldstart.exceptions import ModelError
from coldstart.images import read_image
from coldstart.segmentation import Model, load_model, segment
from coldstart.store import Image, Judgement, Label

LEARNED = ("p00", "p01", "p02")


@pytest.fixture(scope="module")
def taught_folder(embedded_folder, held_out_file, tmp_path_factory):
    """A campaign whose model has learned from three images."""
    folder = tmp_path_factory.mktemp("taught") / "state"
    shutil.copytree(embedded_folder, folder)
    campaign = Campaign(case.make_settings(heldout=held_out_file), folder)
    for image_id in LEARNED:
        label(campaign, image_id)
    campaign.trainings.train(campaign.settings.override({"epochs": 10}), lambda _: None)
    campaign.store.close()
    return folder


@pytest.fixture
def open_taught(taught_folder, held_out_file, tmp_path, opened):
    shutil.copytree(taught_folder, tmp_path / "taught")

    def open_again(**values):
        opened.append(Campaign(case.make_settings(**{"heldout": held_out_file, **values}), tmp_path / "taught"))
        return opened[-1]

    return open_again


@pytest.fixture
def taught(open_taught):
    return open_taught()


def judgements(campaign):
    with campaign.store.reading() as session:
        found = select(Image.image_id, Judgement).join(Judgement).order_by(Judgement.judged_at)
        return session.execute(found).tuples().all()


def expected_dice(campaign, image_id):
    """By definition, for each structure: twice what both have, over the sum of what each has."""
    model = load_model(campaign.model_path, "cpu")
    prediction = segment(model, read_image(case.rows(campaign)[image_id].path))
    truth = np.asarray(Picture.open(campaign.folder / "labels" / f"{image_id}.png"))
    both = {name: ((prediction == value) & (truth == value)).sum() for value, name in ((1, "disc"), (2, "rim"))}
    sizes = {name: (prediction == value).sum() + (truth == value).sum() for value, name in ((1, "disc"), (2, "rim"))}
    return {name: 2 * both[name] / sizes[name] if sizes[name] else 1.0 for name in both}


def test_saved_label_is_judged_by_the_model_in_use(taught):
    label(taught, "p05", annotator="ada")
    assert Judge(taught).judge_waiting() == 1
    [(image_id, judged)] = judgements(taught)
    model = load_model(taught.model_path, "cpu")
    expected = expected_dice(taught, "p05")
    assert 0 < expected["disc"] < 1
    assert judged.class_dice == pytest.approx(expected)
    assert judged.dice == pytest.approx(np.mean([*expected.values()]))
    assert (image_id, judged.model_version, judged.n_labels) == ("p05", model.version, len(LEARNED))
    assert judged.annotator == "ada"
    [point] = learning_curve(taught.store).prequential
    assert (point.image_id, point.dice, point.n_labels) == ("p05", judged.dice, len(LEARNED))


def test_what_the_model_learned_from_is_held_out_or_is_wrong_is_not_judged(taught):
    label(taught, LEARNED[0], values=(1,))
    label(taught, HELD_OUT[0])
    label(taught, "p06", values=(9,))
    assert Judge(taught).judge_waiting() == 0
    label(taught, "p06")
    assert Judge(taught).judge_waiting() == 1
    assert [image_id for image_id, _ in judgements(taught)] == ["p06"]


def test_label_saved_again_takes_the_place_of_the_one_before(taught):
    judge = Judge(taught)
    label(taught, "p05")
    judge.judge_waiting()
    [(_, before)] = judgements(taught)
    assert judge.judge_waiting() == 0
    label(taught, "p05", values=(2, 1))
    assert judge.judge_waiting() == 1
    [(_, after)] = judgements(taught)
    assert after.class_dice == pytest.approx(expected_dice(taught, "p05")) != before.class_dice


def test_label_is_judged_once_and_never_by_a_model_that_learned_from_it(taught):
    judge = Judge(taught)
    label(taught, "p05")
    judge.judge_waiting()
    [(_, before)] = judgements(taught)
    first = load_model(taught.model_path, "cpu").version
    taught.trainings.train(taught.settings, lambda _: None)
    label(taught, "p05", values=(2, 1))
    label(taught, "p07")
    assert judge.judge_waiting() == 1
    found = judgements(taught)
    second = load_model(taught.model_path, "cpu").version
    assert [(image_id, one.model_version) for image_id, one in found] == [("p05", first), ("p07", second)]
    assert found[0][1].dice == before.dice
    assert found[1][1].n_labels == len(LEARNED) + 1


def test_label_saved_during_a_training_is_judged_by_the_model_before_alone(taught):
    judge = Judge(taught)

    def save_one(report):
        if report.epoch == 1:
            label(taught, "p08")
            assert judge.judge_waiting() == 1

    before = load_model(taught.model_path, "cpu").version
    taught.trainings.train(taught.settings, save_one)
    assert judge.judge_waiting() == 0
    assert [one.model_version for _, one in judgements(taught)] == [before]


def test_label_saved_before_a_kill_is_judged_at_the_next_start(open_taught):
    killed = open_taught()
    label(killed, "p05")
    killed.store.close()
    again = open_taught()
    assert Judge(again).judge_waiting() == 1
    assert Judge(again).judge_waiting() == 0


def test_removed_label_no_longer_counts_in_the_curve(taught):
    label(taught, "p05")
    Judge(taught).judge_waiting()
    taught.remove_label("p05")
    assert learning_curve(taught.store).prequential == []


def test_structures_are_matched_by_name(open_taught):
    """The preset has another structure and another order now than when the model was trained."""
    changed = open_taught(labels={"new": 3, "rim": 2, "disc": 1})
    label(changed, "p05", values=(1, 2, 3))
    assert Judge(changed).judge_waiting() == 1
    [(_, judged)] = judgements(changed)
    assert judged.class_dice == pytest.approx(expected_dice(changed, "p05"))


def test_structures_that_the_model_does_not_know_are_not_judged(open_taught):
    changed = open_taught(labels={"new": 1})
    label(changed, "p05", values=(1,))
    Judge(changed).judge_waiting()
    [(_, judged)] = judgements(changed)
    assert judged.dice is None and judged.class_dice == {}
    assert learning_curve(changed.store).prequential == []
    assert Judge(changed).judge_waiting() == 0


def test_empty_label_counts_as_everywhere_else(taught):
    """A structure in neither is right, one that was predicted where there is none is wrong."""
    label(taught, "p05", values=())
    Judge(taught).judge_waiting()
    [(_, judged)] = judgements(taught)
    assert judged.class_dice == expected_dice(taught, "p05")
    assert set(judged.class_dice.values()) <= {0.0, 1.0}


def test_nothing_is_judged_without_a_model(campaign):
    label(campaign, "p05")
    assert Judge(campaign).judge_waiting() == 0


def test_label_that_cannot_be_read_any_more_is_not_tried_again(taught):
    label(taught, "p05")
    label(taught, "p06")
    (taught.folder / "labels" / "p05.png").write_bytes(b"no picture")
    assert Judge(taught).judge_waiting() == 2
    assert {image_id: one.dice is None for image_id, one in judgements(taught)} == {"p05": True, "p06": False}
    assert Judge(taught).judge_waiting() == 0


def test_label_whose_file_is_away_waits_for_it(taught):
    label(taught, "p05")
    path = taught.folder / "labels" / "p05.png"
    away = path.rename(path.with_suffix(".away"))
    assert Judge(taught).judge_waiting() == 0
    away.rename(path)
    assert Judge(taught).judge_waiting() == 1


def test_damaged_model_file_is_said_and_the_label_waits(taught, monkeypatch):
    judge = Judge(taught)
    label(taught, "p05")
    for path in taught.model_path.parent.glob("*.pt"):
        path.rename(path.with_suffix(".whole"))
        path.write_bytes(b"")
    with pytest.raises(ModelError, match="damaged"):
        judge.judge_waiting()
    for path in taught.model_path.parent.glob("*.whole"):
        path.rename(path.with_suffix(".pt"))
    assert judge.judge_waiting() == 0, "it is not tried all the time"
    monkeypatch.setattr("coldstart.campaign.judging.RETRY_AFTER_S", 0.0)
    assert Judge(taught).judge_waiting() == 1


def test_model_that_does_not_fit_onto_the_card_is_loaded_later(taught, monkeypatch):
    def is_full(path, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    judge = Judge(taught)
    label(taught, "p05")
    with monkeypatch.context() as full, pytest.raises(ModelError, match=r"ran out of memory .* tried again by itself"):
        full.setattr("coldstart.campaign.judging.load_published", is_full)
        judge.judge_waiting()
    assert judge.judge_waiting() == 0, "it is not tried all the time"
    monkeypatch.setattr("coldstart.campaign.judging.RETRY_AFTER_S", 0.0)
    assert Judge(taught).judge_waiting() == 1


def test_image_too_large_for_the_memory_keeps_no_other_from_being_judged(taught, pictures, tmp_path):
    """For real: this process may take little more memory than it has."""
    folder = tmp_path / "images"
    shutil.copytree(pictures, folder)
    large = np.zeros((8_000, 8_000), np.uint8)
    large[0, 0] = 1
    Picture.fromarray(large).save(folder / "big.png")
    taught.sync(list_files(folder), {})
    with taught.store.writing() as session:
        row = session.query(Image).filter_by(image_id="big").one().id
        path = tmp_path / "big_label.png"
        Picture.fromarray(large).save(path)
        values = {"signature": "s", "saved_at": 0.0, "class_of_value": {"1": 1}, "problem": None}
        session.add(Label(image=row, path=str(path), **values))
    label(taught, "p05")
    judge = Judge(taught)
    gc.collect()
    taken = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (200 << 20), limits[1]))
    try:
        with pytest.raises(ModelError, match="image 'big' ran out of memory"):
            judge.judge_waiting()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert [image_id for image_id, _ in judgements(taught)] == ["p05"]


def test_model_is_in_memory_only_while_it_judges(taught):
    label(taught, "p05")
    judge = Judge(taught)
    gc.collect()
    of_other_tests = {id(one) for one in gc.get_objects() if isinstance(one, Model)}
    assert judge.judge_waiting() == 1
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Model) and id(one) not in of_other_tests]


def test_judge_that_is_ended_leaves_the_rest_for_the_next_start(taught):
    for image_id in ("p05", "p06"):
        label(taught, image_id)
    judge = Judge(taught)
    judge.end()
    assert judge.judge_waiting() == 0
    assert Judge(taught).judge_waiting() == 2


def test_what_one_step_has_no_time_for_is_judged_by_the_next(taught, monkeypatch):
    for image_id in ("p05", "p06"):
        label(taught, image_id)
    judge = Judge(taught)
    with monkeypatch.context() as patch:
        patch.setattr("coldstart.campaign.judging.JUDGE_FOR_S", 0.0)
        assert judge.judge_waiting() == 0
    assert judge.judge_waiting() == 2
    assert judge.judge_waiting() == 0


def test_labels_that_another_server_judges_are_left_to_it(taught):
    label(taught, "p05")
    judge = Judge(taught)
    with FileLock(taught.folder / "judging.lock"):
        assert judge.judge_waiting() == 0
    assert judge.judge_waiting() == 1


def test_volume_is_judged_slice_by_slice_together(make_new, tmp_path):
    """3D: the same, on the volume's own anisotropic grid."""
    generator = np.random.default_rng(0)
    affine = np.diag([1.5, 1.0, 3.0, 1.0])
    images, truths = {}, {}
    for index in range(3):
        grid = np.stack(np.mgrid[:36, :30, :20])
        centre = np.array([18, 15, 10]) + generator.uniform(-3, 3, 3)
        truth = (np.linalg.norm(grid - centre[:, None, None, None], axis=0) < 7).astype(np.uint8)
        pixels = (100 * truth + generator.normal(0, 5, truth.shape)).astype(np.float32)
        images[f"v{index}"], truths[f"v{index}"] = tmp_path / f"v{index}.nii.gz", tmp_path / f"v{index}_label.nii.gz"
        nibabel.save(nibabel.Nifti1Image(pixels, affine), images[f"v{index}"])
        nibabel.save(nibabel.Nifti1Image(truth, affine), truths[f"v{index}"])
    campaign = make_new(labels={"ball": 1}, spatial_dims=3, spatial_size=(32, 32, 32), epochs=4)
    campaign.sync(images, {})
    for image_id in ("v0", "v1"):
        assert campaign.save_label(image_id, LabelFile(truths[image_id])) is None
    campaign.trainings.train(campaign.settings, lambda _: None)
    campaign.save_label("v2", LabelFile(truths["v2"]))
    assert Judge(campaign).judge_waiting() == 1
    [(image_id, judged)] = judgements(campaign)
    image = read_image(images["v2"])
    prediction = segment(load_model(campaign.model_path, "cpu"), image) == 1
    truth = read_image(truths["v2"]).pixels[0] == 1
    expected = 2 * (prediction & truth).sum() / (prediction.sum() + truth.sum())
    assert image_id == "v2" and 0 < expected <= 1
    assert judged.class_dice == pytest.approx({"ball": expected})
