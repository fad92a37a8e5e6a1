"""What the routes of the map page answer; times are seconds since 1970 (UTC)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from coldstart.campaign.curve import LearningCurve

ImageState = Literal["pool", "planned", "served", "labelled", "held_out", "set_aside", "skipped"]
Phase = Literal["nothing_usable", "before_embedding", "cold_start", "plan_complete", "active", "done"]
TaskState = Literal["waiting", "running", "done", "failed", "stopped"]


class State(BaseModel):
    """Whether anything changed: cheap to ask for."""

    revision: str = Field(description="another one when anything that the page shows changed")
    map_revision: str = Field(description="another one when the table of points changed")


class ServedNow(BaseModel):
    """An image that is with somebody."""

    image_id: str
    annotator: str | None
    since: float


class SetAside(BaseModel):
    """An image that cannot be used."""

    image_id: str
    reason: str


class Task(BaseModel):
    """A long task of the server; `done` and `total` count images, or epochs of a training."""

    name: str
    title: str
    state: TaskState
    done: int | None
    total: int | None
    message: str | None
    error: str | None
    started_at: float | None
    log: list[str] = Field(description="the last lines that it wrote")


class TrainingNow(BaseModel):
    """The training that runs, or else waits; `done` and `total` count epochs or, when it is checked, images."""

    state: Literal["idle", "waiting", "starting", "paused", "training", "checking"]
    on_its_way: bool = Field(description="one waits or runs that learns from every label: asking changes nothing")
    problem: str | None = Field(description="how the last one failed")
    done: int | None = None
    total: int | None = None
    loss: float | None = None
    validation_dice: float | None = None
    remaining: str | None = Field(None, description="hours:minutes:seconds")
    waits: str | None = Field(None, description="why it does not go on for now")


class LastTraining(BaseModel):
    """A training that ended, and whether its model was used."""

    at: float
    used: bool
    sentence: str | None


class Training(BaseModel):
    """The training that runs, the one before it, and when the next one begins."""

    now: TrainingNow
    last: LastTraining | None
    n_new: int = Field(description="labels that the last training did not learn from")
    hindrance: str | None = Field(description="why none can be asked for")
    due: str | None = Field(description="why one is due")
    triggers: list[str] = Field(description="what would make one due, each the end of 'A training begins ...'")


class KeptModel(BaseModel):
    """A trained model that is kept."""

    version: str
    in_use: bool
    refused: bool
    created: str | float | None
    n_images: int | None
    heldout_dice: float | None
    heldout_images: int
    prequential_dice: float | None
    prequential_labels: int
    sentence: str | None


class Annotator(BaseModel):
    """Who labelled how much; `name` is None for labels that nobody put a name to."""

    name: str | None
    labels: int
    days: dict[str, int]
    last_at: float


class Day(BaseModel):
    """Labels of one day of the server's clock."""

    day: str
    labels: int


class User(BaseModel):
    """Who asks, and what they may do."""

    name: str | None
    may_steer: bool
    may_label: bool


class Chosen(BaseModel):
    """A setting that somebody chose on the page; `configured` is what `--conf` said then."""

    value: Any
    configured: Any
    who: str | None
    at: float


class CampaignAnswer(BaseModel):
    """The campaign at a glance."""

    revision: str
    app_version: str
    preset: str
    spatial_dims: int
    labels: dict[str, int]
    images: int
    held_out: int
    labelled: int
    budget: int
    planned: int | None
    n_clusters: int | None
    silhouettes: dict[str, float]
    phase: Phase
    phase_sentence: str
    encoder: str
    projection: str
    alpha: float
    model_version: str | None
    scored_model_version: str | None
    served_now: list[ServedNow]
    n_set_aside: int
    set_aside: list[SetAside]
    label_problems: list[str]
    tasks: list[Task]
    training: Training
    models: list[KeptModel]
    annotators: list[Annotator]
    days: list[Day]
    curve: LearningCurve
    user: User
    archive: bool
    authentication: bool
    chosen: dict[str, Chosen]


class MapAnswer(BaseModel):
    """The table behind the map: one list for each column, one entry for each image, by id."""

    map_revision: str
    image_id: list[str]
    x: list[float | None]
    y: list[float | None]
    cluster: list[int | None] = Field(description="from 1")
    entropy: list[float | None] = Field(description="of the newest scoring, divided by ln C: from 0 to 1")
    rank: list[int | None] = Field(description="in the plan, from 1")
    medoid: list[bool]
    state: list[ImageState]
    phase: list[str | None] = Field(description="of the newest serving")
    served_order: list[int | None] = Field(description="of the first serving among those of all images, from 1")
    annotator: list[str | None] = Field(description="of the label, else of the newest serving")
    reason: list[str | None]
    distance: list[float | None]


class Served(BaseModel):
    """One answer to Next Sample; `outcome` is None while the image is reserved."""

    at: float
    ended_at: float | None
    annotator: str | None
    strategy: str
    phase: str
    outcome: str | None
    reason: str | None
    alpha: float | None


class LabelRecord(BaseModel):
    """The final label; `dice` is that of the model's prediction before it had learned from it."""

    saved_at: float
    annotator: str | None
    problem: str | None
    classes: dict[str, int] | None = Field(description="class index of each value in the label file")
    dice: float | None
    judged_by: str | None


class Geometry(BaseModel):
    """Pixels along each axis, and their spacing."""

    size: list[int]
    spacing: list[float]
    unit: Literal["mm", "pixel"]


class ImageRecord(BaseModel):
    """All that is known of one image."""

    image_id: str
    path: str = Field(description="name of the file")
    file_version: int = Field(description="most likely another one when the file is; part of its pictures' address")
    state: ImageState
    cluster: int | None
    rank: int | None
    role: str | None
    distance: float | None
    entropy: float | None
    entropy_nats: float | None
    score: float | None
    servings: list[Served]
    label: LabelRecord | None
    problem: str | None
    geometry: Geometry | None
    ohif_url: str | None
    has_prediction: bool
    model_version: str | None


class Wanted(BaseModel):
    """Values for the campaign; what is left out stays as it is."""

    alpha: float | str | None = Field(None, description="weight of distance against entropy, from 0 to 1")
    budget: int | str | None = Field(None, description="images of the cold start, counted in labelled images")

    model_config = ConfigDict(extra="forbid", strict=True)  # true is no number


class Values(BaseModel):
    """What the campaign goes by now."""

    alpha: float
    budget: int


class Retry(BaseModel):
    """Images to try again; None stands for all that are set aside."""

    image_ids: list[str] | None = None

    model_config = ConfigDict(extra="forbid")


class Tried(BaseModel):
    """How many images will be tried again."""

    tried: int


class Asked(BaseModel):
    """Whether another training was asked for: False where one is on its way that learns from every label."""

    asked: bool


class Version(BaseModel):
    """The version of a kept model."""

    version: str

    model_config = ConfigDict(extra="forbid")


class InUse(BaseModel):
    """The version of the model in use now."""

    in_use: str


class Sentence(BaseModel):
    """Why a request was refused."""

    detail: str
