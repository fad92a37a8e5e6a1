"""The frames of a DICOM Segmentation: reading them, and putting them on the slices of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from coldstart.exceptions import LabelError
from coldstart.images.geometry import Geometry
from coldstart.images.series import Series


@dataclass(frozen=True)
class Frame:
    """One slice of one segment."""

    mask: NDArray[np.bool_]
    segment: int
    source: tuple[str, int] | None
    groups: pydicom.Dataset


def read_frames(dataset: pydicom.Dataset) -> list[Frame]:
    """All frames; of fractions those pixels count that are at least half filled."""
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
        frames.append(Frame(mask >= threshold, segment, _source(groups), groups))
    return frames


def _source(groups: pydicom.Dataset) -> tuple[str, int] | None:
    """Instance and frame that a frame was drawn on."""
    for derivation in groups.get("DerivationImageSequence") or ():
        for source in derivation.get("SourceImageSequence") or ():
            number = source.get("ReferencedFrameNumber", 1)
            first = number if isinstance(number, int) else next(iter(number), 1)
            return str(source.ReferencedSOPInstanceUID), int(first)
    return None


def by_reference(
    frames: Sequence[Frame], value_of: Mapping[int, int], geometry: Geometry, series: Series
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


def by_position(
    dataset: pydicom.Dataset,
    frames: Sequence[Frame],
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
    step = _step(heights, float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0))
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


def _step(heights: NDArray[np.float64], thickness: float) -> float:
    """Distance of slices; where only some have a frame, these may be several slices apart."""
    distances = np.diff(np.unique(heights.round(3)))
    n_slices = distances / thickness
    if np.all(np.abs(n_slices - np.rint(n_slices)) < 0.05):
        return thickness
    return float(distances.min())


def _group(frame: Frame, name: str) -> pydicom.Dataset:
    return frame.groups[f"{name}Sequence"].value[0]  # type: ignore[no-any-return]


def _put(slice_: NDArray[np.int32], frame: Frame, value_of: Mapping[int, int]) -> None:
    value = value_of[frame.segment]
    if np.any(frame.mask & (slice_ != 0) & (slice_ != value)):
        raise LabelError(
            "Segments of the segmentation overlap, and a pixel can have one label only. Make them disjoint in the "
            "viewer, and save it again."
        )
    slice_[frame.mask] = value


def _slices_shape(geometry: Geometry) -> tuple[int, int, int]:
    return geometry.size[2] if geometry.file_dims == 3 else 1, geometry.size[1], geometry.size[0]
