from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_case import CONF

from coldstart.adapters.server import Server


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start a real server on a studies folder; all are ended after the module's last test."""
    running: list[Server] = []
    logs = tmp_path_factory.mktemp("logs")

    def start_server(studies: Path, **conf: str) -> Server:
        server = Server(studies, {**CONF, **conf}, logs / f"server{len(running)}.log")
        running.append(server.__enter__())
        return server

    yield start_server
    for server in reversed(running):
        server.stop()
