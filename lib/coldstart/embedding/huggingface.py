"""Any vision model of `transformers` as an encoder: a folder, or a name on the Hugging Face hub.

The vector is the class token of a vision transformer (the mean of its patch tokens where it has none), the
`pooler_output` of a convolutional network, the mean of the feature map of SAM's image encoder.
"""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from coldstart.embedding.encoder import Array, TorchEncoder
from coldstart.embedding.hf_preprocessing import CONFIG_NAME, PROCESSOR_NAME, read_preprocessor
from coldstart.embedding.weights import fetch_hub_folder, hash_files
from coldstart.exceptions import EncoderError

MODEL_CONFIG = "config.json"
WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
HUB_PATTERNS = [MODEL_CONFIG, CONFIG_NAME, PROCESSOR_NAME, *WEIGHT_PATTERNS, "*.index.json"]
# How the class token's parameter is called in the models that have one.
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
# Where a model of image and text, or SAM, keeps its image encoder.
VISION_PARTS = ("vision_encoder", "vision_model")


class HuggingFaceEncoder(TorchEncoder):
    """See the module; `name` is "hf:" and the model's name."""

    spatial_dims = 2

    def __init__(self, source: str, device: torch.device) -> None:
        self.option = f"`--conf encoder` 'hf:{source}'"
        folder = _find_folder(source, self.option)
        model = _load_model(folder, self.option)
        vision = next((getattr(model, part) for part in VISION_PARTS if hasattr(model, part)), model)
        n_channels = _n_channels(vision.config)
        self.preprocessor = read_preprocessor(folder, n_channels=n_channels, option=self.option)
        self.has_class_token = any(name.rsplit(".", 1)[-1] in CLASS_TOKENS for name, _ in vision.named_parameters())
        self.keywords = _forward_keywords(vision)
        name = folder.name if Path(source).is_dir() else source
        super().__init__(f"hf:{name}", hash_files(_content(folder)), vision, device)
        self.n_features = self._probe(n_channels)

    def prepare(self, image: Array) -> Array:
        """Resize, crop and normalise as the model's `preprocessor_config.json` says."""
        return self.preprocessor(image)

    def encode(self, inputs: Array) -> Array:
        """Give the vectors; a model that cannot take these inputs raises EncoderError."""
        try:
            return super().encode(inputs)
        except (RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise EncoderError(
                f"{self.option} cannot take images of the shape {inputs.shape[1:]} that its {CONFIG_NAME} gives: "
                f"{str(error).splitlines()[0]} Use another model."
            ) from error

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the model and take the vector out of its answer."""
        answer = self.network(pixel_values=inputs, **self.keywords)
        hidden: torch.Tensor | None = getattr(answer, "last_hidden_state", None)
        pooled: torch.Tensor | None = getattr(answer, "pooler_output", None)
        if hidden is not None and hidden.ndim == 3:
            return hidden[:, 0] if self.has_class_token else hidden.mean(dim=1)
        if pooled is not None:
            return pooled.flatten(1)
        if hidden is not None and hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        raise EncoderError(
            f"{self.option} must be a vision model that gives a last_hidden_state or a pooler_output; "
            f"{type(self.network).__name__} gives {', '.join(answer.keys())}. Use another model."
        )

    def _probe(self, n_channels: int) -> int:
        inputs = self.prepare(np.zeros((n_channels, 64, 64), dtype=np.float32))
        return int(self.encode(inputs[None]).shape[1])


def _find_folder(source: str, option: str) -> Path:
    path = Path(source).expanduser()
    if not source.strip() or source.startswith(("/", ".", "~", "\\")) or source.count("/") > 1 or path.exists():
        if not (path / MODEL_CONFIG).is_file():
            state = "holds no " + MODEL_CONFIG if path.is_dir() else "is not a folder"
            raise EncoderError(
                f"{option} must name a folder with {MODEL_CONFIG}, {CONFIG_NAME} and the weights, or a Hugging Face "
                f"model (owner/name); {str(path)!r} {state}. Check the path."
            )
        return path
    return fetch_hub_folder(source, HUB_PATTERNS, MODEL_CONFIG, option)


def _content(folder: Path) -> list[Path]:
    names = (MODEL_CONFIG, CONFIG_NAME, PROCESSOR_NAME)
    safe = sorted(folder.glob(WEIGHT_PATTERNS[0]))
    weights = safe or sorted(folder.glob(WEIGHT_PATTERNS[1]))
    return [path for name in names if (path := folder / name).is_file()] + weights


def _load_model(folder: Path, option: str) -> Any:
    try:
        model, report = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises a dozen types for an unknown or damaged model
        raise EncoderError(
            f"{option} cannot be loaded from {str(folder)!r}: {_first_line(error)} It must be a vision model that "
            "transformers knows, with whole weights; code that comes with a model is never run."
        ) from error
    # An absent pooling layer on top is common and not used; an absent network would give random vectors.
    missing = [key for key in report["missing_keys"] if "pooler" not in key]
    if missing:
        raise EncoderError(
            f"{option} must come with all its weights; {len(missing)} are missing in {str(folder)!r}, the first is "
            f"{sorted(missing)[0]!r}. Download the model again."
        )
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0  # a masked autoencoder would hide most of the image, at random
    return model


def _n_channels(config: Any) -> int:
    n_channels = getattr(config, "num_channels", 3)
    return int(n_channels) if n_channels in (1, 3) else 3


def _forward_keywords(vision: torch.nn.Module) -> dict[str, bool]:
    parameters = inspect.signature(vision.forward).parameters
    # Position embeddings of another image size than the model was trained on are interpolated.
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in parameters else {}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".") + "."
