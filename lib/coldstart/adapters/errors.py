"""Errors that reach a viewer as their sentence."""

from __future__ import annotations

import errno
import logging
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from starlette.exceptions import HTTPException as StarletteHTTPException

from coldstart.exceptions import ArchiveError, ColdStartError, StoreError

logger = logging.getLogger(__name__)

_ALREADY_RUNNING = "A task of this kind is running already. Wait until it has ended, or stop it first."
"""In place of MONAI Label's '++++++++++ Train Task is Already Running', its one use of this status."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class AppError(MONAILabelException, HTTPException):  # type: ignore[misc]
    """A MONAI Label error that the server answers with a status and a sentence.

    MONAI Label answers its own exceptions with "Internal Server Error"; FastAPI answers an `HTTPException` with its
    `detail`. This is both.
    """

    def __init__(self, sentence: str, status_code: int = 400, headers: Mapping[str, str] | None = None):
        MONAILabelException.__init__(self, MONAILabelError.INVALID_INPUT, sentence)
        HTTPException.__init__(self, status_code=status_code, detail=sentence, headers=headers)


@contextmanager
def answered(status_code: int = 400) -> Iterator[None]:
    """Turn the errors that this package raises on purpose into `AppError`; of the store and the archive always 503."""
    try:
        yield
    except ColdStartError as error:
        raise AppError(str(error), 503 if isinstance(error, StoreError | ArchiveError) else status_code) from error


def answer_to(error: Exception) -> JSONResponse:
    """The answer to a request that ended in `error`: a status, and a sentence as `detail`.

    What nobody raised on purpose is a mistake of this server: it is logged with its stack, and the sentence says where
    to look.
    """
    if isinstance(error, StarletteHTTPException):
        # Starlette keeps an upload that does not fit into memory on the disk; FastAPI hides that the disk is full.
        if isinstance(error.__cause__, OSError) and not isinstance(error, AppError):
            return answer_to(error.__cause__)
        detail = _ALREADY_RUNNING if error.status_code == 429 else error.detail
        return JSONResponse({"detail": detail}, error.status_code, headers=error.headers)
    status_code, sentence = _status_and_sentence(error)
    if status_code == 500:
        logger.error("A request ended in an error that nobody foresaw.", exc_info=error)
    return JSONResponse({"detail": sentence}, status_code)


def _status_and_sentence(error: Exception) -> tuple[int, str]:
    match error:
        case StoreError() | ArchiveError():
            return 503, str(error)
        case ColdStartError():
            return 400, str(error)
        case ImageNotFoundException() | LabelNotFoundException():
            return 404, str(error.msg)
        case MONAILabelException():
            return 400, str(error.msg)
        case shutil.ReadError() | tarfile.TarError():
            return 400, "The archive cannot be unpacked. Send a zip or tar file of images."
        case OSError(errno=number) if number in _NO_ROOM:
            return 507, "The server's disk is full, so this was not saved. Free some room there, then send it again."
    return 500, "The server made a mistake, which is in its log with the time of now. Tell whoever runs it."
