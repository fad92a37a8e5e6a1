"""The database of a campaign: SQLite in WAL mode, shared by the server and its child processes.

Whatever happens to the file while it is in use, no transaction goes into a file that nobody will read again: it goes
into the file at the path, or it fails with a sentence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from filelock import FileLock
from sqlalchemy import Engine, exc
from sqlalchemy.orm import Session

from coldstart.exceptions import StoreBusyError, StoreDamagedError
from coldstart.store.engine import (
    BUSY_TIMEOUT_S,
    IMMEDIATE,
    Damage,
    connect_to,
    examine,
    held,
    meaning,
    migrate,
    refused,
)
from coldstart.store.recovery import create, leftovers, replace_damaged, set_aside

FILE_NAME = "coldstart.sqlite"
OPEN_TIMEOUT_S = 60.0
"""How long a process waits while another one opens, migrates or replaces the database."""

PATIENCE_S = 600.0
RETRY_EVERY_S = 10.0
"""How long, and how often, work that cannot be written is kept in memory and tried again."""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Identity = tuple[int, int]
"""Device and inode: what tells the file that was opened from one that lies at the same path since."""


class _Opened(NamedTuple):
    engine: Engine
    identity: Identity


class Store:
    """The database of one campaign.

    A database that is damaged, at the start or later, is kept aside beside the new one that takes its place.

    Parameters
    ----------
    folder : Path
        Folder of the database file; it is made where it is missing.
    fill : callable
        Called with the first transaction of a database that is opened in the place of the one before, while this
        process runs: nobody meets it before it holds what this puts in.

    Raises
    ------
    StoreBusyError
        If the database cannot be opened for now.
    StoreDamagedError
        If what was put in the place of a damaged one is damaged again.
    StoreError
        If the database was written by a newer version of this app.
    """

    def __init__(self, folder: Path, fill: Callable[[Session], None] = lambda session: None):
        self.folder = folder
        self.path = folder / FILE_NAME
        self._fill = fill
        self._turn = threading.Lock()
        self._opened = self._open()
        self._home = _identity(folder.parent)
        self._looked_over = _state(self.path)

    @property
    def identity(self) -> Identity:
        """What tells this database file from another one at the same path."""
        return self._opened.identity

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one consistent state and keeps nobody from writing.

        Raises
        ------
        StoreBusyError
            If the database cannot be read for now.
        StoreDamagedError
            If the database was found damaged; the next transaction meets a new one.
        """
        opened = self._current()
        with self._explaining(opened), Session(opened.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that is alone among writers, of all threads and processes, from its first line to its commit.

        Raises
        ------
        StoreBusyError
            If the database cannot be written for now: nothing was.
        StoreDamagedError
            If the database was found damaged, or replaced meanwhile; the next transaction meets a new one.
        """
        opened = self._current()
        with self._explaining(opened):
            with self._in_turn(), _alone(opened.engine) as session:
                yield session
            if _identity(self.path) != opened.identity:
                raise StoreDamagedError(
                    f"The database {self.path} was removed or replaced while it was written. Try again."
                )

    def look_over(self) -> None:
        """Read the whole file where it changed since the last look: damage is found before a transaction meets it."""
        opened, state = self._current(), _state(self.path)
        if state == self._looked_over:
            return
        if (damage := self._damage()) is not None:
            self._renew(opened, damage)
        self._looked_over = state

    def patiently(self, work: Callable[[], Result]) -> Result:
        """Do `work`, which may have taken hours to get here; where the database fails it, wait and do it again.

        Raises
        ------
        StoreBusyError, StoreDamagedError
            If the database still fails after `PATIENCE_S`.
        """
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return work()
            except (StoreBusyError, StoreDamagedError) as error:
                left = until - time.monotonic()
                if left < 0:
                    raise
                logger.warning("%s What waits to be written is tried again for %.0f s.", error, left)
                time.sleep(RETRY_EVERY_S)

    def close(self) -> None:
        """Close the connections of this process."""
        self._opened.engine.dispose()

    def _current(self) -> _Opened:
        """The database at the path: where it is another one than before, or gone, it is opened anew."""
        opened = self._opened
        if _identity(self.path) != opened.identity:
            logger.warning("The database %s was removed or replaced; what lies there now is opened.", self.path)
            self._renew(opened)
        return self._opened

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Let one thread of this process write at a time; SQLite would make them ask again and again."""
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            raise held(self.path)
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _explaining(self, opened: _Opened) -> Iterator[None]:
        """Turn what SQLite says of the file's state into errors with a sentence; replace a damaged file."""
        try:
            yield
        except exc.DBAPIError as error:
            found = meaning(error.orig, self.path)
            if isinstance(error, exc.OperationalError) and found is None:
                found = self._damage()  # "no such table": of a wrong query, or of a file without it?
            if found is None:
                raise
            if not isinstance(found, Damage):
                raise found from error
            self._renew(opened, found)
            raise StoreDamagedError(
                f"The database {self.path} was damaged ({found}). It is kept aside, and a new one is being filled "
                "from the images and the labels. Try again."
            ) from error

    def _damage(self) -> Damage | None:
        try:
            return Damage("it has no tables") if examine(self.path) is None else None
        except Damage as damage:
            return damage
        except FileNotFoundError:
            return Damage("it was removed")

    def _renew(self, opened: _Opened, damage: Damage | None = None) -> None:
        """Open what lies at the path instead of `opened`, unless another thread did; never a damaged `opened`."""
        with self._in_turn():
            if self._opened is not opened:
                return
            self._require_home()
            renewed = self._open(damage, opened.identity)
            with _alone(renewed.engine) as session:
                self._fill(session)
            self._opened = renewed
            opened.engine.dispose()

    def _require_home(self) -> None:
        """Make no folder in an empty place where a share was mounted."""
        if not self.folder.is_dir() and _identity(self.folder.parent) != self._home:
            raise StoreBusyError(
                f"The database {self.path} is out of reach: {self.folder.parent} is gone, or is another folder than "
                "before. If it is on a share, mount that again; if not, restart the server."
            )

    def _open(self, damage: Damage | None = None, damaged: Identity | None = None) -> _Opened:
        """Open the file at the path, in the place of the file `damaged` where that is still there."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=OPEN_TIMEOUT_S):
                if damage is None or _identity(self.path) != damaged:
                    damage = self._prepare()
                if damage is not None:
                    replace_damaged(self.path, damage)
                    damage = self._prepare()
                if damage is not None:
                    raise StoreDamagedError(
                        f"The new database {self.path} is damaged as well ({damage}). Check the disk, or give another "
                        "folder with --conf state_dir."
                    )
                return _Opened(connect_to(self.path), _require_identity(self.path))
        except TimeoutError as error:
            raise held(self.path) from error
        except OSError as error:
            raise refused(error, self.path) from error

    def _prepare(self) -> Damage | None:
        """Make or migrate the file at the path; return what is wrong with it."""
        if leftovers(self.path):
            logger.warning("What a removed database left is kept aside as %s.", set_aside(self.path))
        try:
            if not self.path.exists():
                create(self.path)
            migrate(self.path, examine(self.path))
        except Damage as damage:
            return damage
        return None


@contextmanager
def _alone(engine: Engine) -> Iterator[Session]:
    with engine.connect().execution_options(begin=IMMEDIATE) as connection:
        with Session(connection, expire_on_commit=False) as session, session.begin():
            session.connection()
            yield session


def _identity(path: Path) -> Identity | None:
    try:
        return _require_identity(path)
    except OSError:
        return None


def _require_identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_dev, status.st_ino


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes whenever the file itself is written, by SQLite's checkpoints or by somebody else."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
