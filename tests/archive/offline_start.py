"""Start an archive and the server in a network namespace that has nothing but its loopback interface."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path

import requests
from archive_case import RADIOGRAPHS

from coldstart.adapters.server import Server
from dicom_series import radiograph
from orthanc import Orthanc

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack("16sh", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0)))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def internet() -> bool:
    try:
        socket.create_connection(("140.82.121.3", 443), timeout=5).close()
    except OSError:
        return False
    return True


def main(folder: Path) -> None:
    bring_loopback_up()
    os.environ["MONAI_LABEL_DICOMWEB_CACHE_PATH"] = str(folder / "cache")
    conf = {**RADIOGRAPHS, "state_dir": str(folder / "state"), "prelabel": "0"}
    with Orthanc(folder / "orthanc") as orthanc:
        orthanc.store(radiograph("DX", seed=1).instances)
        with Server(orthanc.url, conf, folder / "server.log") as server:
            deadline = time.monotonic() + 60
            while (info := requests.get(f"{server.url}/info/", timeout=30).json())["coldstart"]["planned"] is None:
                if time.monotonic() > deadline:
                    raise RuntimeError((folder / "server.log").read_text()[-2000:])
                time.sleep(0.2)
    planned = info["coldstart"]["planned"]
    sys.stdout.write(json.dumps({"internet": internet(), "total": info["datastore"]["total"], "planned": planned}))


main(Path(sys.argv[1]))
