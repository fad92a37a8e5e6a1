"""Copy a database while it is in use."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from coldstart.exceptions import StoreError
from coldstart.store.engine import BUSY_TIMEOUT_S, Damage, examine, meaning


def copy_database(source: Path, target: Path) -> str:
    """Copy a database as it is at one moment, into one file; nobody who reads or writes it meanwhile waits.

    Returns
    -------
    version : str
        Of the schema.

    Raises
    ------
    StoreBusyError
        If it cannot be read, or the copy not be written, for now.
    StoreError
        If it is damaged: a copy of it would be no backup.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", BUSY_TIMEOUT_S, uri=True)) as reading,
            closing(sqlite3.connect(target)) as writing,
        ):
            reading.backup(writing)
            writing.execute("PRAGMA journal_mode=DELETE")  # all of it in the one file, without a log beside it
        version = examine(target)
    except sqlite3.Error as error:
        found = meaning(error, source)
        raise _damaged(source, error) if found is None or isinstance(found, Damage) else found from error
    except Damage as damage:
        raise _damaged(source, damage) from damage
    if version is None:
        raise _damaged(source, "it has no tables")
    return version


def _damaged(path: Path, reason: object) -> StoreError:
    return StoreError(
        f"The database {path} is damaged ({reason}), so it was not backed up. Start the server, which puts a new "
        "one in its place, or restore an earlier backup."
    )
