"""What the tests of the datastore share, and what they run in other processes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coldstart.adapters import datastore_base
from coldstart.adapters.datastore import FolderDatastore
from coldstart.adapters.errors import AppError
from coldstart.adapters.server import APP_FOLDER
from coldstart.campaign import Campaign
from coldstart.settings import load_settings

RECORD = "datastore_v2.json"


def write(path: Path, seed: int = 0) -> Path:
    """An image of some time ago."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 48), dtype=np.uint8)).save(path)
    return arrived(path)


def arrived(path: Path) -> Path:
    """As it is some time after it was copied."""
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


def write_label(path: Path, value: int = 1) -> Path:
    Image.fromarray(np.full((48, 48), value, dtype=np.uint8)).save(path)
    return path


def open_campaign(studies: Path) -> Campaign:
    return Campaign(load_settings({"encoder": "descriptor"}, APP_FOLDER / "configs"), studies / "coldstart")


def open_datastore(studies: Path) -> FolderDatastore:
    datastore = FolderDatastore(str(studies), open_campaign(studies))
    datastore.sync()
    return datastore


def record(studies: Path) -> dict[str, Any]:
    """Entries of the file on the disk."""
    entries: dict[str, Any] = json.loads((studies / RECORD).read_text())["objects"]
    return entries


def sync_until(datastore: FolderDatastore, reached: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline
        datastore.sync()
        time.sleep(0.05)


def label_and_click(studies: Path, scratch: Path, first: int, acknowledged: Path) -> None:
    """Save labels and click until killed; number by number, each acknowledged when its saving has returned."""
    datastore_base.WRITE_EVERY_S = 0.05
    datastore = open_datastore(studies)
    images = datastore.list_images()
    with acknowledged.open("a", buffering=1) as log:
        for number in itertools.count(first):
            image_id = images[number % len(images)]
            datastore.update_image_info(image_id, {"clicks": number})
            label = scratch / f"label{os.getpid()}.png"
            label.write_bytes(b"%d" % number)
            datastore.save_label(image_id, str(label), "final", {"label_info": [], "number": number})
            log.write(f"{image_id} {number}\n")
            datastore.update_image_info(image_id, {"clicks": number})
            datastore.sync()


def label_own_half(studies: Path, scratch: Path, name: str, images: list[str], tag: str) -> None:
    """Save a label for each image and note things of it and of one image that all share."""
    datastore = open_datastore(studies)
    label = write_label(scratch / f"{name}.png")
    for number, image_id in enumerate(images):
        datastore.save_label(image_id, str(label), tag, {"client_id": name, "label_info": [], "number": number})
        for key in ("a", "b", "c"):
            datastore.update_image_info(image_id, {f"{name}_{key}": number})
        datastore.update_image_info("shared", {f"{name}_{number}": number})
        datastore.update_label_info(image_id, tag, {"by": name})
        if number % 10 == 0:
            datastore.sync()
    datastore.flush()


def fill_the_disk(studies: Path) -> dict[str, Any]:
    """What happens where there is no room left; called in a process that has a small disk at `studies` to itself."""
    seen: dict[str, Any] = {}
    for number in range(5):
        write(studies / f"p{number}.png")
    scratch = studies.parent
    campaign = Campaign(load_settings({"encoder": "descriptor"}, APP_FOLDER / "configs"), scratch / "state")
    datastore_base.WRITE_EVERY_S = 0.0
    datastore = FolderDatastore(str(studies), campaign)
    datastore.sync()
    datastore.save_label("p0", str(write_label(scratch / "first.png")), "final", {"client_id": "ann"})
    before = (studies / "labels/final/p0.png").read_bytes(), (studies / RECORD).read_bytes()
    big = scratch / "big.nii"
    big.write_bytes(os.urandom(400_000))
    filler = studies / ".filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            seen["filled"] = error.strerror
    try:
        datastore.save_label("p0", str(write_label(scratch / "second.png", 2)), "final", {})
    except AppError as error:
        seen["refused"] = [error.status_code, error.detail]
    seen["unchanged"] = before == ((studies / "labels/final/p0.png").read_bytes(), (studies / RECORD).read_bytes())
    datastore.update_image_info("p1", {"ward": "7"})
    datastore.sync()
    # Room for a label, not for the record.
    os.truncate(filler, filler.stat().st_size - 4096)
    datastore.save_label("p2", str(write_label(scratch / "third.png")), "final", {"client_id": "bob"})
    seen["label without record"] = (studies / "labels/final/p2.png").is_file()
    seen["record then"] = sorted(json.loads((studies / RECORD).read_text())["objects"]["p2"]["labels"])
    seen["left over"] = [path.name for path in studies.rglob(".*.part")]
    filler.unlink()
    datastore.sync()
    entries = json.loads((studies / RECORD).read_text())["objects"]
    seen["record later"] = [
        entries["p2"]["labels"]["final"]["info"]["client_id"],
        entries["p1"]["image"]["info"]["ward"],
    ]
    seen["labelled"] = campaign.status()["labelled"]
    subprocess.run(["mount", "-o", "remount,ro", str(studies)], check=True)
    for opened in (datastore, FolderDatastore(str(studies), campaign)):
        opened.sync()
        opened.update_image_info("p1", {"ward": "8"})
        opened.sync()
        try:
            opened.save_label("p3", str(scratch / "third.png"), "final", {})
        except AppError as error:
            seen.setdefault("read-only", []).append([error.status_code, error.detail])
    seen["still served"] = len(datastore.list_images())
    return seen


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(fill_the_disk(Path(sys.argv[1])))}\n")
