"""Who asks without a login: client ids, and nobody in particular, on a real server."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import requests

from coldstart.adapters.server import Server

Studies = tuple[Path, Path, Path]


def test_client_id_names_an_annotator_but_slicers_default_does_not(
    make_studies: Callable[[], Studies], start: Callable[..., Server]
) -> None:
    studies, _, held_out = make_studies()
    server = start(studies, heldout=str(held_out))

    def click(body: dict[str, str]) -> str:
        answer = requests.post(f"{server.url}/activelearning/uniform_random", json=body, timeout=60)
        return str(answer.json()["id"])

    ids = [click(body) for body in ({"client_id": "ann"}, {"client_id": "user-xyz"}, {}, {"client_id": "ann"})]
    assert len(set(ids)) == 4
    assert _servings(studies) == [("ann", "skipped"), (None, None), (None, None), ("ann", None)]
    for body in ({"client_id": "  ann"}, {"client_id": " "}, {"client_id": "user-xyz "}):
        click(body)
    assert [who for who, _ in _servings(studies)[4:]] == ["ann", None, None]


def _servings(studies: Path) -> list[tuple[str | None, str | None]]:
    with sqlite3.connect(studies / "coldstart" / "coldstart.sqlite") as database:
        return list(database.execute("select annotator, outcome from servings order by id"))
