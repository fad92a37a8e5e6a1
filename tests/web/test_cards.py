"""Memory of graphics cards: by a library that answers as NVIDIA's does, and where there is none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from coldstart.web.cards import Card, Cards

SOURCE = """
#include <string.h>
struct memory { unsigned long long total, free, used; };
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(0x100000000UL + index);
    return index == 1 ? 15 : 0;
}
int nvmlDeviceGetName(void *device, char *name, unsigned length) { strncpy(name, "Card of a test", length); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    memory->total = 80UL << 30; memory->used = (unsigned long long)device & 0xff; memory->free = 0;
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_cards_that_answer_are_read(tmp_path: Path) -> None:
    (tmp_path / "driver.c").write_text(SOURCE)
    library = tmp_path / "driver.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "driver.c")], check=True)
    total = 80 << 30
    assert Cards(str(library)).read() == [Card("0", "Card of a test", 0, total), Card("2", "Card of a test", 2, total)]


def test_without_a_driver_there_are_none() -> None:
    assert Cards("libno-such-driver.so").read() == []
