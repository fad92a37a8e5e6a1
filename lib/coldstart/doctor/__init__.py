"""Whether the server could run on this machine, and what to do where it could not.

Only the standard library is imported here: what the doctor looks at may be broken, and is looked at in other processes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from coldstart.doctor.cards import check_cards
from coldstart.doctor.finding import Finding, State, short
from coldstart.doctor.machine import check_app, check_dcmqi, check_disk, check_memory, check_port, check_python
from coldstart.doctor.packages import check_imports, check_versions
from coldstart.doctor.studies import (
    Asked,
    check_archive,
    check_encoder,
    check_folder,
    check_state,
    find_state,
    read_settings,
)

__all__ = ["DEFAULT_PORT", "Finding", "State", "examine", "summary"]

DEFAULT_PORT = 8000
AT_ONCE = 3
"""Processes that look at a time; each imports large packages."""


def examine(studies: str | None, conf: Mapping[str, str], port: int) -> Iterator[Finding]:
    """Look at everything that the server needs, one finding after the other.

    Parameters
    ----------
    studies : str or None
        Folder or address that would be served.
    conf : mapping of str to str
        The pairs of `--conf`; those that the campaign was configured with count where these say nothing.
    port : int
        Port that the server would listen on.
    """
    asked = Asked(studies, conf, {})
    folder, known, lost = find_state(asked)
    noted = known[0]["conf"] if known else None
    settings, of_settings = read_settings({**(noted or {}), **conf})
    asked = Asked(studies, conf, settings)
    folders = {"state": folder} if folder is not None else {}
    if asked.folder is not None:
        folders["studies"] = asked.folder
    folders["temporary files"] = Path(tempfile.gettempdir())
    looks: list[Callable[[], Iterator[Finding]]] = [
        check_python,
        check_versions,
        check_imports,
        partial(check_cards, str(settings.get("device", "auto"))),
        check_memory,
        partial(check_disk, folders),
        lambda: iter(of_settings),
        partial(check_folder, asked),
        lambda: check_state(folder, known, asked) if folder is not None else iter(lost),
        check_app,
        partial(check_encoder, asked),
        check_dcmqi,
        partial(check_archive, asked),
        partial(check_port, port),
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for findings in [pool.submit(_ended, look) for look in looks]:
            yield from findings.result()


def _ended(look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(look())
    # Whatever else is wrong with this machine, the other looks are worth having.
    except Exception as error:
        name = getattr(getattr(look, "func", look), "__name__", "look").removeprefix("check_")
        return [Finding(name, "warning", f"It cannot be looked at: {type(error).__name__}: {short(error)}.", None)]


def summary(findings: list[Finding]) -> str:
    """What the findings mean together."""
    problems, warnings = (sum(finding.state == state for finding in findings) for state in ("problem", "warning"))
    if problems:
        return f"The server cannot run, or not do its work: {problems} to correct, {warnings} to know of."
    return f"The server can run; {warnings} to know of." if warnings else "The server can run."
