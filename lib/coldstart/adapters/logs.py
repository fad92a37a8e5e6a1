"""The server's log as lines of JSON, for a machine to read, beside the one that MONAI Label writes for people.

The server alone writes it, what its tasks say too: it reads their output anyway, and a file that several processes
write cannot be rotated without losing lines.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from coldstart.adapters.users import annotator
from coldstart.exceptions import SettingsError
from coldstart.settings import Settings

FILE_NAME = "coldstart.jsonl"
FOLDER = "logs"
"""In the campaign's state folder."""
MEGABYTE = 10**6

_OF_TASKS = "task_"
"""How MONAI Label's loggers begin that hand on what a task says."""
_OWN_HANDLERS = (f"{_OF_TASKS}train", f"{_OF_TASKS}scoring", f"{_OF_TASKS}batch_infer", "uvicorn", "uvicorn.access")
"""Loggers that MONAI Label lets pass nothing on to the root."""
_LINE = re.compile(
    r"\[(?P<at>[\d-]+ [\d:]+,\d+)\] \[(?P<process>\d+)\] \[(?P<thread>[^]]*)\] \[(?P<level>[A-Z]+)\] "
    r"\((?P<logger>[^()]+):\d+\) - (?P<message>.*)",
    re.DOTALL,
)
"""A line of a task, in MONAI Label's format."""


class JsonFormatter(logging.Formatter):
    """One JSON object in one line: `at` (UTC), `level`, `logger`, `process`, `thread` and `message`.

    Besides, where there is one: `user` is who sent the request, `error` the traceback, and `task` what kind of task
    said it. All characters but ASCII's are escaped, so that nothing in a message makes a second line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Make a line of a record."""
        message = record.getMessage()
        line: dict[str, Any] = {
            "at": _utc(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "thread": record.threadName,
            "message": message,
        }
        if (user := annotator(None)) is not None:
            line["user"] = user
        if record.exc_info:
            line["error"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        if record.name.startswith(_OF_TASKS):
            line |= {"task": record.name.removeprefix(_OF_TASKS), **_said_by_a_task(message)}
        return json.dumps(line)


class LogFile(RotatingFileHandler):
    """Lines of JSON in a file, with the files before it beside it as `.1`, `.2` and so on.

    A disk that takes no more stops nobody's work: the lines are lost here, and `trouble` says why.

    Parameters
    ----------
    folder : Path
        It is made where it is missing.
    max_bytes : int
        Size at which a new file is begun.
    n_kept : int
        How many files are kept besides the newest.
    """

    def __init__(self, folder: Path, max_bytes: int, n_kept: int):
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / FILE_NAME, maxBytes=max_bytes, backupCount=n_kept, encoding="ascii")
        self.trouble: str | None = None
        self._failed = False
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self._failed = False
        super().emit(record)
        if not self._failed:
            self.trouble = None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Note what went wrong, in the place of a traceback for each line."""
        self._failed = True
        stream, self.stream = self.stream, None  # opened again for the next line: a failed rotation leaves it closed
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.close()
        self.trouble = f"The log {self.baseFilename} cannot be written. Make room on its disk, or see who may write."


def write_log(settings: Settings, state_folder: Path) -> LogFile:
    """Begin to write what this process and its tasks log, in the folder that `--conf log_dir` or the campaign gives.

    Raises
    ------
    SettingsError
        If the file cannot be made.
    """
    folder = settings.log_dir.expanduser().resolve() if settings.log_dir is not None else state_folder / FOLDER
    try:
        file = LogFile(folder, int(settings.log_mb * MEGABYTE), settings.log_files - 1)
    except OSError as error:
        raise SettingsError(
            f"The log {folder / FILE_NAME} cannot be written: {error}. Correct --conf log_dir."
        ) from None
    for name in (None, *_OWN_HANDLERS):
        logging.getLogger(name).addHandler(file)
    return file


def _said_by_a_task(line: str) -> dict[str, Any]:
    """What a line says by itself; one that is not in the format, such as of a traceback, is a message."""
    match = _LINE.fullmatch(line)
    if match is None:
        return {}
    said: dict[str, Any] = match.groupdict()
    at = datetime.strptime(said["at"], "%Y-%m-%d %H:%M:%S,%f").astimezone(UTC)
    return {**said, "at": _utc(at), "process": int(said["process"])}


def _utc(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
