"""Open, migrate and use the database: SQLite in WAL mode, shared by the server and its child processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc
from sqlalchemy.orm import Session

from coldstart.exceptions import StoreError

FILE_NAME = "coldstart.sqlite"
BUSY_TIMEOUT_S = 30.0
"""How long one process waits for the other's transaction; each of ours takes well under a second."""

_MIGRATIONS = Path(__file__).parent / "migrations"


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


SCHEMA_HEAD = str(ScriptDirectory.from_config(_alembic_config()).get_current_head())


class Store:
    """The database of one campaign.

    Parameters
    ----------
    folder : Path
        Folder of the database file; it is made where it is missing.

    Raises
    ------
    StoreError
        If the database cannot be opened, is damaged, or was written by a newer version of this app.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._engine = _create_engine(self.path)
            with FileLock(f"{self.path}.lock"), self._engine.connect() as connection:
                _migrate(connection, self.path)
        except (OSError, exc.DatabaseError) as error:
            raise StoreError(
                f"The database {self.path} cannot be opened: {getattr(error, 'orig', error)}. "
                "Check the folder's permissions and free space, or give another folder with --conf state_dir."
            ) from error

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one consistent state and keeps nobody from writing."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that is alone among writers, of all threads and processes, from its first line to its commit."""
        with self._engine.connect().execution_options(begin="BEGIN IMMEDIATE") as connection:
            with Session(connection, expire_on_commit=False) as session, session.begin():
                session.connection()
                yield session

    def close(self) -> None:
        """Close the connections of this process."""
        self._engine.dispose()


def _create_engine(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT_S})

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


def _migrate(connection: Connection, path: Path) -> None:
    config = _alembic_config()
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise StoreError(
            f"The database {path} has schema version {current}, which this version of the app does not know "
            f"(it knows up to {SCHEMA_HEAD}). Install the newer version again, or give another --conf state_dir."
        )
    if current != SCHEMA_HEAD:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
