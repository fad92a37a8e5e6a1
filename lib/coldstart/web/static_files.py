"""The files of the page: our own, and Plotly's script out of its Python package. None comes from anywhere else."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import threading
from pathlib import Path
from typing import NamedTuple

import plotly

FOLDER = Path(__file__).with_name("static")
LEVEL = 6
START_PAGE = "index.html"
PLOTLY = "plotly.min.js"
_PLOTLY_FILE = Path(plotly.__path__[0]) / "package_data" / PLOTLY


class StaticFile(NamedTuple):
    """A file with its type and what tells its content from another one."""

    content: bytes
    packed: bytes
    media_type: str
    version: str


class StaticFiles:
    """Files by name, read and packed when they are first asked for, and again when they change; for any thread."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._kept: dict[str, tuple[tuple[int, int], StaticFile]] = {}
        self._page: tuple[str, StaticFile] | None = None

    def warm_up(self) -> None:
        """Pack the one large file in a thread, before somebody waits for it."""
        threading.Thread(target=self.get, args=(PLOTLY,), name="coldstart-pack", daemon=True).start()

    def version(self) -> str:
        """What tells these files from those of another version of the app."""
        own = "".join(f"{name}{self._file(name, path).version}" for name, path in sorted(_own().items()))
        return hashlib.blake2b(f"{own}{plotly.__version__}".encode(), digest_size=8).hexdigest()

    def start_page(self) -> StaticFile:
        """The page, which asks for its files under their version: a browser that has them asks for none again."""
        version = self.version()
        if self._page is None or self._page[0] != version:
            text = _own()[START_PAGE].read_text(encoding="utf-8").replace('"static/', f'"static/{version}/')
            self._page = version, _pack(text.encode(), "text/html")
        return self._page[1]

    def get(self, name: str) -> StaticFile | None:
        """The file of a name; None where there is none."""
        path = _paths().get(name)
        return None if path is None else self._file(name, path)

    def _file(self, name: str, path: Path) -> StaticFile:
        with self._turn:
            status = path.stat()
            seen = status.st_mtime_ns, status.st_size
            kept = self._kept.get(name)
            if kept is None or kept[0] != seen:
                kept = self._kept[name] = seen, _read(path)
            return kept[1]


def _own() -> dict[str, Path]:
    return {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}


def _paths() -> dict[str, Path]:
    """Every file that may be asked for: a name that is none of them reaches no file system."""
    return {**_own(), PLOTLY: _PLOTLY_FILE}


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if path.suffix == ".js":  # a machine's own table may say something that no browser runs
        media_type = "text/javascript"
    return _pack(content, media_type)


def _pack(content: bytes, media_type: str) -> StaticFile:
    version = hashlib.blake2b(content, digest_size=8).hexdigest()
    return StaticFile(content, gzip.compress(content, LEVEL), media_type, version)
