"""A database that is damaged, removed or replaced, at the start and while it is in use."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from coldstart.exceptions import StoreDamagedError
from coldstart.store import FILE_NAME, Image, Label, Model, Serving, Store

N_IMAGES = 60
PAGE = 4096


@pytest.fixture
def stores():
    opened = []
    yield opened
    for store in opened:
        store.close()


@pytest.fixture
def open_store(tmp_path, stores):
    def open_it(**options) -> Store:
        stores.append(Store(tmp_path / "state", **options))
        return stores[-1]

    return open_it


def fill(store):
    """Images with large vectors, and of every second one a label and a serving."""
    with store.writing() as session:
        session.add(Model(version="m1", created_at=5.0, details={"dice": 0.5}))
        for number in range(N_IMAGES):
            image = Image(image_id=f"i{number:03}", path=f"/{number}.png", signature=str(number), added_at=1.0)
            image.vector, image.encoder = random.Random(number).randbytes(6000), "e"
            session.add(image)
            session.flush()
            if number % 2:
                session.add(_label(image.id, number))
                why = {"reason": "r" * 200}
                session.add(
                    Serving(image_row=image.id, annotator="ann", strategy="s", phase="p", why=why, served_at=number)
                )


def _label(row, number):
    return Label(
        image=row, path=f"/l{number}", signature="s", saved_at=number, annotator="ann", class_of_value={"1": 1}
    )


def filled(open_store):
    """Path of a database that was filled and closed."""
    store = open_store()
    fill(store)
    store.close()
    return store.path


def content(store):
    with store.reading() as session:
        labels = select(Image.image_id, Label.saved_at, Label.annotator, Label.class_of_value).join(Label)
        servings = select(Image.image_id, Serving.served_at, Serving.annotator, Serving.why).join(Serving)
        return {
            "images": {row[0]: row[1:] for row in session.execute(select(Image.image_id, Image.path, Image.signature))},
            "labels": {row[0]: row[1:] for row in session.execute(labels)},
            "servings": {row[0]: row[1:] for row in session.execute(servings)},
            "models": {row[0]: row[1] for row in session.execute(select(Model.version, Model.details))},
        }


def require_consistent(store):
    with store.reading() as session:
        assert session.scalar(text("PRAGMA integrity_check")) == "ok"
        assert session.execute(text("PRAGMA foreign_key_check")).all() == []


def kept_aside(path):
    return sorted(
        file
        for file in path.parent.glob(f"{FILE_NAME}.damaged-*")
        if not file.name.endswith(("-wal", "-shm", "-journal"))
    )


def garbage(path):
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


def cut_within_a_page(path):
    os.truncate(path, path.stat().st_size // 3 * 2 + 100)


def page_of_images_overwritten(path):
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // PAGE * PAGE)
        file.write(random.Random(2).randbytes(4 * PAGE))


def first_page_overwritten(path):
    with path.open("r+b") as file:
        file.write(b"notes of an annotator".ljust(PAGE, b"\0"))


def table_dropped(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE labels")


def of_another_program(path):
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE images (name TEXT)")
        connection.execute("INSERT INTO images VALUES ('mine')")
        connection.commit()


def index_wrong(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'ix_servings_image_row'")
        connection.commit()


DAMAGES = [
    *(garbage, empty, truncated, cut_within_a_page, page_of_images_overwritten, first_page_overwritten),
    *(table_dropped, of_another_program, index_wrong),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_database_is_kept_aside_and_a_sound_one_takes_its_place(open_store, caplog, damage):
    path = filled(open_store)
    damage(path)
    before = path.read_bytes()
    store = open_store()
    require_consistent(store)
    assert [file.read_bytes() for file in kept_aside(path)] == [before]
    (warning,) = [record for record in caplog.records if "was damaged" in record.getMessage()]
    assert str(kept_aside(path)[0]) in warning.getMessage()
    fill_again = [f"i{number:03}" for number in range(N_IMAGES)]
    with store.writing() as session:  # as the datastore's next reading does
        known = set(session.scalars(select(Image.image_id)))
        session.add_all(
            Image(image_id=key, path="/", signature="1", added_at=2.0) for key in fill_again if key not in known
        )
    store.close()
    assert len(content(open_store())["images"]) == N_IMAGES
    assert len(kept_aside(path)) == 1, "the new one is not taken for damaged"


@pytest.mark.parametrize(
    ("damage", "least"),
    [(truncated, 0.2), (cut_within_a_page, 0.4), (page_of_images_overwritten, 0.8), (index_wrong, 1.0)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_nobody_can_compute_again_is_taken_over_from_what_can_be_read(open_store, damage, least):
    path = filled(open_store)
    store = open_store()
    whole = content(store)
    store.close()
    damage(path)
    store = open_store()
    found = content(store)
    assert len(found["images"]) >= least * N_IMAGES
    for table, rows in found.items():
        assert rows.items() <= whole[table].items(), f"a row of '{table}' is another one than before"
    if least >= 0.8:
        assert found["models"] == whole["models"]
        assert len(found["labels"]) >= least * N_IMAGES / 2 <= len(found["servings"])
    with store.reading() as session:  # a damaged vector looks like any other: none is trusted
        assert session.scalar(select(func.count()).where(Image.vector.is_not(None) | Image.encoder.is_not(None))) == 0


def test_row_of_the_wrong_kind_is_not_taken_over(open_store):
    path = filled(open_store)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE labels SET saved_at = 'yesterday' WHERE image = 2")
        connection.execute("UPDATE labels SET class_of_value = '{\"1\": ' WHERE image = 4")
        connection.execute("UPDATE images SET image_id = x'ff00' WHERE id = 6")
        connection.commit()
    index_wrong(path)
    found = content(open_store())
    lost = {f"i{number:03}" for number in (1, 3)}
    assert not lost & found["labels"].keys() and lost <= found["images"].keys()
    assert "i005" not in found["images"].keys() | found["labels"].keys() | found["servings"].keys()
    assert len(found["labels"]) == N_IMAGES // 2 - 3


def test_what_was_kept_aside_is_never_overwritten(open_store):
    path = filled(open_store)
    for number in range(3):
        path.write_bytes(b"damaged %d" % number)
        open_store().close()
    assert sorted(file.read_bytes() for file in kept_aside(path)) == [b"damaged %d" % number for number in range(3)]


def test_log_of_a_damaged_database_goes_with_it(open_store):
    path = filled(open_store)
    wal = path.with_name(f"{FILE_NAME}-wal")
    path.write_bytes(b"x" * 5000)
    wal.write_bytes(b"a log")
    store = open_store()
    assert kept_aside(path)[0].with_name(f"{kept_aside(path)[0].name}-wal").read_bytes() == b"a log"
    require_consistent(store)


@pytest.mark.parametrize("damage", [garbage, empty, truncated], ids=lambda damage: damage.__name__)
def test_damage_while_in_use_ends_the_transaction_with_a_sentence_and_the_next_one_works(open_store, damage, caplog):
    renewed = []
    filled(open_store)
    store = open_store(fill=renewed.append)
    damage(store.path)
    with pytest.raises(StoreDamagedError, match=r"was damaged \(.+\)\. It is kept aside.*Try again\.$") as caught:
        content(store)
    assert str(store.path) in str(caught.value)
    with store.writing() as session:
        session.add(Image(image_id="new", path="/", signature="1", added_at=0.0))
    assert "new" in content(store)["images"]
    require_consistent(store)
    assert len(renewed) == len(kept_aside(store.path)) == 1
    assert sum("was damaged" in record.getMessage() for record in caplog.records) == 1


def test_damage_that_no_transaction_meets_is_found_by_looking_the_file_over(open_store):
    filled(open_store)
    store = open_store()
    content(store)
    store.look_over()
    page_of_images_overwritten(store.path)
    os.utime(store.path, (1, 1))
    store.look_over()
    assert len(kept_aside(store.path)) == 1
    require_consistent(store)
    store.look_over()
    assert len(kept_aside(store.path)) == 1


def test_table_that_is_missing_is_told_from_a_wrong_question(open_store):
    filled(open_store)
    store = open_store()
    with pytest.raises(Exception, match="no such table: nowhere"), store.reading() as session:
        session.execute(text("SELECT * FROM nowhere"))
    assert kept_aside(store.path) == []
    table_dropped(store.path)
    with pytest.raises(StoreDamagedError, match="its table 'labels' lacks"):
        content(store)
    assert len(content(store)["images"]) == N_IMAGES


def test_text_that_cannot_be_decoded_does_not_fail_every_transaction(open_store):
    filled(open_store)
    store = open_store()
    with store.writing() as session:
        session.execute(text("UPDATE images SET path = CAST(x'ff41' AS TEXT) WHERE id = 3"))
    with pytest.raises(StoreDamagedError, match="UTF-8"):
        content(store)
    assert len(content(store)["images"]) == N_IMAGES - 1


def test_error_of_the_body_passes_through(open_store):
    store = open_store()
    for session_of in (store.reading, store.writing):
        with pytest.raises(ZeroDivisionError), session_of():
            _ = 1 / 0


def test_others_that_have_it_open_follow_to_the_new_one(open_store):
    path = filled(open_store)
    first, second = open_store(), open_store()
    content(second)
    garbage(path)
    with pytest.raises(StoreDamagedError):
        content(first)
    with second.writing() as session:
        session.add(Image(image_id="late", path="/", signature="1", added_at=0.0))
    assert content(first) == content(second)
    assert "late" in content(first)["images"]
    assert len(kept_aside(path)) == 1


@pytest.mark.parametrize("gone", ["folder", "file", "file with its log"])
def test_removed_database_is_made_anew(open_store, gone, caplog):
    renewed = []

    def fill_again(session):
        renewed.append(session)
        session.add(Image(image_id="shown", path="/", signature="", added_at=0.0))

    filled(open_store)
    store = open_store(fill=fill_again)
    fill_one = Image(image_id="one", path="/", signature="1", added_at=0.0)
    content(store)
    if gone == "folder":
        shutil.rmtree(store.folder)
    else:
        for suffix in [""] if gone == "file" else ["", "-wal", "-shm"]:
            store.path.with_name(store.path.name + suffix).unlink()
    with store.writing() as session:
        assert session.scalars(select(Image.image_id)).all() == ["shown"], "nobody meets it empty"
        session.add(fill_one)
    assert content(store)["images"].keys() == {"shown", "one"}
    assert store.path.is_file()
    require_consistent(store)
    assert len(renewed) == 1
    assert "was removed or replaced" in caplog.text


def test_transaction_into_a_file_that_is_removed_meanwhile_fails_with_a_sentence(open_store):
    store = open_store()
    with pytest.raises(StoreDamagedError, match=r"removed or replaced while it was written\. Try"):
        with store.writing() as session:
            session.add(Image(image_id="a", path="/", signature="1", added_at=0.0))
            shutil.rmtree(store.folder)
    assert content(store)["images"] == {}


def test_database_put_in_its_place_by_somebody_is_used(open_store, tmp_path):
    path = filled(open_store)
    backup = Path(shutil.copy(path, tmp_path / "backup"))
    store = open_store()
    with store.writing() as session:
        session.execute(text("DELETE FROM images"))
    for suffix in ("-wal", "-shm"):
        path.with_name(f"{FILE_NAME}{suffix}").unlink()
    os.replace(backup, path)
    assert len(content(store)["images"]) == N_IMAGES


_KILLED_IN_A_TRANSACTION = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=DELETE")
connection.execute("PRAGMA cache_size=1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE images SET path = path || hex(randomblob(2000))")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_transaction_that_was_killed_without_a_write_ahead_log_is_undone(open_store):
    store = open_store()
    fill(store)
    path, before = store.path, content(store)
    store.close()
    subprocess.run([sys.executable, "-c", _KILLED_IN_A_TRANSACTION, str(path)], timeout=60)
    assert path.with_name(f"{path.name}-journal").stat().st_size, "nothing was left in the middle"
    assert content(open_store()) == before
    assert not kept_aside(path)
