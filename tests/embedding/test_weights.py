"""Weight files: damaged ones, ones that would run code, and a hub that does not answer."""

import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from coldstart.embedding import weights
from coldstart.embedding.weights import (
    check_hub_answers,
    fetch_hub_file,
    fetch_hub_folder,
    hash_files,
    load_into,
    load_state_dict,
)
from coldstart.exceptions import EncoderError

OPTION = "`--conf encoder_weights`"


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_state_dict_loses_the_prefix_of_parallel_training(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"epoch": 3, "state_dict": OrderedDict({"module.a": torch.ones(2)})}, path)

    state = load_state_dict(path, OPTION)

    assert list(state) == ["a"] and state["a"].tolist() == [1, 1]


def test_absent_file_is_named() -> None:
    with pytest.raises(EncoderError, match=r"`--conf encoder_weights` must name a weight file; got 'no/such.pth'"):
        load_state_dict(Path("no/such.pth"), OPTION)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02garbage"])
def test_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(EncoderError, match=rf"must name a whole file .*{name}.* \({len(content)} bytes\).*again"):
        load_state_dict(path, OPTION)


def test_half_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(10_000)}, path)
    path.write_bytes(path.read_bytes()[:20_000])

    with pytest.raises(EncoderError, match="must name a whole file"):
        load_state_dict(path, OPTION)


def test_code_in_a_weight_file_is_not_run(tmp_path: Path) -> None:
    path, target = tmp_path / "a.pth", tmp_path / "made-by-the-file"
    torch.save({"a": Malicious(target)}, path)

    with pytest.raises(EncoderError, match="plain weights"):
        load_state_dict(path, OPTION)

    assert not target.exists()


@pytest.mark.parametrize(("content", "what"), [([torch.ones(1)], "type list"), ({}, "nothing"), ({1: 2}, "type dict")])
def test_file_without_tensors_by_name_is_refused(tmp_path: Path, content: object, what: str) -> None:
    path = tmp_path / "a.pth"
    torch.save(content, path)

    with pytest.raises(EncoderError, match=f"tensors by name .*{what}"):
        load_state_dict(path, OPTION)


def test_batch_counters_may_be_absent() -> None:
    norm = torch.nn.BatchNorm2d(2)
    state = {key: value + 1 for key, value in norm.state_dict().items() if key != "num_batches_tracked"}

    load_into(norm, state, Path("a.pth"), "a norm")

    assert norm.running_mean is not None and norm.running_mean.tolist() == [1, 1]


def test_hash_depends_on_every_file(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"1")
    before = hash_files(paths)
    paths[1].write_bytes(b"2")

    assert len(before) == 12 and before == before.lower()
    assert hash_files(paths) != before


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    accepted.append(server.accept()[0])
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in accepted:
            connection.close()


@pytest.mark.usefixtures("empty_cache")
def test_a_hub_that_never_answers_is_given_up_soon(silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "HUB_ANSWER_S", 0.5)
    monkeypatch.setattr(weights, "hf_hub_url", lambda repository, filename: f"{silent_server}/{repository}/{filename}")
    started = time.monotonic()

    with pytest.raises(EncoderError, match=r"`--conf encoder` needs the Hugging Face repository 'a/b'.*Timeout"):
        fetch_hub_file("a/b", "c.pt", "`--conf encoder`")

    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("empty_cache")
def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(EncoderError, match=r"HF_HUB_OFFLINE forbids it\). Download it on another machine and give its"):
        check_hub_answers("a/b", "c.pt", "`--conf encoder`")


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("name", ["not a name", "a/b c"])
def test_impossible_hub_names_are_refused(name: str) -> None:
    with pytest.raises(EncoderError, match=r"must name a Hugging Face model \(owner/name\) or a folder; got "):
        fetch_hub_folder(name, ["*.json"], "config.json", "`--conf encoder`")
