"""`coldstart backup` and `coldstart restore`: a campaign goes on on the copy."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from coldstart.cli import main

COMMAND = str(Path(sys.executable).with_name("coldstart"))
CONF = ["--preset", "sample", "--conf", "encoder", "descriptor", "--conf", "budget", "4"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in this process: it takes seconds to start in another one."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["coldstart", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


def answer(*arguments: str | Path) -> dict:
    ended = run(*arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def refusal(*arguments: str | Path) -> str:
    ended = run(*arguments)
    assert ended.returncode == 2, (ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr
    return " ".join(ended.stderr.split())


def label(studies: Path, truth: Path, image_id: str) -> None:
    (studies / "labels" / "final").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(truth / f"{image_id}.nrrd", studies / "labels" / "final" / f"{image_id}.nrrd")


@pytest.fixture(scope="module")
def truth(repository: Path) -> Path:
    return repository / "sample-data" / "chest" / "groundtruth"


@pytest.fixture(scope="module")
def studies(repository: Path, truth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, two of them labelled, one held out by a file that lies elsewhere."""
    folder = tmp_path_factory.mktemp("first")
    studies = folder / "chest"
    studies.mkdir()
    for number in range(1, 13):
        shutil.copy(repository / "sample-data" / "chest" / f"chest_{number:03d}.nrrd", studies)
    (folder / "heldout.txt").write_text("chest_012\n")
    answer("plan", studies, *CONF, "--conf", "heldout", folder / "heldout.txt", "--output", folder / "plan")
    for _ in range(2):
        label(studies, truth, answer("next", studies, "--annotator", "ann")["id"])
    answer("status", studies)
    return studies


@pytest.fixture(scope="module")
def archive(studies: Path) -> Path:
    path = studies.parent / "backups" / "chest.tar"
    said = answer("backup", studies, path)
    assert (said["archive"], said["labels"], said["bytes"]) == (str(path), 2, path.stat().st_size)
    return path


def images_to(studies: Path, copy: Path) -> None:
    copy.mkdir()
    for path in studies.glob("*.nrrd"):
        shutil.copy2(path, copy)


def rows(state: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(state / "coldstart.sqlite")) as connection:
        return connection.execute(query).fetchall()


def test_campaign_goes_on_on_the_copy(studies: Path, archive: Path, truth: Path, tmp_path: Path) -> None:
    """On another path, without the file of held-out ids: same plan, same labels, same next images, same log."""
    copy = tmp_path / "copy"
    images_to(studies, copy)
    kept = (studies.parent / "heldout.txt").rename(studies.parent / "elsewhere.txt")
    try:
        said = answer("restore", archive, copy)
        assert (said["images"], said["images_absent"], said["aside"]) == (12, 0, [])
        state = copy / "coldstart"
        vectors = "SELECT image_id, vector, hex(point) FROM images ORDER BY image_id"
        assert rows(state, vectors) == rows(studies / "coldstart", vectors)
        before = answer("status", copy)
        assert (before["labelled"], before["held_out"]) == (2, 1)
        assert rows(state, vectors) == rows(studies / "coldstart", vectors)  # nothing had to be embedded anew
        ahead = answer("next", copy, "--peek", "4")["picks"]
    finally:
        kept.rename(studies.parent / "heldout.txt")
    assert [pick["image_id"] for pick in ahead] == [
        pick["image_id"] for pick in answer("next", studies, "--peek", "4")["picks"]
    ]
    taken = []
    for _ in range(2):
        taken.append(answer("next", copy, "--annotator", "ann")["id"])
        label(copy, truth, taken[-1])
    assert taken == [pick["image_id"] for pick in ahead[:2]]
    assert answer("status", copy)["labelled"] == 4
    replayed = run("replay", copy)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    for name in os.listdir(studies / "labels" / "final"):
        kept_label = (studies / "labels" / "final" / name, copy / "labels" / "final" / name)
        assert kept_label[0].read_bytes() == kept_label[1].read_bytes()
        assert kept_label[0].stat().st_mtime_ns == kept_label[1].stat().st_mtime_ns


def test_images_come_along_where_they_are_asked_for(studies: Path, tmp_path: Path) -> None:
    answer("backup", studies, tmp_path / "all.tar", "--images")
    answer("restore", tmp_path / "all.tar", tmp_path / "new")
    for path in studies.glob("*.nrrd"):
        assert (tmp_path / "new" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "new" / path.name).stat().st_mtime_ns == path.stat().st_mtime_ns


def test_images_that_are_absent_are_counted(archive: Path, tmp_path: Path) -> None:
    ended = run("restore", archive, tmp_path / "empty")
    assert ended.returncode == 0 and "12 of its 12 images are not there" in ended.stdout


def test_archive_can_be_read_and_checked_without_the_app(archive: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", archive, "-C", tmp_path], check=True)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    assert rows(tmp_path / "state", "PRAGMA integrity_check") == [("ok",)]
    assert archive.stat().st_mode & 0o077 == 0
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


def test_backup_of_a_database_that_is_written_meanwhile_is_of_one_moment(studies: Path, tmp_path: Path) -> None:
    """Two rows that are always written together are both in it, or both not."""
    shutil.copytree(studies, tmp_path / "busy")
    database = tmp_path / "busy" / "coldstart" / "coldstart.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE pairs (number INTEGER)")
        connection.commit()
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import itertools, sqlite3, sys\n"
            "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
            "for n in itertools.count():\n"
            "    c.execute('BEGIN IMMEDIATE'); c.execute('INSERT INTO pairs VALUES (?)', (n,))\n"
            "    c.execute('INSERT INTO pairs VALUES (?)', (n,)); c.execute('COMMIT')\n",
            str(database),
        ]
    )
    try:
        deadline = time.monotonic() + 30
        while not rows(database.parent, "SELECT count(*) FROM pairs")[0][0]:
            assert time.monotonic() < deadline
        answer("backup", tmp_path / "busy", tmp_path / "busy.tar")
    finally:
        writer.kill()
        writer.wait(20)
    with tarfile.open(tmp_path / "busy.tar") as tar:
        tar.extract("state/coldstart.sqlite", tmp_path)
    assert rows(tmp_path / "state", "PRAGMA integrity_check") == [("ok",)]
    counts = rows(tmp_path / "state", "SELECT count(*), count(DISTINCT number) FROM pairs")[0]
    assert counts[0] == 2 * counts[1] > 0


def damaged(archive: Path, path: Path, at: float) -> Path:
    content = bytearray(archive.read_bytes())
    content[int(len(content) * at)] ^= 0xFF
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["flipped", "cut", "text", "foreign", "climbing"])
def test_archive_that_is_not_what_was_written_changes_nothing(archive: Path, tmp_path: Path, kind: str) -> None:
    bad = tmp_path / "bad.tar"
    if kind == "flipped":
        damaged(archive, bad, 0.4)
    elif kind == "cut":
        bad.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * 0.7)])
    elif kind == "text":
        bad.write_text("a letter\n" * 1000)
    else:
        (tmp_path / "file").write_text("x")
        with tarfile.open(bad, "w") as tar:
            tar.add(tmp_path / "file", "holiday.jpg" if kind == "foreign" else "studies/../../escaped")
    said = refusal("restore", bad, tmp_path / "studies")
    assert str(bad) in said and "Use another" in said
    assert not (tmp_path / "studies").exists() and not (tmp_path / "escaped").exists()


def test_archive_that_may_not_be_read_is_named_in_a_sentence(archive: Path, tmp_path: Path) -> None:
    """As another user, whose copy of it is the owner's alone."""
    private = tmp_path / "private.tar"
    shutil.copy(archive, private)
    private.chmod(0)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        said = refusal("restore", private, tmp_path / "studies")
    finally:
        os.seteuid(me)
    assert f"{private} cannot be read (Permission denied)" in said and "chmod a+r" in said
    assert not (tmp_path / "studies").exists()


def test_campaign_that_is_there_is_left_alone_or_moved_aside(studies: Path, archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(studies, copy)
    assert "--replace" in refusal("restore", archive, copy)
    (copy / "labels" / "final" / "chest_001.nrrd").write_bytes(b"precious")
    said = answer("restore", archive, copy, "--replace")
    aside = {Path(path).name: Path(path) for path in said["aside"]}
    assert (aside["labels"] / "final" / "chest_001.nrrd").read_bytes() == b"precious"
    assert aside["coldstart.sqlite"].stat().st_size > 0
    assert answer("status", copy)["labelled"] == 2


def test_damaged_database_is_not_backed_up_over_a_good_backup(studies: Path, archive: Path, tmp_path: Path) -> None:
    copy, target = tmp_path / "copy", tmp_path / "chest.tar"
    shutil.copytree(studies, copy)
    shutil.copy(archive, target)
    database = copy / "coldstart" / "coldstart.sqlite"
    database.write_bytes(database.read_bytes()[:8192] + b"\xff" * 40000)
    assert "damaged" in refusal("backup", copy, target)
    assert target.read_bytes() == archive.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chest.tar", "copy"]


def test_killed_backup_leaves_the_one_before(studies: Path, archive: Path, tmp_path: Path) -> None:
    """Killed while it reads an image of 40 GiB."""
    copy, target = tmp_path / "copy", tmp_path / "chest.tar"
    shutil.copytree(studies, copy)
    shutil.copy(archive, target)
    with (copy / "zero.nrrd").open("wb") as large:
        large.truncate(40 << 30)
    process = subprocess.Popen([COMMAND, "backup", str(copy), str(target), "--images"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not any(path.stat().st_size > 1 << 24 for path in tmp_path.glob(".coldstart-backup-*/archive")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    assert target.read_bytes() == archive.read_bytes()
    (left,) = tmp_path.glob(".coldstart-backup-*")
    os.utime(left, (0, 0))
    answer("backup", studies, target)  # the next one clears away what was left a day ago
    assert not left.exists()


def test_what_is_no_campaign_is_refused(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "No campaign has begun" in refusal("backup", tmp_path / "empty", tmp_path / "a.tar")
    assert "there is no" in refusal("restore", tmp_path / "a.tar", tmp_path / "empty")
    assert "is a folder" in refusal("backup", tmp_path / "empty", tmp_path)
    assert not (tmp_path / "a.tar").exists()
    (tmp_path / "a.tar").write_bytes(archive.read_bytes()[:5000])
    refusal("restore", tmp_path / "a.tar", tmp_path / "new" / "studies")
    assert not (tmp_path / "new" / "studies").exists()
