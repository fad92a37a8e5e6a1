"""Errors that reach a viewer as their sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException

from coldstart.exceptions import ColdStartError


class AppError(MONAILabelException, HTTPException):  # type: ignore[misc]
    """A MONAI Label error that the server answers with a status and a sentence.

    MONAI Label answers its own exceptions with "Internal Server Error"; FastAPI answers an `HTTPException` with its
    `detail`. This is both.
    """

    def __init__(self, sentence: str, status_code: int = 400):
        MONAILabelException.__init__(self, MONAILabelError.INVALID_INPUT, sentence)
        HTTPException.__init__(self, status_code=status_code, detail=sentence)


@contextmanager
def answered(status_code: int = 400) -> Iterator[None]:
    """Turn the errors that this package raises on purpose into `AppError`."""
    try:
        yield
    except ColdStartError as error:
        raise AppError(str(error), status_code) from error
