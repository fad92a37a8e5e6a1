"""Who asks: authenticated users, client ids, and nobody in particular, on a real server."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from coldstart.adapters.server import Server

Studies = tuple[Path, Path, Path]


@pytest.fixture
def realm() -> Iterator[tuple[str, Callable[..., str]]]:
    """A login service that answers as Keycloak does: its address, and a function that makes tokens."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    answer = json.dumps({"public_key": base64.b64encode(der).decode()}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            pass

    def token(user: str, expires_s: float = 3600) -> str:
        roles = ["monailabel-user", "monailabel-annotator"]
        claims = {"preferred_username": user, "realm_access": {"roles": roles}, "exp": time.time() + expires_s}
        return jwt.encode(claims, key, algorithm="RS256")

    service = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{service.server_port}/realms/lab", token
    service.shutdown()


def test_authenticated_user_wins_over_client_id(
    make_studies: Callable[[], Studies],
    start: Callable[..., Server],
    realm: tuple[str, Callable[..., str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, token = realm
    studies, _, held_out = make_studies()
    monkeypatch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
    monkeypatch.setenv("MONAI_LABEL_AUTH_REALM_URI", address)
    server = start(studies, ready_path="/openapi.json", heldout=str(held_out))

    def click(user: str, client_id: str, expires_s: float = 3600) -> requests.Response:
        return requests.post(
            f"{server.url}/activelearning/uniform_random",
            json={"client_id": client_id},
            headers={"Authorization": f"Bearer {token(user, expires_s)}"},
            timeout=60,
        )

    # Two users behind one client id: neither skips the other's image; each skips their own.
    ann, bob = click("ann", "shared").json(), click("bob", "shared").json()
    assert ann["id"] != bob["id"]
    ann_again = click("ann", "another").json()
    assert ann_again["id"] not in (ann["id"], bob["id"])
    rows = _servings(Path(studies))
    assert rows == [("ann", "skipped"), ("bob", None), ("ann", None)]

    assert click("eve", "x", expires_s=-60).status_code == 401
    assert requests.post(f"{server.url}/activelearning/uniform_random", json={}, timeout=60).status_code == 401


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


def _servings(studies: Path) -> list[tuple[str | None, str | None]]:
    import sqlite3

    with sqlite3.connect(studies / "coldstart" / "coldstart.sqlite") as database:
        return list(database.execute("select annotator, outcome from servings order by id"))
