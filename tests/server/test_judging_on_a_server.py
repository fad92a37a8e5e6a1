"""Saved labels are judged by a real server, which neither waits for it nor forgets it when it is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from coldstart.adapters.server import Server
from coldstart.adapters.simulation import SilentObserver, SimulatedAnnotator, connect
from coldstart.campaign.curve import annotator_counts, learning_curve
from coldstart.images import read_image
from coldstart.segmentation import Sample, evaluate, load_model
from coldstart.store import Store

LIMIT_S = 120.0


def wait_for_judged(store: Store, n: int) -> dict[str, float]:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        judged = {one.image_id: one.dice for one in learning_curve(store).prequential}
        if len(judged) >= n:
            return judged
        time.sleep(0.3)
    raise AssertionError(f"{judged} instead of {n} judged labels after {LIMIT_S:g} s")


def test_labels_are_judged_when_saved_and_after_a_kill(
    make_studies: Callable[[], tuple[Path, Path, Path]], start: Callable[..., Server]
) -> None:
    studies, truth, held_out = make_studies()
    server = start(studies, heldout=str(held_out), epochs="8")
    client = connect(server.url)
    annotator = SimulatedAnnotator(client, truth, SilentObserver())
    annotator.wait_until("embedded", "embedding", lambda state: state["planned"] == 4)
    annotator.label(4)
    annotator.train()
    folder = Path(client.info()["coldstart"]["state_dir"])
    store = Store(folder)
    unlabelled = sorted({path.stem for path in studies.glob("*.png")} - {s["id"] for s in annotator.log.served})
    pool = [image_id for image_id in unlabelled if image_id not in held_out.read_text().split()]

    client.save_label(pool[0], str(truth / f"{pool[0]}.png"))
    judged = wait_for_judged(store, 1)
    model = load_model(folder / "models" / "attention_unet.pt", "cpu")
    sample = Sample(pool[0], studies / f"{pool[0]}.png", truth / f"{pool[0]}.png", {1: 1, 2: 2})
    assert read_image(sample.image).geometry.spatial_dims == 2
    assert judged == {pool[0]: pytest.approx(evaluate(model, [sample]).dice, abs=1e-5)}

    client.save_label(pool[1], str(truth / f"{pool[1]}.png"))
    os.kill(server.pid, signal.SIGKILL)  # most often before it was judged
    client = connect(start(studies, heldout=str(held_out)).url)
    assert set(wait_for_judged(store, 2)) == {pool[0], pool[1]}

    curve = learning_curve(store)
    assert [(one.n_labels, one.n) for one in curve.rounds] == [(4, 2)]
    assert {one.model_version for one in curve.prequential} == {model.version}
    assert [one.n_images for one in curve.heldout] == [3]
    assert curve.verdict.helping is None
    assert sum(one.labels for one in annotator_counts(store)) == 4 + 2, "held-out labels are nobody's"
    assert client.info()["coldstart"]["watch_errors"] == {}
    assert asdict(curve)["prequential"][0]["dice"] == judged[pool[0]]
    store.close()
