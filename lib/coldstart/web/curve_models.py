"""What the page is told of the learning curve; see `coldstart.campaign.curve`."""

from __future__ import annotations

from pydantic import BaseModel


class Judged(BaseModel):
    """A saved label against the prediction of a model that had learned from `n_labels` others."""

    image_id: str
    model_version: str
    n_labels: int
    dice: float
    at: float
    annotator: str | None


class Round(BaseModel):
    """The judged labels of one model, with the 95 % interval of their mean."""

    model_version: str
    n_labels: int
    mean: float
    low: float | None
    high: float | None
    n: int
    at: float


class HeldOut(BaseModel):
    """Mean Dice of one model on the held-out images, with its 95 % interval."""

    model_version: str
    n_labels: int
    dice: float
    low: float | None
    high: float | None
    n_images: int
    at: float


class Verdict(BaseModel):
    """Whether more labels still help: in words, by which rule, and how sure that is."""

    helping: bool | None
    sentence: str
    rule: str
    basis: str | None
    gain: float | None
    low: float | None
    high: float | None
    sure: float | None
    n: int


class Curve(BaseModel):
    """Dice against the number of labels, oldest first."""

    prequential: list[Judged]
    rounds: list[Round]
    heldout: list[HeldOut]
    verdict: Verdict
