"""A real, tiny training: what is published, judged and scored, and what a click then says."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
import threading

import campaign_case as case
import numpy as np
import pytest
from campaign_case import HELD_OUT, N_POOL, click, label, rows

from coldstart.campaign import Campaign, learning
from coldstart.exceptions import ModelError
from coldstart.images import read_image
from coldstart.segmentation import card, load_model, predict_probabilities
from coldstart.selection import image_entropy
from coldstart.store import Image, Model, Scoring

LABELLED = ("p00", "p01", "p02")


@pytest.fixture(scope="session")
def trained_folder(embedded_folder, held_out_file, tmp_path_factory):
    """The embedded campaign after three labels, two held-out labels, a bad label, and a training of two epochs."""
    folder = tmp_path_factory.mktemp("trained") / "state"
    shutil.copytree(embedded_folder, folder)
    campaign = Campaign(case.make_settings(heldout=held_out_file), folder)
    for image_id in (*LABELLED, *HELD_OUT[:2]):
        assert label(campaign, image_id) is None
    assert label(campaign, "p03", values=(9,)) is not None
    epochs = []
    model, evaluation = campaign.trainings.train(campaign.settings.override({"epochs": 2}), epochs.append)
    campaign.score()
    campaign.store.close()
    (folder / "seen.json").write_text(json.dumps([model.version, evaluation.dice, len(epochs)]))
    return folder


@pytest.fixture
def trained(trained_folder, held_out_file, tmp_path, opened):
    shutil.copytree(trained_folder, tmp_path / "trained")
    opened.append(Campaign(case.make_settings(heldout=held_out_file), tmp_path / "trained"))
    return opened[-1]


def details(campaign):
    with campaign.store.reading() as session:
        return learning.newest_model(session).details


def test_model_is_published_with_version_labels_and_training_images(trained):
    version, _, n_epochs = json.loads((trained.folder / "seen.json").read_text())
    model = load_model(trained.model_path, "cpu")
    assert model.version == version
    assert model.config.label_names == ("disc", "rim")
    assert n_epochs == model.config.epochs == 2  # the request's, not the preset's
    assert details(trained)["problems"] == [trained.label_problem("p03")]
    recorded = json.dumps(details(trained))
    assert all(image_id in recorded for image_id in LABELLED)
    assert trained.status()["model_version"] == version == trained.status()["scored_model_version"]


def test_model_is_judged_on_the_held_out_images_that_have_labels(trained):
    _, dice, _ = json.loads((trained.folder / "seen.json").read_text())
    judged = details(trained)["heldout"]
    assert judged["dice"] == dice
    images = judged["images"]
    assert sorted(images if isinstance(images, dict) else [image["image_id"] for image in images]) == ["h0", "h1"]


def test_entropies_are_those_of_the_models_own_predictions(trained):
    model = load_model(trained.model_path, "cpu")
    scored = {key: row for key, row in rows(trained).items() if row.entropy is not None}
    assert set(scored) == set(case.pool(trained)[0]) - {*LABELLED, "p03"}
    for key in ("p05", "p20", "p29"):
        probabilities = np.asarray(predict_probabilities(model, [read_image(scored[key].path)])[0])
        assert scored[key].entropy == pytest.approx(image_entropy(probabilities), rel=1e-4)
    scoring = case.newest_scoring(trained)
    assert scoring.n_images == N_POOL - 4
    assert scoring.maximum > scoring.minimum > 0


def test_click_after_training_names_the_model_that_scored(trained):
    sample = click(trained, "entropy_diversity")
    assert sample.why["model_version"] == load_model(trained.model_path, "cpu").version
    assert sample.why["phase"] == "active"
    entropies = {key: row.entropy for key, row in rows(trained).items() if row.entropy is not None}
    assert sample.image_id == max(entropies, key=entropies.__getitem__)


def test_training_without_labels_is_refused_with_a_sentence(campaign):
    with pytest.raises(ModelError, match=r"got 0\. Label an image, save it, and train again\."):
        campaign.trainings.train(campaign.settings, lambda _: None)
    assert not campaign.model_path.exists()


def test_training_on_bad_labels_alone_says_what_is_wrong_with_them(campaign):
    label(campaign, "p00", values=(9,))
    with pytest.raises(ModelError, match=r"1 label\(s\) cannot be used; the first: .*the value 9"):
        campaign.trainings.require_images()


def test_training_that_is_broken_off_leaves_the_model_before(trained):
    before = trained.model_path.read_bytes(), details(trained)["heldout"]

    def break_off(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained.trainings.train(trained.settings, break_off)
    assert (trained.model_path.read_bytes(), details(trained)["heldout"]) == before
    assert trained.tasks_to_do() == {}


def test_same_labels_and_seed_give_the_same_network(trained):
    before = load_model(trained.model_path, "cpu").network.state_dict()
    again, evaluation = trained.trainings.train(trained.settings.override({"epochs": 2}), lambda _: None)
    after = again.network.state_dict()
    assert all(bool((before[name] == after[name]).all()) for name in before)
    assert evaluation.dice == details(trained)["heldout"]["dice"]
    assert set(trained.tasks_to_do()) == {"entropy"}


def test_scoring_without_a_model_is_refused_with_a_sentence(campaign):
    with pytest.raises(ModelError):
        campaign.score()


def test_pool_is_decoded_by_as_many_threads_as_there_are_cpus(campaign, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(5)))
    monkeypatch.setattr("coldstart.scoring.entropy.available_memory", lambda: 64 << 30)
    all_at_once, seen = threading.Barrier(5), itertools.count()

    def meet():
        if next(seen) < 5:
            all_at_once.wait(timeout=60)

    assert case.score(campaign, case.random_entropies(), on_image=meet) > 5


def test_training_config_takes_every_training_setting():
    settings = case.make_settings(
        intensity_range=(-5, 5), epochs=7, batch_size=3, learning_rate=0.5, dropout=0.4, random_state=9, amp=False
    )
    config = learning.training_config(settings).to_dict()
    names = "spatial_dims spatial_size intensity_range epochs batch_size learning_rate dropout random_state device amp"
    expected = {name: getattr(settings, name) for name in names.split()}
    assert {name: config[name] for name in expected} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in expected.items()
    }
    assert config["label_names"] == ["disc", "rim"]


def test_campaign_goes_to_another_process(trained):
    twin = pickle.loads(pickle.dumps(trained))
    assert twin.status() == trained.status()
    twin.store.close()


def test_status_counts_and_is_plain_json(trained):
    status = trained.status()
    assert json.loads(json.dumps(status, allow_nan=False)) == status
    wanted = {
        "images": N_POOL,
        "held_out": len(HELD_OUT),
        "labelled": 4,
        "budget": case.BUDGET,
        "planned": case.BUDGET,
        "set_aside": {},
        "projection": "pca",
        "state_dir": str(trained.folder),
    }
    assert {key: status[key] for key in wanted} == wanted
    assert status["encoder"].startswith("descriptor ")
    assert status["progress"]["evaluation"]["done"] == 2


def test_status_of_an_empty_campaign_is_plain_json(make_new):
    status = make_new().status()
    assert json.loads(json.dumps(status)) == status
    assert status["encoder"] == "descriptor (not embedded yet)"
    assert status["planned"] is None


def test_model_published_by_a_training_that_was_killed_is_adopted_and_scored(trained):
    version = load_model(trained.model_path, "cpu").version
    with trained.store.writing() as session:
        session.query(Image).update({"entropy": None, "scoring_id": None})
        session.query(Scoring).delete()
        session.query(Model).delete()
    assert set(trained.tasks_to_do()) == {"entropy"}
    trained.score()
    assert trained.tasks_to_do() == {}
    assert trained.status()["model_version"] == version


def test_settings_of_a_request_do_not_need_the_files_of_the_start(trained, tmp_path):
    gone = tmp_path / "gone.txt"
    gone.touch()
    settings = case.make_settings(heldout=gone)
    gone.unlink()
    assert settings.override({"alpha": "0.5"}).alpha == 0.5
    assert settings.override({}).heldout == gone


@pytest.mark.parametrize("when_taken", ["wait", "cpu"])
def test_training_yields_a_card_that_is_taken_and_learns_from_what_is_labelled_meanwhile(
    trained, monkeypatch, when_taken
):
    """Without a GPU: what is read of the card is made up, and a CPU takes its place."""
    looks = iter([0] * 4)
    monkeypatch.setattr(card, "read_card", lambda device: card.CardMemory(next(looks, 1 << 40), 1 << 40))
    monkeypatch.setattr(card, "LOOK_EVERY_S", 0.01)
    said = []

    def on_wait(sentence):
        if not said:
            label(trained, "p04")
        said.append(sentence)

    settings = trained.settings.override({"epochs": 1, "when_gpu_is_taken": when_taken})
    model, evaluation = trained.trainings.train(settings, lambda _: None, on_wait=on_wait)
    assert evaluation is not None
    if when_taken == "wait":
        assert "which other programs hold: it waits" in said[0] and said[1:] == [None]
        assert model.metadata["training_images"] == [*LABELLED, "p04"]
    else:
        assert said == [] and model.metadata["training_images"] == list(LABELLED)


def test_validation_is_of_held_out_images_and_part_of_the_record(trained):
    validation = details(trained)["validation"]
    assert sorted(validation["images"]) == ["h0", "h1"] and list(validation["dice"]) == ["1", "2"]
    version = details(trained)["version"]
    assert trained.publisher.versions.read(version)["validation"] == validation
