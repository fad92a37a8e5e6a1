"""Images and labels that appear, change or go away, and the check of a label when it is saved."""

from __future__ import annotations

import logging
import os
import shutil
import time

import campaign_case as case
import numpy as np
import pytest
from campaign_case import click, clicks, draw_image, draw_label, label, labels, planned, rows
from PIL import Image as Picture
from sqlalchemy import select, update

from coldstart.campaign import LabelFile, learning
from coldstart.campaign.curve import day_counts
from coldstart.store import Image, Label, Serving

NAMED = [{"name": "disc", "idx": 5}, {"name": "rim", "idx": 6}]


@pytest.fixture
def studies(pictures, tmp_path):
    """A copy of the images, times included, that a test may change."""
    return shutil.copytree(pictures, tmp_path / "studies")


def sync(campaign, studies, labelled=None):
    campaign.sync(case.list_files(studies), labelled or {})


def replace(path, **drawn):
    """Another file under the same name, surely with another time."""
    draw_image(path, **drawn)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def save(campaign, image_id, path, label_info=None, annotator=None):
    return campaign.save_label(image_id, LabelFile(path, annotator, label_info))


def trained_on(campaign):
    return {
        sample.image_id: dict(sample.class_of_value) for sample in learning.labelled_images(campaign.store).training
    }


# Labels


def test_good_label_is_trained_on_by_the_presets_numbers(campaign):
    assert label(campaign, "p01") is None
    assert trained_on(campaign) == {"p01": {1: 1, 2: 2}}
    assert campaign.label_problem("p01") is None


def test_label_values_get_their_meaning_by_name(campaign, tmp_path):
    path = draw_label(tmp_path / "p01.png", values=(6, 5))
    assert save(campaign, "p01", path, NAMED) is None
    assert trained_on(campaign) == {"p01": {5: 1, 6: 2}}
    assert labels(campaign)["p01"].label_info == NAMED


def test_empty_label_is_valid(campaign):
    assert label(campaign, "p01", values=()) is None
    assert trained_on(campaign) == {"p01": {}}


@pytest.mark.parametrize(
    ("drawn", "label_info", "sentence"),
    [
        ({"shape": (40, 48)}, None, "48"),
        ({"values": (1, 7)}, None, "The label holds the value 7"),
        ({"values": (5,)}, [{"name": "dics", "idx": 5}], "calls the value 5 'dics'"),
        ({"values": (1,)}, [{"idx": 1}], "Each entry of `label_info` must be"),
        ({"values": (1,)}, 5, "`label_info` must be a list of names and numbers; got 5"),
    ],
    ids=["shape", "value", "name", "malformed entry", "malformed"],
)
def test_label_that_cannot_be_used_is_kept_and_stays_out_of_training(
    campaign, tmp_path, caplog, drawn, label_info, sentence
):
    path = draw_label(tmp_path / "p01.png", **drawn)
    before = path.read_bytes()
    problem = save(campaign, "p01", path, label_info)
    assert problem.startswith("The label of image 'p01' is kept, but stays out of training: ")
    assert sentence in problem
    assert problem in caplog.text
    assert campaign.label_problem("p01") == problem
    assert campaign.status()["label_problems"] == [problem]
    assert trained_on(campaign) == {}
    assert learning.labelled_images(campaign.store).problems == [problem]
    assert path.read_bytes() == before


def test_file_that_is_no_label_is_a_problem_and_not_an_error(campaign, tmp_path):
    path = tmp_path / "p01.png"
    path.write_bytes(b"no picture")
    assert "stays out of training" in save(campaign, "p01", path)
    assert trained_on(campaign) == {}


def test_label_of_another_geometry_stays_out_of_training(make_new, tmp_path):
    import SimpleITK as sitk  # noqa: N813

    def write(name, spacing, array):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(spacing)
        sitk.WriteImage(volume, str(tmp_path / name))
        return tmp_path / name

    generator = np.random.default_rng(0)
    image = write("a.nrrd", (1.0, 1.0), generator.integers(0, 255, (48, 48)).astype(np.uint8))
    campaign = make_new()
    campaign.sync({"a": image}, {})
    ones = np.ones((48, 48), np.uint8)
    assert "spacing" in save(campaign, "a", write("label.nrrd", (1.0, 2.0), ones))
    assert save(campaign, "a", write("label.nrrd", (1.0, 1.0), ones)) is None


def test_label_put_right_is_trained_on(campaign, tmp_path):
    assert label(campaign, "p01", values=(9,)) is not None
    assert label(campaign, "p01", values=(1,)) is None
    assert trained_on(campaign) == {"p01": {1: 1}}
    assert campaign.status()["label_problems"] == []


def test_label_put_right_in_the_folder_is_noticed_by_the_sync(campaign, studies, tmp_path):
    path = draw_label(tmp_path / "p01.png", values=(9,))
    sync(campaign, studies, {"p01": LabelFile(path)})
    assert campaign.label_problem("p01") is not None
    draw_label(path, values=(1,))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    sync(campaign, studies, {"p01": LabelFile(path)})
    assert campaign.label_problem("p01") is None


def test_label_is_checked_again_when_the_configured_structures_change(campaign, make_campaign, studies, tmp_path):
    path = draw_label(tmp_path / "p01.png", values=(1, 2))
    files = {"p01": LabelFile(path)}
    sync(campaign, studies, files)
    other = make_campaign(labels={"disc": 1})
    sync(other, studies, files)
    assert "the value 2" in other.label_problem("p01")


def test_label_is_checked_again_when_its_image_changes(campaign, studies, tmp_path):
    files = {"p01": LabelFile(draw_label(tmp_path / "p01.png"))}
    sync(campaign, studies, files)
    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)).save(studies / "p01.png")
    sync(campaign, studies, files)
    assert "stays out of training" in campaign.label_problem("p01")


def test_label_that_is_only_checked_again_keeps_its_time_and_ends_no_reservation(
    campaign, make_campaign, studies, tmp_path
):
    first = click(campaign).image_id
    path = draw_label(tmp_path / f"{first}.png", values=(1, 2))
    files = {first: LabelFile(path, "anna")}
    sync(campaign, studies, files)
    days_ago = time.time() - 5 * 86400
    with campaign.store.writing() as session:
        session.execute(update(Label).values(saved_at=days_ago))
        session.execute(update(Serving).values(outcome=None, ended_at=None))  # as if somebody held it since
    (day,) = day_counts(campaign.store)
    os.utime(studies / f"{first}.png", ns=(1, path.stat().st_mtime_ns + 1))
    sync(campaign, studies, files)
    other = make_campaign(labels={"disc": 1})
    sync(other, studies, files)
    assert "the value 2" in other.label_problem(first), "it was checked again"
    assert labels(campaign)[first].saved_at == days_ago
    assert day_counts(campaign.store) == [day]
    assert case.servings(campaign) == [(first, None)]
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    sync(campaign, studies, files)
    assert labels(campaign)[first].saved_at > days_ago and case.servings(campaign) == [(first, "labelled")]


def test_label_that_was_there_before_keeps_its_day_and_is_news_all_the_same(campaign, studies, tmp_path):
    """By its file, or by the record where a copy of the folder lost the times of the files."""
    found, copied, drawn_again = clicks(campaign, 3)
    paths = {image_id: draw_label(tmp_path / f"{image_id}.png") for image_id in (found, copied, drawn_again)}
    started, day = time.time(), 86400
    for image_id, days_ago in ((found, 8), (drawn_again, 6)):
        os.utime(paths[image_id], (started - days_ago * day,) * 2)
    noted_at = {found: int(started), copied: int(started - 7 * day), drawn_again: int(started - 6 * day)}
    files = {image_id: LabelFile(path, noted_at=noted_at[image_id]) for image_id, path in paths.items()}
    sync(campaign, studies, files)
    saved_at = {image_id: row.saved_at for image_id, row in labels(campaign).items()}
    days_ago = {found: 8, copied: 7, drawn_again: 6}
    assert saved_at == pytest.approx({key: started - days * day for key, days in days_ago.items()}, abs=2)
    assert len(day_counts(campaign.store)) == 3
    situation = campaign.trainings.triggers.situation(campaign.settings)
    assert min(situation.new_labels) >= started and situation.active_at >= started, "no time of day has passed since"
    with campaign.store.reading() as session:
        assert all(serving.ended_at >= started for serving in session.scalars(select(Serving)))
    os.utime(draw_label(paths[drawn_again], values=(2,)), (started - 60,) * 2)
    sync(campaign, studies, files)
    assert labels(campaign)[drawn_again].saved_at == pytest.approx(started - 60, abs=2)


def test_label_of_the_future_was_saved_when_it_was_noticed(campaign, studies, tmp_path):
    path = draw_label(tmp_path / "p01.png")
    os.utime(path, (time.time() + 86400,) * 2)
    sync(campaign, studies, {"p01": LabelFile(path, noted_at=time.time() + 86400)})
    assert labels(campaign)["p01"].saved_at <= time.time()


def test_sync_that_finds_nothing_new_checks_nothing(campaign, studies, tmp_path, monkeypatch):
    files = {"p01": LabelFile(draw_label(tmp_path / "p01.png"), "anna", NAMED)}
    sync(campaign, studies, files)
    monkeypatch.setattr("coldstart.campaign.inventory.save_label", None)
    sync(campaign, studies, files)


def test_label_saved_without_names_again_keeps_annotator_and_names(campaign, tmp_path):
    path = draw_label(tmp_path / "p01.png", values=(5, 6))
    assert save(campaign, "p01", path, NAMED, "anna") is None
    assert save(campaign, "p01", path) is None
    assert (labels(campaign)["p01"].annotator, labels(campaign)["p01"].label_info) == ("anna", NAMED)


def test_label_of_an_image_that_nobody_knows_is_said(campaign, tmp_path):
    problem = save(campaign, "stranger", draw_label(tmp_path / "stranger.png"))
    assert "belongs to no image that the server knows; got image 'stranger'" in problem


def test_label_that_was_not_asked_for_counts(campaign, studies, tmp_path):
    """Somebody labels an image of his own choice, or labels were there before the app."""
    last = planned(campaign)[-1]
    sync(campaign, studies, {last: LabelFile(draw_label(tmp_path / f"{last}.png"))})
    assert campaign.status()["labelled"] == 1
    assert last not in clicks(campaign, case.N_POOL - 1)


def test_label_removed_from_the_datastore_makes_its_image_a_candidate_again(campaign, studies, tmp_path):
    first = click(campaign).image_id
    path = draw_label(tmp_path / f"{first}.png")
    sync(campaign, studies, {first: LabelFile(path)})
    assert campaign.status()["labelled"] == 1
    path.unlink()
    sync(campaign, studies, {})
    assert labels(campaign) == {}
    assert click(campaign).image_id == first


def test_label_saved_while_the_datastore_was_being_listed_is_not_dropped(campaign, studies, tmp_path):
    listed_before = {}
    save(campaign, "p01", draw_label(tmp_path / "p01.png"))
    sync(campaign, studies, listed_before)
    assert list(labels(campaign)) == ["p01"]


def test_label_that_vanishes_while_it_is_taken_over_stops_nothing(campaign, studies, tmp_path):
    sync(campaign, studies, {"p01": LabelFile(tmp_path / "gone.png"), "p02": LabelFile(draw_label(tmp_path / "b.png"))})
    assert list(labels(campaign)) == ["p02"]


# Images


def test_replaced_image_loses_vector_point_and_entropy(campaign, studies):
    sync(campaign, studies)
    case.score(campaign, case.random_entropies())
    assert rows(campaign)["p05"].entropy is not None
    others = {key: row.point for key, row in rows(campaign).items() if key != "p05"}
    replace(studies / "p05.png", number=5, seed=77)
    sync(campaign, studies)
    row = rows(campaign)["p05"]
    assert (row.point, row.map_id, row.entropy, row.scoring_id, row.encoder) == (None,) * 5
    assert not row.fitted
    with campaign.store.reading() as session:
        assert session.get(type(row), row.id).vector is None
    assert campaign.embed() == 1
    assert rows(campaign)["p05"].point is not None
    assert {key: row.point for key, row in rows(campaign).items() if key != "p05"} == others


def test_unreadable_image_is_set_aside_with_its_reason_and_tried_again_when_it_changes(campaign, studies, caplog):
    broken = studies / "broken.png"
    broken.write_bytes(b"no picture")
    sync(campaign, studies)
    assert campaign.embed() == 1
    reason = rows(campaign)["broken"].problem
    assert "broken.png" in reason
    assert campaign.status()["set_aside"] == {"broken": reason}
    assert f"Set aside: {reason}" in caplog.text
    assert campaign.tasks_to_do() == {}
    assert "broken" not in clicks(campaign, case.N_POOL + 2, "uniform_random")
    replace(broken, number=60)
    sync(campaign, studies)
    assert rows(campaign)["broken"].problem is None
    assert campaign.embed() == 1
    assert campaign.status()["set_aside"] == {}
    assert rows(campaign)["broken"].point is not None


@pytest.mark.parametrize(
    "pixels", [np.zeros((48, 48), np.float32), np.full((48, 48), np.nan, np.float32)], ids=["empty", "non-finite"]
)
def test_empty_and_non_finite_images_are_set_aside(campaign, studies, pixels):
    Picture.fromarray(pixels).save(studies / "bad.tif")
    campaign.sync(case.list_files(studies) | {"bad": studies / "bad.tif"}, {})
    campaign.embed()
    assert "bad.tif" in rows(campaign)["bad"].problem
    assert "bad" not in clicks(campaign, case.N_POOL + 1)


def test_image_of_the_wrong_dimension_is_set_aside_until_the_preset_fits(make_new, tmp_path):
    import SimpleITK as sitk  # noqa: N813

    generator = np.random.default_rng(0)
    files = {}
    for name in ("a", "b", "c"):
        files[name] = tmp_path / f"{name}.nii.gz"
        sitk.WriteImage(sitk.GetImageFromArray(generator.normal(size=(16, 20, 24)).astype(np.float32)), files[name])
    flat = make_new()
    flat.sync(files, {})
    flat.embed()
    assert set(flat.status()["set_aside"]) == {"a", "b", "c"}
    assert "must be a 2D image" in rows(flat)["a"].problem
    assert flat.next_sample("coldstart_al") is None
    solid = make_new(spatial_dims=3, spatial_size=(32, 32, 32), budget=2)
    solid.sync(files, {})
    assert solid.embed() == 3
    assert solid.status()["set_aside"] == {}
    assert click(solid).why["phase"] == "cold_start"


def test_image_that_comes_back_keeps_what_is_known_of_it(campaign, studies):
    sync(campaign, studies)
    before = rows(campaign)["p05"].point
    shutil.move(studies / "p05.png", studies / "p05.away")
    sync(campaign, studies)
    assert not rows(campaign)["p05"].present
    assert campaign.status()["images"] == case.N_POOL - 1
    shutil.move(studies / "p05.away", studies / "p05.png")
    sync(campaign, studies)
    assert rows(campaign)["p05"].point == before
    assert campaign.tasks_to_do() == {}


def test_studies_that_were_moved_are_read_where_they_are_now(campaign, studies, tmp_path):
    """The database may lie in the studies folder and move with it: sizes and times of the files stay the same."""
    files = {"p01": LabelFile(draw_label(studies / "label_p01.png"))}
    images = {key: path for key, path in case.list_files(studies).items() if key != "label_p01"}
    campaign.sync(images, files)
    moved = studies.rename(tmp_path / "moved")
    campaign.sync({key: moved / path.name for key, path in images.items()}, {"p01": LabelFile(moved / "label_p01.png")})
    assert rows(campaign)["p02"].path == str(moved / "p02.png")
    sample = learning.labelled_images(campaign.store).training[0]
    assert (sample.image, sample.label) == (moved / "p01.png", moved / "label_p01.png")
    assert campaign.tasks_to_do() == {}


def test_image_that_vanishes_while_it_is_taken_over_stops_nothing(campaign, studies):
    files = case.list_files(studies)
    campaign.sync(files | {"ghost": studies / "ghost.png"}, {})
    assert "ghost" not in rows(campaign)


def test_folder_that_goes_away_while_it_is_taken_over_takes_no_image_out(campaign, studies, tmp_path):
    listed = case.list_files(studies)
    before = campaign.status()["images"]
    studies.rename(tmp_path / "away")
    campaign.sync(listed, {})
    assert campaign.status()["images"] == before > 0
    campaign.sync({}, {})
    assert campaign.status()["images"] == 0, "once the datastore has looked again and takes them out"


def test_log_is_quiet_when_nothing_is_wrong(campaign, studies, caplog):
    caplog.set_level(logging.WARNING)
    sync(campaign, studies)
    label(campaign, click(campaign).image_id)
    assert caplog.text == ""


def test_label_saved_again_without_names_goes_by_the_preset(campaign, tmp_path):
    path = case.draw_label(tmp_path / "label.png")
    swapped = [{"name": "rim", "idx": 1}, {"name": "disc", "idx": 2}]
    campaign.save_label("p00", LabelFile(path, None, swapped))
    assert campaign.save_label("p00", LabelFile(path, None, None)) is None  # the same file: what was said still holds
    assert _classes(campaign) == {"1": 2, "2": 1}
    again = case.draw_label(tmp_path / "again.png")
    assert campaign.save_label("p00", LabelFile(again, None, None)) is None
    assert _classes(campaign) == {"1": 1, "2": 2}


def _classes(campaign):
    with campaign.store.reading() as session:
        return session.query(Label.class_of_value).join(Image).filter(Image.image_id == "p00").scalar()
