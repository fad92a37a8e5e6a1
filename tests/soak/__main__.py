"""A week in an hour: `python -m soak`, in the folder of the tests; `make soak` from the top."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from orthanc import is_installed

PLACES = ("folder", "archive")
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak ARGS=", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long the week takes")
    parser.add_argument("--place", choices=(*PLACES, "both"), default="both", help="where the images are")
    parser.add_argument("--seed", type=int, default=0, help="of all that is left to chance")
    parser.add_argument("--no-faults", action="store_true", help="nothing goes wrong")
    parser.add_argument("--no-full-disk", action="store_true", help="without a small disk that is filled")
    parser.add_argument("--output", type=Path, default=Path("soak-output"), help="folder of report, logs and records")
    parser.add_argument("--disk", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    if arguments.place != "folder" and not is_installed():
        sys.exit("soak: Orthanc is not installed: make viewers installs it, or say --place folder")
    if not (arguments.no_full_disk or arguments.no_faults or arguments.disk):
        return on_a_small_disk(output)
    from soak.report import write_report  # takes seconds to import, and is not needed before
    from soak.week import Options, play

    output.mkdir(parents=True, exist_ok=True)
    os.chdir(output)  # the folder of the tests must not be where the server's Python looks for its packages
    options = Options(arguments.minutes, arguments.seed, output, arguments.disk, not arguments.no_faults)
    places = PLACES if arguments.place == "both" else [arguments.place]
    with ProcessPoolExecutor(len(places), get_context("fork")) as pool:
        plays = [pool.submit(play, place, options) for place in places]
    weeks = [played.result() for played in plays if played.exception() is None]
    for week in weeks:
        for verdict in week.verdicts:
            print(f"{'ok ' if verdict.is_true else 'NOT'} {week.place}, {verdict.name}: {verdict.sentence}")
            for problem in verdict.problems[:20]:
                print(f"      {problem}")
    given = f"--minutes {arguments.minutes:g} --place {arguments.place} --seed {arguments.seed}"
    given += " --no-faults" * arguments.no_faults + " --no-full-disk" * arguments.no_full_disk
    if weeks:
        write_report(weeks, output, f'make soak ARGS="{given}"')
    print(f"Report: {output / 'soak.md'}")
    for played in plays:
        played.result()  # raises what ended a week before its time
    return 0 if all(week.is_good for week in weeks) else 1


def on_a_small_disk(output: Path) -> int:
    """Run this again in a mount namespace, where a disk of its own can be filled; that needs no root."""
    disk = output / "disk"
    disk.mkdir(parents=True, exist_ok=True)
    probe = [*UNSHARE, "mount", "-t", "tmpfs", "none", str(disk)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        sys.exit(
            "soak: a disk to be filled needs user namespaces (unshare), which are not allowed here; --no-full-disk"
        )
    return subprocess.run([*UNSHARE, sys.executable, "-m", "soak", *sys.argv[1:], "--disk", str(disk)]).returncode


if __name__ == "__main__":
    sys.exit(main())
