"""`coldstart export` through its entry point: on folders, on an archive, and killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from coldstart.adapters.archive import ArchiveDatastore
from coldstart.campaign import Campaign
from coldstart.campaign.configured import remember
from coldstart.images import read_image, write_label
from coldstart.settings import load_settings
from dicom_series import volume_series
from orthanc import Orthanc, require_orthanc

COMMAND = str(Path(sys.executable).with_name("coldstart"))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, "export", *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def chest(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of the sample images with their labels; the last is held out."""
    studies = tmp_path_factory.mktemp("data") / "chest"
    (studies / "labels" / "final").mkdir(parents=True)
    sample = repository / "sample-data" / "chest"
    for number in range(1, 7):
        name = f"chest_{number:03d}.nrrd"
        shutil.copyfile(sample / name, studies / name)
        shutil.copyfile(sample / "groundtruth" / name, studies / "labels" / "final" / name)
    (studies / "heldout.txt").write_text("chest_006\n")
    (studies / "coldstart").mkdir()
    remember(studies / "coldstart", {"preset": "sample", "heldout": str(studies / "heldout.txt")})
    return studies


def test_sample_images_become_a_dataset_of_nnunet(chest: Path, tmp_path: Path) -> None:
    ended = run(chest, tmp_path / "raw", "--format", "nnunet", "--json")
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    folder = tmp_path / "raw" / "Dataset500_Chest"
    assert Path(said["folder"]) == folder
    assert (said["training"], said["held_out"], said["held_out_with_label"]) == (5, 1, 1)
    assert said["labels"] == {"background": 0, "right_lung": 1, "left_lung": 2, "heart": 3}
    assert said["loaded_back"] is True and said["left_out"] == {}
    assert (
        len(list((folder / "imagesTr").iterdir())) == json.loads((folder / "dataset.json").read_text())["numTraining"]
    )
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(chest / "labels" / "final" / "chest_006.nrrd")))
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTs" / "chest_006.png")))
    assert np.array_equal(written, truth)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{chest}", "{out}", "--format", "coco"], "--format must be nnunet or monai; got 'coco'"),
        (["{out}/none", "{out}", "--format", "monai"], "STUDIES must be a folder of images"),
        (["{chest}", "{chest}", "--format", "monai"], "was not written by an export"),
        (["{other}", "{out}", "--format", "monai"], "Name the preset that they were drawn with"),
    ],
)
def test_error_is_one_sentence_and_exit_code_2(
    chest: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(chest, other, ignore=shutil.ignore_patterns("coldstart"))
    places = {"chest": str(chest), "other": str(other), "out": str(tmp_path / "out")}
    ended = run(*(argument.format(**places) for argument in arguments))
    assert ended.returncode == 2
    assert sentence in " ".join(ended.stderr.split()) and "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_killed_export_leaves_nothing_that_looks_whole_and_the_next_one_works(chest: Path, tmp_path: Path) -> None:
    target, unfinished = tmp_path / "out", tmp_path / ".out.unfinished"
    command = [COMMAND, "export", str(chest), str(target), "--format", "monai"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not any(unfinished.rglob("*.png")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert unfinished.is_dir() and not target.exists()
    ended = run(chest, target, "--format", "monai")
    assert ended.returncode == 0, ended.stderr
    assert "Wrote 5 labelled images and 1 held-out ones" in ended.stdout
    assert "loaded all of it back" in ended.stdout and "right_lung 1" in ended.stdout
    assert (target / "coldstart-export.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_labelled_series_of_an_archive_are_exported_without_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    require_orthanc()
    monkeypatch.setattr("monailabel.config.settings.MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
    conf = {"preset": "volume_ct", "labels": "lung:1,ball:7", "encoder": "descriptor", "spatial_size": "32,32,32"}
    state, series = tmp_path / "state", volume_series("CT", descending=True)
    with Orthanc(tmp_path / "orthanc") as archive:
        archive.store(series.instances)
        settings = load_settings(conf, repository / "apps" / "coldstart_al" / "configs")
        datastore = ArchiveDatastore(archive.url, Campaign(settings, state))
        datastore.sync()
        image = read_image(datastore.get_image_uri(series.series))
        drawn = np.where(image.pixels[0] > 115, 3, 0).astype(np.uint8)  # the ball is 190 HU, the body 40
        write_label(drawn, image.geometry, tmp_path / "label.nii.gz")
        names = [{"name": "ball", "idx": 3}]
        datastore.save_label(series.series, str(tmp_path / "label.nii.gz"), "final", {"label_info": names})
        datastore.flush()
    pairs = [word for key, value in {**conf, "state_dir": str(state)}.items() for word in ("--conf", key, value)]
    ended = run(archive.url, tmp_path / "out", "--format", "nnunet", "--name", "Balls", "--json", *pairs)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert (said["training"], said["channels"], said["file_ending"]) == (1, {"0": "CT"}, ".nii.gz")
    written = sitk.ReadImage(os.path.join(said["folder"], "labelsTr", f"{series.series}.nii.gz"))
    inside = np.argwhere(sitk.GetArrayFromImage(written).transpose(2, 1, 0) == 2)
    centre = written.TransformContinuousIndexToPhysicalPoint(inside.mean(axis=0).tolist())
    np.testing.assert_allclose(centre, series.centre_mm(), atol=1.5)
