"""Orthanc with its DICOMweb plugin, on a loopback port with a storage of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from coldstart.adapters.server import free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_LIMIT_S = 120.0


def is_installed() -> bool:
    """Whether the archive and its plugin are on this machine."""
    return shutil.which("Orthanc") is not None and PLUGIN.exists()


def require_orthanc() -> None:
    """Skip where they are not."""
    if not is_installed():
        pytest.skip("Orthanc is not installed: make viewers installs the Debian packages orthanc and orthanc-dicomweb")


class Orthanc:
    """The archive as a context manager; `url` is its DICOMweb root. It can be stopped and started again.

    Parameters
    ----------
    folder : Path
        Of its storage, its configuration and its log.
    users : mapping of str to str
        Passwords by user; without any, everybody on this machine is let in.
    """

    def __init__(self, folder: Path, users: Mapping[str, str] | None = None):
        self._folder = folder
        self._users = dict(users or {})
        self._port = free_port()
        self.root = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.root}/dicom-web"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Orthanc:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def auth(self) -> tuple[str, str] | None:
        """User and password of the first user."""
        return next(iter(self._users.items()), None)

    def start(self) -> None:
        """Start it, on what it stored before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / "orthanc.json"
        file.write_text(json.dumps(self._configuration(), indent=2))
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(["Orthanc", str(file)], stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.url}/studies", timeout=5, auth=self.auth).ok:
                    return
            except requests.RequestException:
                time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"Orthanc did not answer within {START_LIMIT_S:g} s; see {self._folder / 'orthanc.log'}")

    def stop(self) -> None:
        """End it; what it stored stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    @property
    def client(self) -> DICOMwebClient:
        """A client of the archive."""
        session = requests.Session()
        session.auth = self.auth
        return DICOMwebClient(self.url, session=session)

    def store(self, instances: Iterable[Dataset]) -> None:
        """Send instances by STOW-RS."""
        self.client.store_instances(list(instances))

    def clear(self) -> None:
        """Remove everything."""
        for patient in requests.get(f"{self.root}/patients", timeout=10, auth=self.auth).json():
            requests.delete(f"{self.root}/patients/{patient}", timeout=30, auth=self.auth).raise_for_status()

    def segmentations(self) -> list[Dataset]:
        """All SEG objects, with their pixels."""
        client = self.client
        found = client.search_for_series(search_filters={"Modality": "SEG"})
        return [
            instance
            for series in found
            for instance in client.retrieve_series(series["0020000D"]["Value"][0], series["0020000E"]["Value"][0])
        ]

    def remove_series(self, uid: str) -> None:
        """Remove a series, by Orthanc's own interface: its DICOMweb plugin cannot."""
        found = requests.post(f"{self.root}/tools/lookup", data=uid, timeout=10, auth=self.auth).json()
        for item in found:
            if item["Type"] == "Series":
                requests.delete(f"{self.root}{item['Path']}", timeout=10, auth=self.auth).raise_for_status()

    def _configuration(self) -> dict[str, Any]:
        storage = str(self._folder / "storage")
        return {
            "Name": "tests",
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "HttpPort": self._port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(self._users),
            "RegisteredUsers": self._users,
            "DicomServerEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
        }
