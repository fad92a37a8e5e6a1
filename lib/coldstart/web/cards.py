"""Memory of NVIDIA's cards, by the library of their driver: torch would take some of it to find out."""

from __future__ import annotations

import ctypes
import logging
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

LIBRARY = "libnvidia-ml.so.1"
_NAME_LENGTH = 96


class Card(NamedTuple):
    """A card, by its number in the machine; its memory in bytes."""

    number: str
    name: str
    used: int
    total: int


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Cards:
    """The cards of this machine; none where there is no driver."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._driver: Any = None
        try:
            driver = ctypes.CDLL(library)
            if driver.nvmlInit_v2() == 0:
                self._driver = driver
        except (OSError, AttributeError) as error:
            logger.debug("No card's memory is looked at: %s", error)

    def read(self) -> list[Card]:
        """Every card that answers."""
        driver, count = self._driver, ctypes.c_uint(0)
        if driver is None or driver.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        found = (self._card(index) for index in range(count.value))
        return [card for card in found if card is not None]

    def _card(self, index: int) -> Card | None:
        driver, device, memory = self._driver, ctypes.c_void_p(), _Memory()
        name = ctypes.create_string_buffer(_NAME_LENGTH)
        if driver.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) != 0:
            return None
        driver.nvmlDeviceGetName(device, name, ctypes.c_uint(_NAME_LENGTH))
        if driver.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) != 0:
            return None
        return Card(str(index), name.value.decode(errors="replace"), int(memory.used), int(memory.total))
