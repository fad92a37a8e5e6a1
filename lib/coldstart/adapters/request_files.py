"""Temporary files of a request. MONAI Label removes those of one that it answers, and forgets those of all others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from monailabel.datastore.utils import convert
from monailabel.endpoints import datastore, infer, model, session
from monailabel.utils import sessions
from monailabel.utils.others.generic import remove_file

_of_request: ContextVar[list[str]] = ContextVar("temporary files of this request")


def install_request_files() -> None:
    """Have `removed_at_the_end` know what MONAI Label's endpoints copy and unpack uploads to."""
    for module in (datastore, infer, model, session, sessions, convert):
        module.tempfile = _Named()


@contextmanager
def removed_at_the_end() -> Iterator[None]:
    """Remove the temporary files of the request that is answered within, however it ends."""
    paths: list[str] = []
    token = _of_request.set(paths)
    try:
        yield
    finally:
        _of_request.reset(token)
        for path in paths:
            remove_file(path)


def remove_at_the_end(path: str | Path) -> None:
    """Count a file, or a folder, among those of the request that is being answered, if one is."""
    _of_request.get([]).append(str(path))


class _Named:
    """In the place of the module `tempfile`, where nothing but a name is wanted of it."""

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        def make(**how: Any) -> Any:
            made = getattr(tempfile, kind)(**how)
            remove_at_the_end(made.name)
            return made

        return make
