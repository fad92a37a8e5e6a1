"""Tables as CSV: numbers as they are, and no text that a spreadsheet would run as a formula.

Ids are file names and annotators name themselves, so a cell may say anything. A text that begins like a formula gets an
apostrophe in front, by which a spreadsheet knows a text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_text(names: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a line with the names of the columns, and one for each row; None is left empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
