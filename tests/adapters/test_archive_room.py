"""How fetched series are kept within a bound: what goes first, and what stays whatever the bound is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coldstart.adapters import archive_room
from coldstart.adapters.archive_room import KEPT_FOR_S, SeriesRoom, series_bound
from coldstart.web.picture_cache import MAX_BYTES, pictures_bound

SUFFIX = ".nii.gz"
SIZE = 1_000
GIB = 1 << 30


@pytest.fixture(autouse=True)
def at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_room, "LOOK_EVERY_S", 0.0)


def put(folder: Path, uid: str, used_s_ago: float) -> None:
    """A series of two instances and its image, `SIZE` bytes together."""
    (folder / uid).mkdir()
    for number in range(2):
        (folder / uid / f"{number}.dcm").write_bytes(bytes(SIZE // 4))
    image = folder / f"{uid}{SUFFIX}"
    image.write_bytes(bytes(SIZE // 2))
    used(image, used_s_ago)


def used(image: Path, s_ago: float) -> None:
    os.utime(image, (time.time() - s_ago,) * 2)


def left(folder: Path) -> set[str]:
    images = {path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}")}
    assert images == {path.name for path in folder.iterdir() if path.is_dir()}
    return images


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    for age, uid in enumerate("abcde", start=1):
        put(tmp_path, uid, age * 10_000)
    room = SeriesRoom(tmp_path, SUFFIX, 3 * SIZE)
    room.keep_within(needed=())
    assert left(tmp_path) == {"a", "b", "c"} and room.taken == 3 * SIZE
    used(tmp_path / f"c{SUFFIX}", KEPT_FOR_S + 1)
    put(tmp_path, "f", 0)
    room.keep_within(needed=())
    assert left(tmp_path) == {"a", "c", "f"}


def test_labelled_series_and_those_used_just_now_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "labelled", 10_000)
    put(tmp_path, "new", KEPT_FOR_S / 2)
    put(tmp_path, "old", 5_000)
    room = SeriesRoom(tmp_path, SUFFIX, SIZE)
    for _ in range(3):
        room.keep_within(needed={"labelled"})
    assert left(tmp_path) == {"labelled", "new"}
    assert caplog.text.count("cache_gb") == 1


def test_nothing_that_a_living_task_uses_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_room, "KEPT_FOR_S", 0.0)
    put(tmp_path, "before", 5)
    put(tmp_path, "used", 5)
    code = (
        "import sys; from pathlib import Path; from coldstart.adapters.archive_room import mark_as_reading\n"
        "mark_as_reading(Path(sys.argv[1])); print('marked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout is not None and task.stdout.readline() == "marked\n"
        os.utime(tmp_path / f"used{SUFFIX}")
        time.sleep(0.05)
        SeriesRoom(tmp_path, SUFFIX, 0).keep_within(needed=())
        assert left(tmp_path) == {"used"}
        task.kill()
    SeriesRoom(tmp_path, SUFFIX, 0).keep_within(needed=())
    assert left(tmp_path) == set()
    assert not list(tmp_path.glob(".coldstart-reading-*"))


def test_a_mark_of_another_process_with_the_same_number_counts_for_nothing(tmp_path: Path) -> None:
    put(tmp_path, "old", 2 * KEPT_FOR_S)
    mark = tmp_path / f".coldstart-reading-{os.getpid()}"
    mark.touch()
    used(mark, 10 * 365 * 86_400)
    SeriesRoom(tmp_path, SUFFIX, 0).keep_within(needed=())
    assert left(tmp_path) == set() and not mark.exists()


@pytest.mark.parametrize("cache_gb", [0.5, 2, 50])
def test_pictures_and_series_share_one_bound(cache_gb: float) -> None:
    assert series_bound(cache_gb) + pictures_bound(cache_gb) == int(cache_gb * GIB)
    assert pictures_bound(cache_gb) <= MAX_BYTES
