"""A pool of thousands of images that is embedded, on the map and planned, without the minutes that this would take."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from coldstart.campaign import Campaign, planning
from coldstart.settings import Settings
from coldstart.store import Image, ImageMap, Model, Scoring, vector_to_bytes
from coldstart.store.schema import POINT_DTYPE

BUDGET = 40
CONF = {
    "preset": "sample",
    "labels": "disc:1",
    "spatial_size": "32,32",
    "encoder": "descriptor",
    "projection": "pca",
    "k_max": "4",
    "budget": str(BUDGET),
    "device": "cpu",
}
SETTINGS = Settings(
    labels={"disc": 1},
    spatial_dims=2,
    spatial_size=(32, 32),
    encoder="descriptor",
    projection="pca",
    k_max=4,
    budget=BUDGET,
    device="cpu",
)
"""What `CONF` says, as a campaign takes it."""


def write_images(folder: Path, n_images: int) -> dict[str, Path]:
    """Write so many copies of one small image."""
    buffer = io.BytesIO()
    Picture.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(buffer, "PNG")
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"image_{index:05}": folder / f"image_{index:05}.png" for index in range(n_images)}
    for path in files.values():
        path.write_bytes(buffer.getvalue())
    return files


def prepare(folder: Path, files: dict[str, Path]) -> Campaign:
    """Open a campaign in `folder` whose images have random vectors and points, and a plan made from these."""
    campaign = Campaign(SETTINGS, folder)
    campaign.sync(files, {})
    rng = np.random.default_rng(0)
    with campaign.store.writing() as session:
        made = {"configured": "descriptor", "encoder": "descriptor 1", "method": "pca", "random_state": 0}
        session.add(ImageMap(id=1, created_at=time.time(), **made))
        session.flush()
        for row in session.query(Image):
            row.vector, row.encoder = vector_to_bytes(rng.normal(size=8)), "descriptor 1"
            row.map_id, row.fitted, row.point = 1, True, vector_to_bytes(rng.normal(size=2), POINT_DTYPE)
    planning.update_plan(campaign.store, SETTINGS)
    return campaign


def add_scoring(campaign: Campaign) -> None:
    """A model, and its entropy for every image."""
    rng = np.random.default_rng(1)
    with campaign.store.writing() as session:
        session.add(Model(version="m1", created_at=time.time(), details={}))
        scored = {"minimum": 0.0, "maximum": 0.6, "mean": 0.3, "n_images": 1}
        session.add(Scoring(id=1, model_version="m1", finished_at=time.time(), **scored))
        session.flush()
        for row in session.query(Image):
            row.entropy, row.scoring_id = rng.uniform(0, 0.6), 1
