"""Kill -9 of the server and of its children: what was done stays, and what was not is done by the next."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests
from fault_case import child, click, gone, query, state, truth_of, wait_for, write_images

from coldstart.adapters.server import Server

N_IMAGES = 500
EMBEDDED = re.compile(r'Result: (\{"embedded": \d+\})')


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name a shell would take apart."""
    folder = tmp_path_factory.mktemp("kills") / "my studies é"
    write_images(folder, N_IMAGES)
    return folder


def n_vectors(studies: Path) -> int:
    return query(studies / "coldstart", "select count(*) from images where vector is not null")[0][0]


def embedded(server: Server) -> list[int]:
    """What each embedding run of a server said that it embedded."""
    return [json.loads(result)["embedded"] for result in EMBEDDED.findall(server.log.read_text())]


@dataclass(frozen=True)
class Restart:
    """What there was when the server was killed, and the server that was started then."""

    server: Server
    kept: dict[str, bytes]
    labelled: str
    reserved: str


@pytest.fixture(scope="module")
def restart(studies: Path, start: Callable[..., Server]) -> Restart:
    """Kill the server alone in the middle of the first embedding run; its child has to see that by itself."""
    server = start(studies)
    labelled = wait_for("a click", lambda: click(server, "one").get("id"), server)
    with (truth_of(studies) / f"{labelled}.png").open("rb") as file:
        url = f"{server.url}/datastore/label?image={labelled}&tag=final"
        assert requests.put(url, files={"label": (f"{labelled}.png", file)}, timeout=30).ok
    reserved = click(server, "two")["id"]
    worker = wait_for("an embedding run", lambda: child(server, "scoring"), server)
    wait_for("some vectors", lambda: n_vectors(studies) >= 32, server)
    os.kill(server.pid, signal.SIGKILL)
    try:
        wait_for("the end of the orphan", lambda: gone(worker), limit_s=15)
    finally:
        if worker.is_running():
            worker.kill()
    kept = dict(query(studies / "coldstart", "select image_id, vector from images where vector is not null"))
    again = start(studies)
    wait_for("the plan", lambda: state(again)["planned"], again)
    wait_for("the result", lambda: embedded(again), again)
    return Restart(again, kept, labelled, reserved)


def test_start_after_a_kill_in_the_first_embedding_run_embeds_only_what_is_missing(
    studies: Path, restart: Restart
) -> None:
    assert 32 <= len(restart.kept) < N_IMAGES
    assert embedded(restart.server) == [N_IMAGES - len(restart.kept)]
    vectors = dict(query(studies / "coldstart", "select image_id, vector from images where vector is not null"))
    assert len(vectors) == N_IMAGES
    assert {image_id: vectors[image_id] for image_id in restart.kept} == restart.kept


def test_start_after_a_kill_knows_labels_and_reservations(restart: Restart) -> None:
    found = state(restart.server)
    assert found["labelled"] == 1 and found["set_aside"] == {} and found["images"] == N_IMAGES
    assert click(restart.server, "three")["id"] not in (restart.labelled, restart.reserved)


def test_killed_embedding_is_said_and_run_again(studies: Path, restart: Restart) -> None:
    server = restart.server
    write_images(studies.with_name("more"), 3, side=40)
    before = n_vectors(studies)
    for path in studies.with_name("more").glob("*.png"):
        path.rename(studies / f"late_{path.name}")
    worker = wait_for("an embedding run", lambda: child(server, "scoring"), server)
    worker.kill()
    said = wait_for("the sentence", lambda: state(server)["task_errors"].get("embedding"), server)
    assert said.startswith("The embedding was killed (signal 9), perhaps for lack of memory; what was embedded is kept")
    wait_for("the vectors", lambda: n_vectors(studies) == before + 3, server)
    wait_for("the end of the run", lambda: state(server)["tasks"]["embedding"] == "DONE", server)
    assert state(server)["task_errors"] == {}
    assert embedded(server)[1:] == [3]


def test_termination_ends_the_server_and_what_it_started(restart: Restart) -> None:
    server = restart.server
    assert requests.post(f"{server.url}/train/attention_unet", json={"max_epochs": 100_000}, timeout=30).ok
    worker = wait_for("a training", lambda: child(server, "train"), server)
    started = time.monotonic()
    psutil.Process(server.pid).terminate()
    wait_for("the end of the server", lambda: gone(psutil.Process(server.pid)), limit_s=15)
    wait_for("the end of the training", lambda: gone(worker), limit_s=5)
    assert time.monotonic() - started < 20
    assert "Traceback" not in server.log.read_text().split("Shutting down")[1]
