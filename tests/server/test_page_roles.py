"""The map page on a real server: who may look, who may steer, and what it tells of the server's tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from realm_case import ROLES, RealmServer, guarded_server
from server_case import BUDGET, write_case

from coldstart.adapters.server import Server

USER, ANNOTATOR, REVIEWER, ADMIN = ROLES
WAIT_LIMIT_S = 120.0


@pytest.fixture(scope="module")
def realm() -> Iterator[RealmServer]:
    with RealmServer() as running:
        yield running


@pytest.fixture(scope="module")
def guarded(realm: RealmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with guarded_server(realm, tmp_path_factory.mktemp("page_roles")) as running:
        yield running


def page(server: Server, path: str, token: str | None = None, body: Any = None) -> requests.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"{server.url}/coldstart/{path}"
    if body is None:
        return requests.get(url, headers=headers, timeout=60)
    return requests.post(url, json=body, headers=headers, timeout=60)


def test_the_page_without_its_data_is_open(guarded: Server) -> None:
    for path in ("", "static/plotly.min.js"):
        assert page(guarded, path).status_code == 200
    shell = page(guarded, "").text
    assert "case_0" not in shell
    for path in ("api/state", "api/campaign", "api/map", "api/table.csv", "api/thumbnail?id=case_00", "api/nowhere"):
        refused = page(guarded, path)
        assert refused.status_code == 401 and "Log in" in refused.json()["detail"]


def test_who_may_look_and_who_may_steer(guarded: Server, realm: RealmServer) -> None:
    tokens = {
        "uma": realm.token("uma", [USER]),
        "ann": realm.token("ann", [USER, ANNOTATOR]),
        "rae": realm.token("rae", [USER, REVIEWER]),
        "ada": realm.token("ada", [USER, ADMIN]),
    }
    for name, token in tokens.items():
        answer = page(guarded, "api/campaign", token).json()
        assert answer["authentication"] is True
        steers = name in ("rae", "ada")
        assert answer["user"] == {"name": name, "may_steer": steers, "may_label": name == "ann"}
        asked = {"settings": {"alpha": 0.5}, "retry": {}, "train": {}, "model": {"version": "none"}}
        for path, body in asked.items():
            got = page(guarded, f"api/{path}", token, body)
            # There is neither a label to train on nor a kept model: who may ask is told so.
            allowed = 400 if path in ("train", "model") else 200
            assert got.status_code == (allowed if steers else 403), (name, path)
            assert steers or (REVIEWER in got.json()["detail"] and ADMIN in got.json()["detail"]), path
    assert page(guarded, "api/state", realm.token("zoe", [])).status_code == 403
    chosen = page(guarded, "api/campaign", tokens["uma"]).json()["chosen"]
    assert (chosen["alpha"]["who"], chosen["alpha"]["value"]) == ("ada", 0.5)


def test_ids_that_could_break_a_line_of_the_log_are_refused(guarded: Server, realm: RealmServer) -> None:
    token = realm.token("uma", [USER])
    for path, status in (
        ("image?id=a%0d%0ab", 400),
        ("image?id=" + "x" * 300, 400),
        ("thumbnail?id=%2e%2e%2fserver.log", 404),
        ("thumbnail?id=%F0%9F%98%80", 404),
        ("image", 404),
    ):
        answer = page(guarded, f"api/{path}", token)
        assert answer.status_code == status, path
        assert isinstance(answer.json()["detail"], str)
    assert "Traceback" not in guarded.log.read_text()


def test_page_tells_of_the_tasks_and_of_what_the_model_sees(
    make_studies: Callable[[], tuple[Path, Path, Path]], start: Callable[..., Server]
) -> None:
    studies, truth, held_out = make_studies()
    (studies / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    server = start(studies, heldout=str(held_out))

    def campaign() -> dict[str, Any]:
        return dict(page(server, "api/campaign").json())

    def wait(what: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_LIMIT_S
        while not what(found := campaign()):
            assert time.monotonic() < deadline, found
            time.sleep(0.3)
        return found

    def task(found: dict[str, Any], name: str) -> dict[str, Any]:
        return next((one for one in found["tasks"] if one["name"] == name), {"state": None})

    found = wait(lambda found: found["planned"] and task(found, "embedding")["state"] == "done")
    assert found["user"] == {"name": None, "may_steer": True, "may_label": True}
    embedding = task(found, "embedding")
    assert embedding["title"] == "Embedding" and embedding["done"] == embedding["total"]
    assert embedding["log"] and not any("[MainThread]" in line for line in embedding["log"])
    assert [one["image_id"] for one in found["set_aside"]] == ["broken"]
    assert page(server, "api/overlay?id=case_00").status_code == 404

    for _ in range(BUDGET):
        asked = requests.post(f"{server.url}/activelearning/coldstart_al", json={"client_id": "ann"}, timeout=60)
        image_id = asked.json()["id"]
        assert page(server, f"api/image?id={image_id}").json()["state"] == "served"
        with (truth / f"{image_id}.png").open("rb") as label:
            named = {"image": image_id, "tag": "final", "params": '{"client_id": "ann"}'}
            url = f"{server.url}/datastore/label?image={image_id}&tag=final"
            assert requests.put(url, data=named, files={"label": label}, timeout=60).status_code == 200
        assert page(server, f"api/image?id={image_id}").json()["state"] == "labelled"
    before = page(server, "api/state").json()
    assert requests.post(f"{server.url}/train/attention_unet", json={}, timeout=60).status_code == 200
    running = wait(lambda found: task(found, "train")["state"] in ("running", "done"))
    assert task(running, "train")["title"] == "Training"
    assert page(server, "api/state").json()["revision"] != before["revision"]
    found = wait(lambda found: found["scored_model_version"] is not None)
    assert found["phase"] == "active" and task(found, "train")["state"] == "done"
    assert found["curve"]["heldout"][0]["model_version"] == found["model_version"]
    for kind in ("prediction", "entropy"):
        assert page(server, f"api/overlay?id=case_00&kind={kind}").headers["Content-Type"] == "image/png"

    write_case(studies, truth, "broken", 99)
    assert page(server, "api/retry", body={"image_ids": None}).json()["tried"] in (0, 1)  # the watch may be first
    wait(lambda found: found["n_set_aside"] == 0 and found["images"] == len(list(truth.iterdir())) - found["held_out"])
    assert "Traceback" not in server.log.read_text()
