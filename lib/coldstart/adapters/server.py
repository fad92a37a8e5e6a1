"""Start MONAI Label's server with the app, as its users do, and end it again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import requests

from coldstart.exceptions import ColdStartError

APP_FOLDER = Path(__file__).resolve().parents[3] / "apps" / "coldstart_al"
START_LIMIT_S = 180.0
STOP_LIMIT_S = 20.0


def is_archive(studies: str) -> bool:
    """Tell whether `--studies` is the address of an archive, not a folder."""
    return studies.strip().lower().startswith(("http://", "https://"))


class ServerError(ColdStartError):
    """The server did not start."""


def server_command(
    studies: Path | str, conf: Mapping[str, str], *, host: str, port: int, app: Path = APP_FOLDER
) -> list[str]:
    """Command line of MONAI Label's server with the app."""
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--host", host, "--port", str(port)]
    for key, value in conf.items():
        command += ["--conf", key, value]
    return command


def server_environment() -> dict[str, str]:
    """Environment of the server: this one, with the programs of the Python environment on the PATH.

    MLflow tracking is off, since MLflow is not installed; PYTHONPATH is set, since MONAI Label's tasks die without it;
    idle threads sleep instead of spinning, since server and training share the processor.
    """
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment.setdefault("PYTHONPATH", "")
    environment.setdefault("MONAI_LABEL_TRACKING_ENABLED", "false")
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return environment


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """MONAI Label's server in a process of its own, on a free port of the loopback address; a context manager.

    Parameters
    ----------
    studies : Path or str
        Folder of the images, or address of an archive.
    conf : mapping of str to str
        The pairs of `--conf`.
    log : Path
        Where the server's output goes.
    app : Path
        Folder of the MONAI Label app.
    """

    def __init__(
        self,
        studies: Path | str,
        conf: Mapping[str, str],
        log: Path,
        *,
        app: Path = APP_FOLDER,
    ):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._command = server_command(studies, conf, host="127.0.0.1", port=self.port, app=app)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, env=server_environment(), start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise ServerError("The server was not started. Use it as a context manager.")
        return self._process.pid

    def stop(self) -> int:
        """End the server as Ctrl-C does, and by force after `STOP_LIMIT_S`; return its exit code."""
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        return process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise ServerError(
                    f"The server ended while it started. Its last words, from {self.log}: {self._last_words()}"
                )
            try:
                answer = requests.get(f"{self.url}/info/", timeout=10)
                if answer.ok or answer.status_code == requests.codes.unauthorized:
                    return
            except requests.RequestException:
                time.sleep(0.2)
        raise ServerError(f"The server did not answer within {START_LIMIT_S:.0f} s. See {self.log}.")

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-3:])
