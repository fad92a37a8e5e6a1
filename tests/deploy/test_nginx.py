"""The proxy's configuration: the real nginx over TLS, in front of the real server on a real archive."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from monailabel.config import settings
from nginx_case import Nginx, require_nginx

from coldstart.adapters.server import Server
from dicom_series import radiograph
from orthanc import Orthanc, require_orthanc

CONF = {
    "preset": "chest_xray",
    "labels": "lung:1,ball:7",
    "encoder": "descriptor",
    "spatial_size": "32,32",
    "prelabel": "0",
}
HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
}
MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_nginx()
    require_orthanc()
    return tmp_path_factory.mktemp("proxy")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as environment, Orthanc(folder / "orthanc") as orthanc:
        environment.setenv("MONAI_LABEL_DICOMWEB_CACHE_PATH", str(folder / "cache"))
        for seed in range(3):
            orthanc.store(radiograph("DX", seed=seed).instances)
        with Server(orthanc.url, {**CONF, "state_dir": str(folder / "state")}, folder / "server.log") as running:
            yield running


@pytest.fixture(scope="module")
def nginx(server: Server, repository: Path, folder: Path) -> Iterator[Nginx]:
    (folder / "nginx").mkdir()
    with Nginx(repository / "deploy" / "nginx" / "coldstart_al.conf", folder / "nginx", server.port) as running:
        yield running


@pytest.fixture(scope="module")
def get(nginx: Nginx) -> Callable[..., requests.Response]:
    session = nginx.session()

    def ask(path: str, method: str = "GET", **options: object) -> requests.Response:
        return session.request(method, f"{nginx.url}{path}", timeout=60, **options)  # type: ignore[arg-type]

    return ask


def wait_for_images(get: Callable[..., requests.Response]) -> None:
    """An archived series is served when two looks, ten seconds apart, saw the same of it."""
    deadline = time.monotonic() + 120
    while get("/info/").json()["coldstart"]["images"] < 3:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_plain_http_is_sent_to_tls(nginx: Nginx) -> None:
    answer = requests.get(f"http://127.0.0.1:{nginx.http_port}/coldstart/?a=1,2", allow_redirects=False, timeout=10)
    assert answer.status_code == 301
    assert answer.headers["Location"] == "https://127.0.0.1/coldstart/?a=1,2"


def test_certificate_that_nobody_vouches_for_is_refused(nginx: Nginx) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(nginx.url, timeout=10)


@pytest.mark.parametrize(
    "path", ["/coldstart/", "/coldstart/static/plotly.min.js", "/ohif/", "/info/", "/coldstart/health"]
)
def test_every_page_comes_through_with_the_headers(get: Callable[..., requests.Response], path: str) -> None:
    answer = get(path)
    assert answer.status_code == 200
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "nginx/" not in answer.headers["Server"]


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "http://127.0.0.1", "https://127.0.0.1", "null"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/datastore/"), ("OPTIONS", "/train/"), ("POST", "/train/"), ("POST", "/proxy/dicom/stow/studies")],
)
def test_website_elsewhere_may_ask_nothing(
    get: Callable[..., requests.Response], method: str, path: str, origin: str
) -> None:
    """A page may send a POST without asking before: it would be done, though its answer is not shown to the page."""
    answer = get(path, method, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert answer.status_code == 403 and "no website but its own" in answer.json()["detail"]
    assert not [name for name in answer.headers if name.lower().startswith("access-control-allow")]
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_pages_of_the_server_itself_may_ask(nginx: Nginx, get: Callable[..., requests.Response]) -> None:
    assert get("/info/", headers={"Origin": nginx.url}).status_code == 200
    answer = get("/datastore/label?image=nobody", "PUT", files={"label": b"-"}, headers={"Origin": nginx.url})
    assert answer.status_code == 404 and "nobody" in answer.json()["detail"]


def test_server_without_the_proxy_lets_no_website_elsewhere_read(server: Server) -> None:
    origin = {"Origin": "https://elsewhere.example"}
    preflight = {**origin, "Access-Control-Request-Method": "PUT"}
    for answer in (
        requests.get(f"{server.url}/datastore/", headers=origin, timeout=30),
        requests.options(f"{server.url}/datastore/", headers=preflight, timeout=30),
    ):
        assert not [name for name in answer.headers if name.lower().startswith("access-control-allow")]


def test_page_without_its_slash_is_sent_to_itself_over_tls(nginx: Nginx, get: Callable[..., requests.Response]) -> None:
    answer = get("/coldstart")
    assert answer.status_code == 200 and answer.url == f"{nginx.url}/coldstart/"


def test_dicomweb_paths_keep_their_commas_and_escapes(server: Server, get: Callable[..., requests.Response]) -> None:
    query = "?limit=101&offset=0&includefield=00081030%2C00080060,00080020&PatientName=*"
    through = get(f"/proxy/dicom/studies{query}")
    direct = requests.get(f"{server.url}/proxy/dicom/studies{query}", timeout=30)
    assert through.status_code == 200 and len(through.json()) == 3
    assert through.json() == direct.json()
    study = through.json()[0]["0020000D"]["Value"][0]
    series = get(f"/proxy/dicom/wado/studies/{study}/series").json()[0]["0020000E"]["Value"][0]
    frames = get(
        f"/proxy/dicom/studies/{study}/series/{series}",
        headers={"Accept": 'multipart/related; type="application/dicom"'},
    )
    assert frames.status_code == 200 and len(frames.content) > 1000


def test_a_click_a_label_and_its_image_come_through(get: Callable[..., requests.Response]) -> None:
    wait_for_images(get)
    clicked = get("/activelearning/coldstart_al", "POST", json={"client_id": "ann"})
    assert clicked.status_code == 200, clicked.text
    image_id = clicked.json()["id"]
    image = get(f"/datastore/image?image={image_id}")
    assert image.status_code == 200 and len(image.content) > 100
    saved = get(f"/datastore/label?image={image_id}", "PUT", files={"label": ("l.nii.gz", image.content)})
    assert saved.status_code == 200 and "values" in saved.json()["coldstart"]["warning"]  # an image is no label


def test_large_uploads_reach_the_server_where_uploads_belong(get: Callable[..., requests.Response]) -> None:
    """40 MiB: the server answers that there is no such image, so it had all of it."""
    content = io.BytesIO(bytes(40 * MIB))
    answer = get("/datastore/label?image=nobody", "PUT", files={"label": ("label.nrrd", content)})
    assert answer.status_code == 404 and "nobody" in answer.json()["detail"]


def test_large_bodies_are_refused_elsewhere(get: Callable[..., requests.Response]) -> None:
    answer = get("/activelearning/coldstart_al", "POST", data=bytes(2 * MIB))
    assert answer.status_code == 413
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_long_requests_are_waited_for_longer_than_the_server_works(repository: Path) -> None:
    text = (repository / "deploy" / "nginx" / "coldstart_al.conf").read_text()
    (waits,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(waits) > settings.MONAI_LABEL_INFER_TIMEOUT


def test_passwords_are_not_tried_for_long(get: Callable[..., requests.Response]) -> None:
    form = {"username": "ann", "password": "guess"}
    answers = [get("/auth/token", "POST", data=form).status_code for _ in range(14)]
    assert answers[0] != 429 and answers[-1] == 429
    assert get("/coldstart/").status_code == 200


def test_a_server_that_is_away_is_said_so_in_a_sentence(repository: Path, tmp_path: Path) -> None:
    require_nginx()
    with Nginx(repository / "deploy" / "nginx" / "coldstart_al.conf", tmp_path, server_port=1) as nginx:
        answer = nginx.session().get(f"{nginx.url}/info/", timeout=30)
        assert answer.status_code == 503
        assert "does not answer" in answer.json()["detail"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
