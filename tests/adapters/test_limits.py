"""Cores and memory of a process that keeps within its limits, and of what it begins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coldstart.adapters.server import APP_FOLDER
from coldstart.exceptions import SettingsError
from coldstart.settings import load_settings

CODE = """
import json, os, subprocess, sys, threading
import numpy as np
import torch
from coldstart.adapters.limits import keep_within_limits
from coldstart.exceptions import ColdStartError
from coldstart.images.limits import require_room
from coldstart.settings import Settings

ended = threading.Event()
thread = threading.Thread(target=ended.wait)
thread.start()
values = dict(labels={"disc": 1}, spatial_dims=2, spatial_size=(32, 32))
keep_within_limits(Settings(**values, cores=int(sys.argv[1]), memory_gb=float(sys.argv[2])))

def fits(size):
    try:
        np.ones(size, np.uint8)
    except MemoryError:
        return False
    return True

def readable(size):
    try:
        require_room(size, 1, 4)
    except ColdStartError as error:
        return str(error)

child = subprocess.run(
    [sys.executable, "-c", "import os, resource; print(len(os.sched_getaffinity(0)), resource.getrlimit(2)[0])"],
    capture_output=True, text=True,
)
print(json.dumps({
    "cores": [len(os.sched_getaffinity(one)) for one in (0, thread.native_id)],
    "torch": torch.get_num_threads(),
    "small": fits(1 << 28),
    "large": fits(3 << 30),
    "image": readable((1024, 1024, 160)),
    "child": child.stdout.split(),
}))
ended.set()
"""


def within(cores: int, memory_gb: float) -> dict[str, object]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", CODE, str(cores), str(memory_gb)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_limits_hold_for_every_thread_and_child() -> None:
    found = within(cores=1, memory_gb=2)
    assert found["cores"] == [1, 1] and found["torch"] == 1
    assert found["small"] is True and found["large"] is False
    assert "1.0 GiB on this machine" in str(found["image"])
    assert found["child"] == ["1", str(2 << 30)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a limit that is none shows on several cores only")
def test_no_limit_is_the_default() -> None:
    found = within(cores=0, memory_gb=0)
    assert found["cores"] == [len(os.sched_getaffinity(0))] * 2
    assert found["small"] is True and found["image"] is None and found["child"][1] == "-1"  # type: ignore[index]


def test_a_limit_that_the_server_cannot_live_with_is_refused() -> None:
    with pytest.raises(SettingsError, match="give at least 2, or 0"):
        load_settings({"preset": "chest_xray", "memory_gb": "1.5"}, APP_FOLDER / "configs")


def test_commands_keep_within_the_limits_of_the_campaign(repository: Path, tmp_path: Path) -> None:
    """Given with the first command, noted, and kept by the next."""
    for number in range(1, 4):
        shutil.copy2(repository / "sample-data" / "chest" / f"chest_{number:03d}.nrrd", tmp_path)
    code = (
        "import os, resource\nfrom coldstart.cli import main\ntry:\n    main()\nexcept SystemExit as ended:\n"
        "    print(ended.code, len(os.sched_getaffinity(0)), resource.getrlimit(resource.RLIMIT_DATA)[0])"
    )
    given = [
        "--preset",
        "sample",
        *(word for pair in (("cores", "1"), ("memory_gb", "3")) for word in ("--conf", *pair)),
    ]
    for arguments in (["embed", tmp_path, *given, "--conf", "encoder", "descriptor"], ["status", tmp_path]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
        assert done.stdout.splitlines()[-1] == f"None 1 {3 << 30}", done.stdout + done.stderr
