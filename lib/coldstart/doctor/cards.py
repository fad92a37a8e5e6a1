"""torch, and the graphics cards that it can use."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from coldstart.doctor.finding import Finding, ProbeError, ask, short

GIB = 1 << 30
CARD_LOW = 4 * GIB
"""Free memory below which a training of the usual size has to work in small patches."""

_DRIVER_OF_CUDA = {11: 450, 12: 525, 13: 580}
"""First Linux driver for each major version of CUDA."""


def check_cards(device: str) -> Iterator[Finding]:
    """The build of torch, the driver, and each card.

    Parameters
    ----------
    device : str
        What `--conf device` says.
    """
    driver = _driver()
    try:
        build, *cards = ask("cuda")
    except (ProbeError, ValueError) as error:
        yield Finding(
            "torch",
            "problem",
            f"torch cannot be used: {short(error)}.",
            "pip install torch==2.13.0, then make install.",
        )
        return
    wants_card = device.startswith("cuda")
    if build["build"] is None:
        yield Finding("torch", "ok", f"torch {build['torch']}, a build without CUDA.")
        if driver is not None:
            yield Finding(
                "cuda",
                "problem" if wants_card else "warning",
                f"{driver['card']} is there, but this torch cannot use it.",
                "Install the CUDA build of torch 2.13.0 from PyTorch's own package index.",
            )
        else:
            yield _without_card(wants_card)
        return
    yield Finding("torch", "ok", f"torch {build['torch']}, built for CUDA {build['build']}.")
    if not cards and driver is None:
        yield _without_card(wants_card)
    elif not cards:
        yield unusable(driver or {}, build["build"], wants_card)
    for index, card in enumerate(cards):
        yield describe(index, card, build["architectures"], driver)


def _without_card(wanted: bool) -> Finding:
    return Finding(
        "cuda",
        "problem" if wanted else "warning",
        "No NVIDIA card with its driver is found (nvidia-smi is missing or fails); training uses the processor.",
        "For a server with a card install NVIDIA's driver; else keep images small: --conf spatial_size, --conf epochs.",
    )


def unusable(driver: dict[str, str], build: str, wanted: bool) -> Finding:
    """Say why a torch that is built for CUDA finds no card although there is one: mostly the driver is too old."""
    needed = _DRIVER_OF_CUDA.get(int(build.split(".")[0]))
    number = re.match(r"\d+", driver["driver"])
    if needed is not None and number is not None and int(number[0]) < needed:
        found = f"The driver {driver['driver']} of {driver['card']} is too old for this torch, built for CUDA {build}."
        remedy = f"Update NVIDIA's driver to {needed} or newer, or install the build of torch for an older CUDA."
    else:
        found = f"{driver['card']} (driver {driver['driver']}) is there, but torch finds no card."
        remedy = (
            "See CUDA_VISIBLE_DEVICES; in a container, start it with --gpus all; else restart after a driver update."
        )
    return Finding("cuda", "problem" if wanted else "warning", found, remedy)


def describe(index: int, card: dict[str, Any], architectures: list[str], driver: dict[str, str] | None) -> Finding:
    """Say of a card what it is, whether it calculates, and how much of its memory is free."""
    name = f"card {index}"
    found = f"{card['name']}, {card['total'] / GIB:.0f} GiB" + (f", driver {driver['driver']}" if driver else "")
    if card["error"]:
        remedy = "Restart the machine or the driver; with --conf device cpu the server runs without the card."
        if f"sm_{card['capability'].replace('.', '')}" not in architectures:
            known = ", ".join(architectures)
            remedy = (
                f"This torch has no code for compute capability {card['capability']} (it has {known}); use another."
            )
        return Finding(name, "problem", f"{found}: it cannot be used ({short(card['error'])}).", remedy)
    free = card["free"] / GIB
    if card["free"] < CARD_LOW:
        remedy = "End what uses it (nvidia-smi names it), or choose another with --conf device cuda:N."
        return Finding(name, "warning", f"{found}, of which {free:.1f} GiB are free.", remedy)
    return Finding(name, "ok", f"{found}, of which {free:.0f} GiB are free.")


def _driver() -> dict[str, str] | None:
    """Name of the first card and version of the driver, by NVIDIA's own program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=30, text=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    card, _, driver = (ended.stdout.splitlines() or [""])[0].rpartition(", ")
    return {"card": card, "driver": driver} if ended.returncode == 0 and card else None
