"""Run by a test in a mount namespace of its own: clicks on a disk that is full, and then is not."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import campaign_case as case

from coldstart.campaign import Campaign

SIZE = "4m"


def main() -> None:
    database, disk = Path(sys.argv[1]), Path(sys.argv[2])
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
    shutil.copytree(database, disk / "state")
    campaign = Campaign(case.make_settings(), disk / "state")
    expected = case.planned(campaign)
    assert case.clicks(campaign, 1) == expected[:1]
    filler = disk / "filler"
    fill(filler)
    # The write-ahead log has room for a few more: it is reused until it is full.
    got = case.clicks(campaign, 12)
    assert len(set(got) | set(expected[:1])) == 13
    assert got[:7] == expected[1:8]
    remembered = len(campaign._desk._unwritten)
    assert remembered > 0, "the disk was not full"
    filler.unlink()
    time.sleep(0.2)
    got += case.clicks(campaign, 2)
    assert len(campaign._desk._unwritten) == 0
    assert [image_id for image_id, _ in case.servings(campaign)] == expected[:1] + got
    campaign.store.close()
    sys.stdout.write("ok\n")


def fill(path: Path) -> None:
    """Write until there is no room, in ever smaller pieces."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError:
                    break


if __name__ == "__main__":
    main()
