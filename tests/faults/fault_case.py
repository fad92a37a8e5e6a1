"""What the fault tests share: a small campaign, prepared in this process, and looks at a running server."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from PIL import Image

from coldstart.adapters.server import APP_FOLDER, Server
from coldstart.campaign import Campaign, LabelFile
from coldstart.settings import load_settings
from coldstart.store import state_folder

SIDE = 32
BUDGET = 4
CONF = {
    "preset": "chest_xray",
    "labels": "disk:1",
    "encoder": "descriptor",
    "projection": "pca",
    "spatial_size": "32,32",
    "epochs": "1",
    "budget": str(BUDGET),
    "prelabel": "0",
    "retrain_at_budget": "false",
    "publish_margin": "1",
    "device": "cpu",
}
"""The smallest campaign: a server on it has its plan, and a training its model, in seconds."""
MODEL = "attention_unet"


def write_images(studies: Path, n: int, side: int = SIDE) -> None:
    """Bright disks of different size and place in noise; their labels, by the same names, in `truth` beside."""
    truth = truth_of(studies)
    studies.mkdir(parents=True, exist_ok=True)
    truth.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    for index in range(n):
        centre = rng.uniform(0.3 * side, 0.7 * side, 2)
        disk = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < rng.uniform(0.1 * side, 0.2 * side) ** 2
        pixels = 60 + 80 * disk + rng.normal(0, 10, disk.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(studies / f"case_{index:03d}.png")
        Image.fromarray(disk.astype(np.uint8)).save(truth / f"case_{index:03d}.png")


def truth_of(studies: Path) -> Path:
    return studies.with_name(f"{studies.name} truth")


def open_campaign(studies: Path, **conf: str) -> Campaign:
    """The campaign of a studies folder, in this process, as a server with the same settings has it."""
    settings = load_settings({**CONF, **conf}, APP_FOLDER / "configs")
    return Campaign(settings, state_folder(studies, settings.state_dir))


def sync(campaign: Campaign, studies: Path) -> None:
    """What the server's watch does."""
    final = studies / "labels" / "final"
    images = {path.stem: path for path in sorted(studies.glob("*.png"))}
    campaign.sync(images, {path.stem: LabelFile(path) for path in sorted(final.glob("*.png"))})


def label_in_folder(studies: Path, *image_ids: str) -> None:
    """Final labels that came by other ways than the server."""
    final = studies / "labels" / "final"
    final.mkdir(parents=True, exist_ok=True)
    for image_id in image_ids:
        shutil.copy(truth_of(studies) / f"{image_id}.png", final)


def info(server: Server) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(f"{server.url}/info/", timeout=30).json()
    return answer


def state(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = info(server)["coldstart"]
    return found


def click(server: Server, client_id: str = "annotator") -> dict[str, Any]:
    url = f"{server.url}/activelearning/coldstart_al"
    answer: dict[str, Any] = requests.post(url, json={"client_id": client_id}, timeout=30).json()
    return answer


def infer(server: Server, image_id: str) -> requests.Response:
    return requests.post(f"{server.url}/infer/{MODEL}?image={image_id}&output=json", timeout=60)


def train(server: Server, **request: Any) -> requests.Response:
    return requests.post(f"{server.url}/train/{MODEL}", json=request, timeout=30)


def wait_for(what: str, reached: Callable[[], Any], server: Server | None = None, limit_s: float = 90) -> Any:
    """What `reached` gives once it is true; an error with the server's last words when it never is."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if found := reached():
            return found
        time.sleep(0.1)
    log = server.log.read_text()[-3000:] if server is not None else ""
    raise AssertionError(f"not reached within {limit_s:g} s: {what}. {log}")


def child(server: Server, method: str) -> psutil.Process | None:
    """The child process of a server that trains or scores."""
    for process in psutil.Process(server.pid).children():
        try:
            command = process.cmdline()
        except (psutil.ZombieProcess, psutil.NoSuchProcess):
            continue
        if "monailabel.interfaces.utils.app" in command and method in command:
            return process
    return None


def query(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows of the database in a campaign's folder, beside whoever has it open."""
    with closing(sqlite3.connect(folder / "coldstart.sqlite", timeout=30)) as connection:
        return connection.execute(sql).fetchall()


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
