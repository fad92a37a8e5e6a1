"""How an SQLite file is examined, migrated and connected to, and what SQLite's errors mean."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc

from coldstart.exceptions import StoreBusyError, StoreDamagedError, StoreError
from coldstart.store.schema import Base

BUSY_TIMEOUT_S = 5.0
"""How long a transaction waits for others. A click waits in the server's only event loop, so it must not be long. The
longest of our own transactions takes over 10,000 new images, in two seconds or, on a busy machine, in four; whoever
waits in vain is told so, or tries again by itself."""

ASK_EVERY_S = 0.002
"""How often a transaction that writes asks for its turn. Left to itself SQLite asks ten times a second, and a process
beside others that write without a break is then never lucky."""

NO_ROOM_BYTES = 1 << 20
"""With less room than this on its disk, SQLite's "disk I/O error" and "unable to open" mean that there is none."""

IMMEDIATE = "BEGIN IMMEDIATE"
"""Begins a transaction that is alone among writers from its first line."""

ROLLBACK_JOURNAL = "-journal"
"""What a process leaves beside a database when it is killed while the write-ahead log is switched on."""

_VERSION_TABLE = "alembic_version"
_MIGRATIONS = Path(__file__).parent / "migrations"
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_REFUSED = {
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_NOLFS),
}


class Damage(Exception):  # noqa: N818  what is wrong with a file; the store makes an error of it
    """What is wrong with a database file, as the end of a sentence; it never leaves the store."""


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


SCHEMA_HEAD = str(ScriptDirectory.from_config(_alembic_config()).get_current_head())


def connect_to(path: Path) -> Engine:
    """Engine of a database file, in whatever state that is."""
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy begins the transactions, not the sqlite3 module
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("begin") == IMMEDIATE:
            _begin_immediate(connection)
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _begin_immediate(connection: Connection) -> None:
    until = time.monotonic() + BUSY_TIMEOUT_S
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql(IMMEDIATE)
            except exc.OperationalError as error:
                code = getattr(error.orig, "sqlite_errorcode", 0)
                if code & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(ASK_EVERY_S)
            else:
                return
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {1000 * BUSY_TIMEOUT_S:.0f}")


def examine(path: Path) -> str | None:
    """Read a whole database file and return its schema version; None where it has no tables.

    Nothing is written to it, unless it was left in the middle of a transaction that SQLite has to undo first.

    Raises
    ------
    Damage
        If it is damaged, or the database of another program.
    StoreBusyError
        If it cannot be read for now.
    """
    if not path.stat().st_size:
        raise Damage("it is empty")
    mode = "rw" if path.with_name(path.name + ROLLBACK_JOURNAL).exists() else "ro"
    try:
        address = f"{path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(address, BUSY_TIMEOUT_S, uri=True)) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise Damage(" ".join(verdict.split()))
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and _VERSION_TABLE not in tables:
                raise Damage(f"it holds tables of another program, such as '{min(tables)}'")
            version = connection.execute(f"SELECT version_num FROM {_VERSION_TABLE}").fetchone() if tables else None  # noqa: S608
            if version == (SCHEMA_HEAD,):
                _require_columns(connection)
            return version and str(version[0])
    except sqlite3.Error as error:
        raise meaning(error, path) or Damage(str(error)) from error


def require_whole(path: Path) -> None:
    """Refuse a damaged database to whoever only reads: a `Store` would put a new one in its place.

    Raises
    ------
    StoreDamagedError
        If it is damaged; nothing was changed.
    StoreBusyError
        If it cannot be read for now.
    """
    try:
        examine(path)
    except Damage as damage:
        raise StoreDamagedError(
            f"The database {path} is damaged ({damage}); it was left as it is. Restore a backup, or start the server "
            "or `coldstart embed`: they keep it aside, and fill a new one from the images and the labels."
        ) from damage


def _require_columns(connection: sqlite3.Connection) -> None:
    for name, table in Base.metadata.tables.items():
        present = {column for _, column, *_ in connection.execute(f"PRAGMA table_info({name})")}
        if missing := {column.name for column in table.columns} - present:
            raise Damage(f"its table '{name}' lacks {', '.join(sorted(missing)[:3])}")


def migrate(path: Path, version: str | None) -> None:
    """Bring a database of this schema version, or a new one, to the newest.

    Raises
    ------
    Damage
        If the schema is not what its version says.
    StoreBusyError
        If it cannot be written for now.
    StoreError
        If a newer version of this app wrote it.
    """
    config = _alembic_config()
    if version not in {None, *(script.revision for script in ScriptDirectory.from_config(config).walk_revisions())}:
        raise StoreError(
            f"The database {path} has schema version {version}, which this version of the app does not know "
            f"(it knows up to {SCHEMA_HEAD}). Install the newer version again, or give another --conf state_dir."
        )
    engine = connect_to(path)
    try:
        with engine.connect() as connection:
            if version != SCHEMA_HEAD:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
    except exc.DBAPIError as error:
        raise meaning(error.orig, path) or Damage(str(error.orig)) from error
    finally:
        engine.dispose()


def meaning(error: BaseException | None, path: Path) -> StoreBusyError | Damage | None:
    """What an error of SQLite means for whoever asked; None for what has nothing to do with the file's state."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # without the extended part
    undecodable = isinstance(error, sqlite3.OperationalError) and code == sqlite3.SQLITE_OK  # text that is no UTF-8
    if code in _DAMAGED or undecodable:
        return Damage(str(error))
    if code in _HELD:
        return held(path)
    return refused(error, path) if code in _REFUSED else None


def held(path: Path) -> StoreBusyError:
    """The error of a database that somebody else does not let go."""
    return StoreBusyError(
        f"The database {path} has been locked for more than {BUSY_TIMEOUT_S:g} s. Try again; if it stays locked, "
        "another program, such as a database browser or a backup, has it open: close that."
    )


def refused(reason: object, path: Path) -> StoreBusyError:
    """The error of a database that the disk or its permissions do not let be read or written."""
    try:
        room = shutil.disk_usage(path.parent).free
    except OSError:
        room = NO_ROOM_BYTES
    if room < NO_ROOM_BYTES:
        return StoreBusyError(
            f"The database {path} cannot be written: its disk is full ({room // 1024} KB left). Make room there and "
            "try again."
        )
    return StoreBusyError(
        f"The database {path} cannot be opened or written: {reason}. Check the folder's permissions and free "
        "space, or give another folder with --conf state_dir."
    )
