"""Alpha and the budget, chosen while a real server runs: what viewers, clicks and the next start see of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from server_case import BUDGET
from sqlalchemy import select

from coldstart.adapters.server import Server
from coldstart.adapters.simulation import connect
from coldstart.store import Image, Model, Scoring, Store

Studies = tuple[Path, Path, Path]


def get(server: Server, path: str) -> Any:
    return requests.get(f"{server.url}{path}", timeout=60).json()


def post(server: Server, path: str, body: dict[str, Any] | None = None) -> requests.Response:
    return requests.post(f"{server.url}{path}", json=body or {}, timeout=60)


def click(server: Server, **asked: Any) -> dict[str, Any]:
    answer: dict[str, Any] = post(server, "/activelearning/coldstart_al", asked).json()
    return answer


def wait_for(server: Server, is_so: Callable[[dict[str, Any]], bool], limit_s: float = 300) -> dict[str, Any]:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        state: dict[str, Any] = get(server, "/info/")["coldstart"]
        if is_so(state):
            return state
        time.sleep(0.3)
    raise AssertionError(f"not within {limit_s} s: {state}")


def alpha_in_slicer(server: Server) -> set[str]:
    """Slicer shows the config of a strategy as editable cells."""
    strategies = get(server, "/info/")["strategies"]
    return {strategies[name]["config"]["alpha"] for name in ("coldstart_al", "entropy_diversity", "random")}


def add_scoring(folder: Path) -> None:
    """A model, and its entropy for every image, without the minute that a training takes."""
    store = Store(folder)
    with store.writing() as session:
        session.add(Model(version="m1", created_at=time.time(), details={}))
        scored = {"minimum": 0.1, "maximum": 0.6, "mean": 0.3, "n_images": 1}
        session.add(Scoring(id=1, model_version="m1", finished_at=time.time(), **scored))
        session.flush()
        for index, row in enumerate(session.scalars(select(Image).order_by(Image.image_id))):
            row.entropy, row.scoring_id = 0.1 + 0.5 * (index * 7 % 17) / 17, 1
    store.close()


def test_chosen_alpha_and_budget_hold_for_viewers_clicks_and_the_next_start(
    make_studies: Callable[[], Studies], start: Callable[..., Server]
) -> None:
    studies, truth, held_out = make_studies()
    (studies / "broken.png").write_bytes((studies / "case_00.png").read_bytes()[:200])
    server = start(studies, heldout=str(held_out))
    wait_for(server, lambda state: state["planned"] == BUDGET and state["tasks"].get("embedding") == "DONE")
    assert alpha_in_slicer(server) == {"0.3"}

    # Shown first, for nobody but who asks; then in force for all.
    wanted = {"alpha": 0.9, "budget": BUDGET + 2}
    shown = requests.get(f"{server.url}/coldstart/api/next", params={**wanted, "n": BUDGET + 4}, timeout=60).json()
    assert alpha_in_slicer(server) == {"0.3"} and get(server, "/info/")["coldstart"]["planned"] == BUDGET
    assert post(server, "/coldstart/api/settings", wanted).json() == wanted
    assert alpha_in_slicer(server) == {"0.9"}
    state = get(server, "/info/")["coldstart"]
    assert (state["budget"], state["planned"]) == (BUDGET + 2, BUDGET + 2), "the plan is carried on at once"
    client, served = connect(server.url), []
    for pick in shown["picks"][: BUDGET + 2]:
        answer = click(server)
        served.append(answer["id"])
        assert (answer["id"], answer["coldstart"]["reason"]) == (pick["image_id"], pick["reason"])
        client.save_label(answer["id"], str(truth / f"{answer['id']}.png"))
    assert all(pick["phase"] == "plan_complete" for pick in shown["picks"][BUDGET + 2 :])

    # A click without alpha takes the campaign's, and one that names its own keeps it.
    add_scoring(Path(state["state_dir"]))
    shown = requests.get(f"{server.url}/coldstart/api/next", params={"n": 3}, timeout=60).json()
    answers = [click(server), click(server), click(server, alpha="0.2"), click(server)]
    assert [answer["coldstart"]["alpha"] for answer in answers] == [0.9, 0.9, 0.2, 0.9]
    assert {answer["coldstart"]["phase"] for answer in answers} == {"active"}
    assert [answer["id"] for answer in answers[:2]] == [pick["image_id"] for pick in shown["picks"][:2]]

    refused = post(server, "/coldstart/api/settings", {"budget": 0})
    assert refused.status_code == 400 and "`budget` has a bad value '0'" in refused.json()["detail"]
    embeddings = requests.get(f"{server.url}/scoring/?all=true", timeout=60).json()
    assert len(embeddings) == 1, "another budget started a child process"

    # What was set aside is tried again, as often as it is asked for.
    for n_tries in (2, 3):
        assert post(server, "/coldstart/api/retry").json() == {"tried": 1}
        assert "broken" not in get(server, "/info/")["coldstart"]["set_aside"]
        wait_for(server, lambda state: "broken" in state["set_aside"] and state["tasks"]["embedding"] == "DONE")
        assert len(requests.get(f"{server.url}/scoring/?all=true", timeout=60).json()) == n_tries

    # Another start knows it; what `--conf` says newly wins.
    assert post(server, "/coldstart/api/settings", {"budget": BUDGET + 1}).json()["budget"] == BUDGET + 1
    server.stop()
    again = start(studies, heldout=str(held_out))
    assert alpha_in_slicer(again) == {"0.9"}
    state = get(again, "/info/")["coldstart"]
    assert (state["budget"], state["planned"]) == (BUDGET + 1, BUDGET + 1)
    assert set(get(again, "/coldstart/api/campaign")["chosen"]) == {"alpha", "budget"}
    again.stop()
    changed = start(studies, heldout=str(held_out), budget=str(BUDGET + 4))
    state = wait_for(changed, lambda state: state["planned"] == BUDGET + 4)
    assert state["budget"] == BUDGET + 4
    assert alpha_in_slicer(changed) == {"0.9"}, "its --conf says the same as before"
    assert set(get(changed, "/coldstart/api/campaign")["chosen"]) == {"alpha"}
    assert f"{BUDGET + 1}, which was chosen when {BUDGET} was configured, no longer holds" in changed.log.read_text()
