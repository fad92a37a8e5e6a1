"""Runs by itself in a mount namespace: what a full disk does, on a small one that this program may fill.

`python full_disk_case.py <what> <small disk> <folder on another disk>`
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import fault_case as fault
import requests
from sqlalchemy import select, text

from coldstart.adapters.server import Server, ServerError
from coldstart.exceptions import StoreBusyError
from coldstart.store import FILE_NAME, Image, Store

N_IMAGES = 30


def fill(disk: Path) -> None:
    """Use the last byte of a disk."""
    with (disk / "filler").open("ab", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2


def give_room(disk: Path, size: int | None = None) -> None:
    filler = disk / "filler"
    if size is None:
        filler.unlink()
    else:
        os.truncate(filler, max(0, filler.stat().st_size - size))


@contextmanager
def refused(words: str) -> Any:
    try:
        yield
    except StoreBusyError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"nothing was refused; a sentence with '{words}' was expected")


def add(store: Store, image_id: str) -> None:
    with store.writing() as session:
        session.add(Image(image_id=image_id, path="p" * 3000, signature="1", added_at=0.0))


def ids(store: Store) -> set[str]:
    with store.reading() as session:
        assert session.scalar(text("PRAGMA integrity_check")) == "ok"
        return set(session.scalars(select(Image.image_id)))


def stores_on_a_full_disk(disk: Path, _: Path) -> None:
    """A sound database and a damaged one; both in one process, since it takes seconds to import everything."""
    fill_up_step_by_step(disk, disk / "sound")
    replace_a_damaged_one(disk, disk / "damaged")


def fill_up_step_by_step(disk: Path, folder: Path) -> None:
    """Every step from a full disk to an empty one: what was written stays, what cannot be written says so."""
    fill(disk)
    with refused("its disk is full"):
        Store(folder)
    give_room(disk)
    store = Store(folder)
    assert not list(folder.glob("*.damaged-*")), "a database that could not be made is not a damaged one"
    add(store, "first")
    fill(disk)
    written = {"first"}
    n_refused = 0
    while len(written) < 100:
        give_room(disk, 4096)
        name = f"i{len(written)}"
        try:
            add(store, name)
            written.add(name)
        except StoreBusyError:
            n_refused += 1
        assert ids(store) == written
    assert n_refused > 10
    give_room(disk)
    add(store, "last")
    assert ids(store) == written | {"last"}
    store.close()


def replace_a_damaged_one(disk: Path, folder: Path) -> None:
    """Without room for a new one the damaged one stays where it is; with room it is kept aside."""
    store = Store(folder)
    add(store, "first")
    store.close()
    garbage = random.Random(0).randbytes(store.path.stat().st_size)
    store.path.write_bytes(garbage)
    fill(disk)
    with refused("its disk is full"):
        Store(store.folder)
    assert store.path.read_bytes() == garbage
    give_room(disk)
    assert ids(Store(store.folder)) == set()
    (kept,) = store.folder.glob("*.damaged-*")
    assert kept.read_bytes() == garbage


def click(server: Server, client: str) -> requests.Response:
    return requests.post(f"{server.url}/activelearning/coldstart_al", json={"client_id": client}, timeout=30)


def save_label(server: Server, studies: Path, image_id: str) -> requests.Response:
    with (fault.truth_of(studies) / f"{image_id}.png").open("rb") as file:
        url = f"{server.url}/datastore/label?image={image_id}"
        return requests.put(url, data={"params": "{}"}, files={"label": (f"{image_id}.png", file)}, timeout=30)


def use(server: Server, studies: Path, disk: Path, *, label_has_room: bool) -> None:
    """Click and save before the disk is full, while it is, and afterwards."""
    fault.wait_for("a plan", lambda: fault.state(server)["planned"] == fault.BUDGET, server)
    final = studies / "labels" / "final"
    handed_out = [click(server, "a0").json()["id"]]
    first = handed_out[0]
    assert save_label(server, studies, first).status_code == 200
    before = (final / f"{first}.png").read_bytes()
    fill(disk)

    for number in range(1, 6):
        answer = click(server, f"a{number}")
        assert answer.status_code == 200, answer.text
        handed_out.append(answer.json()["id"])
    for image_id in (first, handed_out[1]):
        answer = save_label(server, studies, image_id)
        if label_has_room:
            assert answer.status_code == 200, answer.text
        else:
            assert answer.status_code in (503, 507), answer.text
            assert "room" in answer.json()["detail"] and "\n" not in answer.json()["detail"], answer.text
    assert (final / f"{first}.png").read_bytes() == before, "the label before is as it was"
    assert fault.state(server)["images"] == N_IMAGES
    assert fault.state(server)["labelled"] >= 1

    give_room(disk)
    handed_out.append(click(server, "a6").json()["id"])
    assert save_label(server, studies, handed_out[-1]).status_code == 200
    assert save_label(server, studies, handed_out[1]).status_code == 200
    while len(handed_out) < N_IMAGES:
        handed_out.append(click(server, f"a{len(handed_out)}").json()["id"])
    assert len(set(handed_out)) == N_IMAGES, "an image was handed out twice while another was free"
    fault.wait_for("3 labels", lambda: fault.state(server)["labelled"] == 3, server, 20)
    assert {file.stem for file in final.glob("*.png")} == {first, handed_out[1], handed_out[6]}
    assert "Traceback" not in server.log.read_text(), server.log.read_text()[-4000:]


def require_whole(path: Path) -> None:
    """After the server has ended, everything that it answered is in its database."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (served,) = connection.execute("SELECT count(DISTINCT image_row) FROM servings").fetchone()
    assert served == N_IMAGES
    assert not list(path.parent.glob("*.damaged-*"))


def server_on_a_full_disk(disk: Path, other: Path) -> None:
    """Images, labels and database on one disk that fills up."""
    studies = disk / "studies"
    fault.write_images(studies, N_IMAGES)
    with Server(studies, fault.CONF, other / "server.log") as server:
        use(server, studies, disk, label_has_room=False)
    require_whole(studies / "coldstart" / FILE_NAME)


def state_on_a_full_disk(disk: Path, other: Path) -> None:
    """The database alone is on the disk that fills up: labels are saved all the same; a start says what is wrong."""
    studies, state = other / "studies", disk / "state"
    fault.write_images(studies, N_IMAGES)
    conf = {**fault.CONF, "state_dir": str(state)}
    fill(disk)
    try:
        Server(studies, conf, other / "failed.log").__enter__()
    except ServerError as error:
        assert "its disk is full" in str(error), error
    else:
        raise AssertionError("the server started without room for its database")
    give_room(disk)
    with Server(studies, conf, other / "server.log") as server:
        use(server, studies, disk, label_has_room=True)
    require_whole(state / FILE_NAME)


def uploads_on_a_full_disk(disk: Path, other: Path) -> None:
    """Temporary files alone are on the disk: an upload that does not fit takes no room from those that do."""
    studies, temporary = other / "studies", disk / "temporary"
    fault.write_images(studies, N_IMAGES)
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    with Server(studies, fault.CONF, other / "server.log") as server:
        before = set(temporary.iterdir())
        room = shutil.disk_usage(disk).free
        for route, field in (("image?image=new", "file"), ("label?image=case_00", "label")):
            upload = {field: ("new.png", bytes(room * 3 // 4))}
            answer = requests.put(f"{server.url}/datastore/{route}", data={"params": "{}"}, files=upload, timeout=60)
            assert answer.status_code in (404, 507), answer.text
            assert set(temporary.iterdir()) == before, route
        image_id = click(server, "a0").json()["id"]
        assert save_label(server, studies, image_id).status_code == 200


CASES: dict[str, Callable[[Path, Path], None]] = {
    case.__name__: case
    for case in (stores_on_a_full_disk, server_on_a_full_disk, state_on_a_full_disk, uploads_on_a_full_disk)
}

if __name__ == "__main__":
    CASES[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
