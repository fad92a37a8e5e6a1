"""Run as a child process, whose memory is limited: damage files at random, or read files as they are, and report.

Prints one JSON object a line: file, kind of damage, seconds, MiB of memory gained, and what came of it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from coldstart.exceptions import ImageError
from coldstart.images import read_image

TRUNCATED, FLIPPED, FLIPPED_IN_HEADER = range(3)


def damage(content: bytes, generator: np.random.Generator, kind: int) -> bytes:
    if kind == TRUNCATED:
        return content[: int(generator.integers(1, len(content)))]
    damaged = bytearray(content)
    for position in generator.integers(0, min(len(content), 400 if kind == FLIPPED_IN_HEADER else 1 << 30), 3):
        damaged[position] = generator.choice([0, 1, 127, 255, generator.integers(0, 256)])
    return bytes(damaged)


def read(path: Path, whole: np.ndarray | None) -> str:
    """What came of reading: "whole", "other" values, or the sentence of the ImageError."""
    try:
        pixels = read_image(path).pixels
    except ImageError as error:
        return f"error: {error}"
    return "whole" if whole is not None and np.array_equal(pixels, whole) else "other"


def report(path: Path, kind: int | None, name: str, whole: np.ndarray | None) -> None:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    result = read(path, whole)
    gained = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    line = {"file": name, "kind": kind, "seconds": time.monotonic() - started, "mib": gained, "result": result}
    print(json.dumps(line), flush=True)


def main(limit_gib: str, n_each: str, *files: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (int(limit_gib) << 30,) * 2)
    for path in map(Path, files):
        if n_each == "0":
            report(path, None, path.name, None)
            continue
        content, whole = path.read_bytes(), read_image(path).pixels
        suffix = path.name[path.name.index(".") :]
        for number in range(int(n_each)):
            generator = np.random.default_rng([number, *path.name.encode()])
            damaged = path.parent / f"damaged{suffix}"
            damaged.write_bytes(damage(content, generator, number % 3))
            report(damaged, number % 3, f"{path.name} {number}", whole)


if __name__ == "__main__":
    main(*sys.argv[1:])
