"""Labels as DICOM Segmentation objects: written for the instances of a series, and read back onto its image.

A segmentation keeps each slice of each segment as a frame that refers to its source instance. Reading by these
references puts every slice where it belongs, in whatever order and orientation the series is, and also where the object
covers a few slices only. Where a program left the references out, or refers to another series of the same patient, the
frames' positions in space decide.

The number of a segment must count from 1 without gaps, so the value that a structure has in label files is kept in the
segment's description.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.uid import SegmentationStorage, generate_uid

from coldstart.exceptions import LabelError
from coldstart.images.geometry import Geometry, to_file, to_pixels
from coldstart.images.series import Series

SERIES_NUMBER = 300
MAX_NAME_LENGTH = 64
"""Characters of a segment's label in DICOM."""

_ORGAN = CodedConcept("123037004", "SCT", "Anatomical Structure")
_TISSUE = CodedConcept("85756007", "SCT", "Tissue")
_VALUE = re.compile(r"label value (\d{1,5})")
_COLOURS = ((54, 81, 70), (83, -52, 75), (60, -6, -44), (89, -10, 85), (60, 90, -55), (88, -40, -12))
"""CIELab colours in which viewers show the segments, in turn."""


@dataclass(frozen=True)
class SegmentedLabel:
    """A segmentation on the image of its series.

    Attributes
    ----------
    values : ndarray of shape (*spatial,), int32
        The label in the axis convention of this package, on the whole image.
    names : dict of int to str
        Name of each value.
    """

    values: NDArray[np.int32]
    names: dict[int, str]


def write_dicom_seg(
    values: NDArray[Any],
    geometry: Geometry,
    series: Series,
    names: Mapping[int, str],
    path: Path,
    identity: Sequence[str] | None = None,
) -> str:
    """Write a label as a DICOM Segmentation of a series.

    Parameters
    ----------
    values : ndarray of shape (*spatial,), integer
        The label in the axis convention of this package; nothing but 0 is a valid label.
    geometry : Geometry
        Of the image of the series, which the label lies on.
    series : Series
        The instances that it is a label of.
    names : mapping of int to str
        Name of each value, also of those that the label does not hold; a value without one is called by its number.
    path : Path
        Where to write.
    identity : sequence of str, optional
        What makes this label another than any other: the same words give the same UIDs.

    Returns
    -------
    str
        Series instance UID of the segmentation.

    Raises
    ------
    LabelError
        If the series lacks what a segmentation needs.
    """
    present = {int(value) for value in np.unique(values)} - {0}
    known = {value: names.get(value, f"value {value}") for value in sorted(present | names.keys())} or {1: "value 1"}
    stored = _to_slices(values, geometry)
    numbers = np.zeros(stored.shape, dtype=np.uint8 if len(known) < 256 else np.uint16)
    for number, value in enumerate(known, start=1):
        numbers[stored == value] = number
    words = [*identity] if identity is not None else None
    try:
        segmentation = Segmentation(
            source_images=list(series.headers),
            pixel_array=numbers,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[_describe(n, value, name) for n, (value, name) in enumerate(known.items(), start=1)],
            series_instance_uid=generate_uid(entropy_srcs=words and [*words, "series"]),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(entropy_srcs=words and [*words, "instance"]),
            instance_number=1,
            manufacturer="coldstart_al",
            manufacturer_model_name="coldstart_al",
            software_versions=version("coldstart-al"),
            device_serial_number="0",
            content_label="LABEL",
            series_description="Label",
            omit_empty_frames=bool(present),
        )
        segmentation.save_as(path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LabelError(
            f"The label cannot be written as DICOM SEG for this series: {error}. It is kept as it came."
        ) from error
    return str(segmentation.SeriesInstanceUID)


def read_dicom_seg(path: Path, geometry: Geometry, series: Series) -> SegmentedLabel:
    """Read a DICOM Segmentation onto the image of its series.

    Parameters
    ----------
    path : Path
        The segmentation, by whichever program.
    geometry : Geometry
        Of the image.
    series : Series
        The instances of the image.

    Raises
    ------
    LabelError
        If it is no segmentation, its segments overlap, or nothing says where on the image it lies.
    """
    try:
        dataset = pydicom.dcmread(path)
        if dataset.get("SOPClassUID") != SegmentationStorage:
            raise LabelError(
                f"The label must be a DICOM Segmentation; got {dataset.get('SOPClassUID', 'no class')}. Save it as SEG."
            )
        value_of, names = _meanings(dataset)
        frames = _frames(dataset)
        stored = _by_reference(frames, value_of, geometry, series)
        if stored is None:
            stored = _by_position(dataset, frames, value_of, geometry, series)
    # What pydicom raises for a damaged object is not foreseeable; all of it means the same here.
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, NotImplementedError) as error:
        raise LabelError(
            f"The segmentation cannot be read ({type(error).__name__}: {error}). Save the label again."
        ) from error
    on_file = stored.transpose(2, 1, 0)
    on_file = on_file if geometry.file_dims == 3 else on_file[..., 0]
    return SegmentedLabel(np.ascontiguousarray(to_pixels(on_file, geometry)), names)


@dataclass(frozen=True)
class _Frame:
    """One slice of one segment."""

    mask: NDArray[np.bool_]
    segment: int
    source: tuple[str, int] | None
    groups: pydicom.Dataset


def _describe(number: int, value: int, name: str) -> SegmentDescription:
    description = SegmentDescription(
        segment_number=number,
        segment_label=name.replace("\\", "/").strip()[:MAX_NAME_LENGTH] or f"value {value}",
        segmented_property_category=_ORGAN,
        segmented_property_type=_TISSUE,
        algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
    )
    description.SegmentDescription = f"label value {value}"
    description.RecommendedDisplayCIELabValue = list(CIELabColor(*_COLOURS[(number - 1) % len(_COLOURS)]).value)
    return description


def _meanings(dataset: pydicom.Dataset) -> tuple[dict[int, int], dict[int, str]]:
    """Value of each segment number, and name of each value."""
    value_of: dict[int, int] = {}
    names: dict[int, str] = {}
    for segment in dataset.SegmentSequence:
        kept = _VALUE.fullmatch(str(segment.get("SegmentDescription", "")))
        value = int(kept.group(1)) if kept else int(segment.SegmentNumber)
        value_of[int(segment.SegmentNumber)] = value
        names[value] = str(segment.get("SegmentLabel", "")).strip()
    if len(names) < len(value_of):
        raise LabelError("Two segments of the segmentation stand for one label value. Save the label again.")
    return value_of, names


def _frames(dataset: pydicom.Dataset) -> list[_Frame]:
    if "PixelData" not in dataset:
        return []
    pixels = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
    threshold = 1.0
    if dataset.get("SegmentationType") == "FRACTIONAL":
        threshold = int(dataset.get("MaximumFractionalValue", 255)) / 2
    shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    frames = []
    for mask, own in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        groups = pydicom.Dataset()
        groups.update(shared[0])
        groups.update(own)
        segment = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        frames.append(_Frame(mask >= threshold, segment, _source(groups), groups))
    return frames


def _source(groups: pydicom.Dataset) -> tuple[str, int] | None:
    """Instance and frame that a frame was drawn on."""
    for derivation in groups.get("DerivationImageSequence") or ():
        for source in derivation.get("SourceImageSequence") or ():
            number = source.get("ReferencedFrameNumber", 1)
            first = number if isinstance(number, int) else next(iter(number), 1)
            return str(source.ReferencedSOPInstanceUID), int(first)
    return None


def _by_reference(
    frames: Sequence[_Frame], value_of: Mapping[int, int], geometry: Geometry, series: Series
) -> NDArray[np.int32] | None:
    """Put each frame on the slice that it refers to; None where one refers to none of them."""
    index_of = {frame: index for index, frame in enumerate(series.frames)}
    shape = _slices_shape(geometry)
    if any(frame.source not in index_of or frame.mask.shape != shape[1:] for frame in frames):
        return None
    stored = np.zeros(shape, dtype=np.int32)
    for frame in frames:
        _put(stored[index_of[frame.source or ("", 0)]], frame, value_of)
    return stored


def _by_position(
    dataset: pydicom.Dataset,
    frames: Sequence[_Frame],
    value_of: Mapping[int, int],
    geometry: Geometry,
    series: Series,
) -> NDArray[np.int32]:
    """Put the frames where they lie in space, and look up the nearest of their pixels for each pixel of the image."""
    ours, theirs = series.headers[0].get("FrameOfReferenceUID"), dataset.get("FrameOfReferenceUID")
    placed = all("PlanePositionSequence" in frame.groups for frame in frames)
    if not placed or not geometry.physical or geometry.file_dims != 3 or not ours or ours != theirs:
        raise LabelError(
            "The segmentation neither refers to the instances of its series nor lies in the same space. Draw it on "
            "this series, and save it again."
        )
    across, down = np.reshape(np.array(_group(frames[0], "PlaneOrientation").ImageOrientationPatient, float), (2, 3))
    normal = np.cross(across, down)
    positions = np.array([_group(frame, "PlanePosition").ImagePositionPatient for frame in frames], dtype=float)
    heights = positions @ normal
    measures = _group(frames[0], "PixelMeasures")
    levels = np.unique(heights.round(3))
    thickness = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0)
    step = float(np.diff(levels).min()) if len(levels) > 1 else thickness
    indices = np.rint((heights - heights.min()) / step).astype(int)
    volume = np.zeros((int(indices.max()) + 1, *frames[0].mask.shape), dtype=np.int32)
    for frame, index in zip(frames, indices, strict=True):
        _put(volume[index], frame, value_of)
    picture = sitk.GetImageFromArray(volume)
    picture.SetSpacing((float(measures.PixelSpacing[1]), float(measures.PixelSpacing[0]), step))
    picture.SetOrigin([float(x) for x in positions[int(np.argmin(heights))]])
    picture.SetDirection(np.stack([across, down, normal], axis=1).ravel().tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    resampler.SetSize(geometry.size)
    resampler.SetOutputSpacing(geometry.spacing)
    resampler.SetOutputOrigin(geometry.origin)
    resampler.SetOutputDirection(geometry.direction)
    stored: NDArray[np.int32] = sitk.GetArrayFromImage(resampler.Execute(picture)).astype(np.int32)
    if volume.any() and not stored.any():
        raise LabelError("The segmentation lies beside the image. Draw it on this series, and save it again.")
    return stored


def _group(frame: _Frame, name: str) -> pydicom.Dataset:
    return frame.groups[f"{name}Sequence"].value[0]  # type: ignore[no-any-return]


def _put(slice_: NDArray[np.int32], frame: _Frame, value_of: Mapping[int, int]) -> None:
    value = value_of[frame.segment]
    if np.any(frame.mask & (slice_ != 0) & (slice_ != value)):
        raise LabelError(
            "Segments of the segmentation overlap, and a pixel can have one label only. Make them disjoint in the "
            "viewer, and save it again."
        )
    slice_[frame.mask] = value


def _slices_shape(geometry: Geometry) -> tuple[int, int, int]:
    return geometry.size[2] if geometry.file_dims == 3 else 1, geometry.size[1], geometry.size[0]


def _to_slices(values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """(slices, rows, columns) as the instances of the series hold them."""
    stored = to_file(np.asarray(values), geometry)
    return (stored if stored.ndim == 3 else stored[..., None]).transpose(2, 1, 0)
