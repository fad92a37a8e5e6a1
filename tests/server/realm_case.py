"""A small login service that answers as Keycloak does, and the tokens of its users."""

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from server_case import CONF, write_cases

from coldstart.adapters.server import Server

CLIENT_ID = "monailabel-app"
PUBLIC_ADDRESS = "https://login.lab.example/realms/lab"
ROLES = ("monailabel-user", "monailabel-annotator", "monailabel-reviewer", "monailabel-admin")


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class RealmServer:
    """The realm `lab` on a free port of the loopback address; a context manager."""

    def __init__(self) -> None:
        self.key = new_key()
        self.password = "correct horse battery staple"
        self.up = True
        self.delay_s = 0.0
        self.n_asked = 0
        realm = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/realms/lab":
                    realm.n_asked += 1
                    time.sleep(realm.delay_s)
                    token_service = f"{PUBLIC_ADDRESS}/protocol/openid-connect"
                    self.answer({"realm": "lab", "public_key": realm.public_key(), "token-service": token_service})
                else:
                    self.answer({"token_endpoint": f"{realm.uri}/protocol/openid-connect/token"})

            def do_POST(self) -> None:
                asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                if asked["password"] == [realm.password] and asked["client_id"] == [CLIENT_ID]:
                    self.answer({"access_token": realm.token(asked["username"][0]), "token_type": "Bearer"})
                else:
                    self.answer({"error": "invalid_grant"}, 401)

            def answer(self, value: dict[str, str], status: int = 200) -> None:
                self.send_response(status if realm.up else 502)
                self.end_headers()
                self.wfile.write(json.dumps(value).encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}/realms/lab"

    def __enter__(self) -> "RealmServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def public_key(self) -> str:
        """As the realm's JSON gives it: base64 without the lines around."""
        der = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        return base64.b64encode(self.key.public_key().public_bytes(*der)).decode()

    def claims(self, user: Any = "ann", roles: Any = ROLES, **others: Any) -> dict[str, Any]:
        """What a token of a user says; a claim given as None is left out."""
        claims = {
            "preferred_username": user,
            "realm_access": {"roles": roles},
            "exp": time.time() + 3600,
            "iat": time.time(),
            "iss": self.uri,
            "aud": "account",
            "azp": CLIENT_ID,
            **others,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, user: Any = "ann", roles: Any = ROLES, **others: Any) -> str:
        """A token as the realm would sign it, whatever it says."""
        claims = json.dumps(self.claims(user, roles, **others)).encode()
        return jwt.PyJWS().encode(claims, self.key, algorithm="RS256")


@contextmanager
def guarded_server(
    realm: RealmServer, folder: Path, *, conf: Mapping[str, str] | None = None, **environment: str
) -> Iterator[Server]:
    """A server on a few cases that lets only the users of a realm in."""
    environment |= {
        "MONAI_LABEL_AUTH_ENABLE": "true",
        "MONAI_LABEL_AUTH_REALM_URI": realm.uri,
        "MONAI_LABEL_AUTH_CLIENT_ID": CLIENT_ID,
    }
    server = Server(write_cases(folder), {**CONF, **(conf or {})}, folder / "server.log")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # for this server alone, not for those that are started beside it
            for name, value in environment.items():
                patch.setenv(name, value)
            stack.enter_context(server)
        yield server
