"""Names and info that come with a request, before any of it becomes a path or is written."""

from __future__ import annotations

import json
import re
import reprlib
from pathlib import Path
from typing import Any

from coldstart.adapters.datastore_file import plain
from coldstart.adapters.datastore_folder import is_file_name, split_name
from coldstart.adapters.errors import AppError
from coldstart.exceptions import LabelError
from coldstart.images import SUFFIXES, image_suffix, read_label

LABEL_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix not in (".jpg", ".jpeg"))
"""Formats of a label; JPEG changes its values."""
MAX_ID_BYTES = 200
"""Room for the longest suffix in a name of 255 bytes, which is what file systems hold."""
MAX_INFO_CHARACTERS = 65536
"""Most that is kept of what viewers note of one image or label, as JSON."""
OWN_KEYS = frozenset({"coldstart", "id", "path", "name", "ts", "annotator"})
"""What the server itself says of an image or a label: such keys of a request are dropped, since viewers send an info
back as they got it."""

_TAG = re.compile(r"[\w-]{1,64}", re.ASCII)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def shown(value: Any) -> str:
    """What was received, as a sentence can quote it: short, and printable."""
    return _SHORT.repr(value)


def checked_new_id(image_id: str, suffix: str) -> str:
    """Take an id for an image that is to be added.

    Raises
    ------
    AppError
        If it cannot be the name of one file, or that file would have another id.
    """
    bad = not is_file_name(image_id) or "\\" in image_id or len(image_id.encode()) > MAX_ID_BYTES
    if bad or split_name(image_id + suffix) != (image_id, suffix):
        raise AppError(
            f"An image's id must be a file name without '/', '\\', control characters and a leading '.', of at most "
            f"{MAX_ID_BYTES} bytes; got {shown(image_id)}."
        )
    return image_id


def checked_tag(tag: object) -> str:
    """Take the tag of a label, which names a folder; AppError where it is none."""
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise AppError(
            f"A label's tag must be of the letters a to z, digits, '_' and '-', at most 64; got {shown(tag)}."
        )
    return tag


def image_file_suffix(file: str) -> str:
    """Suffix of an image that was uploaded; AppError where we do not read such files."""
    if not image_suffix(file):
        raise AppError(
            f"An image must be a file with one of the suffixes {', '.join(SUFFIXES)}; got {_suffix_shown(file)}."
        )
    return split_name(Path(file).name)[1]


def label_file_suffix(file: str) -> str:
    """Suffix of a label that was uploaded, in lower case; AppError where it is no format of a label."""
    suffix = image_suffix(file)
    if suffix not in LABEL_SUFFIXES:
        raise AppError(
            f"A label must be a file with one of the suffixes {', '.join(LABEL_SUFFIXES)}; got {_suffix_shown(file)}. "
            "Save it in one of these formats."
        )
    return suffix


def require_no_worse(label: Path, before: Path) -> None:
    """Refuse a label that cannot be read, an upload that broke off for example, in the place of one that can."""
    label_file_suffix(label.name)
    try:
        read_label(label)
    except LabelError as error:
        try:
            read_label(before)
        except LabelError:
            return
        raise AppError(
            f"The label that was there is kept, for the file sent is none: {error} Save it again."
        ) from error


def checked_info(info: Any, what: str) -> dict[str, Any]:
    """Take what a viewer notes of an image or a label, without our own keys, as JSON can hold it.

    Raises
    ------
    AppError
        If it is no JSON object, or too long or too deep.
    """
    if not isinstance(info, dict):
        raise AppError(f"`{what}` must be a JSON object; got {shown(info)}.")
    try:
        kept: dict[str, Any] = plain({key: value for key, value in info.items() if key not in OWN_KEYS})
        too_long = len(json.dumps(kept)) > MAX_INFO_CHARACTERS
    except RecursionError:
        too_long = True
    if too_long:
        raise AppError(f"`{what}` must be at most {MAX_INFO_CHARACTERS} characters of JSON and not nested deeply.")
    return kept


def checked_update(info: dict[str, Any], update: dict[str, Any], what: str) -> dict[str, Any]:
    """Take an update where the info that it makes is still short enough; AppError where it is not."""
    checked_info({**info, **update}, what)
    return update


def _suffix_shown(file: str) -> str:
    return shown("".join(Path(file).suffixes)[-20:])
