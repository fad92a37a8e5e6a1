"""The log as lines of JSON: what a line says, when a new file is begun, and what a full disk does."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from coldstart.adapters.logs import FILE_NAME, LogFile, write_log
from coldstart.adapters.users import note_user
from coldstart.exceptions import SettingsError
from coldstart.settings import Settings

SETTINGS = Settings(labels={"disc": 1}, spatial_dims=2, spatial_size=(32, 32))


@pytest.fixture
def written(tmp_path: Path) -> Iterator[tuple[logging.Logger, LogFile]]:
    """A logger of its own, and the file behind it."""
    file, logger = LogFile(tmp_path, 2_000, 2), logging.getLogger("coldstart.of_this_test")
    logger.addHandler(file)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a report that is no UTF-8 cannot be sent between the processes of pytest
    yield logger, file
    logger.removeHandler(file)
    file.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]


def test_every_record_is_one_line_whatever_it_holds(written: tuple[logging.Logger, LogFile], tmp_path: Path) -> None:
    logger, _ = written
    nasty = 'two\nlines\u2028 \x85 "quoted" \x00 漢字'
    logger.info("%s and %d", nasty, 3)
    try:
        raise ValueError("a\nb")
    except ValueError:
        logger.exception("It failed.")
    said, failed = lines(tmp_path)
    assert said["message"] == f"{nasty} and 3"
    assert (said["level"], said["logger"]) == ("INFO", "coldstart.of_this_test")
    assert said["at"].endswith("Z") and len(said["at"]) == len("2026-01-01T00:00:00.000Z")
    assert set(said) == {"at", "level", "logger", "process", "thread", "message"}
    assert failed["message"] == "It failed." and failed["error"].endswith("ValueError: a\nb")


def test_the_user_of_a_request_is_named(written: tuple[logging.Logger, LogFile], tmp_path: Path) -> None:
    def in_a_request() -> None:
        note_user("ann")
        written[0].info("asked")

    copy_context().run(in_a_request)
    written[0].info("by itself")
    asked, by_itself = lines(tmp_path)
    assert asked["user"] == "ann" and "user" not in by_itself


def test_a_line_of_a_task_says_what_the_task_said(tmp_path: Path) -> None:
    file, logger = LogFile(tmp_path, 10_000, 2), logging.getLogger("task_train")
    logger.addHandler(file)
    logger.setLevel(logging.INFO)
    try:
        logger.info("[2026-11-21 14:48:46,657] [25260] [MainThread] [WARNING] (coldstart.x:60) - Dice (mean): 0.5 - so")
        logger.info("ValueError: of a traceback")
    finally:
        logger.removeHandler(file)
        file.close()
    said, raw = lines(tmp_path)
    assert (said["task"], said["level"], said["logger"], said["process"]) == ("train", "WARNING", "coldstart.x", 25260)
    assert said["message"] == "Dice (mean): 0.5 - so" and said["at"].endswith(":46.657Z")
    assert (raw["task"], raw["message"], raw["logger"]) == ("train", "ValueError: of a traceback", "task_train")


def test_files_are_rotated_and_bounded(written: tuple[logging.Logger, LogFile], tmp_path: Path) -> None:
    for number in range(200):
        written[0].info("line %d", number)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [FILE_NAME, f"{FILE_NAME}.1", f"{FILE_NAME}.2"]
    assert all(file.stat().st_size <= 2_000 for file in files)
    assert lines(tmp_path)[-1]["message"] == "line 199"
    kept = [json.loads(line)["message"] for file in reversed(files) for line in file.read_text().splitlines()]
    assert kept == [f"line {number}" for number in range(200 - len(kept), 200)]


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE_NAME).symlink_to("/dev/full")
    file, logger = LogFile(tmp_path, 2_000, 2), logging.getLogger("coldstart.of_a_full_disk")
    logger.addHandler(file)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        logger.info("lost")
        assert file.trouble is not None and str(tmp_path) in file.trouble
        (tmp_path / FILE_NAME).unlink()
        logger.info("kept")
        assert file.trouble is None
    finally:
        logger.removeHandler(file)
        file.close()
    assert [line["message"] for line in lines(tmp_path)] == ["kept"]
    assert "Traceback" not in capfd.readouterr().err


def test_the_log_goes_where_the_settings_say(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "log"
    file = write_log(SETTINGS.model_copy(update={"log_dir": folder, "log_mb": 1.5, "log_files": 3}), tmp_path / "state")
    names = (None, "task_train", "task_scoring", "uvicorn", "uvicorn.access")
    try:
        assert (file.baseFilename, file.maxBytes, file.backupCount) == (str(folder / FILE_NAME), 1_500_000, 2)
        assert all(file in logging.getLogger(name).handlers for name in names)
    finally:
        for name in (*names, "task_batch_infer"):
            logging.getLogger(name).removeHandler(file)
        file.close()
    (tmp_path / "a_file").touch()
    with pytest.raises(SettingsError, match="Correct --conf log_dir"):
        write_log(SETTINGS.model_copy(update={"log_dir": tmp_path / "a_file" / "logs"}), tmp_path)
