"""A real archive as the place of a week's images."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import requests
import SimpleITK as sitk  # noqa: N813
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.uid import generate_uid

from dicom_series import Series, volume_series
from orthanc import Orthanc
from soak.annotators import values_of
from soak.places import LIMIT_S, SIDE, Place
from soak.records import hash_voxels


class ArchivePlace(Place):
    """A real Orthanc with series of one CT slice, which OHIF can label; labels are DICOM SEG in it, so voxels count."""

    name = "archive"
    image_suffix = ".nii.gz"
    compared = "voxels"

    def __init__(self, disk: Path, other: Path, seed: int):
        super().__init__(disk, other, seed)
        self._orthanc = Orthanc(other / "orthanc")
        self._series: dict[str, Series] = {}
        self._grid = _grid_of(self._make())

    @contextmanager
    def open(self) -> Iterator[Place]:
        with self._orthanc:
            yield self

    @property
    def studies(self) -> str:
        return self._orthanc.url

    def add(self, n: int) -> list[str]:
        made = []
        for _ in range(n):
            series = self._make()
            self._orthanc.store(series.instances)
            self._series[series.series] = series
            self._n_made += 1
            made.append(series.series)
        return made

    def replace(self, n: int, in_use: set[str]) -> list[str]:
        free = sorted(self._series.keys() - in_use - set(self.held_out))
        chosen = [str(uid) for uid in self._rng.choice(free, n, replace=False)]
        for uid in chosen:
            self._orthanc.remove_series(uid)
            del self._series[uid]
        self.add(n)
        return chosen

    def go_away(self) -> None:
        self._orthanc.stop()

    def come_back(self) -> None:
        self._orthanc.start()

    def slices(self, label: bytes) -> np.ndarray:
        """On the rows and columns of the series, which a downloaded image need not have in this order."""
        return values_of(label, self._scratch, on=self._grid)

    def way_of(self, viewer: str) -> str:
        return "stow" if viewer == "ohif" else "put"

    def send(self, session: requests.Session, way: str, image: str, label: bytes) -> requests.Response:
        if way == "put":
            return super().send(session, way, image, label)
        content = io.BytesIO()
        pydicom.dcmwrite(content, self._segmentation(image, label))
        boundary = f"part{threading.get_ident()}"
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        return session.post(
            f"{self.url}/proxy/dicom/stow/studies",
            data=head + content.getvalue() + f"\r\n--{boundary}--".encode(),
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Accept": "application/dicom+json",
            },
            timeout=LIMIT_S,
        )

    def kept(self) -> Mapping[str, str]:
        """The voxels of the segmentation that came last, by the archive's own account of what came when."""
        came = self._instances_in_order()
        newest: dict[str, pydicom.Dataset] = {}
        for segmentation in self._orthanc.segmentations():
            image = str(segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID)
            before = newest.get(image)
            if before is None or came[before.SOPInstanceUID] < came[segmentation.SOPInstanceUID]:
                newest[image] = segmentation
        return {image: hash_voxels(self._values(segmentation)) for image, segmentation in newest.items()}

    def _make(self) -> Series:
        return volume_series("CT", seed=self._n_made, shape=(1, SIDE, SIDE), spacing=(2.5, 1.0, 1.0))

    def _instances_in_order(self) -> dict[str, int]:
        """Number of the change by which each instance came, by its UID."""
        root, since, order = self._orthanc.root, 0, {}
        while True:
            page = requests.get(f"{root}/changes?since={since}&limit=1000", timeout=LIMIT_S).json()
            for change in page["Changes"]:
                if change["ChangeType"] == "NewInstance":
                    order[change["ID"]] = change["Seq"]
            since = page["Last"]
            if page["Done"]:
                break
        instances = requests.get(f"{root}/instances?expand", timeout=LIMIT_S).json()
        return {one["MainDicomTags"]["SOPInstanceUID"]: order.get(one["ID"], 0) for one in instances}

    def _values(self, segmentation: pydicom.Dataset) -> np.ndarray:
        values = np.zeros((1, SIDE, SIDE), dtype=np.uint16)
        masks = segmentation.pixel_array.reshape(-1, SIDE, SIDE)
        for mask, frame in zip(masks, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
            number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            (segment,) = [one for one in segmentation.SegmentSequence if one.SegmentNumber == number]
            said = str(segment.get("SegmentDescription", ""))
            values[0][mask.astype(bool)] = int(said.rpartition(" ")[2]) if said.startswith("label value") else number
        return values

    def _segmentation(self, image: str, label: bytes) -> pydicom.Dataset:
        """What OHIF stores: one segment, its number being its meaning."""
        segment = SegmentDescription(
            segment_number=1,
            segment_label="disk",
            segmented_property_category=CodedConcept("123037004", "SCT", "Anatomical Structure"),
            segmented_property_type=CodedConcept("85756007", "SCT", "Tissue"),
            algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
        )
        return Segmentation(
            source_images=self._series[image].instances,
            pixel_array=self.slices(label).astype(np.uint8),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[segment],
            series_instance_uid=generate_uid(),
            series_number=99,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="viewer",
            manufacturer_model_name="viewer",
            software_versions="1",
            device_serial_number="1",
        )


def _grid_of(series: Series) -> sitk.Image:
    """Where the pixels of a series of one slice are; all series of the week lie alike."""
    grid = sitk.Image(SIDE, SIDE, 1, sitk.sitkUInt8)
    grid.SetOrigin([float(x) for x in series.origin])
    grid.SetSpacing([float(x) for x in reversed(series.spacing)])
    return grid
