"""The proxy's bounds on time and size: the real nginx in front of a server that takes its time."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nginx_case import Nginx, require_nginx

NGINX_WAITS_BY_ITSELF_S = 60.0
LONGER_S = NGINX_WAITS_BY_ITSELF_S + 3
GIB = 1 << 30


class _Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(LONGER_S)
        self._send(b"a segmentation")

    def do_GET(self) -> None:
        self._send(b"well")

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def nginx(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    require_nginx()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        configuration = repository / "deploy" / "nginx" / "coldstart_al.conf"
        with Nginx(configuration, tmp_path_factory.mktemp("nginx"), server.server_address[1]) as running:
            yield running
        server.shutdown()


def test_an_answer_is_waited_for_longer_than_nginx_would_by_itself(nginx: Nginx) -> None:
    """Inference on a large volume; somebody else is served meanwhile."""
    answers = []

    def infer() -> None:
        began = time.monotonic()
        said = nginx.session().post(f"{nginx.url}/infer/segmentation?image=x", data=b"{}", timeout=300)
        answers.append((said.status_code, said.content, time.monotonic() - began))

    waiting = threading.Thread(target=infer)
    waiting.start()
    assert nginx.session().get(f"{nginx.url}/info/", timeout=60).content == b"well"
    waiting.join(300)
    (answer,) = answers
    assert answer[:2] == (200, b"a segmentation") and answer[2] >= LONGER_S


@pytest.mark.parametrize(
    ("path", "size", "said"),
    [
        ("/datastore/label?image=x", 4 * GIB, b"100"),
        ("/datastore/label?image=x", 4 * GIB + 1, b"413"),
        ("/proxy/dicom/stow/studies", 4 * GIB, b"100"),
        ("/infer/segmentation", 4 * GIB, b"100"),
        ("/session/", 4 * GIB, b"100"),  # a volume that 3D Slicer has by itself
        ("/activelearning/coldstart_al", 1 << 20, b"100"),
        ("/activelearning/coldstart_al", (1 << 20) + 1, b"413"),
    ],
)
def test_how_large_an_upload_may_be(nginx: Nginx, path: str, size: int, said: bytes) -> None:
    """By what nginx says of a body before it comes."""
    context = ssl.create_default_context(cafile=str(nginx.certificate))
    with (
        socket.create_connection(("127.0.0.1", nginx.https_port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        lines = [f"PUT {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", "Expect: 100-continue", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(4096).split()[1] == said


@pytest.mark.parametrize("allowed", ["", "allow 127.0.0.7;\n", None])
def test_metrics_are_shown_to_this_machine_and_to_whom_the_file_names(
    repository: Path, tmp_path: Path, allowed: str | None
) -> None:
    """Without the file, with it, and with what the containers have in its place where there is none."""
    require_nginx()
    if allowed is None:
        (tmp_path / "metrics-allow.conf").symlink_to("/dev/null")
    elif allowed:
        (tmp_path / "metrics-allow.conf").write_text(allowed)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server,
        Nginx(repository / "deploy" / "nginx" / "coldstart_al.conf", tmp_path, server.server_address[1]) as nginx,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = {
            source: nginx.session(source).get(f"{nginx.url}/coldstart/metrics", timeout=60).status_code
            for source in ("127.0.0.1", "127.0.0.7", "127.0.0.8")
        }
        server.shutdown()
    assert said == {"127.0.0.1": 200, "127.0.0.7": 200 if allowed else 403, "127.0.0.8": 403}
