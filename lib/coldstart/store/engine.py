"""How SQLite is opened and migrated, what is looked over before it is trusted, and what its errors mean."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, inspect

from coldstart.exceptions import StoreBusyError, StoreError
from coldstart.store.schema import Base

BUSY_TIMEOUT_S = 5.0
"""How long a transaction waits for others. A click waits in the server's only event loop, so it must not be long; the
longest of our own transactions, taking over 10,000 new images, takes about a second."""

NO_ROOM_BYTES = 1 << 20
"""With less room than this on its disk, SQLite's "disk I/O error" and "unable to open" mean that there is none."""

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
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return engine


def migrate(path: Path) -> None:
    """Bring a database, or an empty file, to the newest schema.

    Raises
    ------
    Damage
        If it is damaged, or the database of another program.
    StoreBusyError
        If it cannot be read or written for now.
    StoreError
        If a newer version of this app wrote it.
    """
    engine = connect_to(path)
    try:
        with engine.connect() as connection:
            _require_sound(connection)
            current = MigrationContext.configure(connection).get_current_revision()
            _require_known(current, path)
            if current is None and (tables := inspect(connection).get_table_names()):
                raise Damage(f"it holds tables of another program: {', '.join(tables[:3])}")
            if current != SCHEMA_HEAD:
                config = _alembic_config()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
            _require_schema(connection)
    except exc.DBAPIError as error:
        raise meaning(error, path) or Damage(str(error.orig)) from error
    finally:
        engine.dispose()


def require_sound(path: Path) -> None:
    """Look a database over that this version has migrated before; Damage says what is wrong with it."""
    if not path.stat().st_size:
        raise Damage("it is empty")
    engine = connect_to(path)
    try:
        with engine.connect() as connection:
            _require_sound(connection)
            _require_schema(connection)
    except exc.DBAPIError as error:
        raise meaning(error, path) or Damage(str(error.orig)) from error
    finally:
        engine.dispose()


def _require_sound(connection: Connection) -> None:
    verdict = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
    if verdict != "ok":
        raise Damage(" ".join(str(verdict).split()))


def _require_known(revision: str | None, path: Path) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_alembic_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreError(
            f"The database {path} has schema version {revision}, which this version of the app does not know "
            f"(it knows up to {SCHEMA_HEAD}). Install the newer version again, or give another --conf state_dir."
        )


def _require_schema(connection: Connection) -> None:
    found = inspect(connection)
    present = set(found.get_table_names())
    for name, table in Base.metadata.tables.items():
        columns = {column["name"] for column in found.get_columns(name)} if name in present else set()
        if missing := {column.name for column in table.columns} - columns:
            raise Damage(f"its table '{name}' lacks {', '.join(sorted(missing)[:3])}")


def meaning(error: exc.DBAPIError, path: Path) -> StoreBusyError | Damage | None:
    """What an error of SQLite means for whoever asked; None for what has nothing to do with the file's state."""
    code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # without the extended part
    undecodable = isinstance(error, exc.OperationalError) and code == sqlite3.SQLITE_OK  # text that is no UTF-8
    if code in _DAMAGED or undecodable:
        return Damage(str(error.orig))
    if code in _HELD:
        return held(path)
    return refused(error.orig, path) if code in _REFUSED else None


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
