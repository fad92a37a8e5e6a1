"""What the doctor found, and the processes in which it looks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "warning", "problem"]

REPOSITORY = Path(__file__).resolve().parents[3]
APP_FOLDER = REPOSITORY / "apps" / "coldstart_al"
LIMIT_S = 300.0
"""How long one look may take: importing PyTorch alone takes a minute from a slow disk."""

_MAX_WORDS = 300


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes
    ----------
    check : str
        What was looked at.
    state : {"ok", "warning", "problem"}
        With a problem the server cannot run, or not do its work.
    found : str
        A sentence.
    remedy : str or None
        What to do; None where all is well.
    """

    check: str
    state: State
    found: str
    remedy: str | None = None


class ProbeError(Exception):
    """A look that did not end well; `answers` is what it said before."""

    def __init__(self, reason: str, answers: list[Any]):
        super().__init__(reason)
        self.answers = answers


def ask(
    probe: str, *, limit_s: float = LIMIT_S, environment: Mapping[str, str] | None = None, **asked: Any
) -> list[Any]:
    """Have `coldstart.doctor.probes` look at something, in a process of its own.

    What a broken package does to a process (ending it, or never coming back) it does not do to the doctor.

    Raises
    ------
    ProbeError
        If the process did not end well; the sentence says how.
    """
    command = [sys.executable, "-m", "coldstart.doctor.probes", probe, json.dumps(asked)]
    environ = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **(environment or {})}
    try:
        ended = subprocess.run(command, capture_output=True, timeout=limit_s, env=environ, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"it did not end within {limit_s:g} s", _read(error.stdout)) from None
    if ended.returncode < 0:
        raise ProbeError(f"it was ended by signal {-ended.returncode}", _read(ended.stdout))
    if ended.returncode:
        lines = [line for line in ended.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise ProbeError(short(lines[-1]) if lines else f"it ended with code {ended.returncode}", _read(ended.stdout))
    return _read(ended.stdout)


def _read(output: bytes | None) -> list[Any]:
    answers = []
    for line in (output or b"").splitlines():
        try:
            answers.append(json.loads(line))
        except ValueError:
            break  # cut off in the middle
    return answers


def short(text: object) -> str:
    """One line of a message, not too long, without its full stop."""
    words = " ".join(str(text).split())
    return (words if len(words) <= _MAX_WORDS else words[:_MAX_WORDS] + " ...").rstrip(".")
