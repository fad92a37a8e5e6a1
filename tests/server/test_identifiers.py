"""Names in requests stay names: no path outside the studies, no SQL, no archive member that leaves its folder."""

import http.client
import io
import json
import sqlite3
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
import requests
from server_case import CONF, write_case

from coldstart.adapters.server import Server

SECRET = b"canary-5520-must-not-be-read"
LONG = "n" * 300
SQL = ["' OR '1'='1", "case_00'; DROP TABLE images; --", 'case_00" UNION SELECT * FROM labels --']


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The studies, and beside them what no request may touch."""
    folder = tmp_path_factory.mktemp("identifiers")
    for name in ("studies", "truth", "outside"):
        (folder / name).mkdir()
    for index in range(6):
        write_case(folder / "studies", folder / "truth", f"case_{index:02d}", index)
    for path in (folder / "outside" / "canary.png", folder / "canary.png", folder / "studies" / "labels.png.keep"):
        path.write_bytes(SECRET)
    (folder / "outside" / "meta.info").write_text(json.dumps({"image": str(folder / "canary.png")}))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MONAI_LABEL_SESSION_PATH", str(folder / "sessions"))
        temporary = folder / "temporary"
        temporary.mkdir()
        environment.setenv("TMPDIR", str(temporary))
        with Server(folder / "studies", CONF, folder / "server.log") as running:
            before = set(temporary.iterdir())
            yield running
            assert set(temporary.iterdir()) == before, "a request, refused or not, left its files behind"


def outside(folder: Path) -> dict[str, bytes]:
    """Everything that is neither the studies, nor the server's own."""
    own = ("studies", "sessions", "temporary", "server.log")
    files = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in own and path.is_file()]
    return {str(path): path.read_bytes() for path in files}


def hostile_names(folder: Path) -> list[str]:
    canary = folder / "canary.png"
    return [
        str(canary),
        str(canary.with_suffix("")),
        "../canary",
        "../canary.png",
        "../outside/canary.png",
        "labels/../../canary.png",
        "....//canary.png",
        "..\\canary.png",
        f"file://{canary}",
        "..",
        ".",
        "/",
        "/etc/passwd",
        "case_00\0.png",
        "case_00\n[CRITICAL] a line of my own",
        LONG,
        *SQL,
    ]


def ask(server: Server, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, bytes]:
    """Ask for exactly this path: other clients put it in order first."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path, body, {"Content-Type": kind} if kind else {})
    answer = connection.getresponse()
    status, content = answer.status, answer.read()
    connection.close()
    return status, content


def form(fields: dict[str, str], file_field: str, file_name: str) -> tuple[bytes, str]:
    """A form with one file, whose name is sent as it is."""
    parts = [
        f'--boundary\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--boundary\r\nContent-Disposition: form-data; name="{file_field}"; filename="{file_name}"\r\n\r\n'
    parts += [head.encode(), b"not an image", b"\r\n--boundary--\r\n"]
    return b"".join(parts), "multipart/form-data; boundary=boundary"


QUERIES = [
    ("GET", "/datastore/image", ("image",), {}),
    ("HEAD", "/datastore/image", ("image",), {}),
    ("GET", "/datastore/image/info", ("image",), {}),
    ("DELETE", "/datastore/image", ("id",), {}),
    ("DELETE", "/datastore/", ("id",), {}),
    ("GET", "/datastore/label", ("label", "tag"), {"label": "case_00", "tag": "final"}),
    ("HEAD", "/datastore/label", ("image", "tag"), {"image": "case_00", "tag": "final"}),
    ("GET", "/datastore/label/info", ("label", "tag"), {"label": "case_00", "tag": "final"}),
    ("DELETE", "/datastore/label", ("id", "tag"), {"id": "case_00", "tag": "final"}),
    ("POST", "/infer/attention_unet", ("image", "session_id"), {"image": "case_00"}),
]
IN_THE_PATH = [
    ("GET", "/session/{}"),
    ("DELETE", "/session/{}"),
    ("GET", "/model/{}"),
    ("GET", "/model/info/{}"),
    ("DELETE", "/model/{}"),
    ("POST", "/infer/{}?image=case_00"),
    ("POST", "/train/{}"),
    ("POST", "/scoring/{}"),
    ("POST", "/batch/infer/{}"),
    ("POST", "/activelearning/{}"),
    ("GET", "/ohif/{}"),
    ("GET", "/static/{}"),
    ("GET", "/proxy/dicom/{}"),
]
UPLOADS = [
    ("PUT", "/datastore/label", "label", "params", ("image", "tag"), {"image": "case_00", "tag": "final"}),
    ("PUT", "/datastore/image", "file", "params", ("image",), {}),
    ("PUT", "/datastore/", "file", "params", ("image",), {}),
    ("PUT", "/datastore/image/info", "other", "info", ("image",), {}),
    ("PUT", "/datastore/label/info", "other", "info", ("label", "tag"), {"label": "case_00", "tag": "final"}),
    ("PUT", "/datastore/updatelabelinfo", "other", "params", ("label", "tag"), {"label": "case_00", "tag": "final"}),
    ("POST", "/infer/attention_unet", "label", "params", ("image",), {}),
    ("PUT", "/model/{}", "file", "params", (), {}),
]


def test_no_name_in_a_request_reaches_a_file_outside_or_the_database(server: Server, folder: Path) -> None:
    before, images = outside(folder), sorted(path.name for path in (folder / "studies").glob("*.png"))
    wrong: list[tuple[object, ...]] = []

    def judge(what: tuple[object, ...], answer: tuple[int, bytes]) -> None:
        status, content = answer
        if status >= 500 or SECRET in content or b"root:" in content or b"Traceback" in content:
            wrong.append((*what, status, content[:200]))

    for name in hostile_names(folder):
        for method, path, parameters, others in QUERIES:
            for parameter in parameters:
                query = urlencode({**others, parameter: name})
                judge((method, path, parameter, name), ask(server, method, f"{path}?{query}"))
        for method, path in IN_THE_PATH:
            for written in (quote(name, safe=""), quote(name.encode(), safe="/.")):
                judge((method, path, name), ask(server, method, path.format(written)))
        for method, path, file_field, json_field, parameters, others in UPLOADS:
            for parameter in parameters:
                body, kind = form({json_field: "{}"}, file_field, "x.png")
                query = urlencode({**others, parameter: name})
                judge((method, path, parameter, name), ask(server, method, f"{path}?{query}", body, kind))
        body, kind = form({}, "file", "model.pt")
        judge(("PUT", "/model/", name), ask(server, "PUT", f"/model/{quote(name, safe='')}", body, kind))
        for key in ("image", "model", "label_tag", "session"):
            body, kind = form({"params": json.dumps({key: name, "save_label": True})}, "other", "x.png")
            judge(("infer params", key, name), ask(server, "POST", "/infer/attention_unet?image=case_00", body, kind))
        for path, key in (
            ("/activelearning/random", "strategy"),
            ("/activelearning/random", "client_id"),
            ("/train/attention_unet", "model"),
            ("/scoring/entropy", "method"),
            ("/batch/infer/attention_unet", "images"),
        ):
            judge((path, key, name), ask(server, "POST", path, json.dumps({key: name}).encode(), "application/json"))
    assert wrong == []
    assert outside(folder) == before
    left = sorted(path.name for path in (folder / "studies").glob("*.png"))
    assert [name for name in images if name not in left] == []
    with sqlite3.connect(folder / "studies" / "coldstart" / "coldstart.sqlite") as database:
        rows = {image_id for (image_id,) in database.execute("select image_id from images where present")}
    assert {Path(name).stem for name in images} <= rows
    log = server.log.read_text()
    assert "Traceback" not in log
    assert not [line for line in log.splitlines() if line.startswith("[CRITICAL]")], "a request wrote a line of the log"


def test_a_path_in_place_of_an_id_is_404_with_a_sentence(server: Server, folder: Path) -> None:
    for image in (str(folder / "canary.png"), "../canary.png", "/etc/passwd"):
        answer = requests.post(f"{server.url}/infer/attention_unet", params={"image": image}, timeout=60)
        assert answer.status_code == 404 and image in answer.json()["detail"]
        in_params = {"params": json.dumps({"image": image})}
        answer = requests.post(f"{server.url}/infer/attention_unet?image=case_00", data=in_params, timeout=60)
        assert answer.status_code == 400 and "`image`" in answer.json()["detail"]
        answer = requests.post(f"{server.url}/infer/attention_unet", data=in_params, timeout=60)
        assert answer.status_code == 400


def test_the_name_of_an_upload_becomes_no_path(server: Server, folder: Path) -> None:
    before = outside(folder)
    names = [
        "../../canary.png",
        str(folder / "canary.png"),
        "..",
        "",
        "a\x01b.png",
        f"{LONG}.png",
        f"x.{LONG}",
        "a.b/c",
    ]
    for name in names:
        for path, field in (
            ("/datastore/label?image=case_01&tag=draft", "label"),
            ("/datastore/image?image=new", "file"),
            ("/datastore/image", "file"),
            ("/infer/attention_unet", "file"),
            ("/session/", "files"),
        ):
            body, kind = form({"params": "{}"}, field, name)
            method = "POST" if path.startswith("/infer") else "PUT"
            status, content = ask(server, method, path, body, kind)
            assert status < 500, (path, name, status, content)
            if status >= 400:
                assert json.loads(content)["detail"], (path, name)
    assert outside(folder) == before
    assert "Traceback" not in server.log.read_text()


def test_a_session_reads_only_its_own_files(server: Server, folder: Path) -> None:
    before = outside(folder)
    # What MONAI Label keeps of a session says where its image is: a file of that name in an archive must not.
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("meta.info", json.dumps({"image": str(folder / "canary.png")}))
    made = requests.put(
        f"{server.url}/session/?uncompress=true", files={"files": ("a.zip", archive.getvalue())}, timeout=60
    ).json()
    inner = Path(made["session_info"]["image"]).name
    for session_id in (f"{made['session_id']}/{inner}", "../outside", str(folder / "outside"), ".."):
        answer = requests.post(f"{server.url}/infer/attention_unet", params={"session_id": session_id}, timeout=60)
        assert answer.status_code == 404 and "no session" in answer.json()["detail"]
    several = requests.get(f"{server.url}/session/{made['session_id']}?image=true", timeout=60)
    assert several.status_code == 400 and "several files" in several.json()["detail"]
    assert outside(folder) == before


@pytest.mark.parametrize("member", ["../../../escaped", "{folder}/escaped", "link/escaped"])
def test_an_archive_unpacks_nothing_outside_its_folder(server: Server, folder: Path, member: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        if member.startswith("link"):
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, str(folder)
            packed.addfile(link)
        info = tarfile.TarInfo(member.format(folder=folder))
        info.size = len(SECRET)
        packed.addfile(info, io.BytesIO(SECRET))
    before = outside(folder)
    answer = requests.put(
        f"{server.url}/session/?uncompress=true", files={"files": ("a.tar.gz", archive.getvalue())}, timeout=60
    )
    assert answer.status_code < 500
    assert not (folder / "escaped").exists() and outside(folder) == before
    refused = requests.put(
        f"{server.url}/session/?uncompress=true", files={"files": ("a.zip", b"no archive")}, timeout=60
    )
    assert refused.status_code == 400 and "cannot be unpacked" in refused.json()["detail"]
    assert "/tmp" not in refused.text


def test_an_archive_that_unpacks_to_too_much_is_413_and_leaves_nothing(server: Server, folder: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for index in range(17):
            packed.writestr(f"{index}", bytes(2**26))
    before = sorted((folder / "sessions").glob("*"))
    for value in ("true", "YES", "1"):
        refused = requests.put(
            f"{server.url}/session/?uncompress={value}", files={"files": ("a.zip", archive.getvalue())}, timeout=60
        )
        assert refused.status_code == 413 and "at most 1024 MiB" in refused.json()["detail"]
    assert sorted((folder / "sessions").glob("*")) == before


def test_a_request_names_no_folder_of_code_for_a_child_process(server: Server, folder: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code" / "mlflow.py").write_text(f"open({str(folder / 'code' / 'ran')!r}, 'w')")
    named = {"bundle_path": str(folder / "code")}
    bodies = [("/train/", {"attention_unet": named}), ("/scoring/", {"embedding": named})]
    tasks = ("/scoring/embedding", "/scoring/", "/train/attention_unet", "/train/", "/batch/infer/attention_unet")
    for path, body in [*bodies, *((path, named) for path in tasks)]:
        answer = requests.post(f"{server.url}{path}", json=body, timeout=60)
        assert answer.status_code == 400 and "`bundle_path`" in answer.json()["detail"], (path, body, answer.text)
    assert not (folder / "code" / "ran").exists()


def test_a_bad_tag_is_400_in_every_task_that_saves_labels(server: Server) -> None:
    for tag in ("../../zz", "\ufb01nal", "", 7):
        batch = requests.post(f"{server.url}/batch/infer/attention_unet", json={"label_tag": tag}, timeout=60)
        params = {"params": json.dumps({"label_tag": tag, "save_label": True})}
        one = requests.post(f"{server.url}/infer/attention_unet?image=case_00", data=params, timeout=60)
        for answer in (batch, one):
            assert answer.status_code == 400 and "A label's tag must be" in answer.json()["detail"], (tag, answer.text)


def test_inference_on_a_session_of_several_files_is_400_without_a_path(server: Server, folder: Path) -> None:
    image = (folder / "studies" / "case_00.png").read_bytes()
    files = [("files", (name, image)) for name in ("a.png", "b.png")]
    made = requests.put(f"{server.url}/session/", files=files, timeout=60).json()
    url = f"{server.url}/infer/attention_unet"
    answer = requests.post(url, params={"session_id": made["session_id"]}, timeout=60)
    assert answer.status_code == 400 and "several files" in answer.json()["detail"]
    assert made["session_info"]["image"] not in answer.text
    made = requests.put(f"{server.url}/session/", files=files[:1], timeout=60).json()
    answer = requests.post(url, params={"session_id": made["session_id"]}, timeout=60)
    assert answer.status_code == 404 and "no trained model" in answer.json()["detail"]


def test_the_info_of_an_image_that_nobody_knows_is_404(server: Server) -> None:
    answer = requests.get(f"{server.url}/datastore/image/info?image=unknown", timeout=60)
    assert answer.status_code == 404 and "no image 'unknown'" in answer.json()["detail"]
    assert requests.get(f"{server.url}/datastore/image/info?image=case_00", timeout=60).ok


@pytest.mark.parametrize("alpha", [True, False])
def test_true_and_false_are_no_alpha(server: Server, alpha: bool) -> None:
    answer = requests.post(f"{server.url}/activelearning/coldstart_al", json={"alpha": alpha}, timeout=60)
    assert answer.status_code == 400 and "`alpha`" in answer.json()["detail"]
