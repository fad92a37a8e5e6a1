"""Pre-labels among the labels of a folder: ours are replaced and removed, nobody else's ever."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from datastore_case import open_campaign, open_datastore, record, sync_until, write, write_label

from coldstart.adapters.datastore import FINAL, FolderDatastore
from coldstart.adapters.errors import AppError, answered
from coldstart.adapters.prelabel import ORIGINAL, Prelabels, PrelabelScoring
from coldstart.exceptions import ColdStartError, ImageError, ModelError
from coldstart.images import read_label

NAMES = {"right_lung": 1, "left_lung": 2, "heart": 3}
processes = multiprocessing.get_context("forkserver")


@pytest.fixture
def datastore(tmp_path: Path) -> FolderDatastore:
    studies = tmp_path / "studies"
    studies.mkdir()
    for number in range(4):
        write(studies / f"p{number}.png", number)
    return open_datastore(studies)


@pytest.fixture
def prelabels(datastore: FolderDatastore) -> Prelabels:
    return Prelabels(datastore)


def value(datastore: FolderDatastore, image_id: str, tag: str = ORIGINAL) -> int | None:
    """The one value of a label that `write_label` made; None where there is none, in the record and on the disk."""
    path = datastore.get_label_uri(image_id, tag)
    assert [Path(path)] * bool(path) == datastore.label_files(image_id, tag)
    return int(read_label(path).values.max()) if path else None


def save(prelabels: Prelabels, tmp_path: Path, image_id: str, number: int, version: str = "m1") -> bool:
    return prelabels.save(image_id, write_label(tmp_path / f"segmented{number}.png", number), version, NAMES)


def test_a_pre_label_is_what_slicer_looks_for(datastore, prelabels, tmp_path):
    assert save(prelabels, tmp_path, "p0", 1)
    info = datastore.json()["objects"]["p0"]["labels"]["original"]["info"]
    assert info["params"]["label_names"] == NAMES and info["prelabel"]["model_version"] == "m1"
    assert value(datastore, "p0") == 1
    assert record(tmp_path / "studies")["p0"]["labels"]["original"]["info"] == info


def test_a_pre_label_does_not_count_as_labelled(datastore, prelabels, tmp_path):
    save(prelabels, tmp_path, "p0", 1)
    datastore.sync()
    assert datastore.status()["completed"] == 0
    assert datastore._campaign.status()["labelled"] == 0
    assert datastore.datalist() == []
    with pytest.raises(Exception, match="at least 1 labelled image"):
        datastore._campaign.trainings.require_images()


def test_the_newer_model_replaces_and_removes_what_the_older_one_made(datastore, prelabels, tmp_path):
    for image_id in ("p0", "p1"):
        save(prelabels, tmp_path, image_id, 1)
    assert save(prelabels, tmp_path, "p1", 2, "m2") and save(prelabels, tmp_path, "p2", 3, "m2")
    assert prelabels.remove_all_but("m2") == 2
    assert [value(datastore, image_id) for image_id in ("p0", "p1", "p2", "p3")] == [None, 2, 3, None]
    datastore.sync()
    assert [bool(entry["labels"]) for entry in record(tmp_path / "studies").values()] == [False, True, True, False]


def test_switched_off_ours_go_and_all_others_stay(datastore, prelabels, tmp_path):
    for image_id in ("p1", "p2"):
        save(prelabels, tmp_path, image_id, 1)
    annotator_saves(datastore, tmp_path)
    write_label(Path(datastore.get_label_uri("p2", ORIGINAL)), 9)  # corrected in its place
    again = open_datastore(tmp_path / "studies")
    Prelabels(again).remove_all()
    assert [value(again, image_id) for image_id in ("p0", "p1", "p2")] == [9, None, 9]


def annotator_saves(datastore, tmp_path, tag=ORIGINAL):
    datastore.save_label("p0", str(write_label(tmp_path / "annotator.png", 9)), tag, {"label_info": []})


def annotator_copies_a_file(datastore, tmp_path, tag=ORIGINAL):
    folder = tmp_path / "studies" / "labels" / tag
    folder.mkdir(parents=True, exist_ok=True)
    write_label(folder / "p0.png", 9)


def annotator_copies_and_the_server_notices(datastore, tmp_path):
    annotator_copies_a_file(datastore, tmp_path)
    sync_until(datastore, lambda: datastore.get_label_uri("p0", ORIGINAL).endswith("p0.png"))


@pytest.mark.parametrize(
    "annotator", [annotator_saves, annotator_copies_a_file, annotator_copies_and_the_server_notices]
)
@pytest.mark.parametrize("ours_was_there", [False, True])
def test_an_original_of_somebody_else_is_left_alone(datastore, prelabels, tmp_path, annotator, ours_was_there):
    if ours_was_there:
        save(prelabels, tmp_path, "p0", 1)
    annotator(datastore, tmp_path)
    assert not save(prelabels, tmp_path, "p0", 2, "m2")
    prelabels.remove_all_but("m2")
    theirs = tmp_path / "studies" / "labels" / "original" / "p0.png"
    assert read_label(theirs).values.max() == 9


def test_a_pre_label_that_somebody_corrected_in_its_place_is_theirs(datastore, prelabels, tmp_path):
    save(prelabels, tmp_path, "p0", 1)
    path = Path(datastore.get_label_uri("p0", ORIGINAL))
    write_label(path, 9)
    assert not save(prelabels, tmp_path, "p0", 2, "m2")
    assert prelabels.remove_all_but("m2") == 0
    assert read_label(path).values.max() == 9


@pytest.mark.parametrize("annotator", [annotator_saves, annotator_copies_a_file])
def test_an_image_labelled_meanwhile_gets_none(datastore, prelabels, tmp_path, annotator):
    annotator(datastore, tmp_path, FINAL)
    assert not save(prelabels, tmp_path, "p0", 1)
    assert value(datastore, "p0") is None
    assert read_label(tmp_path / "studies" / "labels" / "final" / "p0.png").values.max() == 9


def test_an_image_that_went_away_gets_none(prelabels, tmp_path):
    assert not save(prelabels, tmp_path, "nobody", 1)


def segment_all(datastore: FolderDatastore, tmp_path: Path, failing: ColdStartError, status_code: int) -> int:
    """Have all images segmented, of which `p1` fails."""

    class Line:
        def prelabel(self, keep):
            for image_id in datastore.list_images():
                keep(image_id, "m1")
            return "m1"

    def infer(request):
        if "p1" in request["image"]:
            with answered(status_code):
                raise failing
        return str(write_label(tmp_path / "segmented.png", 1)), {"model_version": "m1", "label_names": NAMES}

    return PrelabelScoring(Line(), infer)({}, datastore)["prelabelled"]


@pytest.mark.parametrize("failing", [ImageError("it is damaged"), ModelError("the segmentation ran out of memory")])
def test_an_image_that_cannot_be_segmented_keeps_no_other_from_it(datastore, tmp_path, failing):
    assert segment_all(datastore, tmp_path, failing, 400) == 3
    assert [value(datastore, image_id) for image_id in ("p0", "p1", "p2", "p3")] == [1, None, 1, 1]


def test_what_is_no_fault_of_one_image_ends_the_task(datastore, tmp_path):
    with pytest.raises(AppError, match="the model is damaged"):
        segment_all(datastore, tmp_path, ModelError("the model is damaged"), 409)


def save_many(studies: Path, scratch: Path) -> None:
    prelabels = Prelabels(open_child(studies))
    for number in range(15):
        for image_id in ("p0", "p1", "p2", "p3"):
            prelabels.save(image_id, write_label(scratch / "child.png", 1 + number % 2), f"m{number}", NAMES)
        prelabels.remove_all_but(f"m{number}")


def open_child(studies: Path) -> FolderDatastore:
    """As a child process of the server has it: it never looks at the folder."""
    return FolderDatastore(str(studies), open_campaign(studies))


def test_a_child_process_that_saves_undoes_nothing_that_the_server_saves_meanwhile(datastore, tmp_path):
    child = processes.Process(target=save_many, args=(tmp_path / "studies", tmp_path))
    child.start()
    number = 0
    while child.is_alive():
        label = write_label(tmp_path / "server.png", 9)
        if number == 5:
            datastore.save_label("p0", str(label), ORIGINAL, {"label_info": [], "by": "ann"})
        datastore.save_label("p3", str(label), FINAL, {"label_info": [], "number": number})
        datastore.update_image_info("p1", {"number": number})
        datastore.sync()
        number += 1
    child.join()
    assert child.exitcode == 0 and number > 5, "the child ended before anything was saved beside it"
    sync_until(datastore, lambda: datastore.get_label_uri("p1", ORIGINAL).endswith(".png"))
    datastore.flush()
    assert [value(datastore, image_id) for image_id in ("p0", "p1", "p2")] == [9, 1, 1]
    assert value(datastore, "p3", FINAL) == 9
    entries = record(tmp_path / "studies")
    assert entries["p3"]["labels"]["final"]["info"]["number"] == number - 1
    assert entries["p1"]["image"]["info"]["number"] == number - 1
    assert entries["p0"]["labels"]["original"]["info"]["by"] == "ann"
    assert entries["p1"]["labels"]["original"]["info"]["prelabel"]["model_version"] == "m14"
