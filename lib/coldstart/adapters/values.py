"""Values of requests: names of bounded length, JSON of bounded depth, text that can be written down."""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

from coldstart.adapters.errors import AppError

MAX_NAME_LENGTH = 255
"""Characters of an identifier: ids are made of file names, which are no longer on any common file system."""
MAX_SUFFIX_LENGTH = 128
"""Bytes of an upload's suffix, which becomes part of the name of a temporary file. All that follows the first dot
counts, so a label that is named after its series has one of 70."""
MAX_DEPTH = 20
"""Levels of lists and objects in JSON; what viewers send has three."""


def json_object(text: str, name: str) -> dict[str, Any]:
    """Read a JSON object of bounded depth, finite numbers and proper text.

    Raises
    ------
    AppError
        400, with a sentence that names `name`.
    """
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise AppError(f"`{name}` must be JSON; got {short(text)}.") from None
    if not isinstance(value, dict):
        raise AppError(f"`{name}` must be a JSON object; got {short(value)}.")
    _require_proper(value, name)
    return value


def require_name(name: str, value: object) -> None:
    """Refuse what is no text, too long for a name, or would break a line of the log."""
    if not isinstance(value, str) or len(value) > MAX_NAME_LENGTH or _has_control_characters(value):
        raise AppError(
            f"`{name}` must be text of at most {MAX_NAME_LENGTH} characters, without control characters; "
            f"got {short(value)}."
        )


def require_file_name(name: str) -> None:
    """Refuse a name whose suffix cannot be a suffix.

    Slicer sends the whole path as the name; MONAI Label's code takes its last component, and the suffixes of that.
    """
    if _has_control_characters(name) or len("".join(Path(name).suffixes).encode(errors="replace")) > MAX_SUFFIX_LENGTH:
        raise AppError(
            f"An uploaded file must have a name without control characters and with a suffix of at most "
            f"{MAX_SUFFIX_LENGTH} bytes; got {short(name)}."
        )


def _require_proper(value: object, name: str) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, float) and not math.isfinite(item):
                raise AppError(f"`{name}` must hold finite numbers; got {item}.")
            elif isinstance(item, str) and any("\ud800" <= character <= "\udfff" for character in item):
                raise AppError(f"`{name}` must hold text that is valid Unicode; got {short(item)}.")
        if not below:
            return
        level = below
    raise AppError(f"`{name}` must be at most {MAX_DEPTH} levels deep.")


def _has_control_characters(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def short(value: object) -> str:
    """Shorten what was received to what fits a sentence."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
