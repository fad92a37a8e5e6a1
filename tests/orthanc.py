"""Orthanc with its DICOMweb plugin, on a free loopback port with a storage of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from coldstart.adapters.server import free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_LIMIT_S = 30.0


def is_installed() -> bool:
    return shutil.which("Orthanc") is not None and PLUGIN.exists()


class Orthanc:
    """The archive as a context manager; `url` is its DICOMweb root."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._port = free_port()
        self.root = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.root}/dicom-web"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Orthanc:
        self._folder.mkdir(parents=True, exist_ok=True)
        storage = str(self._folder / "storage")
        configuration = {
            "Name": "tests",
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "HttpPort": self._port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
        }
        file = self._folder / "orthanc.json"
        file.write_text(json.dumps(configuration, indent=2))
        with (self._folder / "orthanc.log").open("wb") as log:
            self._process = subprocess.Popen(["Orthanc", str(file)], stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.url}/studies", timeout=5).ok:
                    return self
            except requests.RequestException:
                time.sleep(0.1)
        self.__exit__()
        raise RuntimeError(f"Orthanc did not answer within {START_LIMIT_S:g} s; see {self._folder / 'orthanc.log'}")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    @property
    def client(self) -> DICOMwebClient:
        return DICOMwebClient(self.url)

    def store(self, instances: Iterable[Dataset]) -> None:
        """Send instances by STOW-RS."""
        self.client.store_instances(list(instances))
