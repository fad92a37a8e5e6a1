"""Protocols as YAML files: found by name, built on one another, and refused with a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from coldstart.exceptions import SettingsError
from coldstart.experiments.protocol import Protocol, nearest

FOLDER = Path(__file__).parent / "protocols"
EXTENDS = "extends"
_IN_PLAIN_WORDS = {
    "tuple_type": "it must be a list, such as [4, 8]",
    "dict_type": "it must be a mapping, with a value for each name, such as {lung: 1, heart: 2}",
    "model_type": "it must be a mapping, with a value for each key, as in {key: value}",
    "too_short": "the list has too few values",
    "too_long": "the list has too many values",
    "path_type": "it must be a path",
}
"""By the type of a fault, where pydantic's own message is of Python and not of YAML."""


def protocol_names() -> list[str]:
    """Return the names of the protocols that come with the program, the ablations last."""
    return [file.stem for folder in (FOLDER, FOLDER / "ablations") for file in sorted(folder.glob("*.yaml"))]


def load_protocol(name: str | Path, changes: Mapping[str, Any] | None = None) -> Protocol:
    """Read a protocol.

    Parameters
    ----------
    name : str or Path
        Of a protocol that comes with the program, or the path of a YAML file.
    changes : mapping, optional
        Values that win over the file's.

    Raises
    ------
    SettingsError
        If there is no such file, or something in it is not valid; the sentence names the key, and the nearest valid
        one where it is unknown.
    """
    path = _find(name)
    return check_protocol(_read(path), f"the protocol {path}", changes)


def check_protocol(values: Mapping[str, Any], source: str, changes: Mapping[str, Any] | None = None) -> Protocol:
    """Make a protocol of plain values.

    Parameters
    ----------
    values, changes : mapping of str to values
        What `changes` holds wins.
    source : str
        Where `values` are from, for the error's sentence; `changes` are those of the command line.

    Raises
    ------
    SettingsError
        If something is not valid.
    """
    changed = dict(changes or {})
    try:
        return Protocol.model_validate({**values, **changed})
    except ValidationError as error:
        first = error.errors()[0]
        by_command = bool(first["loc"]) and first["loc"][0] in changed
        raise SettingsError(_sentence(first, "the command line" if by_command else source)) from None


def save_protocol(protocol: Protocol, path: Path) -> None:
    """Write a protocol as a file from which `load_protocol` makes an equal one."""
    values = protocol.model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _find(name: str | Path) -> Path:
    for folder in (FOLDER, FOLDER / "ablations"):
        if (path := folder / f"{name}.yaml").is_file():
            return path
    path = Path(name)
    if path.is_file():
        return path
    names = protocol_names()
    raise SettingsError(
        f"The protocol must be one of {', '.join(names)} or the path of a YAML file; got '{name}'."
        f"{nearest(name, names)}"
    )


def _read(path: Path, built_on_it: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"The protocol {path} cannot be read as YAML: {error}.") from None
    if not isinstance(values, dict):
        raise SettingsError(f"The protocol {path} must hold `key: value` lines; got {type(values).__name__}.")
    base = values.pop(EXTENDS, None)
    if base is None:
        return values
    beside = path.parent / f"{base}.yaml"
    found = beside if beside.is_file() else _find(str(base))
    if found in (path, *built_on_it):
        raise SettingsError(f"The protocol {path} must not build on itself; name another in `{EXTENDS}`.")
    return {**_read(found, (path, *built_on_it)), **values}


def _sentence(fault: Mapping[str, Any], source: str) -> str:
    where = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    if fault["type"] == "missing":
        return f"`{where}` is missing in {source}."
    message = _IN_PLAIN_WORDS.get(fault["type"], fault["msg"]).removeprefix("Value error, ").rstrip(".")
    if not where:
        return f"{source[0].upper()}{source[1:]} has a fault: {message}."
    received = "a fault" if isinstance(fault["input"], dict) else f"a bad value '{fault['input']}'"
    return f"`{where}` has {received} in {source}: {message}."
