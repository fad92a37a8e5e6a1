"""What the values of a label file mean, and whether the file can be used.

Values get their meaning by name: the viewers send `label_info`, a list of `{"name": ..., "idx": value}`; where it says
nothing about a value, the preset's own numbers do. Value 0 is always the background. Trap: 3D Slicer counts `idx` over
all segments, also those it does not export (background, scribbles); where these come first, `idx` is not the file's
value. Such a file is refused below: its values lack names, and the preset's names for them are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coldstart.exceptions import InvalidInputError, LabelError
from coldstart.images import Geometry, Label, describe_mismatch, read_label

BACKGROUND = "background"


def class_names(preset_labels: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of the classes without the background; the class index is the position plus one.

    Parameters
    ----------
    preset_labels : Mapping of str to int
        Name to value in a label file; an entry of value 0 or of the name "background" is the background.

    Raises
    ------
    InvalidInputError
        If two names share a value, or a value is negative.
    """
    names = tuple(name for name, value in preset_labels.items() if value != 0 and name.casefold() != BACKGROUND)
    values = [preset_labels[name] for name in names]
    if len(set(values)) != len(values) or any(value < 0 for value in values):
        raise InvalidInputError(
            f"The preset's labels must each have their own value, 1 or above; got {dict(preset_labels)}."
        )
    return names


def value_of_class(preset_labels: Mapping[str, int]) -> tuple[int, ...]:
    """Return the preset's value in a label file for every class index, the background's 0 first."""
    return (0, *(preset_labels[name] for name in class_names(preset_labels)))


def map_values(
    values_present: Iterable[int], label_info: Sequence[Mapping[str, Any]] | None, preset_labels: Mapping[str, int]
) -> dict[int, int]:
    """Find the class of every value of a label file.

    Parameters
    ----------
    values_present : iterable of int
        The values in the file; 0 may be among them.
    label_info : sequence of Mapping or None
        What the viewer said: `{"name": str, "idx": int}` each, other keys are ignored; "id" is read where there is no
        "idx". None or empty: nothing said.
    preset_labels : Mapping of str to int
        The preset's names and values.

    Returns
    -------
    class_of_value : dict of int to int
        Class index (see `class_names`) of every value present; empty for an empty label.

    Raises
    ------
    LabelError
        If a present value has no name, a name that is not in the preset, or two meanings; or `label_info` is malformed.

    Notes
    -----
    Names are compared exactly first, then without regard to case and surrounding blanks. Two values of one name in
    `label_info` both get its class. Names of values that the file does not hold are not looked at.
    """
    names = class_names(preset_labels)
    present = sorted({int(value) for value in values_present} - {0})
    said = _said(label_info or ())
    mapping: dict[int, int] = {}
    unexplained: list[int] = []
    for value in present:
        if value in said:
            mapping[value] = _class_by_name(said[value], value, names)
        else:
            unexplained.append(value)
    claimed = {name.strip().casefold(): value for value, name in said.items()}
    by_number = {preset_labels[name]: index for index, name in enumerate(names, start=1)}
    unknown = [value for value in unexplained if value not in by_number]
    if unknown:
        raise LabelError(
            f"The label holds the value{'s' if len(unknown) > 1 else ''} {', '.join(map(str, unknown))}, which neither "
            f"the viewer's segment names nor the preset explain ({_listed(preset_labels)}). "
            "Name the segments as the preset does, and save again."
        )
    for value in unexplained:
        index = by_number[value]
        claimed_by = claimed.get(names[index - 1].strip().casefold())
        if claimed_by is not None:
            raise LabelError(
                f"The label holds the value {value} without a name. The preset's name for it, '{names[index - 1]}', "
                f"was given to the value {claimed_by}. Keep the preset's segments only, all named, and save again."
            )
        mapping[value] = index
    return dict(sorted(mapping.items()))


def check_label(
    label: Label,
    image_geometry: Geometry,
    label_info: Sequence[Mapping[str, Any]] | None,
    preset_labels: Mapping[str, int],
) -> dict[int, int]:
    """Check a label that has been read against its image and the preset.

    Parameters
    ----------
    label : Label
        All background is valid.
    image_geometry : Geometry
        Of the image that was labelled.
    label_info, preset_labels
        As for `map_values`.

    Returns
    -------
    class_of_value : dict of int to int
        As from `map_values`, for a `coldstart.segmentation.Sample`.

    Raises
    ------
    LabelError
        If size or geometry differ from the image's, or a value or name is unknown.
    """
    mismatch = describe_mismatch(image_geometry, label.geometry)
    if mismatch is not None:
        raise LabelError(mismatch)
    return map_values(np.unique(label.values).tolist(), label_info, preset_labels)


def check_label_file(
    path: Path,
    image_geometry: Geometry,
    label_info: Sequence[Mapping[str, Any]] | None,
    preset_labels: Mapping[str, int],
) -> dict[int, int]:
    """Read a label file and check it as `check_label` does; an unreadable file raises LabelError too."""
    return check_label(read_label(path), image_geometry, label_info, preset_labels)


def _said(label_info: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Names by value; entries for the value 0 say nothing, since 0 is the background."""
    said: dict[int, str] = {}
    for entry in label_info:
        name, value = (entry.get("name"), entry.get("idx", entry.get("id"))) if isinstance(entry, Mapping) else ("", "")
        if not isinstance(name, str) or not name.strip() or not _is_integer(value):
            raise LabelError(
                "Each entry of `label_info` must be {'name': text, 'idx': whole number}; "
                f"got {entry!r}. Save the label again from a viewer that sends both."
            )
        number = int(value)
        if number in said and said[number] != name:
            raise LabelError(
                f"The label's value {number} has two names, '{said[number]}' and '{name}'. "
                "Give each segment its own value, and save again."
            )
        said[number] = name
    return said


def _is_integer(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal())


def _class_by_name(name: str, value: int, names: tuple[str, ...]) -> int:
    if name in names:
        return names.index(name) + 1
    folded = [known.strip().casefold() for known in names]
    wanted = name.strip().casefold()
    if folded.count(wanted) == 1:
        return folded.index(wanted) + 1
    if wanted == BACKGROUND:
        return 0
    raise LabelError(
        f"The label calls the value {value} '{name}', which is not among the preset's names "
        f"({', '.join(names)}). Rename the segment, and save again."
    )


def _listed(preset_labels: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {preset_labels[name]}" for name in class_names(preset_labels))
