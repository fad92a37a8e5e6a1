"""Put a new database in the place of a damaged one, which is kept aside.

What a computer can find out again (vectors, map, plan, entropies; images and labels from their files) is not taken over
from a damaged file: no check tells a wrong number in it from a right one. What nobody could find out again is: who was
served what, who saved which label when, and which models there were.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, Table

from coldstart.store.engine import ROLLBACK_JOURNAL, Damage, migrate, refused
from coldstart.store.schema import Base

logger = logging.getLogger(__name__)

_COMPANIONS = ("", "-wal", "-shm", ROLLBACK_JOURNAL)
"""SQLite's write-ahead log, its index and its journal belong to the file: another database must never meet them."""

_TAKEN = ("images", "labels", "servings", "models")
_NOT_TAKEN = {
    "images": {
        **dict.fromkeys(
            ("problem", "encoder", "vector", "map_id", "point", "cluster", "entropy", "scoring_id"), "NULL"
        ),
        "fitted": "0",
    },
    "labels": {"noticed_at": "NULL"},
    "servings": {"scoring_id": "NULL"},
}
"""Columns that refer to what is computed anew, or that earlier versions do not have, and what they hold until then."""


def create(path: Path) -> None:
    """Make a new database at `path`; it is complete before it is there.

    Raises
    ------
    StoreBusyError
        If there is no room for it.
    """
    os.replace(_build(path, None), path)


def replace_damaged(path: Path, damage: Damage) -> None:
    """Keep the damaged database at `path` aside and put a new one there.

    The new one is complete before the damaged one is moved: where there is no room for it, nothing has changed.

    Raises
    ------
    StoreBusyError
        If there is no room for a new database.
    """
    new = _build(path, path)
    aside = set_aside(path)
    os.replace(new, path)
    logger.warning(
        "The database %s was damaged (%s). It is kept aside as %s; a new one takes its place: images and labels are "
        "read in again, everything computed is computed anew.",
        path,
        damage,
        aside,
    )


def _build(path: Path, damaged: Path | None) -> Path:
    """Make a database beside `path`, with what can be salvaged from a damaged one; return its path."""
    new = path.with_name(f"{path.name}.new")
    for suffix in _COMPANIONS:
        new.with_name(f"{new.name}{suffix}").unlink(missing_ok=True)
    migrate(new, None)
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as target:
            if damaged is not None:
                _salvage(damaged, target)
            # From here on all of it is in the one file, which can be moved.
            if target.execute("PRAGMA journal_mode=DELETE").fetchone() != ("delete",):
                raise sqlite3.OperationalError("the log could not be written back into the database")
    except sqlite3.Error as error:
        raise refused(error, path) from error
    return new


def set_aside(path: Path) -> Path:
    """Move a database and its companions away, over nothing else, and return the new name."""
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while any(aside.with_name(f"{aside.name}{suffix}").exists() for suffix in _COMPANIONS):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    for suffix in _COMPANIONS:
        companion = path.with_name(f"{path.name}{suffix}")
        if companion.exists():
            companion.rename(aside.with_name(f"{aside.name}{suffix}"))
    return aside


def leftovers(path: Path) -> bool:
    """Tell whether a database that is gone left its companions behind."""
    return not path.exists() and any(path.with_name(f"{path.name}{suffix}").exists() for suffix in _COMPANIONS)


def _salvage(damaged: Path, target: sqlite3.Connection) -> None:
    """Copy what can be read and nobody could compute again."""
    counts = []
    with closing(sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=ro", uri=True)) as source:
        source.execute("PRAGMA writable_schema=ON")  # SQLite's word for: read a file that was cut off as well
        target.execute("BEGIN IMMEDIATE")
        for name in _TAKEN:
            table = Base.metadata.tables[name]
            columns = [column.name for column in table.columns]
            insert = f"INSERT OR IGNORE INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
            for row in _readable(source, table):
                target.execute(insert, row)
            orphans = f"SELECT rowid FROM pragma_foreign_key_check('{name}')"  # noqa: S608
            target.execute(f"DELETE FROM {name} WHERE rowid IN ({orphans})")  # noqa: S608
            counts.append(f"{target.execute(f'SELECT count(*) FROM {name}').fetchone()[0]} {name}")  # noqa: S608
        target.execute("COMMIT")
    logger.info("Taken over from the damaged database: %s.", ", ".join(counts))


def _readable(source: sqlite3.Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    """Rows of a table up to where it is damaged and, from its other end, down to there."""
    replaced = _NOT_TAKEN.get(table.name, {})
    fields = ", ".join(replaced.get(column.name, column.name) for column in table.columns)
    for direction in ("ASC", "DESC"):
        try:
            for row in source.execute(f"SELECT {fields} FROM {table.name} ORDER BY rowid {direction}"):  # noqa: S608
                if all(_fits(value, column) for value, column in zip(row, table.columns, strict=True)):
                    yield row
        except sqlite3.DatabaseError as error:
            logger.debug("Reading '%s' of the damaged database ended (%s): %s", table.name, direction, error)
        else:
            return


def _fits(value: object, column: Column[Any]) -> bool:
    """Tell whether a value is of its column's kind: a row that was hit may hold anything."""
    if value is None:
        return bool(column.nullable)
    if not isinstance(column.type, JSON):
        return isinstance(value, (float, int) if column.type.python_type is float else column.type.python_type | int)
    try:
        json.loads(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
