"""The real nginx with `deploy/nginx/coldstart_al.conf`, on free ports, with a certificate made for the occasion."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from requests.adapters import HTTPAdapter

from coldstart.adapters.server import free_port

PROGRAM = shutil.which("nginx") or "/usr/sbin/nginx"
START_LIMIT_S = 20.0


def require_nginx() -> None:
    if not Path(PROGRAM).exists():
        pytest.skip("nginx is not installed: make viewers installs the Debian package nginx")


def write_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, and its key, under the names of the configuration."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
    )
    certificate = builder.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "fullchain.pem").write_bytes(certificate.public_bytes(pem))
    return folder / "fullchain.pem"


class _From(HTTPAdapter):
    """Connects from an address."""

    def __init__(self, address: str):
        self._address = address
        super().__init__()

    def init_poolmanager(self, *given: Any, **options: Any) -> None:
        """Have every connection bound to the address."""
        super().init_poolmanager(*given, **options, source_address=(self._address, 0))


class Nginx:
    """nginx in front of a server; only ports and paths are others than in the configuration that is installed."""

    def __init__(self, configuration: Path, folder: Path, server_port: int):
        self._folder = folder
        self.http_port, self.https_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.https_port}"
        text = configuration.read_text()
        for old, new in {
            "listen 80;": f"listen 127.0.0.1:{self.http_port};",
            "    listen [::]:80;\n": "",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{self.https_port} ssl http2;",
            "    listen [::]:443 ssl http2;\n": "",
            "server 127.0.0.1:8000;": f"server 127.0.0.1:{server_port};",
            "/etc/coldstart_al/tls/": f"{folder}/",
            "/etc/coldstart_al/metrics-allow": f"{folder}/metrics-allow",
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "coldstart_al.conf").write_text(text)
        temporary = "".join(
            f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n"
            f"events {{}}\nhttp {{\n    access_log off;\n{temporary}    include {folder}/coldstart_al.conf;\n}}\n"
        )
        self.certificate = write_certificate(folder)

    def __enter__(self) -> Nginx:
        command = [PROGRAM, "-p", str(self._folder), "-e", str(self._folder / "error.log")]
        self._process = subprocess.Popen([*command, "-c", str(self._folder / "nginx.conf")])
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                requests.get(f"http://127.0.0.1:{self.http_port}", timeout=5, allow_redirects=False)
                return self
            except requests.ConnectionError:
                time.sleep(0.05)
        self.__exit__()
        raise RuntimeError((self._folder / "error.log").read_text())

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def session(self, source: str = "") -> requests.Session:
        """A client that knows the certificate, and no other; from an address of the loopback network."""
        session = requests.Session()
        if source:
            session.mount("https://", _From(source))
        session.trust_env = False  # a list of authorities that the environment names would win
        session.verify = str(self.certificate)
        return session
