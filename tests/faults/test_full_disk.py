"""A disk that fills up, and has room again: a small tmpfs in a mount namespace, which needs no root."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import full_disk_case
import pytest

LIMIT_S = 150
SIZE = "8m"
UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module", autouse=True)
def namespaces_are_allowed(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("probe")
    if shutil.which("unshare") is None:
        pytest.skip("A small disk to be filled needs the program `unshare` of util-linux.")
    probe = [*UNSHARE, "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        pytest.skip(
            f"A small disk to be filled needs user namespaces, which are not allowed here: {done.stderr.strip()}"
        )


@pytest.mark.parametrize("case", full_disk_case.CASES)
def test_full_disk(case: str, tmp_path: Path) -> None:
    disk, other = tmp_path / "disk", tmp_path / "other"
    disk.mkdir()
    other.mkdir()
    script = 'mount -t tmpfs -o "size=$1" none "$2" && shift && exec "$2" "$3" "$4" "$1" "$5"'
    arguments = [SIZE, str(disk), sys.executable, full_disk_case.__file__, case, str(other)]
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", script, "sh", *arguments], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr[-6000:]
