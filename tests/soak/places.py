"""Where the images of a week are: a folder, or an archive. Both have 500, can go away, and say what they keep."""

from __future__ import annotations

import io
import json
import random
import threading
from abc import ABC, abstractmethod
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

from coldstart.adapters.server import Server
from dicom_series import Series, volume_series
from orthanc import Orthanc
from soak.annotators import paint, values_of
from soak.records import hash_bytes, hash_voxels

LABEL_INFO = [{"name": "disk", "idx": 1}]
SIDE = 64
LIMIT_S = 120.0


class Place(ABC):
    """Images, and the server on them.

    Parameters
    ----------
    disk : Path
        Where the server keeps what is its own; it may fill up.
    other : Path
        Another disk.
    seed : int
        Of the images.
    """

    name: str
    image_suffix: str

    def __init__(self, disk: Path, other: Path, seed: int):
        self.disk, self.other = disk, other
        self.state = disk / "state"
        self._scratch = other / "scratch"
        self._scratch.mkdir(parents=True)
        self._rng = np.random.default_rng(seed)
        self._n_made = 0
        self.server: Server | None = None
        self.held_out: list[str] = []

    @property
    def url(self) -> str:
        """Address of the server, which stays the same when it is started again."""
        if self.server is None:
            raise RuntimeError("the server was never started")
        return self.server.url

    def paint(self, content: bytes, rng: random.Random) -> bytes:
        """A label of a downloaded image, as a file."""
        return paint(content, self.image_suffix, rng, self._scratch)

    def slices(self, label: bytes) -> np.ndarray:
        """What is in a label that was sent, or is given back."""
        return values_of(label, self._scratch)

    def send(self, session: requests.Session, way: str, image: str, label: bytes) -> requests.Response:
        """Save a label as a viewer does."""
        return session.put(
            f"{self.url}/datastore/label?image={image}",
            data={"params": json.dumps({"label_info": LABEL_INFO})},
            files={"label": (f"{image}.nrrd", label)},
            timeout=LIMIT_S,
        )

    def way_of(self, viewer: str) -> str:
        """How labels of a viewer come."""
        return "put"

    def served_labels(self, images: list[str]) -> dict[str, bytes]:
        """The final labels that the server gives, for those of `images` that have one."""
        found = {}
        for image in images:
            answer = requests.get(f"{self.url}/datastore/label?label={image}&tag=final", timeout=LIMIT_S)
            if answer.ok:
                found[image] = answer.content
        return found

    @property
    @abstractmethod
    def studies(self) -> str:
        """What the server is started on."""

    @abstractmethod
    def add(self, n: int) -> list[str]:
        """Have so many images arrive; return their ids."""

    @abstractmethod
    def replace(self, n: int, in_use: set[str]) -> list[str]:
        """Put others in the place of so many images; return the ids of those that were replaced."""

    @abstractmethod
    def go_away(self) -> None:
        """Be out of reach, with all that was stored."""

    @abstractmethod
    def come_back(self) -> None:
        """Be there again."""

    @abstractmethod
    def kept(self) -> Mapping[str, str]:
        """Hash of the label that is kept of each image, as it is compared: see `compared`."""

    @contextmanager
    def open(self) -> Iterator[Place]:
        """Have it there."""
        yield self


class FolderPlace(Place):
    """A folder of NRRD images; labels are files in it, byte by byte as they were sent."""

    name = "folder"
    image_suffix = ".nrrd"
    compared = "file"

    @property
    def _folder(self) -> Path:
        return self.disk / "studies"

    @property
    def studies(self) -> str:
        return str(self._folder)

    def add(self, n: int) -> list[str]:
        self._folder.mkdir(exist_ok=True)
        names = [f"image_{self._n_made + index:04d}" for index in range(n)]
        for name in names:
            self._write(name)
        self._n_made += n
        return names

    def replace(self, n: int, in_use: set[str]) -> list[str]:
        names = sorted(path.stem for path in self._folder.glob("*.nrrd"))
        chosen = [str(name) for name in self._rng.choice(names, n, replace=False)]
        for name in chosen:
            self._write(name)
        return chosen

    def go_away(self) -> None:
        self._folder.rename(self.disk / "away")

    def come_back(self) -> None:
        (self.disk / "away").rename(self._folder)

    def kept(self) -> Mapping[str, str]:
        files = sorted((self._folder / "labels" / "final").glob("*"))
        twice = {path.name.split(".")[0] for path in files}
        if len(twice) < len(files):
            raise RuntimeError(f"an image has two labels: {[path.name for path in files]}")
        return {path.name.split(".")[0]: hash_bytes(path.read_bytes()) for path in files}

    def _write(self, name: str) -> None:
        pixels = picture(self._rng)
        image = sitk.GetImageFromArray(pixels.astype(np.int16))
        path = self.other / f"{name}.nrrd"
        sitk.WriteImage(image, str(path))
        (self._folder / path.name).write_bytes(path.read_bytes())
        path.unlink()


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


def picture(rng: np.random.Generator) -> np.ndarray:
    """A bright disk in noise, of any place and size."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    row, column = rng.uniform(0.3 * SIDE, 0.7 * SIDE, 2)
    disk = (rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(0.1 * SIDE, 0.2 * SIDE) ** 2
    pixels: np.ndarray = 60 + 80 * disk + rng.normal(0, 10, disk.shape)
    return pixels


PLACES: dict[str, type[FolderPlace] | type[ArchivePlace]] = {"folder": FolderPlace, "archive": ArchivePlace}
