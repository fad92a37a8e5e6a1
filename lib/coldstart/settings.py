"""The settings of a campaign: a preset (YAML), overridden by `--conf` pairs, overridden by a request.

The strings of `--conf` are parsed here, once; the rest of the package sees one typed, immutable object.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from coldstart.exceptions import SettingsError

DEFAULT_PRESET = "chest_xray"
GRID_STEP = 16
"""The Attention U-Net halves its grid four times: every side has to be a multiple of this."""

LEAST_MEMORY_GB = 2
ENCODERS = ("auto", "radimagenet", "medicalnet", "descriptor", "random")
IMAGE_MODALITIES = (
    *("CT", "MR", "CR", "DX", "MG", "XA", "RF", "RG", "US", "NM", "PT", "IO", "PX", "OT", "SC", "XC", "OP", "OPT"),
)
"""What DICOM calls the kinds of series that hold images."""
ENCODER_PREFIXES = ("resnet50:", "hf:")
_NOTHING = ("", "none", "null")


class Settings(BaseModel):
    """Everything that can be configured, with its default. `apps/coldstart_al/README.md` has the table for people."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preset: str = Field(DEFAULT_PRESET, description="name of a file in `configs/`, or the path of a YAML file")

    labels: dict[str, Annotated[int, Field(ge=1, le=65535)]] = Field(
        min_length=1, description="name of each structure and its value in label files; 0 is the background"
    )
    spatial_dims: int = Field(ge=2, le=3, description="2 for images, 3 for volumes")
    spatial_size: tuple[Annotated[int, Field(ge=32)], ...] = Field(
        description="grid of the network, one number for each axis, multiples of 16"
    )
    intensity_range: tuple[float, float] | None = Field(
        None, description="intensities are cut to this range before the z-score (Hounsfield units for CT)"
    )

    budget: int = Field(10, ge=1, le=1_000_000_000, description="images of the cold start, counted in labelled images")
    alpha: float = Field(0.3, ge=0, le=1, description="weight of distance against entropy: 1 distance only, 0 entropy")
    k_max: int = Field(15, ge=1, description="largest number of clusters tried, by the next plan")
    encoder: str = Field(
        "auto", description="auto, radimagenet, resnet50:PATH, hf:MODEL, medicalnet, descriptor or random"
    )
    encoder_weights: FilePath | None = Field(
        None, description="weight file of the encoder, for a machine without internet"
    )
    projection: Literal["tsne", "pca", "none"] = Field("tsne", description="tsne, pca or none")
    heldout: FilePath | None = Field(None, description="file with the ids of held-out images, one a line")
    reserve_minutes: float = Field(60, gt=0, description="how long a served image is kept for whoever got it")
    modalities: tuple[str, ...] = Field(
        ("CT", "MR", "CR", "DX"), min_length=1, description="modalities of the series that are served from an archive"
    )
    prelabel: int = Field(
        5, ge=0, description="images next in line that a new model segments in advance, as a start for the annotator"
    )
    state_dir: Path | None = Field(None, description="folder of the app's database and models")

    epochs: int = Field(120, ge=1, description="epochs of a training")
    batch_size: int = Field(2, ge=1, description="images in a training step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's learning rate")
    dropout: float = Field(0.15, ge=0, lt=1, description="dropout of the network")
    random_state: int = Field(0, ge=0, le=2**32 - 1, description="seed of every stage; a map that is made stays")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    amp: bool = Field(True, description="mixed precision on a GPU")
    embed_batch_size: int = Field(16, ge=1, description="images that the encoder sees at once")
    score_batch_size: int = Field(8, ge=1, description="images that entropy scoring sees at once")

    retrain_every: int = Field(0, ge=0, description="new labels after which the server trains by itself; 0 is never")
    retrain_idle_minutes: float = Field(
        0, ge=0, description="minutes without a click or a label after which new labels are learned from; 0 is never"
    )
    retrain_at: tuple[str, ...] = Field(
        (), description="times of day at which new labels are learned from, by the server's clock; none is never"
    )
    retrain_at_budget: bool = Field(True, description="train when the cold-start budget is labelled")
    publish_margin: float = Field(
        0.02, ge=0, le=1, description="by how much the Dice of a new model may be below that of the model in use"
    )
    keep_models: int = Field(5, ge=1, description="trained models that are kept, besides the one in use")
    gpu_memory_fraction: float = Field(1.0, gt=0, le=1, description="share of a GPU's memory that a training may take")
    when_gpu_is_taken: Literal["wait", "cpu"] = Field(
        "wait", description="what a training does while others hold the GPU's memory: wait, or go on on the cpu"
    )

    cores: int = Field(0, ge=0, description="processor cores that the server and its tasks use; 0 is all")
    memory_gb: float = Field(
        0, ge=0, description="memory that the server, and each of its tasks, may allocate, in GiB; 0 is no limit"
    )
    cache_gb: float = Field(
        50, gt=0, description="disk that pictures and fetched series may take, in GiB; what was not used longest goes"
    )
    log_dir: Path | None = Field(None, description="folder of the log as lines of JSON")
    log_mb: float = Field(10, ge=0.01, description="size at which a new file of this log is begun, in megabytes")
    log_files: int = Field(5, ge=2, description="files of this log that are kept")
    metrics_open: bool = Field(False, description="whether the metrics need no log-in where users have to log in")

    @field_validator("*", mode="before")
    @classmethod
    def _check_no_truth_value(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("true and false are no value of it")  # pydantic takes them for the numbers 1 and 0
        return value

    @field_validator("modalities")
    @classmethod
    def _check_modalities(cls, modalities: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(modality.upper() for modality in modalities))
        for name in names:
            if name not in IMAGE_MODALITIES:
                raise ValueError(f"'{name}' must be one of DICOM's modalities of images, {', '.join(IMAGE_MODALITIES)}")
        return names

    @field_validator("retrain_at")
    @classmethod
    def _check_times(cls, times: tuple[str, ...]) -> tuple[str, ...]:
        for text in times:
            if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text) is None:
                raise ValueError(f"'{text}' must be a time from 00:00 to 23:59, hours and minutes")
        return tuple(sorted(set(times)))

    @field_validator("memory_gb")
    @classmethod
    def _check_memory(cls, memory_gb: float) -> float:
        if 0 < memory_gb < LEAST_MEMORY_GB:
            raise ValueError(f"the server alone needs more than that: give at least {LEAST_MEMORY_GB}, or 0")
        return memory_gb

    @field_validator("encoder")
    @classmethod
    def _check_encoder(cls, name: str) -> str:
        prefix = next((prefix for prefix in ENCODER_PREFIXES if name.startswith(prefix) and name != prefix), None)
        path = Path(name.removeprefix(prefix or "")).expanduser()
        is_path = prefix == "resnet50:" or path.is_absolute() or name.removeprefix(prefix or "").startswith((".", "~"))
        if prefix is not None and is_path and not path.exists():
            raise ValueError(f"there is no {path}; give the path of what was downloaded")
        if name in ENCODERS or prefix is not None:
            return name
        raise ValueError(
            f"it must be one of {', '.join(ENCODERS)}, resnet50:PATH or hf:MODEL.{_nearest(name, ENCODERS)}"
        )

    @model_validator(mode="after")
    def _check_task(self) -> Settings:
        if len(self.spatial_size) != self.spatial_dims:
            raise ValueError(
                f"`spatial_size` must have one number for each of the {self.spatial_dims} axes; "
                f"got {list(self.spatial_size)}"
            )
        if any(side % GRID_STEP for side in self.spatial_size):
            raise ValueError(f"`spatial_size` must hold multiples of {GRID_STEP}; got {list(self.spatial_size)}")
        if any(name.strip().casefold() in ("", "background") for name in self.labels):
            raise ValueError(
                f"`labels` must name structures, without the background, which is always 0; got {self.labels}"
            )
        if len(set(self.labels.values())) < len(self.labels):
            raise ValueError(f"`labels` must give every structure a value of its own; got {self.labels}")
        if self.intensity_range is not None and self.intensity_range[0] >= self.intensity_range[1]:
            raise ValueError(f"`intensity_range` must be [low, high] with low < high; got {list(self.intensity_range)}")
        return self

    def override(self, request: Mapping[str, object]) -> Settings:
        """Settings for one request: the keys of `request` that are settings win over the campaign's.

        Raises
        ------
        SettingsError
            If a value is not valid; the sentence names the key and the value.
        """
        known = {key: value for key, value in request.items() if key in type(self).model_fields}
        # The files named at the start were read then; they need not be there any more.
        files = {name: getattr(self, name) for name in ("heldout", "encoder", "encoder_weights") if name not in known}
        values = {**self.model_dump(exclude=set(files)), **_parse_strings(known)}
        return _validate(values, source="the request").model_copy(update=files)


def load_settings(conf: Mapping[str, str], configs: Path) -> Settings:
    """Settings from the pairs of `--conf` and the preset that they name.

    Parameters
    ----------
    conf : mapping of str to str
        The pairs of `--conf key value`; `preset` names a file in `configs` or is the path of one.
    configs : Path
        Folder of the presets that the app carries.

    Raises
    ------
    SettingsError
        For an unknown preset or key, and for a bad value: the sentence names the key, the value and the nearest
        valid name.
    """
    preset = conf.get("preset", DEFAULT_PRESET)
    _require_known(conf, source="--conf")
    values = {**_read_preset(preset, configs), **_parse_strings(conf), "preset": preset}
    return _validate(values, source=f"--conf or the preset '{preset}'")


def _read_preset(name: str, configs: Path) -> dict[str, Any]:
    path = configs / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        names = sorted(file.stem for file in configs.glob("*.yaml"))
        raise SettingsError(
            f"--conf preset must be one of {', '.join(names)} or the path of a YAML file; got '{name}'."
            f"{_nearest(name, names)}"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"The preset {path} cannot be read as YAML: {error}.") from None
    if not isinstance(values, dict):
        raise SettingsError(f"The preset {path} must hold `key: value` lines; got {type(values).__name__}.")
    _require_known(values, source=f"the preset {path}")
    return values


def _require_known(values: Mapping[str, object], source: str) -> None:
    names = list(Settings.model_fields)
    for key, value in values.items():
        if key not in names:
            raise SettingsError(
                f"Unknown key '{key}' with value '{value}' in {source}.{_nearest(str(key), names)} "
                f"Valid keys: {', '.join(names)}."
            )


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0)
    return f" The nearest valid name is '{close[0]}'." if close else ""


def _parse_strings(values: Mapping[str, object]) -> dict[str, Any]:
    parsed = dict(values)
    for key, parse in _PARSERS.items():
        if isinstance(text := parsed.get(key), str):
            try:
                parsed[key] = parse(text)
            except ValueError:
                raise SettingsError(f"`{key}` must look like {_EXAMPLES[key]}, without spaces; got '{text}'.") from None
    return parsed


def parse_labels(text: str) -> dict[str, int]:
    """Read names and label values from text such as "lung:1,heart:2"; ValueError if it is not like that."""
    pairs = [pair.rpartition(":") for pair in text.split(",")]
    labels = {name.strip(): int(value) for name, _, value in pairs}
    if "" in labels or len(labels) < len(pairs):
        raise ValueError("a name is missing or given twice")
    return labels


def _parse_numbers(text: str) -> list[float] | None:
    return None if text.lower() in _NOTHING else [float(number) for number in text.split(",")]


def _parse_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _parse_times(text: str) -> list[str]:
    return [] if text.lower() in _NOTHING else _parse_names(text)


_PARSERS = {
    "labels": parse_labels,
    "modalities": _parse_names,
    "spatial_size": _parse_numbers,
    "intensity_range": _parse_numbers,
    "retrain_at": _parse_times,
}
"""What is more than one word. MONAI Label's launcher splits at spaces, so the values hold none."""
_EXAMPLES = {
    "labels": "lung:1,heart:2",
    "modalities": "CT,MR",
    "spatial_size": "256,256",
    "intensity_range": "-1000,1000",
    "retrain_at": "02:00,12:30",
}


def _validate(values: Mapping[str, Any], source: str) -> Settings:
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        if not key:
            raise SettingsError(f"{message}. Correct it in {source}.") from None
        if first["type"] == "missing" and len(first["loc"]) == 1:
            raise SettingsError(f"`{key}` is missing. Give it in the preset or with --conf {key} VALUE.") from None
        nearest = ""
        if "expected" in first.get("ctx", {}) and isinstance(values[key], str):
            choices = str(first["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
            nearest = _nearest(values[key], choices)
        meaning = Settings.model_fields[key].description
        raise SettingsError(
            f"`{key}` has a bad value '{values[key]}' in {source}: {message.rstrip('.')}.{nearest} It means: {meaning}."
        ) from None
