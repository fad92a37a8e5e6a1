"""A process that changes a campaign's database without end, and says what it has done, until it is killed."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from coldstart.campaign import Campaign, LabelFile
from coldstart.settings import Settings

N_IMAGES = 24
SIDE = 16


def make_settings() -> Settings:
    return Settings(
        labels={"disc": 1},
        spatial_dims=2,
        spatial_size=(32, 32),
        encoder="descriptor",
        projection="pca",
        budget=6,
        device="cpu",
        embed_batch_size=4,
    )


def draw(path: Path, seed: int) -> None:
    """Put an image in its place at once: half a file is another fault than this one."""
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE), dtype=np.uint8)
    temporary = path.with_suffix(".tmp")
    Picture.fromarray(pixels).save(temporary, format="PNG")
    os.replace(temporary, path)


def draw_label(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        pixels = np.zeros((SIDE, SIDE), np.uint8)
        pixels[4:9, 4:9] = 1
        Picture.fromarray(pixels).save(path)
    return path


def list_images(studies: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(studies.glob("*.png"))}


def work_until_killed(studies: Path, state: Path, seed: int, report: int) -> None:
    """Write one JSON line to the descriptor `report` before each change, and another one after it has returned."""
    generator = random.Random(seed)
    campaign = Campaign(make_settings(), state)
    for number, (kind, image_id) in enumerate(_choices(generator, sorted(list_images(studies)))):
        who = f"{seed}-{number}"
        _say(report, kind, image_id, who, "begun")
        image_id = _change(campaign, studies, kind, image_id, who, generator)
        _say(report, kind, image_id, who, "done")


def _choices(generator: random.Random, ids: list[str]) -> Iterator[tuple[str, str]]:
    yield from (("sync", ids[0]), ("embed", ids[0]))
    while True:
        kinds = ["click"] * 6 + ["label"] * 4 + ["unlabel", "replace", "embed", "sync"]
        yield generator.choice(kinds), generator.choice(ids)


def _change(
    campaign: Campaign, studies: Path, kind: str, image_id: str, who: str, generator: random.Random
) -> str | None:
    label = studies / "labels" / f"{image_id}.png"
    if kind == "click":
        sample = campaign.next_sample("coldstart_al", annotator=who)
        return None if sample is None else sample.image_id
    if kind == "label":
        campaign.save_label(image_id, LabelFile(draw_label(label), who))
    elif kind == "unlabel":
        label.unlink(missing_ok=True)
        campaign.remove_label(image_id)
    elif kind == "embed":
        campaign.embed()
    else:
        if kind == "replace":
            draw(studies / f"{image_id}.png", generator.randrange(1 << 30))
        shown = {path.stem: LabelFile(path, None) for path in (studies / "labels").glob("*.png")}
        campaign.sync(list_images(studies), shown)
    return image_id


def _say(report: int, *words: Any) -> None:
    os.write(report, (json.dumps(words) + "\n").encode())
