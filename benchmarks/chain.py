"""From a saved label to a changed next sample: how long each link of the chain takes on a real server.

    python benchmarks/chain.py

A server with a model, held-out images, and `retrain_every 8`. Eight labels are saved over HTTP. From then on the server
is left alone: it trains, reads the model back and compares it with the one in use, puts it into use, scores the pool,
and pre-labels the images that come next. Every time is the server's own: of its log, of its selection log, and of the
files that it wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import requests
from while_training import BUDGET, RESULTS, timed, wait_for, write_images

from coldstart.adapters.server import Server
from coldstart.campaign.replay import decision_rows
from coldstart.experiments.runs import hardware
from coldstart.segmentation import resolve_device
from coldstart.store import Store

N_HELD_OUT = 5
N_NEW = BUDGET
N_NEXT = 5
LINKS = (
    "the last label is saved",
    "the server finds a training due",
    "the first epoch has ended",
    "the model is trained, and kept",
    "it was read back and compared, and is in its place",
    "the database says so",
    "the pool is scored",
    "the images next in line are pre-labelled",
    "a click gives a sample of the new model",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS / "chain.json")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        played = play(Path(name), arguments.images, arguments.side, arguments.epochs)
    result = {
        "command": f"python benchmarks/chain.py {' '.join(sys.argv[1:])}".strip(),
        "hardware": f"{hardware(resolve_device('auto'))}; load average {load_before:.1f} from other work when the run "
        f"began, {os.getloadavg()[0]:.1f} when it ended",
        "images": arguments.images,
        "side": arguments.side,
        "epochs": arguments.epochs,
        **played,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    arguments.output.with_suffix(".md").write_text(table(result))
    print(table(result))


def play(folder: Path, n_images: int, side: int, epochs: int) -> dict:
    studies, truth = folder / "studies", folder / "truth"
    write_images(studies, truth, n_images + N_HELD_OUT, side)
    held_out = [f"image_{index:04d}" for index in range(n_images, n_images + N_HELD_OUT)]
    (folder / "heldout.txt").write_text("\n".join(held_out))
    conf = {"preset": "sample", "labels": "disk:1", "encoder": "descriptor", "spatial_size": f"{side},{side}"}
    conf |= {"epochs": str(epochs), "budget": str(BUDGET), "prelabel": str(N_NEXT), "publish_margin": "1"}
    conf |= {"heldout": str(folder / "heldout.txt"), "retrain_every": str(N_NEW)}
    with Server(studies, conf, folder / "server.log") as server:
        wait_for("a plan", lambda: campaign(server)["planned"])
        for image_id in held_out:
            save_label(server, truth, image_id)
        for _ in range(BUDGET):
            save_label(server, truth, click(server)["id"])
        wait_for("a model, with all that it does", lambda: is_done(server, but=None))
        before = campaign(server)["model_version"]
        for _ in range(N_NEW):
            sample = click(server)["id"]
            saved_at = time.time()
            save_label(server, truth, sample)
        next_before = next_in_line(server)  # by the old model, which has seconds left
        wait_for("the next model, with all that it does", lambda: is_done(server, but=before))
        next_after = next_in_line(server)
        milliseconds, answer = timed(lambda: post(server, "activelearning/coldstart_al"))
        served_at, served = time.time(), answer.json()
        version = served["coldstart"]["model_version"]
        times = [saved_at, *link_times(studies / "coldstart", version, saved_at), served_at]
        comparison = requests.get(f"{server.url}/info/", timeout=60).json()["train_stats"]["attention_unet"][
            "comparison"
        ]
    links = [{"link": link, "after_s": round(at - saved_at, 2)} for link, at in zip(LINKS, times, strict=True)]
    return {
        "links": links,
        "click_ms": round(milliseconds, 1),
        "comparison": comparison,
        "served": served["id"],
        "model_version": {"before": before, "after": version},
        "next_in_line": {"before": next_before, "after": next_after},
    }


def link_times(state: Path, version: str, saved_at: float) -> Iterator[float]:
    """Seconds since 1970 of the links from the trigger to the pre-labels, in the order of `LINKS`."""
    lines = [json.loads(line) for line in (state / "logs" / "coldstart.jsonl").read_text().splitlines()]
    said = [(datetime.fromisoformat(line["at"]).timestamp(), line["message"]) for line in lines]
    said = [(at, message) for at, message in said if at >= saved_at - 1]
    store = Store(state)
    try:
        decisions = {
            row["kind"]: row["at"] for row in decision_rows(store) if row["details"].get("model_version") == version
        }
    finally:
        store.close()
    yield next(at for at, message in said if message.startswith("A training begins by itself"))
    yield next(at for at, message in said if message.startswith("Epoch 1 of"))
    models = state / "models"
    yield (models / "versions" / f"{version}.pt").stat().st_mtime
    yield (models / "attention_unet.pt").stat().st_mtime
    yield decisions["training"]
    yield decisions["scoring"]
    yield [at for at, message in said if message.startswith("prelabel") and message.endswith(f"model {version}")][-1]


def post(server: Server, path: str) -> requests.Response:
    return requests.post(f"{server.url}/{path}", json={}, timeout=60)


def click(server: Server) -> dict:
    return post(server, "activelearning/coldstart_al").json()


def save_label(server: Server, truth: Path, image_id: str) -> None:
    url = f"{server.url}/datastore/label?image={image_id}&tag=final"
    label = (truth / f"{image_id}.png").read_bytes()
    requests.put(url, files={"label": ("label.png", label)}, timeout=60).raise_for_status()


def campaign(server: Server) -> dict:
    return requests.get(f"{server.url}/info/", timeout=60).json()["coldstart"]


def is_done(server: Server, but: str | None) -> bool:
    """Whether another model than this one is in use, has scored, and has pre-labelled."""
    found = campaign(server)
    version = found["model_version"]
    pre_labelled = found["progress"].get("prelabel", {})
    return version not in (None, but) and pre_labelled == {
        "done": N_NEXT,
        "total": N_NEXT,
        "message": f"model {version}",
    }


def next_in_line(server: Server) -> list[str]:
    found = requests.get(f"{server.url}/coldstart/api/next?n={N_NEXT}", timeout=60).json()
    return [pick["image_id"] for pick in found["picks"]]


def table(result: dict) -> str:
    """What was played, as Markdown."""
    lines = [
        "# From a saved label to a changed next sample",
        "",
        f"`{result['command']}` on {result['hardware']}. {result['images']} images of {result['side']} x "
        f"{result['side']}, {result['epochs']} epochs, {BUDGET + N_NEW} labels, {N_HELD_OUT} held-out images. "
        "The server looks for work every two seconds, and each task is a process that has to start.",
        "",
        "| link | seconds after the last label was saved | for itself |",
        "|---|---:|---:|",
    ]
    last = 0.0
    for link in result["links"]:
        lines.append(f"| {link['link']} | {link['after_s']:.1f} | {link['after_s'] - last:.1f} |")
        last = link["after_s"]
    n_others = sum(one != other for one, other in zip(*result["next_in_line"].values(), strict=True))
    names = {when: ", ".join(images) for when, images in result["next_in_line"].items()}
    lines += [
        "",
        f"- The check said: {result['comparison']}",
        f"- Next in line before: {names['before']} (model {result['model_version']['before']}).",
        f"- Next in line after: {names['after']} (model {result['model_version']['after']}): {n_others} of {N_NEXT} "
        "are others, or in another place.",
        f"- The click gave {result['served']}, in {result['click_ms']:.0f} ms.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
