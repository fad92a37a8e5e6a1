"""What our datastores share works in front of the cache of MONAI Label's own DICOMweb datastore."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from datastore_case import RECORD, arrived, open_campaign, record
from dicomweb_client import DICOMwebClient
from monailabel.datastore.dicom import DICOMWebDatastore

from coldstart.adapters.datastore import CampaignDatastore
from coldstart.campaign import Campaign

UID = "1.2.826.0.1.3680043.8.498.1"


class Archive(DICOMWebDatastore, CampaignDatastore):  # type: ignore[misc]
    """As an app would make it; constructing it asks the archive nothing."""

    def __init__(self, campaign: Campaign, cache: Path):
        self._campaign = campaign
        super().__init__(DICOMwebClient("http://127.0.0.1:9/dicom-web"), {}, cache_path=str(cache))


def write_volume(path: Path, array: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.int16)), str(path))
    return arrived(path)


@pytest.fixture
def cached(tmp_path: Path) -> tuple[Archive, Campaign, Path]:
    """A datastore whose cache holds one series, as its DICOM files and as NIfTI; the campaign knows it."""
    campaign = open_campaign(tmp_path)
    folder = Path(Archive(campaign, tmp_path / "cache")._datastore_path)
    (folder / UID).mkdir()
    (folder / UID / "0.dcm").write_bytes(b"x")
    image = write_volume(folder / f"{UID}.nii.gz", np.random.default_rng(0).integers(0, 99, (4, 24, 24)))
    campaign.sync({UID: image}, {})
    archive = Archive(campaign, tmp_path / "cache")
    archive.look()
    return archive, campaign, folder


def test_label_saved_through_an_archives_datastore_is_whole_recorded_and_counted(
    cached: tuple[Archive, Campaign, Path], tmp_path: Path
) -> None:
    archive, campaign, folder = cached
    label = write_volume(tmp_path / "label.nii.gz", np.ones((4, 24, 24)))
    assert archive.save_label(UID, str(label), "original", {"client_id": "ann"}) == UID
    assert record(folder)[UID]["labels"]["original"]["info"]["client_id"] == "ann"
    assert campaign.status()["labelled"] == 0
    # How MONAI Label keeps a segmentation that it has sent to, or found in, the archive.
    super(DICOMWebDatastore, archive).save_label(UID, str(label), "final", {"SeriesInstanceUID": "1.2.3"})
    assert (folder / "labels" / "final" / f"{UID}.nii.gz").read_bytes() == label.read_bytes()
    assert record(folder)[UID]["labels"]["final"]["info"]["SeriesInstanceUID"] == "1.2.3"
    assert campaign.status()["labelled"] == 1
    archive.remove_label(UID, "final")
    assert campaign.status()["labelled"] == 0 and not (folder / "labels" / "final" / f"{UID}.nii.gz").exists()


def test_downloaded_image_is_kept_whole_under_its_series(
    cached: tuple[Archive, Campaign, Path], tmp_path: Path
) -> None:
    archive, _, folder = cached
    volume = write_volume(tmp_path / "converted.nii.gz", np.zeros((4, 24, 24)))
    super(DICOMWebDatastore, archive).add_image("1.2.3", str(volume), {"Modality": "CT"})
    assert (folder / "1.2.3.nii.gz").read_bytes() == volume.read_bytes()
    assert record(folder)["1.2.3"]["image"]["info"]["Modality"] == "CT"


def test_archives_cache_is_recovered_when_its_record_is_damaged(
    cached: tuple[Archive, Campaign, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive, campaign, folder = cached
    archive.update_image_info(UID, {"ward": "7"})
    archive.flush()
    archive.update_image_info(UID, {"bed": "1"})
    archive.flush()
    (folder / RECORD).write_bytes((folder / RECORD).read_bytes()[:30])
    with caplog.at_level(logging.WARNING):
        again = Archive(campaign, tmp_path / "cache")
        again.look()
    assert "Recovered from datastore_v2.json.bak" in caplog.text
    assert again.get_image_info(UID)["ward"] == "7" and record(folder)[UID]["image"]["info"]["ward"] == "7"


def test_archives_cache_is_watched_by_nobody_else(cached: tuple[Archive, Campaign, Path]) -> None:
    """MONAI Label's observer of the folder would read it in a thread of its own while labels are saved."""
    assert not hasattr(cached[0], "_observer")
    assert not [thread for thread in threading.enumerate() if "watchdog" in type(thread).__module__]
