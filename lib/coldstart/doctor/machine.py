"""Python, memory, disk room, write access, the port, and the programs that are started besides."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from coldstart.doctor.finding import APP_FOLDER, Finding

GIB = 1 << 30
MEMORY_LOW, MEMORY_NONE = 4 * GIB, 1 * GIB
"""A server with a training beside it takes two to four GiB; below the second it cannot start."""
DISK_LOW, DISK_NONE = 2 * GIB, 50 << 20
PYTHON_SINCE, PYTHON_UNTIL = (3, 11, 4), (3, 13)
"""pytorch-ignite, which MONAI pins, cannot be imported with 3.11.0 to 3.11.3, as their module `enum` was then."""
SEGMENTATION_PROGRAM = "itkimage2segimage"

_CGROUP = Path("/sys/fs/cgroup")


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    found = f"Python {version} at {sys.executable}"
    if PYTHON_SINCE <= sys.version_info[:3] < PYTHON_UNTIL:
        yield Finding("python", "ok", f"{found}.")
    else:
        yield Finding(
            "python",
            "problem",
            f"{found}; 3.11 (3.11.4 or newer) or 3.12 is needed.",
            "Install Python 3.11 or 3.12, then run make install.",
        )


def check_memory() -> Iterator[Finding]:
    """Memory that may still be taken, by the machine's word and by the limits of a container."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        meminfo = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
        total, free = meminfo["MemTotal"], meminfo["MemAvailable"]
        limit = (_CGROUP / "memory.max").read_text().strip() if (_CGROUP / "memory.max").is_file() else "max"
        if limit != "max" and int(limit) < total:
            used = int((_CGROUP / "memory.current").read_text())
            total, free = int(limit), min(free, int(limit) - used)
    except (OSError, ValueError, LookupError) as error:
        yield Finding("memory", "warning", f"How much memory is free cannot be read ({error}).", "See that 4 GiB are.")
        return
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB of memory are free."
    if free >= MEMORY_LOW:
        yield Finding("memory", "ok", found)
    else:
        yield Finding(
            "memory",
            "warning" if free >= MEMORY_NONE else "problem",
            f"{found} The server and a training beside it take 2 to 4 GiB.",
            "End other programs, or lower --conf batch_size and --conf score_batch_size.",
        )


def check_disk(folders: dict[str, Path]) -> Iterator[Finding]:
    """Room on the disks of some folders, each disk once."""
    seen = set()
    for name, folder in folders.items():
        place = existing(folder)
        try:
            disk, free = place.stat().st_dev, shutil.disk_usage(place).free
        except OSError as error:
            yield Finding(f"disk of {name}", "warning", f"{place} cannot be asked: {error}.", "Check that it is there.")
            continue
        if disk in seen:
            continue
        seen.add(disk)
        found = f"{free / GIB:.1f} GiB are free on the disk of {place}."
        if free >= DISK_LOW:
            yield Finding(f"disk of {name}", "ok", found)
        else:
            yield Finding(
                f"disk of {name}",
                "warning" if free >= DISK_NONE else "problem",
                f"{found} Labels, models and caches grow there.",
                "Make room, or put it elsewhere: --conf state_dir for the database, TMPDIR for temporary files.",
            )


def check_writable(name: str, folder: Path, remedy: str) -> Iterator[Finding]:
    """Whether a file can be written in a folder, which may have to be made first."""
    place = existing(folder)
    try:
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        with tempfile.TemporaryFile(dir=place, prefix=".coldstart-") as file:
            file.write(b"doctor")
            file.flush()
        if not os.access(place, os.X_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
    except OSError as error:
        yield Finding(f"write to {name}", "problem", f"{folder} cannot be written: {error.strerror or error}.", remedy)
    else:
        made = "" if place == folder else f" (it will be made in {place})"
        yield Finding(f"write to {name}", "ok", f"{folder} can be written{made}.")


def check_app() -> Iterator[Finding]:
    """The folder of the MONAI Label app, in which the server makes folders for its log."""
    if not (APP_FOLDER / "main.py").is_file():
        yield Finding(
            "app",
            "problem",
            f"{APP_FOLDER} holds no app: the package was installed without its repository.",
            "Install from a checkout, which stays where it is: make install.",
        )
        return
    remedy = "Give the user that runs the server write access there: it keeps its log in the app's folder."
    yield from check_writable("app", APP_FOLDER / "logs", remedy)


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next((place for place in (folder, *folder.parents) if place.exists()), folder)


def check_port(port: int) -> Iterator[Finding]:
    """Whether a server could listen on a port, or one of ours does already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except PermissionError:
            yield Finding(
                "port", "problem", f"Port {port} may be opened by root only.", "Choose one from 1024 on with --port."
            )
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                yield Finding("port", "problem", f"Port {port}: {error.strerror}.", "Choose another with --port.")
                return
        else:
            yield Finding("port", "ok", f"Port {port} is free.")
            return
    if _is_monai_label(port):
        yield Finding(
            "port",
            "warning",
            f"A MONAI Label server answers on port {port} already.",
            "Use that one, or start another with --port.",
        )
    else:
        yield Finding(
            "port",
            "problem",
            f"Port {port} is taken by another program.",
            f"Choose another with --port, or end that program (ss -ltnp | grep {port} names it).",
        )


def _is_monai_label(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/openapi.json", timeout=5) as answer:
            return b"activelearning" in answer.read(1 << 20)
    except (OSError, ValueError):
        return False


def check_dcmqi() -> Iterator[Finding]:
    """The programs that MONAI Label converts DICOM SEG with, where the server's PATH would find them."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(SEGMENTATION_PROGRAM, path=path)
    remedy = "pip install --no-deps dcmqi==1.5.7, into the environment of this Python."
    if program is None:
        found = f"{SEGMENTATION_PROGRAM} of dcmqi is not on the PATH; MONAI Label uses it for archives."
        yield Finding("dcmqi", "warning", found, remedy)
        return
    try:
        ended = subprocess.run([program, "--version"], capture_output=True, timeout=30, stdin=subprocess.DEVNULL)
        words = (ended.stdout + ended.stderr).decode(errors="replace").split()
        reason = "" if ended.returncode in (0, 1) and words else f"it ends with code {ended.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        yield Finding("dcmqi", "warning", f"{program} does not run: {reason}.", remedy)
    else:
        yield Finding("dcmqi", "ok", f"{program} is there and runs.")
