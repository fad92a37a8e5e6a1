"""The tables. Times are seconds since 1970 (UTC); vectors are little-endian float32, points float64, as raw bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import JSON, ForeignKey, Index, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

VECTOR_DTYPE = np.dtype("<f4")
POINT_DTYPE = np.dtype("<f8")


def vector_to_bytes(values: NDArray[Any], dtype: np.dtype[Any] = VECTOR_DTYPE) -> bytes:
    """Raw bytes of a one-dimensional array, as the database keeps it."""
    return np.ascontiguousarray(values, dtype=dtype).tobytes()


def bytes_to_vector(raw: bytes, dtype: np.dtype[Any] = VECTOR_DTYPE) -> NDArray[Any]:
    """Inverse of `vector_to_bytes`."""
    return np.frombuffer(raw, dtype=dtype)


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012  SQLAlchemy reads it so


class Image(Base):
    """One image: its file, its vector and point, its entropy, and why it is set aside where it is.

    An image whose file is away keeps its row (`present` is False): nothing is lost when a share comes back.
    """

    __tablename__ = "images"
    # Holds all that serving reads into memory, apart from the rows with their large vectors.
    __table_args__ = (
        Index(
            "ix_images_pool",
            *("image_id", "present", "held_out", "problem", "map_id", "point", "cluster", "entropy", "scoring_id"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(unique=True)
    path: Mapped[str]
    signature: Mapped[str]
    added_at: Mapped[float]
    present: Mapped[bool] = mapped_column(default=True)
    held_out: Mapped[bool] = mapped_column(default=False)
    problem: Mapped[str | None]
    encoder: Mapped[str | None]
    vector: Mapped[bytes | None] = mapped_column(deferred=True)
    map_id: Mapped[int | None] = mapped_column(ForeignKey("maps.id"))
    point: Mapped[bytes | None]
    fitted: Mapped[bool] = mapped_column(default=False)
    cluster: Mapped[int | None]
    entropy: Mapped[float | None]
    scoring_id: Mapped[int | None] = mapped_column(ForeignKey("scorings.id"))

    label: Mapped[Label | None] = relationship(cascade="all, delete-orphan", passive_deletes=True)
    servings: Mapped[list[Serving]] = relationship(
        back_populates="image", cascade="all, delete-orphan", passive_deletes=True
    )

    def forget_content(self) -> None:
        """Drop what was computed from the pixels: the file is new or another one than before."""
        self.problem = self.encoder = self.vector = None
        self.map_id = self.point = self.cluster = self.entropy = self.scoring_id = None
        self.fitted = False


class Label(Base):
    """The label of an image with the tag `final`; `class_of_value` is None while `problem` keeps it out of training.

    `noticed_at` is when the campaign first saw the label as it is, None where that is `saved_at`: a label that was
    found in the folder was saved earlier.
    """

    __tablename__ = "labels"

    image: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str]
    signature: Mapped[str]
    saved_at: Mapped[float]
    noticed_at: Mapped[float | None]
    annotator: Mapped[str | None]
    label_info: Mapped[Any | None] = mapped_column(JSON)
    class_of_value: Mapped[dict[str, Any] | None]
    problem: Mapped[str | None]


class Serving(Base):
    """One answer to "Next Sample"; `outcome` is None while the image is reserved, then labelled or skipped.

    The indexes keep a click's questions (who holds what, what was skipped) apart from all that was served before.
    """

    __tablename__ = "servings"
    __table_args__ = (
        Index("ix_servings_open", "served_at", "image_row", "annotator", sqlite_where=text("outcome IS NULL")),
        Index("ix_servings_open_annotator", "annotator", sqlite_where=text("outcome IS NULL")),
        Index("ix_servings_skipped", "image_row", sqlite_where=text("outcome = 'skipped'")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    image_row: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    annotator: Mapped[str | None]
    strategy: Mapped[str]
    phase: Mapped[str]
    why: Mapped[dict[str, Any]]
    scoring_id: Mapped[int | None] = mapped_column(ForeignKey("scorings.id"), index=True)
    served_at: Mapped[float]
    ended_at: Mapped[float | None]
    outcome: Mapped[str | None]

    image: Mapped[Image] = relationship(back_populates="servings")


class ImageMap(Base):
    """A projection of the vectors of one encoder; the images with `fitted` made it, the others were placed on it.

    `encoder` is the encoder in use, with the version of its weights; `configured` is what the settings asked for.
    """

    __tablename__ = "maps"

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[float]
    configured: Mapped[str]
    encoder: Mapped[str]
    method: Mapped[str]
    random_state: Mapped[int]


class FormerPoint(Base):
    """Vector and point of an image that was on a map and was replaced since.

    By those that made the map (`fitted`) new images are still placed; the others are kept for what is decided again.
    """

    __tablename__ = "former_points"

    id: Mapped[int] = mapped_column(primary_key=True)
    map_id: Mapped[int] = mapped_column(ForeignKey("maps.id"))
    vector: Mapped[bytes]
    point: Mapped[bytes]
    fitted: Mapped[bool] = mapped_column(default=True)


class Plan(Base):
    """The cold-start plan in force; `budget` is what was asked for, `size` what the pool could give."""

    __tablename__ = "plans"

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[float]
    map_id: Mapped[int] = mapped_column(ForeignKey("maps.id"))
    budget: Mapped[int]
    size: Mapped[int]
    n_clusters: Mapped[int]
    silhouettes: Mapped[dict[str, Any]]
    silhouette_sample_size: Mapped[int | None]


class PlanPick(Base):
    """One planned image, with the reason; `rank` is the serving order, from 0 without gaps."""

    __tablename__ = "plan_picks"

    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id", ondelete="CASCADE"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True)
    image_row: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    cluster: Mapped[int]
    cluster_size: Mapped[int]
    role: Mapped[str]
    distance: Mapped[float | None]


class MethodPlan(Base):
    """What another selection method planned when it was first asked for, as `Plan` does for ours.

    `picks` holds the reason for each image, by its id and in serving order.
    """

    __tablename__ = "method_plans"

    method: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float]
    map_id: Mapped[int] = mapped_column(ForeignKey("maps.id"))
    budget: Mapped[int]
    size: Mapped[int]
    random_state: Mapped[int]
    picks: Mapped[dict[str, Any]]


class Model(Base):
    """A trained and published model; `details` holds its configuration, training images and metrics."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float]
    details: Mapped[dict[str, Any]]


class Scoring(Base):
    """A complete entropy scoring: the range over the images unlabelled then, kept for normalisation (equation 7)."""

    __tablename__ = "scorings"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_version: Mapped[str]
    finished_at: Mapped[float]
    n_images: Mapped[int]
    minimum: Mapped[float]
    maximum: Mapped[float]
    mean: Mapped[float]


class Decision(Base):
    """One line of the selection log, which is only ever added to: the database refuses changes and removals.

    `details` says what was decided and from what, in plain JSON types; `arrays` is an NPZ file of what is too large
    for that. `seal` is a hash of the line's content and of the seal before it: whoever goes round the database's
    refusal leaves a line that does not fit.
    """

    __tablename__ = "decisions"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    kind: Mapped[str] = mapped_column(index=True)
    who: Mapped[str | None]
    image_id: Mapped[str | None] = mapped_column(index=True)
    details: Mapped[dict[str, Any]]
    arrays: Mapped[bytes | None] = mapped_column(deferred=True)
    seal: Mapped[str]


class Judgement(Base):
    """How well a model had predicted an image that it did not learn from, by the label that was saved later.

    `n_labels` counts the images that the model learned from; `dice` is None where no structure could be judged.
    """

    __tablename__ = "judgements"

    image: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    model_version: Mapped[str] = mapped_column(primary_key=True)
    label_signature: Mapped[str]
    judged_at: Mapped[float]
    n_labels: Mapped[int]
    annotator: Mapped[str | None]
    dice: Mapped[float | None]
    class_dice: Mapped[dict[str, Any]]


class ChosenSetting(Base):
    """A setting that somebody chose while the server ran; `configured` is what `--conf` and the preset said then."""

    __tablename__ = "chosen_settings"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(JSON)
    configured: Mapped[Any] = mapped_column(JSON)
    who: Mapped[str | None]
    at: Mapped[float]


class Progress(Base):
    """How far a long task is, for whoever waits for it."""

    __tablename__ = "progress"

    task: Mapped[str] = mapped_column(primary_key=True)
    done: Mapped[int]
    total: Mapped[int]
    updated_at: Mapped[float]
    message: Mapped[str]


class Revision(Base):
    """A number that triggers raise when a topic changes: `pool` (what may be served, the plan), `labels`, `servings`,
    `judgements` or `settings`.

    Whoever keeps a topic in memory sees by it, inside a transaction, whether that is still what the database holds,
    whichever thread or process wrote. A database made anew begins with another number.
    """

    __tablename__ = "revisions"

    topic: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
