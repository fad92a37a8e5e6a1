"""What happens in the archive is noticed, and what happens while it is away is not lost."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pydicom
import pytest
from archive_case import RADIOGRAPHS, VOLUMES, Site, label_of_ball, no_progress, saved_slices
from monailabel.config import settings as monailabel_settings
from monailabel.datastore.dicom import DICOMWebDatastore

from coldstart.adapters import archive_index
from coldstart.adapters.archive import ArchiveDatastore
from coldstart.adapters.archive_client import ArchiveClient, require_archive_address
from coldstart.adapters.errors import AppError
from coldstart.exceptions import ArchiveError, ImageError, SettingsError
from dicom_series import Series, multi_frame, radiograph, volume_series
from orthanc import Orthanc, require_orthanc


def save(datastore: ArchiveDatastore, series: Series, folder: Path) -> np.ndarray:
    slices = label_of_ball(datastore, series, folder / "label.nii.gz")
    datastore.save_label(series.series, str(folder / "label.nii.gz"), "final", {})
    return slices


def test_series_of_the_chosen_modalities_are_listed_with_what_viewers_show(site: Site) -> None:
    study = pydicom.uid.generate_uid()
    ct, mr = volume_series("CT", seed=1, study=study), volume_series("MR", seed=2, study=study)
    cr, dx, frames = radiograph("CR", seed=3, study=study), radiograph("DX", seed=4), multi_frame(seed=5)
    for one in (ct, mr, cr, dx, frames):
        site.orthanc.store(one.instances)
    everything = site.open("everything")
    assert set(everything.list_images()) == {one.series for one in (ct, mr, cr, dx, frames)}
    some = site.open("some", modalities="MR,DX")
    assert set(some.list_images()) == {one.series for one in (mr, dx, frames)}
    assert isinstance(some, DICOMWebDatastore)
    info = some.get_image_info(mr.series)
    assert {key: info[key] for key in ("Modality", "PatientID", "StudyDate", "StudyTime")} == {
        "Modality": "MR",
        "PatientID": "PAT002",
        "StudyDate": "20260102",
        "StudyTime": "101500",
    }
    assert (info["StudyInstanceUID"], info["SeriesInstanceUID"]) == (study, mr.series)
    assert info["RetrieveURL"] == f"{site.orthanc.url}/studies/{study}/series/{mr.series}"
    assert not Path(info["path"]).exists()  # nothing is fetched in order to be listed


def test_other_modalities_at_a_later_start(site: Site) -> None:
    series = volume_series("CT", seed=1)
    site.orthanc.store(series.instances)
    assert site.open(modalities="CT").list_images() == [series.series]
    assert site.open(modalities="DX").list_images() == []


def test_series_is_noticed_once_it_is_whole(site: Site, tmp_path: Path) -> None:
    first, late = volume_series("CT", seed=1), volume_series("CT", seed=2)
    site.orthanc.store(first.instances)
    datastore = site.open()
    save(datastore, first, tmp_path)
    site.orthanc.store(late.instances[:6])
    datastore.sync()
    site.orthanc.store(late.instances[6:])
    datastore.sync()
    assert datastore._campaign.next_sample("coldstart_al") is None  # it grew since the look before
    datastore.sync()
    sample = datastore._campaign.next_sample("coldstart_al")
    assert sample is not None and sample.image_id == late.series


def test_series_that_grows_is_fetched_anew_and_its_label_checked(site: Site, tmp_path: Path) -> None:
    series = volume_series("CT", seed=1)
    part = Series(**{**vars(series), "instances": series.instances[:6], "ball": series.ball[:6]})
    site.orthanc.store(part.instances)
    datastore = site.open()
    save(datastore, part, tmp_path)
    assert datastore._campaign.status()["label_problems"] == []
    site.orthanc.store(series.instances[6:])
    for _ in range(2):
        datastore.sync()
    (problem,) = datastore._campaign.status()["label_problems"]
    assert "has 64 x 64 x 6 pixels" in problem and "its image has 64 x 64 x 12" in problem
    assert len(list(datastore.instances(series.series).iterdir())) == 12


def test_segmentation_that_is_removed_makes_the_image_a_candidate_again(site: Site, tmp_path: Path) -> None:
    series = volume_series("CT", seed=1)
    site.orthanc.store(series.instances)
    first, second = site.open("first"), site.open("second")
    save(first, series, tmp_path)
    second.sync()
    assert second._campaign.next_sample("coldstart_al") is None
    (segmentation,) = site.orthanc.segmentations()
    site.orthanc.remove_series(segmentation.SeriesInstanceUID)
    second.sync()
    sample = second._campaign.next_sample("coldstart_al")
    assert sample is not None and sample.image_id == series.series
    first.sync()
    assert first._campaign.status()["labelled"] == 1  # it was stored a moment ago: an archive may need a while


def test_label_removed_here_stays_removed_here(site: Site, tmp_path: Path) -> None:
    series = volume_series("CT", seed=1)
    site.orthanc.store(series.instances)
    datastore = site.open()
    save(datastore, series, tmp_path)
    datastore.remove_label(series.series, "final")
    for one in (datastore, site.open()):
        one.sync()
        assert one._campaign.status()["labelled"] == 0
    assert len(site.orthanc.segmentations()) == 1
    save(datastore, series, tmp_path)
    datastore.sync()
    assert datastore._campaign.status()["labelled"] == 1


def test_labelled_series_is_known_before_its_segmentation_is_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start on an empty cache answers clicks at once, and never with what others labelled."""
    labelled, other = volume_series("CT", seed=1), volume_series("CT", seed=2)
    for one in (labelled, other):
        site.orthanc.store(one.instances)
    save(site.open("first"), labelled, tmp_path)
    monkeypatch.setattr(ArchiveDatastore, "read_labels", lambda _self: False)
    second = site.open("second")
    assert second._campaign.status()["labelled"] == 1
    assert {second._campaign.next_sample("coldstart_al").image_id for _ in range(3)} == {other.series}  # type: ignore[union-attr]
    monkeypatch.undo()
    assert "has not been read" in second._campaign.status()["label_problems"][0]


def test_label_is_kept_and_sent_later_while_the_archive_is_away(own_site: Site, tmp_path: Path) -> None:
    series, other = volume_series("CT", seed=1), volume_series("CT", seed=2)
    for one in (series, other):
        own_site.orthanc.store(one.instances)
    datastore = own_site.open()
    datastore.get_image_uri(series.series)
    own_site.orthanc.stop()
    slices = save(datastore, series, tmp_path)
    assert "counts, but is not in the archive yet" in str(datastore.label_warning(series.series))
    assert datastore._campaign.status()["labelled"] == 1 and datastore.status()["not_in_archive"] == 1
    with pytest.raises(ArchiveError, match=r"cannot be reached \(ConnectionError\)"):
        datastore.sync()
    again = own_site.open(url=own_site.orthanc.url)  # the server is restarted meanwhile
    with pytest.raises(ArchiveError):
        again.sync()
    assert set(again.list_images()) == {series.series, other.series}
    sample = again._campaign.next_sample("coldstart_al")
    assert sample is not None and sample.image_id == other.series
    with pytest.raises(AppError, match="cannot be reached") as caught:
        again.get_image_uri(other.series)
    assert caught.value.status_code == 503
    own_site.orthanc.start()
    again.sync()
    assert again.label_warning(series.series) is None and again.status()["not_in_archive"] == 0
    np.testing.assert_array_equal(saved_slices(own_site.open("second"), series), slices)
    again.sync()
    (segmentation,) = own_site.orthanc.segmentations()
    # The server knows which one is its own: it neither sends it again nor reads it back.
    note = again.get_label_info(series.series, "final")["coldstart"]
    assert note == {"segmentation": segmentation.SeriesInstanceUID}


def test_index_counts_when_the_archive_is_suddenly_empty(site: Site) -> None:
    series = volume_series("CT", seed=1)
    site.orthanc.store(series.instances)
    datastore = site.open()
    site.orthanc.clear()
    with pytest.raises(ImageError, match="has no series of CT, MR, CR, DX any more; 1 were in it"):
        datastore.sync()
    assert datastore.list_images() == [series.series]


def test_series_that_are_no_image_are_set_aside_with_their_reason(site: Site) -> None:
    usable, localizer = volume_series("CT", seed=1), volume_series("CT", seed=2)
    for instance in localizer.instances[:2]:
        instance.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    gap, pair = volume_series("CT", seed=3), radiograph("DX", seed=4)
    del gap.instances[5]
    lateral = radiograph("DX", seed=5, patient="PAT004").instances[0]
    lateral.StudyInstanceUID, lateral.SeriesInstanceUID = pair.study, pair.series
    pair.instances.append(lateral)
    for one in (usable, localizer, gap, pair):
        site.orthanc.store(one.instances)
    datastore = site.open()
    problems = datastore._campaign.fetch(datastore.list_images(), no_progress)
    assert problems.keys() == {localizer.series, gap.series, pair.series}
    assert "differ in orientation, such as with a localizer" in problems[localizer.series]
    assert "between 2.5 and 5 mm apart" in problems[gap.series]
    assert "2 instances have no position in space" in problems[pair.series]
    left = {path.name.rpartition("-")[0] for path in datastore.instances(usable.series).parent.glob(".coldstart-*")}
    assert left <= {".coldstart-reading"}  # says what this process reads, as long as it lives
    datastore._campaign.embed()
    assert datastore._campaign.status()["set_aside"].keys() == problems.keys()


def test_images_of_the_other_dimension_are_set_aside(site: Site) -> None:
    volume, slice_, film = volume_series("CT", seed=1), volume_series("CT", seed=2, shape=(1, 48, 40)), radiograph()
    for one in (volume, slice_, film):
        site.orthanc.store(one.instances)
    flat = site.open("flat", **RADIOGRAPHS)
    flat._campaign.embed()
    assert flat._campaign.status()["set_aside"].keys() == {volume.series}
    deep = site.open("deep", **VOLUMES)
    deep._campaign.embed()
    assert deep._campaign.status()["set_aside"].keys() == {slice_.series, film.series}


def test_two_processes_that_fetch_one_series_both_get_it(site: Site) -> None:
    series = volume_series("CT", seed=1)
    site.orthanc.store(series.instances)
    datastores = [site.open(), site.open()]
    paths: list[str] = []

    def fetch(datastore: ArchiveDatastore) -> None:
        paths.append(datastore.get_image_uri(series.series))

    threads = [threading.Thread(target=fetch, args=(one,)) for one in datastores * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 6 and len(set(paths)) == 1
    assert len(list(datastores[0].instances(series.series).iterdir())) == 12
    assert not list(Path(paths[0]).parent.glob(".coldstart-*"))


def test_damaged_index_is_asked_for_anew(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    series = volume_series("CT", seed=1)
    site.orthanc.store(series.instances)
    index = Path(site.open().get_image_info(series.series)["path"]).with_name(archive_index.FILE_NAME)
    index.write_bytes(index.read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        assert site.open().list_images() == [series.series]
    assert f"{index} cannot be read, the archive is asked anew" in caplog.text


def test_images_are_neither_added_nor_removed_from_here(site: Site) -> None:
    series = volume_series("CT", seed=1)
    site.orthanc.store(series.instances)
    datastore = site.open()
    with pytest.raises(AppError, match="Send the DICOM files there"):
        datastore.add_image("x", "x.nii.gz", {})
    with pytest.raises(AppError, match="Remove the series there"):
        datastore.remove_image(series.series)


def test_user_and_password_open_the_archive_and_are_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    require_orthanc()
    with caplog.at_level(logging.DEBUG), Orthanc(tmp_path / "orthanc", {"ann": "hush-4711"}) as orthanc:
        orthanc.store(radiograph().instances)
        with pytest.raises(ArchiveError, match=r"does not let the server in \(401\)\. Give its user"):
            ArchiveClient(orthanc.url).search("DX")
        monkeypatch.setattr(monailabel_settings, "MONAI_LABEL_DICOMWEB_USERNAME", "ann")
        monkeypatch.setattr(monailabel_settings, "MONAI_LABEL_DICOMWEB_PASSWORD", "hush-4711")
        assert len(ArchiveClient(orthanc.url).search("DX")) == 1
    assert "hush-4711" not in caplog.text


def test_address_that_is_no_archive_is_answered_with_a_sentence(site: Site) -> None:
    with pytest.raises(ArchiveError, match=r"Its own log says why|its answer cannot be read"):
        ArchiveClient(f"{site.orthanc.root}/system").search("CT")
    with pytest.raises(SettingsError, match="must be a folder or an address"):
        require_archive_address("http://")
    with pytest.raises(SettingsError, match="must not hold a user or password") as caught:
        require_archive_address("http://ann:hush@host/dicom-web")
    assert "hush" not in str(caught.value)
    assert require_archive_address("http://host:8042/dicom-web/ ") == "http://host:8042/dicom-web"
