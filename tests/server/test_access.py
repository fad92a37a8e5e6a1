"""Who gets in, and to what: a real server under authentication, with a small realm that knows the users."""

import asyncio
import base64
import hmac
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import numpy as np
import pytest
import requests
from PIL import Image
from realm_case import CLIENT_ID, PUBLIC_ADDRESS, ROLES, RealmServer, guarded_server, new_key

from coldstart.adapters import realm as realm_module
from coldstart.adapters.errors import AppError
from coldstart.adapters.realm import Realm
from coldstart.adapters.server import APP_FOLDER, Server

USER, ANNOTATOR, REVIEWER, ADMIN = ROLES
OPEN, ANY_LOGIN, ANY_ROLE = "open to everybody", "any login", "any role"
STEERING = "the role of a reviewer or an admin"
ARCHIVE_PASSWORD = "archive-secret-7391"

# What MONAI Label documents for each route, and what it forgot: the pages, the reload, uploading and deleting a model.
NEEDED = {
    ("GET", "/"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/favicon.ico"): OPEN,
    ("GET", "/auth/"): OPEN,
    ("POST", "/auth/token"): OPEN,
    ("GET", "/auth/token/valid"): ANY_LOGIN,
    ("GET", "/info/"): USER,
    ("GET", "/model/{model}"): ADMIN,
    ("PUT", "/model/{model}"): ADMIN,
    ("DELETE", "/model/{model}"): ADMIN,
    ("GET", "/model/info/{model}"): ADMIN,
    ("POST", "/infer/{model}"): USER,
    ("GET", "/batch/infer"): USER,
    ("DELETE", "/batch/infer"): ADMIN,
    ("POST", "/batch/infer/{model}"): ADMIN,
    ("GET", "/train/"): USER,
    ("POST", "/train/"): ADMIN,
    ("DELETE", "/train/"): ADMIN,
    ("POST", "/train/{model}"): ADMIN,
    ("POST", "/activelearning/{strategy}"): USER,
    ("GET", "/scoring/"): USER,
    ("POST", "/scoring/"): ANNOTATOR,
    ("DELETE", "/scoring/"): ANNOTATOR,
    ("POST", "/scoring/{method}"): ANNOTATOR,
    ("GET", "/datastore/"): USER,
    ("PUT", "/datastore/"): ANNOTATOR,
    ("DELETE", "/datastore/"): ADMIN,
    ("PUT", "/datastore/image"): ANNOTATOR,
    ("DELETE", "/datastore/image"): ADMIN,
    ("HEAD", "/datastore/image"): USER,
    ("GET", "/datastore/image"): USER,
    ("GET", "/datastore/image/info"): USER,
    ("PUT", "/datastore/image/info"): ANNOTATOR,
    ("PUT", "/datastore/label"): ANNOTATOR,
    ("DELETE", "/datastore/label"): ADMIN,
    ("HEAD", "/datastore/label"): USER,
    ("GET", "/datastore/label"): USER,
    ("GET", "/datastore/label/info"): USER,
    ("PUT", "/datastore/label/info"): ANNOTATOR,
    ("PUT", "/datastore/updatelabelinfo"): ANNOTATOR,
    ("GET", "/datastore/dataset"): ANNOTATOR,
    ("GET", "/logs/"): ADMIN,
    ("GET", "/logs/gpu"): ADMIN,
    ("GET", "/ohif/"): USER,
    ("GET", "/session/{session_id}"): USER,
    ("DELETE", "/session/{session_id}"): USER,
    ("PUT", "/session/"): USER,
    ("GET", "/coldstart/"): OPEN,
    ("GET", "/coldstart/static/plotly.min.js"): OPEN,
    ("GET", "/coldstart/api/state"): USER,
    ("GET", "/coldstart/api/campaign"): USER,
    ("GET", "/coldstart/api/map"): USER,
    ("GET", "/coldstart/api/table.csv"): USER,
    ("GET", "/coldstart/api/image"): USER,
    ("GET", "/coldstart/api/thumbnail"): USER,
    ("GET", "/coldstart/api/preview"): USER,
    ("GET", "/coldstart/api/overlay"): USER,
    ("GET", "/coldstart/api/next"): USER,
    ("POST", "/coldstart/api/settings"): STEERING,
    ("POST", "/coldstart/api/retry"): STEERING,
    ("POST", "/coldstart/api/train"): STEERING,
    ("POST", "/coldstart/api/model"): STEERING,
    ("GET", "/coldstart/health"): OPEN,
    ("GET", "/coldstart/metrics"): USER,
    ("GET", "/nowhere"): ANY_ROLE,
}
CLOSED = {
    ("POST", "/reload"): 403,
    ("POST", "/infer/wsi/{model}"): 404,
    ("POST", "/infer/wsi_v2/{model}"): 404,
    ("GET", "/proxy/dicom/wado/studies"): 404,
    ("POST", "/proxy/dicom/stow/studies"): 404,
}
EXAMPLES = {
    "{model}": "attention_unet",
    "{strategy}": "uniform_random",
    "{method}": "entropy",
    "{session_id}": "627557d8-e579-11f1-b7f6-02fc00000001",
}


@pytest.fixture(scope="module")
def realm() -> Iterator[RealmServer]:
    with RealmServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(realm: RealmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("access")
    environment = {
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        "MONAI_LABEL_DICOMWEB_PASSWORD": ARCHIVE_PASSWORD,
    }
    with guarded_server(realm, folder, **environment) as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def ask(server: Server, headers: dict[str, str], method: str = "GET", path: str = "/info/") -> requests.Response:
    return requests.request(method, f"{server.url}{path}", headers=headers, timeout=60)


def part(value: dict | str) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def bad_tokens(realm: RealmServer) -> dict[str, str]:
    claims = realm.claims()
    signature = realm.token().rpartition(".")[2]
    pem = f"-----BEGIN PUBLIC KEY-----\n{realm.public_key()}\n-----END PUBLIC KEY-----"
    # PyJWT refuses to make such a token, so it is made by hand.
    message = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    mac = base64.urlsafe_b64encode(hmac.digest(pem.encode(), message.encode(), "sha256")).rstrip(b"=")
    huge_number = '{"alg": ' + "9" * 5000 + "}"
    return {
        "garbage": "garbage",
        "three empty parts": "..",
        "no JSON": f"{part('nonsense')}.{part('nonsense')}.{signature}",
        "forged": jwt.encode(claims, new_key(), algorithm="RS256"),
        "changed after it was signed": ".".join(
            [realm.token(roles=[]).split(".")[0], part({**claims, "preferred_username": "eve"}), signature]
        ),
        "alg none": jwt.encode(claims, "", algorithm="none"),
        "alg None, in another case": f"{part({'alg': 'NoNe', 'typ': 'JWT'})}.{part(claims)}.",
        "alg none with a signature": f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}.{signature}",
        "HS256 with the public key as secret": f"{message}.{mac.decode()}",
        "RS512": jwt.encode(claims, realm.key, algorithm="RS512"),
        "expired": realm.token(exp=time.time() - 60),
        "without exp": realm.token(exp=None),
        "exp is a number as text": realm.token(exp=str(int(time.time() + 3600))),
        "exp in milliseconds": realm.token(exp=int(1000 * (time.time() + 3600))),
        "exp is absurdly large": realm.token(exp=10**400),
        "exp is text": realm.token(exp="tomorrow"),
        "exp without end": realm.token(exp=float("inf")),
        "not yet valid": realm.token(nbf=time.time() + 600),
        "made in the future": realm.token(iat=time.time() + 600),
        "another audience": realm.token(aud="another-app", azp="another-app"),
        "another audience of several": realm.token(aud=["account", "another-app"], azp=None),
        "no audience": realm.token(aud=None, azp=None),
        "audience is a number": realm.token(aud=7, azp=None),
        "another realm's iss": realm.token(iss=realm.uri.replace("/lab", "/other")),
        "iss is a number": realm.token(iss=7),
        "user is a number": realm.token(user=7),
        "user is empty": realm.token(user=""),
        "no user": realm.token(preferred_username=None),
        "roles is text": realm.token(roles="monailabel-admin"),
        "roles of numbers": realm.token(roles=[1, 2]),
        "deep header": f"{part('[' * 9000)}.{part(claims)}.{signature}",
        "huge number": f"{part(huge_number)}.{part(claims)}.{signature}",
    }


def test_a_token_that_is_not_valid_is_refused_with_a_sentence(server: Server, realm: RealmServer) -> None:
    headers = {name: bearer(token) for name, token in bad_tokens(realm).items()}
    headers["no token"] = {}
    headers["no word before it"] = {"Authorization": realm.token()}
    headers["another scheme"] = {"Authorization": f"Basic {realm.token()}"}
    headers["empty"] = {"Authorization": "Bearer "}
    let_in = {name: ask(server, header) for name, header in headers.items()}
    assert {name: answer.status_code for name, answer in let_in.items() if answer.status_code != 401} == {}
    for name, answer in let_in.items():
        assert answer.json()["detail"].endswith("."), name
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "Traceback" not in server.log.read_text()


def test_a_valid_token_is_accepted(server: Server, realm: RealmServer) -> None:
    tokens = {
        "as Keycloak makes it": realm.token(),
        "client in aud": realm.token(aud=CLIENT_ID, azp=None),
        "client among several": realm.token(aud=["account", CLIENT_ID], azp="another-app"),
        "public address of the realm": realm.token(iss=PUBLIC_ADDRESS),
        "slash at the end": realm.token(iss=f"{realm.uri}/"),
        "without iss": realm.token(iss=None),
        "nbf now": realm.token(nbf=time.time() - 1),
    }
    for name, token in tokens.items():
        assert ask(server, bearer(token)).status_code == 200, name
    valid = ask(server, bearer(realm.token("bob", roles=[])), path="/auth/token/valid").json()
    assert valid["username"] == "bob" and valid["roles"] == []


def test_each_role_gets_to_the_routes_that_are_meant_for_it(server: Server, realm: RealmServer) -> None:
    paths = requests.get(f"{server.url}/openapi.json", timeout=60).json()["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert documented - NEEDED.keys() - CLOSED.keys() == set(), "a route that this table does not know"

    who: dict[str, tuple[dict[str, str], set[str]]] = {
        "nobody": ({}, {OPEN}),
        "login without a role": (bearer(realm.token(roles=["other"])), {OPEN, ANY_LOGIN}),
    }
    for role in ROLES:
        steering = {STEERING} if role in (REVIEWER, ADMIN) else set()
        who[role] = bearer(realm.token(roles=[role])), {OPEN, ANY_LOGIN, ANY_ROLE, role, *steering}
    wrong = []
    for (method, route), needed in NEEDED.items():
        path = route
        for name, example in EXAMPLES.items():
            path = path.replace(name, example)
        for name, (headers, has) in who.items():
            status = ask(server, headers, method, path).status_code
            expected = "in" if needed in has else 401 if name == "nobody" else 403
            if status >= 500 or (status if status in (401, 403) else "in") != expected:
                wrong.append((method, route, name, status, expected))
    for (method, path), status in CLOSED.items():
        for name, (headers, _) in who.items():
            got = ask(server, headers, method, path).status_code
            if got != status:
                wrong.append((method, path, name, got, status))
    assert wrong == []
    log = server.log.read_text()
    assert "Traceback" not in log
    built = [line for line in log.splitlines() if f"[{server.pid}]" in line and "Initializing App from" in line]
    assert len(built) == 1, "the server built its app a second time"


def test_saving_a_label_by_inference_needs_the_role_of_an_annotator(server: Server, realm: RealmServer) -> None:
    def infer(role: str) -> requests.Response:
        return requests.post(
            f"{server.url}/infer/attention_unet?image=case_00",
            data={"params": '{"save_label": true, "label_tag": "final"}'},
            headers=bearer(realm.token(roles=[USER, role])),
            timeout=60,
        )

    assert infer(USER).status_code == 403
    assert infer(ANNOTATOR).status_code == 404  # the role is enough; there is no trained model


def test_prediction_does_not_take_the_place_of_a_final_label(
    server: Server, realm: RealmServer, tmp_path: Path
) -> None:
    headers = bearer(realm.token(roles=[USER, ANNOTATOR, ADMIN]))
    named = {"id": "case_00", "image": "case_00", "tag": "final"}
    drawn = tmp_path / "label.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(drawn)
    url = f"{server.url}/datastore/label"
    saved = requests.put(
        url, params=named, files={"label": ("label.png", drawn.read_bytes())}, headers=headers, timeout=60
    )
    assert saved.status_code == 200
    for asked, status in (("final", 409), ("original", 404)):  # there is no trained model
        refused = requests.post(
            f"{server.url}/infer/attention_unet?image=case_00",
            data={"params": f'{{"save_label": true, "label_tag": "{asked}"}}'},
            headers=headers,
            timeout=60,
        )
        assert refused.status_code == status
    assert (
        requests.get(url, params={"label": "case_00", **named}, headers=headers, timeout=60).content
        == drawn.read_bytes()
    )
    assert requests.delete(url, params=named, headers=headers, timeout=60).json() == {}


def test_the_authenticated_user_is_who_asks_whatever_the_client_id(server: Server, realm: RealmServer) -> None:
    def click(user: str, client_id: str) -> str:
        answer = requests.post(
            f"{server.url}/activelearning/uniform_random",
            json={"client_id": client_id},
            headers=bearer(realm.token(user)),
            timeout=60,
        )
        return str(answer.json()["id"])

    # Two users behind one client id: neither skips the other's image; each skips their own.
    cid, dan = click("cid", "shared"), click("dan", "shared")
    assert cid != dan
    assert click("cid", "another") not in (cid, dan)
    studies = Path(server.log).parent / "studies"
    with sqlite3.connect(studies / "coldstart" / "coldstart.sqlite") as database:
        rows = list(
            database.execute("select annotator, outcome from servings where annotator in ('cid', 'dan') order by id")
        )
    assert rows == [("cid", "skipped"), ("dan", None), ("cid", None)]

    label = (studies.parent / "truth" / f"{dan}.png").read_bytes()
    saved = requests.put(
        f"{server.url}/datastore/label?image={dan}",
        files={"label": (f"{dan}.png", label)},
        data={"params": '{"client_id": "cid"}'},
        headers=bearer(realm.token("dan")),
        timeout=60,
    )
    assert saved.status_code == 200
    with sqlite3.connect(studies / "coldstart" / "coldstart.sqlite") as database:
        assert list(database.execute("select annotator from labels")) == [("dan",)]


def test_no_secret_is_logged_or_shown(server: Server, realm: RealmServer) -> None:
    wrong_password = "wrong-secret-2846"

    def log_in(password: str) -> requests.Response:
        form = {"username": "ann", "password": password}
        return requests.post(f"{server.url}/auth/token", data=form, timeout=60)

    refused = log_in(wrong_password)
    assert refused.status_code == 401 and refused.json()["detail"].endswith(".")
    malformed = requests.post(f"{server.url}/auth/token", data={"password": wrong_password}, timeout=60)
    assert malformed.status_code == 422 and wrong_password not in malformed.text
    token = log_in(realm.password).json()["access_token"]
    forged = jwt.encode(realm.claims(), new_key(), algorithm="RS256")
    assert ask(server, bearer(forged)).status_code == 401
    assert requests.post(f"{server.url}/activelearning/random", json={}, headers=bearer(token), timeout=60).ok
    assert (
        requests.post(f"{server.url}/activelearning/nonsense", json={}, headers=bearer(token), timeout=60).ok is False
    )

    shown = {
        "output": server.log.read_text(),
        "log file": (APP_FOLDER / "logs" / "app.log").read_text(),
        "GET /logs/": ask(server, bearer(token), path="/logs/?text=true&lines=100000").text,
        "GET /info/": ask(server, bearer(token)).text,
    }
    assert "Active Learning Request" in shown["output"] and "Active Learning Request" in shown["GET /logs/"]
    for name, text in shown.items():
        for secret in (realm.password, wrong_password, ARCHIVE_PASSWORD, token, token.rpartition(".")[2], forged):
            assert secret not in text, name


def test_a_new_key_of_the_realm_is_learnt_and_forged_tokens_do_not_make_the_server_ask_for_it(
    server: Server, realm: RealmServer
) -> None:
    before, old_token = realm.n_asked, realm.token()
    started = time.monotonic()
    forged = bearer(jwt.encode(realm.claims(), new_key(), algorithm="RS256"))
    for _ in range(60):
        assert ask(server, forged).status_code == 401
    assert realm.n_asked - before <= 1 + (time.monotonic() - started) / realm_module.ASK_EVERY_S
    assert ask(server, bearer(old_token)).status_code == 200

    realm.key = new_key()
    deadline = time.monotonic() + 10 * realm_module.ASK_EVERY_S
    while ask(server, bearer(realm.token())).status_code != 200:
        assert time.monotonic() < deadline, "the new key was not learnt"
        time.sleep(0.2)
    assert ask(server, bearer(old_token)).status_code == 401


def test_a_realm_that_does_not_answer_is_503_and_asked_again_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realm_module, "ASK_EVERY_S", 0.0)

    async def story(service: RealmServer) -> None:
        realm = Realm(service.uri, CLIENT_ID, timeout_s=5)
        service.up = False
        for ask_realm in (realm.user_of(service.token()), realm.log_in("ann", service.password)):
            with pytest.raises(AppError, match="cannot be asked") as refused:
                await ask_realm
            assert refused.value.status_code == 503
        service.up = True
        assert (await realm.user_of(service.token())).username == "ann"
        service.up = False
        assert (await realm.user_of(service.token())).username == "ann", "the key is known"
        monkeypatch.setattr(realm_module, "KEY_MAX_AGE_S", 0.0)
        with pytest.raises(AppError, match="cannot be asked"):
            await realm.user_of(service.token())

    with RealmServer() as service:
        asyncio.run(story(service))


def test_a_slow_realm_does_not_hold_up_what_does_not_need_it() -> None:
    async def story(service: RealmServer) -> None:
        realm = Realm(service.uri, CLIENT_ID, timeout_s=20)
        service.delay_s = 1.0
        users = [asyncio.create_task(realm.user_of(service.token())) for _ in range(5)]
        turns = 0
        while not all(user.done() for user in users):
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 10
        assert {user.result().username for user in users} == {"ann"}
        assert service.n_asked == 1

    with RealmServer() as service:
        asyncio.run(story(service))


def test_a_forged_token_holds_up_nobody_while_the_realm_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(service: RealmServer) -> None:
        realm = Realm(service.uri, CLIENT_ID, timeout_s=20)
        assert (await realm.user_of(service.token())).username == "ann"
        monkeypatch.setattr(realm_module, "ASK_EVERY_S", 1.0)
        await asyncio.sleep(1.1)
        service.delay_s = 2.0
        forged = jwt.encode(service.claims(), new_key(), algorithm="RS256")
        waiting = asyncio.create_task(realm.user_of(forged))
        while service.n_asked < 2:
            await asyncio.sleep(0.01)
        assert (await realm.user_of(service.token())).username == "ann"
        assert not waiting.done(), "the valid token waited for the forged one"
        with pytest.raises(AppError, match="not valid"):
            await waiting
        # The answer took longer than ASK_EVERY_S, which counts from its end.
        with pytest.raises(AppError, match="not valid"):
            await realm.user_of(forged)
        assert service.n_asked == 2

    with RealmServer() as service:
        asyncio.run(story(service))
