"""The infer task `attention_unet`: a label in the geometry of the image."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from numpy.typing import NDArray

from coldstart.adapters.errors import AppError, answered
from coldstart.campaign import Campaign
from coldstart.exceptions import ModelError
from coldstart.images import read_image, result_suffix, write_label
from coldstart.memory import enough_memory, give_back
from coldstart.segmentation import Model, faster, load_published, read_model, segment
from coldstart.segmentation.infer import REMEDY

LABEL_SUFFIXES = (".nrrd", ".seg.nrrd", ".nii.gz", ".nii", ".png", ".tif", ".tiff")


def result_values(labels: Mapping[str, int]) -> dict[str, int]:
    """Value that each structure has in a result, in the order of the configured values.

    Results count 1, 2, 3, ... whatever is configured: 3D Slicer gives the n-th name to the value n and drops the rest.
    """
    return {name: number for number, name in enumerate(sorted(labels, key=labels.__getitem__), start=1)}


class AttentionUnetInference(InferTask):  # type: ignore[misc]
    """Segments one image with the published model, which is read again when another one is published."""

    def __init__(self, campaign: Campaign):
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=result_values(campaign.settings.labels),
            dimension=campaign.settings.spatial_dims,
            description="Attention U-Net, the model trained last",
        )
        self._campaign = campaign
        self._loaded: tuple[tuple[int, int], Model] | None = None
        self._lock = threading.Lock()

    def is_valid(self) -> bool:
        """Tell whether a model was published; MONAI Label lists the task only then."""
        return self._campaign.model_path.is_file()

    def get_path(self, validate: bool = True) -> str | None:
        """Path of the published model, which MONAI Label offers for download."""
        return str(self._campaign.model_path) if self.is_valid() or not validate else None

    def check_upload(self, content: IO[bytes]) -> None:
        """Refuse an uploaded file that is not a whole model: MONAI Label copies it over the one that is in use.

        Nothing that the file holds is run. `content` is at its beginning again afterwards.
        """
        with tempfile.TemporaryDirectory() as folder, answered():
            copy = Path(folder) / "uploaded.pt"
            with copy.open("wb") as file:
                shutil.copyfileobj(content, file)
            content.seek(0)
            try:
                read_model(copy, "cpu")
            except ModelError as error:
                raise AppError(
                    f"The uploaded file is not a model of this app: {error}. Send a model file that this app wrote."
                ) from error

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment `request["image"]`, a path; write the label in the geometry of the image.

        Returns
        -------
        tuple of str and dict
            Path of the label file, in the image's format or a lossless one in its place, or with the suffix
            `result_extension`; and `label_names` (value of each structure, see `result_values`), the model's version
            and the seconds taken.
        """
        started = time.monotonic()
        with answered(409):
            model = self.model()
        path = Path(request["image"])
        if not path.is_file():
            raise AppError(
                "The file of this image is not there just now. Look whether its folder can be reached, "
                "or choose another image.",
                404,
            )
        with answered():
            image = read_image(path)
            values = self._values(model)[segment(model, image)]
            suffix = self._suffix(request.get("result_extension")) or result_suffix(path)
            with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
                output = Path(file.name)
            try:
                write_label(values, image.geometry, output)
            except BaseException:
                output.unlink()
                raise
        return str(output), {
            "label_names": self.labels,
            "model_version": model.version,
            "latencies": {"total": round(time.monotonic() - started, 3)},
        }

    def _suffix(self, requested: object) -> str | None:
        if requested is None or requested in (*LABEL_SUFFIXES, ""):
            return str(requested or "") or None
        raise AppError(f"`result_extension` must be one of {', '.join(LABEL_SUFFIXES)}; got {requested!r}.")

    def model(self) -> Model:
        """The published model; while its file is damaged or being written, the last good one.

        Raises
        ------
        AppError
            Without one.
        ModelError
            If it cannot be read, or the memory is not enough: it is read again for the next request.
        """
        path = self._campaign.model_path
        with self._lock:
            try:
                status = path.stat()
            except FileNotFoundError:
                raise AppError(
                    "There is no trained model yet. Label images, save them, and start a training first.", 404
                ) from None
            seen = status.st_mtime_ns, status.st_size
            if self._loaded is None or self._loaded[0] != seen:
                with enough_memory(what="Loading the model", remedy=REMEDY, error=ModelError):
                    self._loaded = seen, self._read(path)
                give_back()
            return self._loaded[1]

    def _read(self, path: Path) -> Model:
        try:
            return faster(load_published(path, self._campaign.settings.device))
        except ModelError:
            if self._loaded is None:
                raise
            return self._loaded[1]

    def _values(self, model: Model) -> NDArray[Any]:
        """Value of each class in a result; structures get their value by name."""
        unknown = [name for name in model.label_names if name not in self.labels]
        if unknown:
            raise AppError(
                f"The model was trained for {', '.join(model.label_names)}, but the labels configured now are "
                f"{', '.join(self.labels)}. Train again, or configure {', '.join(unknown)} with --conf labels."
            )
        return np.array([0, *(self.labels[name] for name in model.label_names)])
