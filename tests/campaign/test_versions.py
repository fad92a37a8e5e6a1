"""A trained model's way into use: what is kept, what is refused, what comes back, whatever is killed on the way."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import campaign_case as case
import pytest
import torch
from campaign_case import HELD_OUT, label
from filelock import FileLock
from sqlalchemy import select

from coldstart.campaign import Campaign, learning
from coldstart.campaign.curve import learning_curve
from coldstart.campaign.decisions import LIBRARIES
from coldstart.campaign.model_lines import model_lines, side_by_side
from coldstart.campaign.replay import decision_rows, replay
from coldstart.campaign.versions import Versions
from coldstart.exceptions import InvalidInputError, ModelError
from coldstart.segmentation import Model, load_model, save_model, write_model
from coldstart.store import Scoring

FIRST = ("p00", "p01")


class Killed(BaseException):
    """In the place of a kill -9."""


def train(campaign: Campaign, **settings: object) -> str:
    model, _ = campaign.trainings.train(campaign.settings.override(settings), lambda _: None)
    return model.version


def spoil(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trainings end with a network that finds one class everywhere, as a collapsed one does."""
    from coldstart.campaign import trainings as module

    real = module.train

    def collapsed(*args: object, **options: object) -> Model:
        model = real(*args, **options)
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter.zero_()
        return model

    monkeypatch.setattr(module, "train", collapsed)


def in_file(campaign: Campaign) -> str:
    return load_model(campaign.model_path, "cpu").version


def record_of(campaign: Campaign, version: str) -> dict:
    return campaign.publisher.versions.read(version)


def kinds(campaign: Campaign) -> list[str]:
    return [row["kind"] for row in decision_rows(campaign.store) if "training" in row["kind"] or "roll" in row["kind"]]


@pytest.fixture(scope="session")
def taught_folder(embedded_folder, held_out_file, tmp_path_factory):
    """The embedded campaign after two labels and a training that is worth its name."""
    folder = tmp_path_factory.mktemp("versions") / "state"
    shutil.copytree(embedded_folder, folder)
    campaign = Campaign(case.make_settings(heldout=held_out_file), folder)
    for image_id in FIRST:
        assert label(campaign, image_id) is None
    train(campaign, epochs=12)
    campaign.store.close()
    return folder


@pytest.fixture
def open_taught(taught_folder, held_out_file, tmp_path, opened):
    shutil.copytree(taught_folder, tmp_path / "taught")

    def open_(**settings: object) -> Campaign:
        values = {"heldout": held_out_file, "publish_margin": 0.02, **settings}
        opened.append(Campaign(case.make_settings(**values), tmp_path / "taught"))
        return opened[-1]

    return open_


def test_version_is_kept_with_images_seed_configuration_and_metrics(open_taught) -> None:
    campaign = open_taught()
    first = in_file(campaign)
    label(campaign, HELD_OUT[0])
    second = train(campaign, epochs=1, random_state=7, dropout=0.3)
    assert list(campaign.publisher.versions.states()) == [first, second]
    found = record_of(campaign, second)
    assert found["training_images"] == list(FIRST) == sorted(found["learned"])
    assert (found["config"]["random_state"], found["config"]["dropout"], found["config"]["epochs"]) == (7, 0.3, 1)
    assert [one["image_id"] for one in found["heldout"]["images"]] == [HELD_OUT[0]]
    assert found["comparison"]["basis"] == "heldout" and found["comparison"]["old_version"] == first
    assert campaign.publisher.versions.load(second, "cpu").metadata["training_images"] == list(FIRST)


@pytest.mark.parametrize("basis", ["heldout", "prequential"])
def test_worse_model_is_not_used_and_the_reason_is_in_the_log(open_taught, monkeypatch, basis) -> None:
    campaign = open_taught(retrain_every=1)
    first, content = in_file(campaign), campaign.model_path.read_bytes()
    label(campaign, HELD_OUT[0] if basis == "heldout" else "p02")
    label(campaign, "p03")
    spoil(campaign, monkeypatch)
    second = train(campaign, epochs=1)
    assert campaign.model_path.read_bytes() == content and campaign.publisher.in_use() == first
    found = record_of(campaign, second)
    assert found["comparison"]["basis"] == basis and not found["comparison"]["fit"]
    assert (found["comparison"]["n"], found["comparison"]["n_learned"]) == ((1, 0) if basis == "heldout" else (2, 2))
    assert f"It is not used, and {first} stays" in found["refused"]
    assert kinds(campaign) == ["training", "training_refused"]
    line = list(decision_rows(campaign.store))[-1]["details"]
    assert line["reason"] == found["refused"] and set(LIBRARIES) < set(line["software"])
    assert campaign.tasks_to_do().get("entropy", first).startswith(first)
    assert campaign.trainings.due() is None, "not again before there is another label"
    assert [one.model_version for one in learning_curve(campaign.store).heldout] == []
    assert all(one.same is not False for one in replay(campaign.store))


def test_worse_model_is_used_where_the_margin_says_so(open_taught, monkeypatch) -> None:
    campaign = open_taught(publish_margin=1)
    label(campaign, HELD_OUT[0])
    spoil(campaign, monkeypatch)
    assert train(campaign, epochs=1) == in_file(campaign) == campaign.publisher.in_use()


def test_held_out_image_that_one_of_them_learned_from_does_not_judge(open_taught, tmp_path) -> None:
    late = tmp_path / "late.txt"
    late.write_text("p00\nh0\n")  # p00 was learned from, and is held out since
    campaign = open_taught(heldout=late)
    folder = campaign.folder
    rows = case.rows(campaign)
    files = {key: case.LabelFile(folder / "labels" / f"{key}.png") for key in FIRST}
    campaign.sync({key: Path(row.path) for key, row in rows.items()}, files)
    label(campaign, "p04")
    assert record_of(campaign, train(campaign, epochs=1))["comparison"]["basis"] == "prequential"


def test_held_out_image_that_cannot_be_read_any_more_holds_no_model_back(open_taught, tmp_path) -> None:
    campaign = open_taught()
    label(campaign, HELD_OUT[0])
    away = tmp_path / "away.png"
    path = Path(case.rows(campaign)[HELD_OUT[0]].path)

    def take_away(_: object) -> None:
        path.replace(away)

    try:
        model, evaluation = campaign.trainings.train(campaign.settings, take_away)
    finally:
        away.replace(path)
    assert evaluation is None and in_file(campaign) == campaign.publisher.in_use() == model.version
    assert campaign.trainings.due() is None


def test_held_out_image_whose_label_was_changed_compares_no_kept_models(open_taught) -> None:
    campaign = open_taught(publish_margin=1)
    for image_id in HELD_OUT[:2]:
        label(campaign, image_id)
    second = train(campaign, epochs=1)
    label(campaign, HELD_OUT[0], values=(2,))
    third = train(campaign, epochs=2)
    found = record_of(campaign, third)
    assert found["comparison"]["n"] == 2, "both were judged anew for that"
    dice = {image["image_id"]: image["dice"] for image in found["heldout"]["images"]}
    compared = side_by_side(campaign, second, third)["heldout"]
    assert (compared["n"], compared["second"]) == (1, dice[HELD_OUT[1]])


def test_only_the_newest_are_kept_and_never_without_the_one_in_use(open_taught, monkeypatch) -> None:
    campaign = open_taught(keep_models=2)
    first = in_file(campaign)
    label(campaign, HELD_OUT[0])
    spoil(campaign, monkeypatch)
    refused = [train(campaign, epochs=1, random_state=seed) for seed in range(3)]
    assert list(campaign.publisher.versions.states()) == [first, *refused[1:]]
    folder = campaign.model_path.parent / "versions"
    assert {path.name.partition(".")[0] for path in folder.iterdir()} == {first, *refused[1:]}


def test_files_of_others_beside_the_models_are_left_alone(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    stamps = [f"2026010{day}T000000000Z-abc" for day in (1, 2, 3)]
    for version in stamps[1:]:
        versions.path(version).touch()
        versions.write(version, {"version": version}, "done")
    theirs = {"notes.txt", "my-backup.pt", f"{stamps[1]}.pt.bak", f"{stamps[1]} (copy).pt", ".nfs0001"}
    for name in [*theirs, f"{stamps[0]}.pt", f".{stamps[0]}.pt.tmp", f"{stamps[0]}.unchecked.tmp"]:
        (tmp_path / name).touch()  # the last three are what a kill leaves
    versions.prune(1, None)
    assert {path.name for path in tmp_path.iterdir()} == {*theirs, f"{stamps[2]}.pt", f"{stamps[2]}.json"}


def test_model_that_somebody_is_choosing_is_not_removed(open_taught, monkeypatch) -> None:
    campaign = open_taught(keep_models=1)
    first = in_file(campaign)
    label(campaign, HELD_OUT[0])
    spoil(campaign, monkeypatch)
    second = train(campaign, epochs=1)
    with FileLock(campaign.model_path.parent / "publishing.lock"):  # somebody has looked, and is about to choose it
        training = threading.Thread(target=train, args=(campaign,), kwargs={"epochs": 1})
        training.start()
        while len(campaign.publisher.versions.states()) < 3:
            time.sleep(0.05)
        training.join(1.0)
        assert training.is_alive() and second in campaign.publisher.versions.states()
    training.join()
    assert first in campaign.publisher.versions.states() and second not in campaign.publisher.versions.states()


def test_rolled_back_model_is_in_use_until_the_next_training(open_taught) -> None:
    campaign = open_taught(publish_margin=1)
    first = in_file(campaign)
    label(campaign, "p02")
    second = train(campaign, epochs=1)
    campaign.score()
    campaign.publisher.choose(first, "ann", campaign.settings.labels)
    assert in_file(campaign) == campaign.publisher.in_use() == first
    assert set(campaign.tasks_to_do()) == {"entropy"}
    campaign.score()
    assert case.newest_scoring(campaign).model_version == first
    for _ in range(2):
        campaign.publisher.settle()
        assert campaign.trainings.due() is None and campaign.publisher.in_use() == first
    assert kinds(campaign) == ["training", "training", "rollback"]
    line = list(decision_rows(campaign.store))
    assert [row["who"] for row in line if row["kind"] == "rollback"] == ["ann"]
    assert train(campaign, epochs=1) == in_file(campaign)
    assert campaign.publisher.versions.states().keys() >= {first, second}


def test_refused_model_that_somebody_chooses_is_no_training(open_taught, monkeypatch) -> None:
    campaign = open_taught(retrain_every=2)
    label(campaign, "p02")
    with monkeypatch.context() as patch:
        spoil(campaign, patch)
        refused = train(campaign, epochs=1)
    began_at = record_of(campaign, refused)["began_at"]
    for image_id in ("p03", "p04"):
        label(campaign, image_id)
    train(campaign, epochs=12)
    assert campaign.trainings.due() is None
    campaign.publisher.choose(refused, "ann", campaign.settings.labels)
    for _ in range(2):
        campaign.publisher.settle()
        assert campaign.trainings.due() is None and in_file(campaign) == campaign.publisher.in_use() == refused
    assert kinds(campaign) == ["training", "training_refused", "training", "rollback"]
    assert list(decision_rows(campaign.store))[-1]["who"] == "ann"
    with campaign.store.reading() as session:
        assert learning.newest_model(session).created_at == began_at, "its place on the learning curve"


def test_model_that_is_chosen_before_it_was_compared_is_the_end_of_its_training(open_taught, monkeypatch) -> None:
    campaign = open_taught(retrain_every=1)
    label(campaign, "p02")

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(campaign.publisher, "check", kill)
        with pytest.raises(Killed):
            train(campaign, epochs=1)
    campaign.publisher.choose(list(campaign.publisher.versions.states())[-1], "ann", campaign.settings.labels)
    assert kinds(campaign) == ["training", "training"] and campaign.trainings.due() is None


def test_new_model_is_compared_with_the_one_that_somebody_chooses_meanwhile(open_taught, monkeypatch) -> None:
    campaign = open_taught(publish_margin=1)
    publisher, first = campaign.publisher, in_file(campaign)
    label(campaign, "p02")
    second = train(campaign, epochs=1)
    compare, compared = publisher._compare, []

    def compare_slowly(*known: object) -> object:
        found = compare(*known)
        compared.append(found.old_version)
        if publisher.in_use() == second:
            publisher.choose(first, "ann", campaign.settings.labels)
        return found

    monkeypatch.setattr(publisher, "_compare", compare_slowly)
    label(campaign, "p03")
    third = train(campaign, epochs=1)
    assert compared == [second, first]
    assert record_of(campaign, third)["comparison"]["old_version"] == first and in_file(campaign) == third
    assert kinds(campaign) == ["training", "training", "rollback", "training"]


def test_model_that_is_in_use_or_unknown_or_damaged_is_no_choice(open_taught) -> None:
    campaign = open_taught(publish_margin=1)
    first = in_file(campaign)
    with pytest.raises(InvalidInputError, match=f"another model than the one in use; {first} is in use"):
        campaign.publisher.choose(first, None, campaign.settings.labels)
    with pytest.raises(InvalidInputError, match=f"one of the models that are kept: {first}; got '../x'"):
        campaign.publisher.choose("../x", None, campaign.settings.labels)
    label(campaign, "p02")
    second = train(campaign, epochs=1)
    campaign.publisher.versions.path(first).write_bytes(b"half")
    with pytest.raises(ModelError, match="is damaged or not a model of this app"):
        campaign.publisher.choose(first, None, campaign.settings.labels)
    assert in_file(campaign) == campaign.publisher.in_use() == second
    assert set(campaign.publisher.versions.states().values()) == {"done"}


def test_model_in_use_whose_file_is_damaged_comes_back_from_its_copy(open_taught) -> None:
    campaign = open_taught()
    version, publisher = in_file(campaign), campaign.publisher
    campaign.model_path.write_bytes(b"half")
    publisher.settle()
    assert publisher.problem is not None
    assert publisher.problem.endswith(f"`coldstart models rollback STUDIES {version}` puts its copy back.")
    publisher.choose(version, "ann", campaign.settings.labels)
    publisher.settle()
    assert publisher.problem is None and in_file(campaign) == publisher.in_use() == version
    assert kinds(campaign) == ["training"] and campaign.trainings.due() is None


def test_model_for_structures_that_the_campaign_has_no_more_is_no_choice(open_taught) -> None:
    campaign = open_taught(publish_margin=1)
    first = in_file(campaign)
    label(campaign, "p02")
    second = train(campaign, epochs=1)
    with pytest.raises(InvalidInputError, match=f"for structures among disc, .*; {first} also finds rim"):
        campaign.publisher.choose(first, "ann", {"disc": 1})
    assert in_file(campaign) == campaign.publisher.in_use() == second
    campaign.publisher.choose(first, "ann", ["rim", "disc", "core"])
    assert in_file(campaign) == first


def test_model_that_waits_and_is_for_structures_that_the_campaign_has_no_more_is_not_used(open_taught) -> None:
    campaign = open_taught(publish_margin=1, labels={"disc": 1})
    first, versions = in_file(campaign), campaign.publisher.versions
    model = load_model(campaign.model_path, "cpu")
    metadata = {**model.metadata, "version": "20990101T000000000Z-second"}
    versions.keep(Model(model.network, metadata), metadata, "unchecked")
    assert campaign.trainings.check_waiting() == 1
    assert in_file(campaign) == campaign.publisher.in_use() == first
    assert "also finds rim, which the campaign does not have" in record_of(campaign, metadata["version"])["refused"]
    assert campaign.trainings.due() is None


def test_new_model_that_cannot_be_read_back_is_not_used(open_taught, monkeypatch) -> None:
    campaign = open_taught()
    first = in_file(campaign)
    label(campaign, "p02")
    from coldstart.campaign import versions

    def write_half(model: Model, path: Path) -> None:
        write_model(model, path)
        path.write_bytes(path.read_bytes()[:-100])

    monkeypatch.setattr(versions, "write_model", write_half)
    with pytest.raises(ModelError, match="is damaged"):
        train(campaign, epochs=1)
    assert in_file(campaign) == campaign.publisher.in_use() == first
    assert kinds(campaign) == ["training", "training_refused"]
    assert campaign.trainings.due() is None


@pytest.mark.parametrize("half", ["", "[]", "{}", '{"version": "another"}'])
@pytest.mark.parametrize("state", ["unchecked", "chosen", "done"])
def test_damaged_record_holds_nothing_up(open_taught, half: str, state: str) -> None:
    campaign = open_taught(publish_margin=1)
    first = in_file(campaign)
    label(campaign, "p02")
    versions = campaign.publisher.versions
    model = load_model(campaign.model_path, "cpu")
    second = "20990101T000000000Z-second"
    versions.keep(Model(model.network, {**model.metadata, "version": second}), {"version": second}, state)
    record = (
        campaign.model_path.parent / "versions" / (f"{second}.json" if state == "done" else f"{second}.{state}.json")
    )
    record.write_text(half)
    campaign.tasks_to_do()
    assert campaign.trainings.check_waiting() == (state == "unchecked")
    assert set(versions.states().values()) == {"done"} and campaign.trainings.due() is None
    assert in_file(campaign) == campaign.publisher.in_use() == (first if state == "done" else second)
    assert [line["version"] for line in model_lines(campaign)] == [first, second]
    assert side_by_side(campaign, first, second)["in_both"] == len(FIRST)
    train(campaign, epochs=1)


def test_model_without_record_and_weights_holds_nothing_up(open_taught) -> None:
    campaign = open_taught(publish_margin=1)
    first = in_file(campaign)
    folder = campaign.model_path.parent / "versions"
    (folder / "20990101T000000000Z-second.unchecked.json").write_text("")
    assert campaign.trainings.check_waiting() == 1, "which holds up no training that comes after it"
    assert "cannot be read back: No trained model is at" in model_lines(campaign)[-1]["sentence"]
    assert campaign.trainings.check_waiting() == 0 and in_file(campaign) == first
    assert {line["version"] for line in model_lines(campaign)} == {first, "20990101T000000000Z-second"}


STEPS = {
    "kept, not compared": ("coldstart.campaign.publishing.Publisher.check", "unchecked"),
    "compared, not in its place": ("coldstart.campaign.publishing.save_model", "chosen"),
    "in its place, not in the database": ("coldstart.campaign.learning.put_in_use", "chosen"),
}


@pytest.mark.parametrize("step", STEPS)
def test_chain_goes_on_after_a_kill(open_taught, monkeypatch, step: str) -> None:
    target, state = STEPS[step]
    campaign = open_taught(publish_margin=1)
    first = in_file(campaign)
    label(campaign, "p02")

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(target, kill)
        with pytest.raises(Killed):
            train(campaign, epochs=1)
    [second] = campaign.publisher.versions.states().keys() - {first}
    assert campaign.publisher.versions.states()[second] == state
    load_model(campaign.model_path, "cpu")
    assert campaign.publisher.in_use() == first

    again = open_taught(publish_margin=1)
    tasks = again.tasks_to_do()
    if state == "unchecked":
        assert again.trainings.due().trigger == "check"
        assert again.trainings.check_waiting() == 1
        tasks = again.tasks_to_do()
    assert again.trainings.due() is None
    assert in_file(again) == again.publisher.in_use() == second
    assert set(tasks) == {"entropy"} and tasks["entropy"].startswith(second)
    assert set(again.publisher.versions.states().values()) == {"done"}
    assert kinds(again) == ["training", "training"]


def test_model_from_elsewhere_is_kept_as_well(open_taught) -> None:
    campaign = open_taught()
    first = in_file(campaign)
    model = load_model(campaign.model_path, "cpu")
    uploaded = Model(model.network, {**model.metadata, "version": "20990101T000000000Z-uploaded"})
    save_model(uploaded, campaign.model_path)
    campaign.tasks_to_do()
    assert campaign.publisher.in_use() == "20990101T000000000Z-uploaded"
    assert set(campaign.publisher.versions.states()) == {first, "20990101T000000000Z-uploaded"}
    outside = Model(model.network, {**model.metadata, "version": "../../outside"})
    save_model(outside, campaign.model_path)
    campaign.tasks_to_do()
    assert campaign.publisher.in_use() == "../../outside"
    assert len(campaign.publisher.versions.states()) == 2
    assert not list(campaign.folder.parent.glob("outside*"))


def test_database_made_anew_knows_the_model_and_what_it_learned(open_taught) -> None:
    campaign = open_taught(retrain_every=1)
    version = in_file(campaign)
    with campaign.store.writing() as session:
        session.query(Scoring).delete()
        session.delete(learning.newest_model(session))
    campaign.tasks_to_do()
    assert campaign.publisher.in_use() == version
    with campaign.store.reading() as session:
        model = session.scalars(select(learning.Model)).one()
    assert model.details["learned"].keys() == set(FIRST)
    assert campaign.trainings.due() is None
