"""A campaign in OHIF: the build in MONAI Label's wheel, in Chromium, with a real server and a real archive.

The steps follow each other in one browser window, as an annotator goes through them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk  # noqa: N813
from ohif_page import OhifPage, require_chromium

from coldstart.adapters.server import Server
from dicom_series import Series, volume_series
from orthanc import Orthanc, require_orthanc

PRESET = """
labels: {ball: 1}
spatial_dims: 3
spatial_size: [32, 32, 32]
intensity_range: [-200, 300]
encoder: descriptor
budget: 3
retrain_at_budget: false
publish_margin: 1
epochs: 30
learning_rate: 0.003
modalities: [CT]
"""
NOTICED_WITHIN_S = 60.0
TRAINED_WITHIN_S = 180.0
N_SERIES, N_LABELLED = 6, 3


@dataclass
class Hospital:
    """The archive, the server on it, and a browser window."""

    archive: Orthanc
    server: str
    ohif: OhifPage
    series: list[Series]

    def info(self) -> dict[str, Any]:
        return requests.get(f"{self.server}/info/", timeout=30).json()

    def wait_until(self, condition: Callable[[], bool], limit_s: float = NOTICED_WITHIN_S) -> None:
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < limit_s, f"not within {limit_s:g} s"
            self.ohif.page.wait_for_timeout(500)

    def n_labelled(self) -> int:
        return self.info()["coldstart"]["labelled"]

    def series_of(self, study: str) -> Series:
        return next(series for series in self.series if series.study == study)

    def segmentations(self, study: str) -> list[Any]:
        return self.archive.client.search_for_series(study, search_filters={"Modality": "SEG"})


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """Six CT series: one is held out and labelled, two are labelled for training, three wait for the annotator.

    These three are in studies with an MR series before them, which is not of the campaign.
    """
    require_chromium()
    require_orthanc()
    folder = tmp_path_factory.mktemp("ohif")
    (folder / "preset.yaml").write_text(PRESET)
    series = [volume_series("CT", seed=seed, patient=f"CT{seed:03d}") for seed in range(N_SERIES)]
    (folder / "heldout.txt").write_text(series[0].series)
    conf = {"preset": "preset.yaml", "heldout": "heldout.txt", "state_dir": "state"}
    conf = {key: str(folder / name) for key, name in conf.items()} | {"device": "cpu"}
    with Orthanc(folder / "archive") as archive, pytest.MonkeyPatch.context() as environment:
        environment.setenv("MONAI_LABEL_DICOMWEB_CACHE_PATH", str(folder / "cache"))
        for one in series:
            archive.store(one.instances)
        for seed, one in enumerate(series[N_LABELLED:], start=N_SERIES):
            before = volume_series("MR", seed=seed, patient=one.instances[0].PatientID, study=one.study).instances
            for instance in before:
                instance.SeriesNumber = 0
            archive.store(before)
        with Server(archive.url, conf, folder / "server.log") as server:
            for one in series[:N_LABELLED]:
                label_ball(server.url, one.series, folder)
            with OhifPage(server.url, folder) as ohif:
                yield Hospital(archive, server.url, ohif, series)


def label_ball(server: str, series: str, folder: Path) -> None:
    """Save the bright ball as the label of a series."""
    image = requests.get(f"{server}/datastore/image", {"image": series}, timeout=60)
    path = folder / "image.nii.gz"
    path.write_bytes(image.content)
    sitk.WriteImage(sitk.ReadImage(str(path)) > 115, str(folder / "label.nii.gz"))
    with (folder / "label.nii.gz").open("rb") as label:
        answer = requests.put(
            f"{server}/datastore/label", {"params": "{}"}, params={"image": series}, files={"label": label}, timeout=60
        )
    assert answer.ok, answer.text


def stored_label(hospital: Hospital, study: str) -> np.ndarray:
    """Values of the label that the server keeps for the series of a study: it counts before its pixels are fetched."""
    query = {"label": hospital.series_of(study).series, "tag": "final"}
    hospital.wait_until(lambda: requests.get(f"{hospital.server}/datastore/label", query, timeout=60).ok)
    answer = requests.get(f"{hospital.server}/datastore/label", query, timeout=60)
    return sitk.GetArrayFromImage(as_image(answer.content, ".nii.gz"))


def as_image(content: bytes, suffix: str) -> sitk.Image:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(content)
        file.flush()
        return sitk.ReadImage(file.name)


@pytest.fixture(autouse=True)
def _follow_no_broken_step(hospital: Hospital) -> None:
    if hospital.ohif.broken:
        pytest.skip(f"the step before failed: {hospital.ohif.broken}")


def test_study_list_shows_the_archive_and_its_filter_filters(hospital: Hospital) -> None:
    ohif = hospital.ohif
    with ohif.step("1-study-list"):
        ohif.open_list()
        ohif.page.get_by_text("CT005").first.wait_for()
        assert sorted(ohif.patients()) == [f"CT{seed:03d}" for seed in range(N_SERIES)]
        mrn = ohif.page.locator('[data-cy="input-mrn"]')
        answer = ohif.answer_of("GET", "/proxy/dicom/qido/studies", lambda: mrn.press_sequentially("CT003"))
        hospital.wait_until(lambda: ohif.patients() == ["CT003"])
    assert len(answer.json()) < N_SERIES, "the filter is the archive's, not the page's"
    assert ohif.elsewhere == []


def test_next_sample_shows_every_field_and_jumps_to_our_choice(hospital: Hospital) -> None:
    ohif = hospital.ohif
    hospital.wait_until(lambda: bool(hospital.info()["coldstart"]["planned"]))
    with ohif.step("2-next-sample"):
        ohif.page.get_by_text("CT003").first.click()
        ohif.page.get_by_role("button", name="MONAI Label").click()
        ohif.wait_for_images()
        assert ohif.page.locator("#monailabelServerURL").input_value() == f"{hospital.server}/"
        assert ohif.connect().ok
        assert ohif.bar("Training") == "0%" and ohif.bar("Train Acc") == "0%"
        answer, fields = ohif.next_sample()
    assert answer.url.endswith("/activelearning/random") and answer.request.post_data_json == {}
    sample = answer.json()
    assert sample["coldstart"]["phase"] == "cold_start"
    series = hospital.series_of(sample["StudyInstanceUID"])
    assert fields == {
        "Modality": "CT",
        "Study Date": "20260102",
        "Study Time": "101500",
        "Patient ID": series.instances[0].PatientID,
        "Study Instance UID": series.study,
        "Series Instance UID": series.series,
    }
    link = ohif.page.locator("div.nextSampleForm a").get_attribute("href")
    assert link and link.endswith(f"/studies/{series.study}/series/{series.series}")
    with ohif.step("3-jump"):
        ohif.jump()
        assert ohif.study == series.study
        assert ohif.series == series.series, "not the other series of the study"
        assert ohif.page.locator("#monailabelServerURL").input_value() == f"{hospital.server}/"
    assert ohif.elsewhere == []


def test_option_goes_with_update_model_and_stop_training_stops(hospital: Hospital) -> None:
    ohif = hospital.ohif
    with ohif.step("4-stop-training"):
        assert ohif.connect().ok
        ohif.set_option("train", "attention_unet", "max_epochs", "7")
        section = ohif.section("Active Learning")
        answer = ohif.answer_of("POST", "/train/", section.get_by_role("button", name="Update Model").click)
        assert answer.ok and answer.request.post_data_json == {"attention_unet": {"max_epochs": "7"}}
        answer = ohif.answer_of("DELETE", "/train/", section.get_by_role("button", name="Stop Training").click)
        assert answer.ok
        section.get_by_role("button", name="Update Model").wait_for()
    task = requests.get(f"{hospital.server}/train/", timeout=30).json()
    assert task["status"] == "STOPPED"


def test_update_model_trains_and_the_bars_move(hospital: Hospital) -> None:
    ohif = hospital.ohif
    training, accuracy = set[str](), set[str]()

    def trained() -> bool:
        assert ohif.connect().ok
        training.add(ohif.bar("Training"))
        accuracy.add(ohif.bar("Train Acc"))
        return accuracy > {"0%"} and "model_version" in hospital.info()["train_stats"]["attention_unet"]

    with ohif.step("5-update-model"):
        assert ohif.connect().ok
        assert ohif.bar("Annotated") == "50%"
        button = ohif.section("Active Learning").get_by_role("button", name="Update Model")
        answer = ohif.answer_of("POST", "/train/", button.click)
        assert answer.ok and answer.json()["attention_unet"]["result"]["status"] in ("SUBMITTED", "RUNNING")
        ohif.page.get_by_role("button", name="Stop Training").wait_for()
        hospital.wait_until(trained, TRAINED_WITHIN_S)
    assert training > {"0%"}, "it showed how far the training was"
    assert ohif.elsewhere == []


def test_auto_segmentation_shows_our_models_label_where_it_belongs(hospital: Hospital) -> None:
    ohif = hospital.ohif
    with ohif.step("6-auto-segmentation"):
        prompts = ohif.section("Class Prompts")
        prompts.locator("tr", has_text="ball").get_by_role("checkbox").check()
        run = prompts.get_by_role("button", name="Run")
        assert ohif.answer_of("POST", "/infer/attention_unet", run.click).ok
        hospital.wait_until(lambda: bool(ohif.labelmap()["counts"]))
        chosen = ohif.labelmap()
        run = ohif.section("Auto-Segmentation").get_by_role("button", name="Run")
        answer = ohif.answer_of("POST", "/infer/attention_unet", run.click)
        assert answer.ok
        hospital.wait_until(lambda: bool(ohif.labelmap()["counts"]))
        shown = ohif.labelmap()
    label = as_image(answer.body(), ".nrrd")
    voxels = np.argwhere(sitk.GetArrayFromImage(label) == 1)[:, ::-1]
    centre = label.TransformContinuousIndexToPhysicalPoint(voxels.mean(axis=0).tolist())
    assert shown["counts"] == chosen["counts"] == {"1": len(voxels)}
    np.testing.assert_allclose(shown["centres"]["1"], centre, atol=0.01)
    assert np.linalg.norm(centre - hospital.series_of(ohif.study).centre_mm()) < 20, "it is the ball"
    assert ohif.elsewhere == []


def test_painted_label_is_exported_noticed_and_not_served_again(hospital: Hospital) -> None:
    ohif = hospital.ohif
    served, before = ohif.study, hospital.n_labelled()
    with ohif.step("7-paint"):
        assert ohif.connect().ok
        ohif.open_tools()
        ohif.paint()
        painted = ohif.labelmap()["counts"]
        assert ohif.connect().ok, "which leaves what was painted"
    with ohif.step("8-export"):
        ohif.export("Export DICOM SEG")
        save = ohif.page.get_by_role("button", name="Save")
        answer = ohif.answer_of("POST", "/proxy/dicom/", save.click)
        ohif.page.get_by_text("The label is in the archive.").wait_for()
    assert answer.ok and len(hospital.segmentations(served)) == 1
    hospital.wait_until(lambda: hospital.n_labelled() == before + 1)
    label = stored_label(hospital, served)
    assert (label == 1).sum() == painted["1"]
    with ohif.step("9-next"):
        assert ohif.connect().ok
        answer, _ = ohif.next_sample()
        assert answer.json()["StudyInstanceUID"] != served
        ohif.jump()
    assert ohif.elsewhere == []


def test_label_downloaded_and_uploaded_is_noticed_too(hospital: Hospital, tmp_path: Path) -> None:
    ohif = hospital.ohif
    served, before = ohif.study, hospital.n_labelled()
    with ohif.step("10-download"):
        assert ohif.connect().ok
        ohif.open_tools()
        ohif.paint()
        with ohif.page.expect_download() as download:
            ohif.export("Download DICOM SEG")
        download.value.save_as(tmp_path / "label.dcm")
    with ohif.step("11-upload"):
        assert ohif.upload(tmp_path / "label.dcm").ok
    assert len(hospital.segmentations(served)) == 1
    hospital.wait_until(lambda: hospital.n_labelled() == before + 1)
    answer = requests.post(f"{hospital.server}/activelearning/random", json={}, timeout=60).json()
    assert answer["StudyInstanceUID"] != served
    assert ohif.elsewhere == []


def test_link_of_the_map_page_opens_the_series_where_it_is_labelled(hospital: Hospital) -> None:
    for one in hospital.series[-2:]:  # beside an MR series that comes first in its study
        record = requests.get(f"{hospital.server}/coldstart/api/image", {"id": one.series}, timeout=60).json()
        hospital.ohif.page.goto(f"{hospital.server}/coldstart/{record['ohif_url']}", wait_until="domcontentloaded")
        hospital.ohif.wait_for_images()
        assert (hospital.ohif.study, hospital.ohif.series) == (one.study, one.series)
        assert hospital.ohif.page.locator("#monailabelServerURL").input_value() == f"{hospital.server}/"
