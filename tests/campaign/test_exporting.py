"""Datasets for nnU-Net and MONAI: what other programs read from them is what was labelled."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import campaign_case as case
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from monai.data import load_decathlon_datalist
from monai.transforms import LoadImage
from numpy.typing import NDArray
from PIL import Image as Picture
from sqlalchemy import select

from coldstart.campaign import Campaign
from coldstart.campaign.exporting import Case, Exported, ExportError, Format, collect, dataset_folder, export_dataset
from coldstart.exceptions import InvalidInputError, SettingsError
from coldstart.images import read_image, write_label
from coldstart.settings import Settings
from coldstart.store import Image, Serving
from dicom_series import multi_frame, radiograph, volume_series

VOLUMES = {"spatial_dims": 3, "spatial_size": (32, 32, 32)}


def silent(what: str, done: int, total: int) -> None:
    """Where nobody looks."""


def export(
    cases: list[Case], folder: Path, form: Format = "nnunet", settings: Settings | None = None, **given: Any
) -> Exported:
    options: dict[str, Any] = {"name": "Test", "channel": "image", "store": None, "source": "here", "progress": silent}
    return export_dataset(cases, folder, form, settings or case.make_settings(), **{**options, **given})


def index(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "dataset.json").read_text()))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "selection.csv").open(newline="") as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


def picture(path: Path, values: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(values).save(path)
    return path


def labelled(studies: Path, image_id: str, *values: int, image: NDArray[Any] | None = None) -> tuple[Any, Any]:
    """An image of 20 x 30 pixels with a label whose values are in bands; return both as arrays."""
    pixels = np.random.default_rng(len(image_id)).integers(0, 256, (20, 30), dtype=np.uint8) if image is None else image
    label = np.zeros((20, 30), np.uint8)
    for number, value in enumerate(values):
        label[4 * number : 4 * number + 3, 5:9] = value
    picture(studies / f"{image_id}.png", pixels)
    picture(studies / "labels" / "final" / f"{image_id}.png", label)
    return pixels, label


def collected(studies: Path, held_out: frozenset[str] = frozenset(), **values: Any) -> list[Case]:
    return collect(studies, None, case.make_settings(**values), held_out)


# What is in a dataset


def test_nnunet_dataset_has_names_values_and_channels_as_nnunet_reads_them(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    pixels, label = labelled(studies, "a b", 1, 2)
    labelled(studies, "c")
    labelled(studies, "h", 2)
    labelled(studies, "unlabelled")
    (studies / "labels" / "final" / "unlabelled.png").unlink()
    folder = tmp_path / "raw" / "Dataset501_Test"
    done = export(collected(studies, frozenset({"h"})), folder)
    assert [name for name in files(folder) if "/" in name] == [
        *("imagesTr/a_b_0000.png", "imagesTr/c_0000.png", "imagesTs/h_0000.png"),
        *("labelsTr/a_b.png", "labelsTr/c.png", "labelsTs/h.png"),
    ]
    said = index(folder)
    assert said["channel_names"] == {"0": "image"}
    assert list(said["labels"].items()) == [("background", 0), ("disc", 1), ("rim", 2)]
    assert (said["numTraining"], said["file_ending"]) == (2, ".png")
    assert np.array_equal(np.asarray(Picture.open(folder / "imagesTr" / "a_b_0000.png")), pixels)
    assert np.array_equal(np.asarray(Picture.open(folder / "labelsTr" / "a_b.png")), label)
    assert not done.left_out


def test_label_values_become_consecutive_by_their_names(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    _, by_number = labelled(studies, "by_number", 7, 200)
    _, by_name = labelled(studies, "by_name", 1, 2)
    info = {"label_info": [{"name": "rim", "idx": 1}, {"name": "Disc", "idx": 2}], "annotator": "=1+1"}
    record = {"objects": {"by_name": {"labels": {"final": {"info": info}}}}}
    (studies / "datastore_v2.json").write_text(json.dumps(record))
    settings = case.make_settings(labels={"disc": 7, "rim": 200})
    export(collect(studies, None, settings, frozenset()), tmp_path / "out", settings=settings)
    written = {
        name: np.asarray(Picture.open(tmp_path / f"out/labelsTr/{name}.png")) for name in ("by_number", "by_name")
    }
    assert np.array_equal(written["by_number"], np.select([by_number == 7, by_number == 200], [1, 2], 0))
    assert np.array_equal(written["by_name"], np.select([by_name == 2, by_name == 1], [1, 2], 0))
    assert rows(tmp_path / "out")["by_name"]["annotator"] == "'=1+1", "no formula in a spreadsheet"


def test_colours_are_channels_of_one_png_and_grey_images_beside_them_too(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    colour = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    labelled(studies, "colour", 1, image=colour)
    grey, _ = labelled(studies, "grey", 1)
    export(collected(studies), tmp_path / "out")
    assert index(tmp_path / "out")["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert np.array_equal(np.asarray(Picture.open(tmp_path / "out/imagesTr/colour_0000.png")), colour)
    assert np.array_equal(np.asarray(Picture.open(tmp_path / "out/imagesTr/grey_0000.png")), np.dstack([grey] * 3))


def test_16_bits_stay_16_bits(tmp_path: Path) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (20, 30), dtype=np.uint16)
    labelled(tmp_path / "studies", "deep", 1, image=deep)
    export(collected(tmp_path / "studies"), tmp_path / "out")
    assert np.array_equal(np.asarray(Picture.open(tmp_path / "out/imagesTr/deep_0000.png")), deep)


def test_values_that_png_cannot_hold_make_all_of_it_nifti(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    labelled(studies, "colour", 1, image=np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    values = np.linspace(-1.5, 2.5, 600, dtype=np.float32).reshape(20, 30)
    signed = sitk.GetImageFromArray(values)
    signed.SetSpacing((0.5, 0.25))
    sitk.WriteImage(signed, str(studies / "signed.nrrd"))
    _, label = labelled(studies, "signed", 2)
    (studies / "signed.png").unlink()
    export(collected(studies), tmp_path / "out")
    assert index(tmp_path / "out")["file_ending"] == ".nii.gz"
    assert len([name for name in files(tmp_path / "out") if name.startswith("imagesTr/colour_")]) == 3
    stored = sitk.ReadImage(str(tmp_path / "out/imagesTr/signed_0002.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(stored), values)
    assert stored.GetSpacing() == (0.5, 0.25)
    stored_label = sitk.ReadImage(str(tmp_path / "out/labelsTr/signed.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(stored_label), label)
    assert stored_label.GetSpacing() == (0.5, 0.25)


def test_label_stored_in_other_axes_lies_on_its_volume(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    (studies / "labels" / "final").mkdir(parents=True)
    rng = np.random.default_rng(0)
    volume = sitk.GetImageFromArray(rng.integers(-900, 900, (9, 11, 13)).astype(np.int16))
    volume.SetSpacing((0.7, 1.1, 2.5))
    volume.SetOrigin((-20.0, 31.0, 5.0))
    turn = np.deg2rad(20)
    volume.SetDirection((np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1))
    label = sitk.Image(volume.GetSize(), sitk.sitkUInt8)
    label.CopyInformation(volume)
    label[2, 3, 4] = 1
    label[5:8, 6, 1] = 2
    sitk.WriteImage(volume, str(studies / "v.nii.gz"))
    sitk.WriteImage(
        sitk.Flip(sitk.PermuteAxes(label, (2, 0, 1)), (True, False, True)), str(studies / "labels/final/v.nrrd")
    )
    settings = case.make_settings(**VOLUMES)
    export(collect(studies, None, settings, frozenset()), tmp_path / "out", settings=settings, channel="CT")
    image = sitk.ReadImage(str(tmp_path / "out/imagesTr/v_0000.nii.gz"))
    written = sitk.ReadImage(str(tmp_path / "out/labelsTr/v.nii.gz"))
    for said in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, said)() == getattr(written, said)()
        np.testing.assert_allclose(getattr(image, said)(), getattr(volume, said)(), atol=1e-5)
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(volume))
    assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(label))
    assert index(tmp_path / "out")["channel_names"] == {"0": "CT"}


@pytest.mark.parametrize("made", [radiograph, multi_frame], ids=["radiograph", "frames"])
def test_dicom_is_converted_with_its_label(tmp_path: Path, made: Callable[[], Any]) -> None:
    series = made()
    studies = tmp_path / "studies"
    (studies / "labels" / "final").mkdir(parents=True)
    series.instances[0].save_as(studies / "d.dcm", write_like_original=False)
    image = read_image(studies / "d.dcm")
    ball = (image.pixels[0] > np.percentile(image.pixels[0], 99)).astype(np.uint8)
    write_label(2 * ball, image.geometry, studies / "labels" / "final" / "d.nrrd")
    settings = case.make_settings(**(VOLUMES if image.spatial_dims == 3 else {}))
    done = export(collect(studies, None, settings, frozenset()), tmp_path / "out", settings=settings)
    suffix = done.contents.style.suffix
    assert suffix == (".png" if image.spatial_dims == 2 else ".nii.gz")
    again, label = (read_image(tmp_path / f"out/{name}{suffix}") for name in ("imagesTr/d_0000", "labelsTr/d"))
    assert np.array_equal(again.pixels, image.pixels)
    assert np.array_equal(label.pixels[0], 2 * ball)


def test_oblique_series_of_an_archive_keeps_its_place(tmp_path: Path) -> None:
    from coldstart.images import read_series, write_series_image

    turn = np.deg2rad(25)
    series = volume_series("MR", row_cosine=(np.cos(turn), np.sin(turn), 0), column_cosine=(0, 0, -1))
    (tmp_path / "instances").mkdir()
    for number, instance in enumerate(series.instances):
        instance.save_as(tmp_path / "instances" / f"{number}.dcm", write_like_original=False)
    studies = tmp_path / "studies"
    (studies / "labels" / "final").mkdir(parents=True)
    write_series_image(read_series(tmp_path / "instances"), studies / "s.nii.gz")
    image = read_image(studies / "s.nii.gz")
    write_label((image.pixels[0] > 1150).astype(np.uint8), image.geometry, studies / "labels" / "final" / "s.nii.gz")
    settings = case.make_settings(**VOLUMES)
    export(collect(studies, None, settings, frozenset()), tmp_path / "out", "monai", settings)
    written = sitk.ReadImage(str(tmp_path / "out/labels/s.nii.gz"))
    inside = np.argwhere(sitk.GetArrayFromImage(written).transpose(2, 1, 0) == 1)
    centre = written.TransformContinuousIndexToPhysicalPoint(inside.mean(axis=0).tolist())
    np.testing.assert_allclose(centre, series.centre_mm(), atol=1.5)


def test_monai_finds_all_of_its_datalist(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    pixels, label = labelled(studies, "a", 1, 2)
    for image_id in ("b", "h", "without"):
        labelled(studies, image_id, 1)
    (studies / "labels" / "final" / "without.png").unlink()
    export(collected(studies, frozenset({"h", "without"})), tmp_path / "out", "monai")
    moved = tmp_path / "elsewhere"
    (tmp_path / "out").rename(moved)
    lists = {
        key: load_decathlon_datalist(moved / "dataset.json", True, key) for key in ("training", "validation", "test")
    }
    names = {key: [Path(item["image"]).name for item in items] for key, items in lists.items()}
    assert names == {"training": ["a.png", "b.png"], "validation": ["h.png"], "test": ["h.png", "without.png"]}
    assert index(moved)["labels"] == {"0": "background", "1": "disc", "2": "rim"}
    assert all(not Path(item["image"]).is_absolute() for item in index(moved)["training"])
    load = LoadImage(image_only=True)
    assert np.array_equal(load(lists["training"][0]["image"]).numpy().T, pixels)
    assert np.array_equal(load(lists["training"][0]["label"]).numpy().T, label)


# What is left out, and what is refused


def test_unusable_labels_are_named_and_left_out(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    labelled(studies, "good", 1)
    labelled(studies, "unknown", 9)
    labelled(studies, "size", 1)
    picture(studies / "labels/final/size.png", np.ones((10, 10), np.uint8))
    labelled(studies, "damaged", 1)
    (studies / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    done = export(collected(studies), tmp_path / "out")
    assert done.left_out.keys() == {"unknown", "size", "damaged"}
    assert "value 9" in done.left_out["unknown"] and "10 x 10" in done.left_out["size"]
    assert [name for name in files(tmp_path / "out") if "/" in name] == ["imagesTr/good_0000.png", "labelsTr/good.png"]
    assert index(tmp_path / "out")["numTraining"] == 1
    assert rows(tmp_path / "out")["size"]["part"] == "left out"


def test_nothing_to_export_is_a_sentence(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    labelled(studies, "bad", 9)
    with pytest.raises(ExportError, match=r"needs at least 1 labelled image.* got 0\..*bad: .*value 9"):
        export(collected(studies), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    labelled(tmp_path / "studies", "a", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match=r"was not written by an export \(it holds thesis\.txt\)"):
        export(collected(tmp_path / "studies"), tmp_path / "out")
    assert files(tmp_path / "out") == ["thesis.txt"]


@pytest.mark.parametrize("change", ["added.txt", "labelsTr/a.png"])
def test_own_folder_is_replaced_unless_somebody_worked_in_it(tmp_path: Path, change: str) -> None:
    studies, out = tmp_path / "studies", tmp_path / "out"
    labelled(studies, "a", 1)
    export(collected(studies), out)
    labelled(studies, "b", 2)
    export(collected(studies), out)
    assert index(out)["numTraining"] == 2
    (out / change).write_bytes(b"mine")
    with pytest.raises(ExportError, match=f"but {change} was put there or changed since"):
        export(collected(studies), out)
    assert (out / change).read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("form", ["nnunet", "monai"])
def test_file_that_the_disk_lost_is_noticed_before_the_dataset_is_there(tmp_path: Path, form: Format) -> None:
    studies, out = tmp_path / "studies", tmp_path / "out"
    labelled(studies, "a", 1)
    labelled(studies, "b", 1)
    export(collected(studies), out, form)
    before = (out / "coldstart-export.json").read_bytes()

    def damage(what: str, done: int, total: int) -> None:
        if (what, done) == ("written", total):
            victim = next((tmp_path / ".out.unfinished").rglob("b.png"))
            picture(victim, np.zeros((20, 30), np.uint8))

    with pytest.raises(ExportError, match="does not give back what was written"):
        export(collected(studies), out, form, progress=damage)
    assert (out / "coldstart-export.json").read_bytes() == before


def test_two_images_of_one_plain_name_get_two(tmp_path: Path) -> None:
    labelled(tmp_path / "studies", "a b", 1)
    labelled(tmp_path / "studies", "a_b", 2)
    export(collected(tmp_path / "studies"), tmp_path / "out")
    assert {row["case"] for row in rows(tmp_path / "out").values()} == {"a_b", "a_b_2"}


def test_dataset_gets_a_number_of_its_own(tmp_path: Path) -> None:
    assert dataset_folder(tmp_path, "nnunet", None, 501, "/data/chest-2024") == (
        tmp_path / "Dataset501_Chest2024",
        "Chest2024",
    )
    named = tmp_path / "Dataset007_Mine"
    assert dataset_folder(named, "nnunet", None, None, "/data/chest") == (named, "Mine")
    assert dataset_folder(tmp_path, "monai", "Lungs", None, "/data/chest") == (tmp_path, "Lungs")
    (tmp_path / "Dataset501_Other").mkdir()
    with pytest.raises(InvalidInputError, match=r"Dataset501_Other has 501 as well"):
        dataset_folder(tmp_path, "nnunet", None, 501, "/data/chest")
    with pytest.raises(InvalidInputError, match="a MONAI datalist has none"):
        dataset_folder(tmp_path, "monai", None, 501, "/data/chest")


# With the campaign's database


def test_moved_folder_keeps_what_the_campaign_knows_of_its_labels(campaign: Campaign, pictures: Path) -> None:
    """The label lies elsewhere than the database says; a label that was drawn anew is not the one that it knows."""
    first, second = case.planned(campaign)[:2]
    for image_id in (first, second):
        case.label(campaign, image_id, annotator="lee")
    studies = campaign.folder.parent / "moved"
    shutil.copytree(pictures, studies)
    (studies / "labels").mkdir()
    (campaign.folder / "labels").rename(studies / "labels" / "final")
    case.draw_label(studies / "labels" / "final" / f"{second}.png", values=(2, 1))
    found = {one.image_id: one for one in collect(studies, campaign.store, campaign.settings, frozenset())}
    assert found[first].annotator == "lee" and found[second].annotator is None
    assert found[first].label == studies / "labels" / "final" / f"{first}.png"
    assert found.keys() == {first, second, *case.HELD_OUT}


def test_label_stays_with_its_image_when_a_newer_file_has_the_same_id(
    campaign: Campaign, pictures: Path, tmp_path: Path
) -> None:
    first = case.planned(campaign)[0]
    case.label(campaign, first)
    studies = tmp_path / "studies"
    shutil.copytree(pictures, studies)
    (studies / "labels").mkdir()
    (campaign.folder / "labels").rename(studies / "labels" / "final")
    twin = case.draw_image(studies / f"{first}.tif", 1, seed=99)
    later = (studies / f"{first}.png").stat().st_mtime + 9
    os.utime(twin, (later, later))
    cases = collect(studies, campaign.store, campaign.settings, frozenset())
    export(cases, tmp_path / "out", "monai", campaign.settings)
    exported = np.asarray(Picture.open(tmp_path / "out" / "images" / f"{first}.png"))
    assert np.array_equal(exported, np.asarray(Picture.open(studies / f"{first}.png")))


def of_campaign(campaign: Campaign, pictures: Path, folder: Path) -> list[Case]:
    """Cases of a campaign whose labels lie in its own folder, seen as a studies folder."""
    studies = folder / "studies"
    shutil.copytree(pictures, studies, dirs_exist_ok=True)
    return collect(None, campaign.store, campaign.settings, frozenset())


def test_history_tells_when_why_and_for_whom(campaign: Campaign, pictures: Path, tmp_path: Path) -> None:
    first = case.click(campaign, annotator="lee").image_id
    second = case.click(campaign, annotator="kim").image_id
    case.label(campaign, second, annotator="kim")
    case.label(campaign, first, annotator="lee")
    case.label(campaign, case.HELD_OUT[0])
    cases = of_campaign(campaign, pictures, tmp_path)
    done = export(cases, tmp_path / "out", store=campaign.store, settings=campaign.settings)
    history = rows(tmp_path / "out")
    assert [history[name]["order"] for name in (first, second)] == ["1", "2"]
    with campaign.store.reading() as session:
        served = session.scalars(select(Serving).join(Image).where(Image.image_id == second)).one()
    assert history[second]["reason"] == served.why["reason"]
    assert (history[second]["phase"], history[second]["served_to"]) == ("cold_start", "kim")
    assert history[second]["rank"] == "2" and history[first]["annotator"] == "lee"
    assert history[second]["served_at"].endswith("+00:00") and history[second]["saved_at"]
    assert (history[case.HELD_OUT[0]]["part"], history[case.HELD_OUT[0]]["order"]) == ("held out", "")
    assert [one.image_id for one in done.contents.training] == sorted([first, second])
    assert [one.image_id for one in done.contents.held_out] == list(case.HELD_OUT)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "out" / "decisions.jsonl").read_text().splitlines()]
    assert kinds.count("click") == 2
    assert json.loads((tmp_path / "out" / "selection.json").read_text())[0]["image_id"] == first


def test_other_structures_than_the_campaigns_are_refused(make_campaign: Any) -> None:
    campaign = make_campaign()
    case.label(campaign, case.planned(campaign)[0])
    other = case.make_settings(labels={"disc": 1, "edge": 2})
    with pytest.raises(SettingsError, match=r"`labels` must be the campaign's own; got disc:1, edge:2"):
        collect(None, campaign.store, other, frozenset())
    with pytest.raises(SettingsError, match="The campaign is not of 3D images"):
        collect(None, campaign.store, case.make_settings(**VOLUMES), frozenset())
