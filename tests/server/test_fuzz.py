"""Whatever a request says, the answer is an answer or a sentence, never a stack trace; on a real server.

The examples are the same in each run. `HYPOTHESIS_PROFILE=deep pytest tests/server/test_fuzz.py` tries many more, and
others each time.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_case import CONF, write_cases

from coldstart.adapters.server import Server

_FREE = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("quick", max_examples=100, derandomize=True, **_FREE)
settings.register_profile("deep", max_examples=1000, **_FREE)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

STRATEGIES = ("coldstart_al", "cold_start", "entropy_diversity", "random", "uniform_random", "k_means")

numbers = st.one_of(
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e308, -0.0, 2**63, 10**4000]),
)
texts = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["", "\0", "\ud800", "0.3", "nan", "x" * 5000, "../x", "{}", "null", "éß漢", "' OR 1=1", "\n", "all"]
    ),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
deep = st.integers(min_value=15, max_value=3000).map(lambda n: Raw("[" * n + "]" * n))
values = st.one_of(
    scalars,
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)),
    deep,
)


class Raw(str):
    """JSON as text, which `json.dumps` could not make."""


def as_json(value: Any) -> bytes:
    """The value as a client would write it that knows no limits: with NaN, lone surrogates and any depth."""
    if isinstance(value, Raw):
        return value.encode()
    if isinstance(value, dict):
        pairs = [json.dumps(str(key)).encode() + b":" + as_json(item) for key, item in value.items()]
        return b"{" + b",".join(pairs) + b"}"
    return json.dumps(value, default=str).encode()


def objects(*known: str) -> st.SearchStrategy[Any]:
    """Objects with the known keys, each with any value; now and then other keys, or no object at all."""
    own = st.fixed_dictionaries({}, optional={key: values for key in known})
    other = st.dictionaries(texts, values, max_size=3)
    return st.one_of(own, own, st.builds(lambda first, second: {**first, **second}, other, own), values)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MONAI_LABEL_SESSION_PATH", str(folder / "sessions"))
        temporary = folder / "temporary"
        temporary.mkdir()
        environment.setenv("TMPDIR", str(temporary))
        with Server(write_cases(folder), CONF, folder / "server.log") as running:
            before = set(temporary.iterdir())
            yield running
            assert set(temporary.iterdir()) == before, "a request, refused or not, left its files behind"
            # Whatever came, the server is as it was: it answers a click, and nothing unforeseen was logged.
            click = requests.post(f"{running.url}/activelearning/coldstart_al", json={"client_id": "last"}, timeout=60)
            assert click.status_code == 200 and click.json()["id"].startswith("case_")
            log = running.log.read_text(errors="replace")
            for word in ("Traceback", "Exception in ASGI", "Logging error"):
                assert word not in log, log[log.index(word) - 2000 :][:6000]


def judge(answer: requests.Response) -> None:
    assert answer.status_code < 500, (answer.request.url, answer.request.body, answer.text)
    assert "Traceback" not in answer.text or "/logs/" in str(answer.request.url)  # of other servers of this app
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        detail = answer.json()["detail"]
        assert detail and isinstance(detail, str | list), answer.text


def post(server: Server, path: str, body: bytes, kind: str = "application/json") -> requests.Response:
    answer = requests.post(f"{server.url}{path}", data=body, headers={"Content-Type": kind}, timeout=60)
    judge(answer)
    return answer


@given(name=st.sampled_from(STRATEGIES), body=objects("alpha", "client_id", "strategy"))
@PROFILE
def test_a_click_with_any_body(server: Server, name: str, body: Any) -> None:
    post(server, f"/activelearning/{name}", as_json(body))


@given(key=st.sampled_from(["alpha", "client_id", "strategy"]), value=values)
@PROFILE
def test_a_click_with_one_value_of_any_kind(server: Server, key: str, value: Any) -> None:
    answer = post(server, "/activelearning/entropy_diversity", as_json({key: value}))
    if answer.status_code == 200:
        again = requests.get(f"{server.url}/datastore/image/info?image={answer.json()['id']}", timeout=60)
        assert again.status_code == 200, "the answer was noted, and cannot be read any more"


@given(
    name=texts, body=st.binary(max_size=60), kind=st.sampled_from(["application/json", "text/plain", "", "a/b+json"])
)
@PROFILE
def test_a_click_on_any_strategy_with_bytes(server: Server, name: str, body: bytes, kind: str) -> None:
    post(server, f"/activelearning/{quote(name.encode(errors='replace'), safe='')}", body, kind)


@given(
    image=st.sampled_from(["case_00", "case_01", "nobody"]) | texts,
    tag=st.sampled_from(["final", "original"]) | texts,
    params=objects("client_id", "label_info", "user"),
    name=st.sampled_from(["a.png", "a.nii.gz", "a"]) | texts,
    good=st.booleans(),
)
@PROFILE
def test_saving_a_label(server: Server, image: str, tag: str, params: Any, name: str, good: bool) -> None:
    truth = Path(server.log).parent / "truth" / "case_00.png"
    saved = requests.put(
        f"{server.url}/datastore/label",
        params={"image": image.encode(errors="replace"), "tag": tag.encode(errors="replace")},
        data={"params": as_json(params)},
        files={"label": (name.encode(errors="replace").decode(), truth.read_bytes() if good else b"no image")},
        timeout=60,
    )
    judge(saved)
    judge(requests.get(f"{server.url}/info/", timeout=60))


@given(
    image=st.sampled_from(["case_00", "nobody", ""]) | texts,
    params=objects("image", "model", "session", "save_label", "label_tag", "result_extension", "device", "client_id"),
    output=st.sampled_from([None, "image", "json", "all", "dicom_seg", "x"]),
    file=st.sampled_from([None, "a.png", "b.bin"]) | texts,
)
@PROFILE
def test_an_inference(server: Server, image: str, params: Any, output: str | None, file: str | None) -> None:
    files = None if file is None else {"file": (file.encode(errors="replace").decode(), b"no image")}
    asked = {"image": image.encode(errors="replace"), "output": output}
    answer = requests.post(
        f"{server.url}/infer/attention_unet", params=asked, data={"params": as_json(params)}, files=files, timeout=60
    )
    judge(answer)


TASKS = ("/train/attention_unet", "/train/", "/scoring/entropy", "/scoring/", "/batch/infer/attention_unet")
SETTINGS = ("max_epochs", "train_batch_size", "epochs", "batch_size", "learning_rate", "dropout", "random_state", "amp")
OF_A_PROCESS = ("device", "gpus", "multi_gpu", "model", "method", "images", "max_workers", "attention_unet", "entropy")


@given(path=st.sampled_from(TASKS), body=objects(*SETTINGS, *OF_A_PROCESS))
@PROFILE
def test_a_task_is_refused_whatever_the_request_says(server: Server, path: str, body: Any) -> None:
    # There are neither labels to learn from nor a model to use: every one of these is refused, and spawns nothing.
    labels = [("DELETE", "final"), ("DELETE", "original")]
    for method, tag in labels:
        for image in ("case_00", "case_01"):
            requests.request(method, f"{server.url}/datastore/label?id={image}&tag={tag}", timeout=60)
    answer = post(server, path, as_json(body))
    assert 400 <= answer.status_code < 500, answer.text


READ = (
    "/datastore/?output=",
    "/datastore/image?image=",
    "/datastore/image/info?image=",
    "/datastore/label?tag=final&label=",
    "/datastore/label/info?tag=final&label=",
    "/datastore/dataset?limit_cases=",
    "/logs/?lines=",
    "/logs/?refresh=",
    "/model/",
    "/model/info/",
    "/session/",
    "/ohif/",
    "/static/",
    "/train/?all=",
    "/scoring/?check_if_running=",
    "/batch/infer?all=",
    "/info/?",
    "/",
)


@given(path=st.sampled_from(READ), value=texts | st.integers().map(str))
@PROFILE
def test_reading(server: Server, path: str, value: str) -> None:
    written = quote(value.encode(errors="replace"), safe="")
    judge(requests.get(f"{server.url}{path}{written}", timeout=60))


@given(
    image=st.sampled_from(["case_05", "nobody"]), info=objects("strategy", "client_id", "coldstart", "id", "path", "ts")
)
@PROFILE
def test_the_info_of_an_image(server: Server, image: str, info: Any) -> None:
    path = f"{server.url}/datastore/image/info?image={image}"
    judge(requests.put(path, data={"info": as_json(info)}, timeout=60))
    if image == "case_05":
        assert requests.get(path, timeout=60).status_code == 200
    post(server, "/activelearning/uniform_random", b"{}")


@given(sum_=texts | st.sampled_from(["SHA256:00", "MD4:00", "MD5:", ":", "SHA512:" + "0" * 128]))
@PROFILE
def test_a_checksum(server: Server, sum_: str) -> None:
    asked = {"image": "case_00", "check_sum": sum_.encode(errors="replace")}
    judge(requests.head(f"{server.url}/datastore/image", params=asked, timeout=60))


def test_a_body_without_end_is_not_read(server: Server) -> None:
    answer = requests.post(
        f"{server.url}/activelearning/random",
        data=b'{"client_id": "' + b"x" * 200_000 + b'"}',
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == 413 and "at most" in answer.json()["detail"]


@pytest.mark.parametrize("path", TASKS)
def test_no_task_runs_in_the_server_itself(server: Server, path: str) -> None:
    answer = requests.post(f"{server.url}{path}?run_sync=true", json={}, timeout=60)
    assert answer.status_code == 400 and "`run_sync`" in answer.json()["detail"]
