"""What the tests of the campaign share: small images, a campaign on them, and short words for what happens to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from sqlalchemy import select

from coldstart.campaign import Campaign, LabelFile, learning
from coldstart.campaign.serving import Sample
from coldstart.selection import plan_cold_start
from coldstart.settings import Settings
from coldstart.store import Image, ImageMap, Label, Plan, PlanPick, Scoring, Serving, bytes_to_vector
from coldstart.store.schema import POINT_DTYPE

SIDE = 48
N_POOL = 30
HELD_OUT = ("h0", "h1", "h2", "h3")
BUDGET = 8
KEYS = {"reason", "phase", "rank", "cluster", "distance", "entropy", "score", "alpha", "encoder", "model_version"}


def make_settings(**values: Any) -> Settings:
    defaults: dict[str, Any] = {
        "labels": {"disc": 1, "rim": 2},
        "spatial_dims": 2,
        "spatial_size": (32, 32),
        "encoder": "descriptor",
        "projection": "pca",
        "budget": BUDGET,
        "epochs": 1,
        "prelabel": 0,
        "publish_margin": 1,  # trainings of one epoch: which of two models is better is chance
        "device": "cpu",
    }
    return Settings(**{**defaults, **values})


def draw_image(path: Path, number: int, seed: int | None = None) -> Path:
    """A disc on a ramp, of one of three looks; the first pixel holds `number`, by which `score` knows the image."""
    generator = np.random.default_rng(number if seed is None else seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    look = number % 3
    centre = 12 + 10 * look + generator.normal(0, 2, 2)
    radius = 6 + 3 * look + generator.normal(0, 1)
    ramp = (rows, columns, rows + columns)[look] * 1.5
    pixels = 40 + ramp + 90 * (np.hypot(rows - centre[0], columns - centre[1]) < radius)
    pixels = np.clip(pixels + generator.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
    pixels[0, 0] = number
    Picture.fromarray(pixels).save(path)
    return path


def draw_label(path: Path, values: tuple[int, ...] = (1, 2), shape: tuple[int, int] = (SIDE, SIDE)) -> Path:
    pixels = np.zeros(shape, np.uint8)
    for index, value in enumerate(values):
        pixels[10 + 8 * index : 18 + 8 * index, 10:30] = value
    Picture.fromarray(pixels).save(path)
    return path


def list_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.png"))}


def label(campaign: Campaign, image_id: str, *, annotator: str | None = None, **drawn: Any) -> str | None:
    folder = campaign.folder / "labels"
    folder.mkdir(exist_ok=True)
    path = draw_label(folder / f"{image_id}.png", **drawn)
    return campaign.save_label(image_id, LabelFile(path, annotator))


def click(campaign: Campaign, strategy: str = "coldstart_al", **asked: Any) -> Sample:
    sample = campaign.next_sample(strategy, **asked)  # type: ignore[arg-type]
    assert sample is not None
    return sample


def clicks(campaign: Campaign, n: int, strategy: str = "coldstart_al", **asked: Any) -> list[str]:
    return [click(campaign, strategy, **asked).image_id for _ in range(n)]


def rows(campaign: Campaign) -> dict[str, Image]:
    with campaign.store.reading() as session:
        return {row.image_id: row for row in session.scalars(select(Image).order_by(Image.image_id))}


def point(row: Image) -> NDArray[np.float64]:
    assert row.point is not None
    return bytes_to_vector(row.point, POINT_DTYPE)


def pool(campaign: Campaign) -> tuple[list[str], NDArray[np.float64]]:
    """Ids and points of the images that may be served, by id."""
    found = {key: row for key, row in rows(campaign).items() if not row.held_out and row.point and row.present}
    return list(found), np.stack([point(row) for row in found.values()])


def plan(campaign: Campaign) -> Plan:
    with campaign.store.reading() as session:
        return session.scalars(select(Plan)).one()


def planned(campaign: Campaign) -> list[str]:
    """Ids of the plan in serving order."""
    with campaign.store.reading() as session:
        picks = select(PlanPick.rank, Image.image_id).join(Image, Image.id == PlanPick.image_row)
        found = session.execute(picks.order_by(PlanPick.rank)).tuples().all()
    assert [rank for rank, _ in found] == list(range(len(found)))
    return [image_id for _, image_id in found]


def fresh_plan(campaign: Campaign, budget: int, selected: tuple[str, ...] = ()) -> list[str]:
    """What `plan_cold_start` gives for the pool as it is."""
    ids, points = pool(campaign)
    made = plan_cold_start(points, budget, selected=[ids.index(image_id) for image_id in selected])
    return [ids[index] for index in made.indices]


def servings(campaign: Campaign) -> list[tuple[str, str | None]]:
    """Every serving in order: image id and outcome."""
    with campaign.store.reading() as session:
        found = session.execute(select(Image.image_id, Serving.outcome).join(Serving).order_by(Serving.id))
        return list(found.tuples())


def labels(campaign: Campaign) -> dict[str, Label]:
    with campaign.store.reading() as session:
        return dict(session.execute(select(Image.image_id, Label).join(Label)).tuples().all())


def newest_map(campaign: Campaign) -> ImageMap:
    with campaign.store.reading() as session:
        found = session.scalar(select(ImageMap).order_by(ImageMap.id.desc()).limit(1))
    assert found is not None
    return found


def newest_scoring(campaign: Campaign) -> Scoring:
    with campaign.store.reading() as session:
        found = session.scalar(select(Scoring).order_by(Scoring.id.desc()).limit(1))
    assert found is not None
    return found


def probability_of(entropy: float) -> float:
    """p in [0, 0.5] for which two classes p and 1 - p have this entropy, by bisection."""
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        value = -middle * math.log(middle) - (1 - middle) * math.log(1 - middle)
        low, high = (middle, high) if value < entropy else (low, middle)
    return low


def score(campaign: Campaign, entropies: Mapping[int, float], version: str = "m1", on_image: Any = None) -> int:
    """A scoring by a model that is as uncertain about the image with the number n as `entropies[n]` says, in nats."""

    def prepare(image: Any) -> int:
        if on_image is not None:
            on_image()
        return int(image.pixels[0, 0, 0])

    def predict(numbers: Any) -> NDArray[np.float64]:
        chances = np.array([probability_of(entropies[number]) for number in numbers])
        return np.stack([chances, 1 - chances], axis=1)[:, :, None, None]

    if version not in models(campaign):
        learning.record_model(campaign.store, version, {})
    return learning.score_pool(campaign.store, campaign.settings, version, prepare=prepare, predict=predict)


def models(campaign: Campaign) -> list[str]:
    with campaign.store.reading() as session:
        newest = learning.newest_model(session)
        return [] if newest is None else [newest.version]


def random_entropies(seed: int = 0) -> dict[int, float]:
    values = np.random.default_rng(seed).uniform(0.1, 0.6, 256)
    return dict(enumerate(values.tolist()))
