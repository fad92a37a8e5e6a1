"""The protocol of a benchmark: what is compared, on which images, and how each network is trained.

Section 4 of Levy et al. (2026), arXiv:2601.18532, is written in this form in `protocols/`. What a protocol leaves out
has the paper's value; the structures, the grid and whether the images are 2D or 3D are taken from the images then.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from coldstart.projection import ProjectionMethod
from coldstart.projection.tsne import PERPLEXITY
from coldstart.selection.method import Method, Stage, UncertaintyName
from coldstart.selection.methods import METHODS
from coldstart.settings import GRID_STEP

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]

SAMPLE = "sample"
"""The dataset that this program draws itself."""
START_METHOD = "cold_start"
"""What the images come from that active learning starts with: our cold start, as in the paper's section 4.4."""

_COMMON = frozenset({"embeddings", "points", "budget", "labelled", "uncertainty", "random_state", "options"})
_TRIAL = np.random.default_rng(0).random((8, 2))
"""A pool on which methods check their options."""


class Strict(BaseModel):
    """A part of a protocol: immutable, and an unknown key is refused with the nearest valid one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(
                        f"there is no key '{key}'.{nearest(key, cls.model_fields)} "
                        f"The keys are {', '.join(cls.model_fields)}"
                    )
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _check_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if field.annotation is not bool and True in (isinstance(item, bool) for item in _flat(value)):
            raise ValueError("true and false are no value of it")  # pydantic takes them for the numbers 1 and 0
        return value


class Arm(Strict):
    """One of the ways to choose images that are compared: a method, and what is special about it here."""

    method: str = Field(description="name in the registry of selection methods")
    title: str = Field("", description="as tables write it; made of the rest where it is missing")
    options: dict[str, Any] = Field({}, description="of the method; alpha can be a list with a value for each round")
    encoder: str | None = Field(None, description="instead of the protocol's")
    projection: ProjectionMethod | None = Field(None, description="instead of the protocol's")
    perplexity: float | None = Field(None, ge=1, description="instead of the protocol's")
    rounds: Positive = Field(1, description="of active learning: how often a network is trained on the way")
    optional: bool = Field(False, description="left out, with the reason said, where the encoder is not there")

    @model_validator(mode="before")
    @classmethod
    def _allow_a_name(cls, values: Any) -> Any:
        return {"method": values} if isinstance(values, str) else values

    @field_validator("method")
    @classmethod
    def _check_method(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"'{name}' is no method.{nearest(name, METHODS)} The methods are {', '.join(METHODS)}")
        return name

    @model_validator(mode="after")
    def _check_options(self) -> Arm:
        known = [name for name in inspect.signature(self.registered.select).parameters if name not in _COMMON]
        for name in self.options:
            if name not in known:
                raise ValueError(
                    f"the method '{self.method}' has no option '{name}'.{nearest(name, known)} "
                    f"Its options are: {', '.join(known) or 'none'}"
                )
        lists = {name: value for name, value in self.options.items() if isinstance(value, list)}
        for name, values in lists.items():
            if len(values) != self.rounds:
                raise ValueError(f"`{name}` must have a value for each of the {self.rounds} rounds; got {values}")
        if self.options:  # a bad value would else be found only after the trainings before it
            for number in range(1, self.rounds + 1 if lists else 2):
                self.registered.select(
                    _TRIAL, _TRIAL, 3, labelled=[0], uncertainty=_TRIAL[:, 0], **self.options_of_round(number)
                )
        if not self.title:
            object.__setattr__(self, "title", self._made_title())
        return self

    @property
    def registered(self) -> Method:
        """The method's entry in the registry."""
        return METHODS[self.method]

    @property
    def special_options(self) -> dict[str, Any]:
        """The options that differ from the method's own."""
        usual = {name: known.default for name, known in inspect.signature(self.registered.select).parameters.items()}
        usual |= self.registered.options
        return {name: value for name, value in self.options.items() if value != usual[name]}

    def options_of_round(self, number: int) -> dict[str, Any]:
        """Return the method's options for a round, counted from 1."""
        options = {**self.registered.options, **self.options}
        return {name: value[number - 1] if isinstance(value, list) else value for name, value in options.items()}

    def _made_title(self) -> str:
        parts = [self.registered.title]
        parts += [f"{name} {_shown(value)}" for name, value in self.options.items()]
        parts += [part for part in (self.encoder, self.projection) if part is not None]
        parts += [f"perplexity {self.perplexity:g}"] if self.perplexity is not None else []
        parts += [f"{self.rounds} rounds"] if self.rounds > 1 else []
        return ", ".join(parts)


class ActiveStage(Strict):
    """Images from active learning on top of a cold start."""

    start: Positive = Field(description="images of the cold start, on which the first network is trained")
    additional: Positive = Field(description="images that active learning adds, over all rounds together")

    @property
    def total(self) -> int:
        """Images labelled in the end."""
        return self.start + self.additional


class Protocol(Strict):
    """A whole benchmark. Every field but `images`, `labels`, `manifest` and `settings` says what is computed."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="of the protocol; the output folder is called so")
    title: str = Field("", description="heading of the report; the name where it is missing")
    note: str = Field("", description="sentences for the report's head")

    dataset: str = Field("", description="name of the dataset; that of the protocol where it is missing")
    images: Path | None = Field(None, description="folder of images")
    labels: Path | None = Field(None, description="folder of label maps, named like the images")
    manifest: Path | None = Field(None, description="CSV whose first column is the image's name without suffix")
    group_by: str | None = Field(None, description="column of it; a group is never both in the pool and in the test")
    structures: dict[str, Annotated[int, Field(ge=1, le=65535)]] | None = Field(
        None, description="name and label value of each structure; every value that occurs where it is missing"
    )

    seeds: tuple[Seed, ...] = Field(tuple(range(43, 54)), min_length=1, description="one run each")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="of the images, or of the groups, drawn anew per seed")
    spatial_size: tuple[Positive, ...] | None = Field(None, description="the network's grid, one number for each axis")
    largest_side: Positive | None = Field(None, description="of a grid that is chosen for the images' size")
    channels: tuple[Positive, ...] = Field((32, 64, 128, 256, 512), description="of the network's levels")
    epochs: Positive = Field(120, description="of each training")
    batch_size: Positive = Field(2, description="images in a training step")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    dropout: float = Field(0.15, ge=0, lt=1, description="of the network")
    intensity_range: tuple[float, float] | None = Field(None, description="intensities are cut to it (CT: in HU)")
    dice: Literal["per_class", "image"] = Field("per_class", description="which Dice the report is about")

    encoder: str = Field("auto", description="as --conf encoder of the server")
    projection: ProjectionMethod = Field("tsne", description="tsne, pca or none")
    perplexity: float = Field(PERPLEXITY, ge=1, description="of t-SNE")
    k_max: Positive = Field(15, description="largest number of clusters that our cold start tries")

    budgets: tuple[Positive, ...] = Field(min_length=1, description="images that a network is trained on")
    arms: tuple[Arm, ...] = Field((), description="of the cold start")
    active: tuple[ActiveStage, ...] = Field((), description="how much of a budget active learning chooses")
    active_arms: tuple[Arm, ...] = Field((), description="of active learning")

    settings: dict[str, str] = Field({}, description="by encoder, what the rows of a run carry; the run writes it")

    @field_validator("structures")
    @classmethod
    def _check_values(cls, structures: dict[str, int] | None) -> dict[str, int] | None:
        if structures is not None and len(set(structures.values())) < len(structures):
            raise ValueError(f"each structure needs a label value of its own; got {structures}")
        return structures

    @field_validator("seeds", "budgets")
    @classmethod
    def _check_distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"each number may be there once; got {list(values)}")
        return tuple(sorted(values))

    @model_validator(mode="after")
    def _check_whole(self) -> Protocol:
        if self.group_by is not None and self.manifest is None and self.images is None:
            raise ValueError("`group_by` needs a `manifest`")
        if bool(self.active) != bool(self.active_arms):
            raise ValueError("`active` and `active_arms` belong together: give both, or none")
        if not self.arms and not self.active_arms:
            raise ValueError("there must be something to compare: give `arms`, or `active` with `active_arms`")
        if self.dropout == 0 and "bald" in uncertainties(self.active_arms):
            raise ValueError("a network without `dropout` cannot be used with 'bald', which compares what it drops")
        _check_grid(self.spatial_size, len(self.channels))
        _check_arms(self.arms, "arms", "cold_start")
        _check_arms(self.active_arms, "active_arms", "active")
        for arm in self.active_arms:
            for stage in self.active:
                if arm.rounds > stage.additional:
                    raise ValueError(
                        f"'{arm.title}' has {arm.rounds} rounds, more than the {stage.additional} images to share "
                        f"among them ({stage.start}+{stage.additional})"
                    )
        for field, default in (("title", self.name), ("dataset", self.name)):
            if not getattr(self, field):
                object.__setattr__(self, field, default)
        return self

    def encoder_of(self, arm: Arm) -> str:
        """Return the encoder that an arm uses."""
        return arm.encoder or self.encoder

    def projection_of(self, arm: Arm) -> tuple[ProjectionMethod, float]:
        """Return the projection that an arm uses, and its perplexity."""
        return arm.projection or self.projection, arm.perplexity or self.perplexity


def nearest(name: object, names: Iterable[str]) -> str:
    """Return " Did you mean '...'?" with the nearest of `names`; empty if there is none."""
    close = difflib.get_close_matches(str(name).lower(), list(names), n=1, cutoff=0)
    return f" The nearest valid name is '{close[0]}'." if close else ""


def projection_name(projection: str, perplexity: float) -> str:
    """Write a projection as rows name it: with its perplexity where that is not the default."""
    return projection if projection != "tsne" or perplexity == PERPLEXITY else f"tsne, perplexity {perplexity:g}"


def uncertainties(arms: Iterable[Arm]) -> frozenset[UncertaintyName]:
    """Return the kinds of uncertainty that some arms have to be given."""
    return frozenset(kind for arm in arms if (kind := arm.registered.uncertainty) is not None)


def _check_grid(size: tuple[int, ...] | None, n_levels: int) -> None:
    step = min(GRID_STEP, 2 ** (n_levels - 1))
    if size is not None and (len(size) not in (2, 3) or any(side % step or side < 32 for side in size)):
        raise ValueError(
            f"`spatial_size` must hold 2 numbers, for volumes 3, each a multiple of {step} and at least 32; got "
            f"{list(size)}"
        )


def _check_arms(arms: tuple[Arm, ...], where: str, stage: Stage) -> None:
    titles = [arm.title for arm in arms]
    for arm in arms:
        if stage not in arm.registered.stages:
            fitting = [name for name, method in METHODS.items() if stage in method.stages]
            raise ValueError(f"`{where}` must hold methods from {', '.join(fitting)}; got '{arm.method}'")
        if titles.count(arm.title) > 1:
            raise ValueError(f"`{where}` has two arms called '{arm.title}'; give one another title, or remove it")
        if stage == "cold_start" and arm.rounds > 1:
            raise ValueError(f"`{where}`: '{arm.title}' has {arm.rounds} rounds, but a cold start has no network yet")


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
