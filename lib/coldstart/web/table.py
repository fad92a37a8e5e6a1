"""The table behind the map as the page gets it: JSON, column after column, and CSV."""

from __future__ import annotations

import gzip
import json
import threading
from typing import Any, NamedTuple

from coldstart.campaign import Campaign
from coldstart.campaign.map_table import Columns, MapMemory, MapTable
from coldstart.campaign.spreadsheet import csv_text

LEVEL = 4
"""Of gzip: at 50,000 images twice as fast as its default, for a few percent more bytes."""


class Packed(NamedTuple):
    """The table as JSON, and that by gzip."""

    revision: str
    content: bytes
    packed: bytes


class Table:
    """The table of a campaign, read and encoded anew where it has changed; for any thread.

    Whoever asks while another one reads waits for that.
    """

    def __init__(self, campaign: Campaign):
        self._campaign = campaign
        self._memory = MapMemory()
        self._turn = threading.Lock()
        self._encoded: tuple[Columns, list[bytes]] | None = None
        self._packed: Packed | None = None

    def read(self) -> MapTable:
        """The table as it is now."""
        with self._turn:
            return self._read()

    def packed(self) -> Packed:
        """The table as it is now, encoded."""
        with self._turn:
            table, packed = self._read(), self._packed
            if packed is None or packed.revision != table.revision:
                packed = self._packed = self._pack(table)
            return packed

    def csv(self) -> bytes:
        """The table with a line for each image, under a line with the names of its columns."""
        table = self.read()
        columns = {**table.fixed, **table.moving}
        return csv_text(columns, zip(*columns.values(), strict=True)).encode("utf-8-sig")

    def _read(self) -> MapTable:
        with self._campaign.store.reading() as session:
            return self._memory.read(session, self._campaign.settings)

    def _pack(self, table: MapTable) -> Packed:
        kept = self._encoded
        if kept is None or kept[0] is not table.fixed:
            kept = self._encoded = table.fixed, _encoded(table.fixed)
        content = b"{" + b",".join([*_encoded({"map_revision": table.revision}), *kept[1], *_encoded(table.moving)])
        content += b"}"
        return Packed(table.revision, content, gzip.compress(content, LEVEL))


def _encoded(columns: dict[str, Any]) -> list[bytes]:
    """Column by column: the encoder lets no other thread run before it has done what it was given."""
    return [json.dumps(name).encode() + b":" + _json(values) for name, values in columns.items()]


def _json(values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()
