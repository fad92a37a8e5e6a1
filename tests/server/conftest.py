from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from server_case import CONF, N_HELD_OUT, N_POOL, write_case

from coldstart.adapters.server import Server


@pytest.fixture
def make_studies(tmp_path: Path) -> Callable[[], tuple[Path, Path, Path]]:
    """Write a small study: folder of images with the held-out labels, ground truth, list of held-out ids."""

    def make() -> tuple[Path, Path, Path]:
        studies, truth = tmp_path / "studies", tmp_path / "truth"
        final = studies / "labels" / "final"
        final.mkdir(parents=True)
        truth.mkdir()
        for index in range(N_POOL + N_HELD_OUT):
            write_case(studies, truth, f"case_{index:02d}", index)
        held_out = [f"case_{index:02d}" for index in range(N_POOL, N_POOL + N_HELD_OUT)]
        for image_id in held_out:
            (final / f"{image_id}.png").write_bytes((truth / f"{image_id}.png").read_bytes())
        listing = tmp_path / "heldout.txt"
        listing.write_text("\n".join(held_out))
        return studies, truth, listing

    return make


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a real server on a studies folder; all are ended after the test."""
    running: list[Server] = []

    def start_server(studies: Path, **conf: str) -> Server:
        log = tmp_path / f"server{len(running)}.log"
        server = Server(studies, {**CONF, **conf}, log)
        running.append(server.__enter__())
        return server

    yield start_server
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def slicer_client() -> ModuleType:
    """The client file of the 3D Slicer plugin, as the installed wheel carries it."""
    path = Path(sys.prefix) / "monailabel" / "plugins" / "slicer" / "MONAILabel" / "MONAILabelLib" / "client.py"
    spec = importlib.util.spec_from_file_location("slicer_plugin_client", path)
    assert spec is not None and spec.loader is not None, f"the plugin's client is not at {path}"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
