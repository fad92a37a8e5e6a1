"""The trained model and its file: `{"model": state_dict, "metadata": plain types}`, published all or nothing.

`model` is the key under which MONAI Label looks for the weights. The file loads with `weights_only=True`: a file from
elsewhere cannot run code.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from coldstart.exceptions import InvalidInputError, ModelError
from coldstart.segmentation.config import TrainingConfig
from coldstart.segmentation.network import build_network, resolve_device

FORMAT = "coldstart-attention-unet"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A network with everything that is needed to use it.

    Parameters
    ----------
    network : nn.Module
        Maps (n, 1, *grid) to logits (n, n_classes, *grid).
    metadata : Mapping
        Plain JSON types: `format`, `version`, `created`, `label_names`, `config`, `training_images`, `n_images`,
        `left_out`, `epochs`, `requested_batch_size`, `patch_size`, `losses`, `validation`, `training_s`, `device`,
        `n_processes`, `torch`.
    """

    network: nn.Module
    metadata: Mapping[str, Any]

    @property
    def version(self) -> str:
        """UTC time of the training's end in ms (it sorts by age) and a hash of weights, config and training images."""
        return str(self.metadata["version"])

    @property
    def config(self) -> TrainingConfig:
        """The config that the model was trained with."""
        return TrainingConfig.from_dict(self.metadata["config"])

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes without the background; the class index is the position plus one."""
        return tuple(self.metadata["label_names"])

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device


def describe_training(
    network: nn.Module,
    config: TrainingConfig,
    *,
    image_ids: Sequence[str],
    left_out: Mapping[str, str],
    losses: Sequence[float],
    validation: Mapping[str, Any] | None,
    seconds: float,
    device: str,
    world_size: int,
    requested_batch_size: int,
    patch_size: Sequence[int],
) -> dict[str, Any]:
    """Collect the metadata of a training that has just ended."""
    created = datetime.now(UTC)
    stamp = f"{created:%Y%m%dT%H%M%S}{created.microsecond // 1000:03d}Z"
    return {
        "format": FORMAT,
        "version": f"{stamp}-{_fingerprint(network, config, image_ids)}",
        "created": created.isoformat(timespec="seconds"),
        "label_names": list(config.label_names),
        "config": config.to_dict(),
        "training_images": list(image_ids),
        "n_images": len(image_ids),
        "left_out": dict(left_out),
        "epochs": config.epochs,
        "requested_batch_size": requested_batch_size,
        "patch_size": list(patch_size),
        "losses": [float(loss) for loss in losses],
        "validation": validation,
        "training_s": round(seconds, 3),
        "device": device,
        "n_processes": world_size,
        "torch": str(torch.__version__),
    }


def save_model(model: Model, path: Path) -> None:
    """Publish a model: afterwards `path` holds all of it, or, whatever happens on the way, what it held before.

    A copy is kept beside it (`last_good`), for when something else writes over the published file.

    Parameters
    ----------
    model : Model
        What to write; its tensors are saved as CPU tensors.
    path : Path
        The file; missing folders are created.

    Raises
    ------
    InvalidInputError
        If the metadata are not plain JSON types.
    ModelError
        If the file cannot be written.
    """
    _write(model, path, with_copy=True)


def write_model(model: Model, path: Path) -> None:
    """Do as `save_model`, without a copy: for a model that is kept and not in use."""
    _write(model, path, with_copy=False)


def keep_last_good(model: Model, path: Path) -> None:
    """Keep a copy of a model that was read from `path`, unless it is there: it may have come there by other ways."""
    with FileLock(path.with_name(f".{path.name}.lock")):
        try:
            kept = load_model(last_good(path), "cpu").version
        except ModelError:
            kept = None
        if kept != model.version:
            _keep_copy(path, _serialised(model))


def last_good(path: Path) -> Path:
    """Where the copy of the last model that could be read lies, for the model file `path`."""
    return path.with_name(f"{path.stem}.last-good{path.suffix}")


def load_published(path: Path, device: str = "auto") -> Model:
    """Read the model at `path` or, where that file is damaged or not ours, the copy of the last good one.

    Raises
    ------
    ModelError
        If there is no file at `path`, or neither can be used.
    """
    try:
        return load_model(path, device)
    except ModelError as damaged:
        if not path.is_file():
            raise
        try:
            model = load_model(last_good(path), device)
        except ModelError:
            raise damaged from None
        logger.warning("%s Until then the last good model, %s, is used.", damaged, model.version)
        return model


def load_model(path: Path, device: str = "auto") -> Model:
    """Read a model that `save_model` wrote.

    Parameters
    ----------
    path : Path
        The file.
    device : str
        As `TrainingConfig.device`.

    Returns
    -------
    model : Model
        In evaluation mode.

    Raises
    ------
    ModelError
        If the file is missing, damaged or not of this app.
    InvalidInputError
        If the device is not there.
    """
    if not path.is_file():
        raise ModelError(f"No trained model is at {path} yet. Label some images and start a training first.")
    try:
        return read_model(path, device)
    except ModelError as error:
        raise ModelError(
            f"The model file {path} is damaged or not a model of this app: {error}. Train again to replace it."
        ) from error


def read_model(path: Path, device: str = "auto") -> Model:
    """Do as `load_model`, for a file that is there, with errors that say only what is wrong, such as "it is empty"."""
    where = resolve_device(device)
    content = _read_content(path)
    metadata = content.get("metadata") if isinstance(content, dict) else None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT or "model" not in content:
        raise ModelError(f"it does not hold 'model' and 'metadata' of format '{FORMAT}'")
    try:
        config = TrainingConfig.from_dict(metadata["config"])
        _check_content(content["model"], metadata, config)
        network = build_network(config)
        network.load_state_dict(content["model"])
    except InvalidInputError as error:
        raise ModelError(f"it does not fit this version of the app: {str(error).rstrip('.')}") from error
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError("it does not fit this version of the app: its metadata lack something") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise ModelError("not all of its weights are finite")
    return Model(network.to(where).eval(), metadata)


def _read_content(path: Path) -> Any:
    if path.stat().st_size == 0:
        raise ModelError("it is empty")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError("it holds code or other objects than weights, or is no file of PyTorch") from error
    # what a damaged file raises depends on where it is damaged: no list of types is complete
    except Exception as error:
        raise ModelError("it is cut off or damaged, or cannot be read") from error


def _check_content(weights: Mapping[str, torch.Tensor], metadata: Mapping[str, Any], config: TrainingConfig) -> None:
    """Compare with the network before it is built: a config that the weights are not of could ask for any memory."""
    if not isinstance(metadata["version"], str) or metadata["label_names"] != list(config.label_names):
        raise InvalidInputError("`version` or `label_names` of its metadata are not those of a training.")
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in build_network(config).state_dict().items()}
    found = {key: value.shape for key, value in weights.items() if value.is_contiguous()}
    if found != wanted:
        key = next(key for key in [*wanted, *found] if found.get(key) != wanted.get(key))
        raise InvalidInputError(
            f"its weights are not those of its config, first '{key}': {found.get(key)} instead of {wanted.get(key)}."
        )


def _fingerprint(network: nn.Module, config: TrainingConfig, image_ids: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps([config.to_dict(), list(image_ids)]).encode())
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def _serialised(model: Model) -> memoryview:
    try:
        metadata = json.loads(json.dumps(dict(model.metadata), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"A model's metadata must be plain, finite JSON values: {error}.") from error
    weights = {key: value.detach().cpu() for key, value in model.network.state_dict().items()}
    content = io.BytesIO()
    torch.save({"model": weights, "metadata": metadata}, content)
    return content.getbuffer()


def _write(model: Model, path: Path, *, with_copy: bool) -> None:
    content = _serialised(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not with_copy:
            _replace(path, content)
            return
        with FileLock(path.with_name(f".{path.name}.lock")):
            _replace(path, content)
            _keep_copy(path, content)
    except OSError as error:
        raise ModelError(
            f"The model could not be written to {path}: {error}. Free space there or make the folder writable, "
            "and train again."
        ) from error


def _replace(path: Path, content: memoryview) -> None:
    """Put a file in the place of another; what a killed process left under the temporary name is written over."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _keep_copy(path: Path, content: memoryview) -> None:
    """Keep a copy that nobody writes to; the published model does not depend on it."""
    try:
        _replace(last_good(path), content)
    except OSError as error:
        logger.warning("No copy of the model was kept beside %s: %s.", path, error)


def _sync_folder(folder: Path) -> None:
    """Make the rename survive a power cut; a file system that cannot sync a folder is left to itself."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
