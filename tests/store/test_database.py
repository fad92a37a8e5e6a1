"""The database: its schema and migrations, its sentences, and who sees and waits for what."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, func, inspect, select, text
from sqlalchemy.exc import IntegrityError

from coldstart.exceptions import StoreError
from coldstart.store import (
    FILE_NAME,
    SCHEMA_HEAD,
    Image,
    Label,
    Model,
    Serving,
    Store,
    bytes_to_vector,
    vector_to_bytes,
)
from coldstart.store.schema import POINT_DTYPE, Base


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "state")
    yield store
    store.close()


def add_image(store, image_id="a"):
    with store.writing() as session:
        image = Image(image_id=image_id, path=f"/{image_id}.png", signature="1", added_at=0.0)
        session.add(image)
        session.flush()
        return image.id


def test_fresh_database_has_exactly_the_schema_of_the_models(store):
    engine = create_engine(f"sqlite:///{store.path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == SCHEMA_HEAD
        found = inspect(connection)
        for name, table in Base.metadata.tables.items():  # compare_metadata looks neither at keys nor at their rules
            assert found.get_pk_constraint(name)["constrained_columns"] == [key.name for key in table.primary_key]
            rules = {
                (key["constrained_columns"][0], key["referred_table"], key["options"].get("ondelete"))
                for key in found.get_foreign_keys(name)
            }
            wanted = {(key.parent.name, key.column.table.name, key.ondelete) for key in table.foreign_keys}
            assert rules == wanted
    engine.dispose()


def test_database_opened_again_keeps_its_content(store):
    add_image(store)
    again = Store(store.folder)
    with again.reading() as session:
        assert session.scalars(select(Image.image_id)).all() == ["a"]
    again.close()


def test_database_is_in_wal_mode_and_waits_for_the_disk(store):
    with store.reading() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2  # FULL: a saved label survives a power cut
        assert session.scalar(text("PRAGMA foreign_keys")) == 1


def test_database_of_a_newer_version_is_refused_with_a_sentence(store):
    with store.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(
        StoreError, match=r"has schema version 9999, which this version of the app does not know"
    ) as info:
        Store(store.folder)
    assert str(store.path) in str(info.value)
    assert f"it knows up to {SCHEMA_HEAD}" in str(info.value)
    assert "--conf state_dir" in str(info.value)
    with store.reading() as session:  # and left as it was
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


def test_folder_that_cannot_be_made_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be opened or written: .*--conf state_dir"):
        Store(tmp_path / "file" / "state")


def test_database_file_that_is_a_folder_is_refused_with_a_sentence(tmp_path):
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StoreError, match="cannot be opened or written: "):
        Store(tmp_path)


def test_many_may_open_a_new_database_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: Store(tmp_path / "new"), range(8)))
    for store in stores:
        add_image(store, f"i{id(store)}")
    with stores[0].reading() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 8
    for store in stores:
        store.close()


def test_writers_take_turns(store):
    """Read and write of one transaction belong together: no count is lost."""
    with store.writing() as session:
        session.add(Model(version="m", created_at=0.0, details={"n": 0}))

    def increment(_):
        with store.writing() as session:
            model = session.scalars(select(Model)).one()
            number = model.details["n"]
            time.sleep(0.002)
            model.details = {"n": number + 1}

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(increment, range(24)))
    with store.reading() as session:
        assert session.scalars(select(Model)).one().details == {"n": 24}


def test_reader_sees_one_state_and_does_not_wait_for_a_writer(store):
    add_image(store, "a")
    with store.reading() as reader:
        assert reader.scalar(select(func.count()).select_from(Image)) == 1
        with store.writing() as writer:
            writer.add(Image(image_id="b", path="/b", signature="1", added_at=0.0))
            writer.flush()
            assert reader.scalar(select(func.count()).select_from(Image)) == 1
        assert reader.scalar(select(func.count()).select_from(Image)) == 1
    with store.reading() as reader:
        assert reader.scalar(select(func.count()).select_from(Image)) == 2


def test_writer_is_alone_from_its_first_line(store):
    order, inside = [], threading.Event()

    def first():
        with store.writing():
            inside.set()
            time.sleep(0.1)
            order.append("first")

    def second():
        inside.wait()
        with store.writing():
            order.append("second")

    threads = [threading.Thread(target=work) for work in (second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]


def test_transaction_that_fails_leaves_nothing(store):
    with pytest.raises(RuntimeError), store.writing() as session:
        session.add(Image(image_id="a", path="/a", signature="1", added_at=0.0))
        session.flush()
        raise RuntimeError
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 0
    add_image(store)


def test_image_ids_are_unique(store):
    add_image(store)
    with pytest.raises(IntegrityError):
        add_image(store)


def test_label_and_servings_need_their_image_and_go_with_it(store):
    with pytest.raises(IntegrityError), store.writing() as session:
        session.add(Label(image=99, path="/a", signature="1", saved_at=0.0))
    row = add_image(store)
    with store.writing() as session:
        session.add(Label(image=row, path="/a", signature="1", saved_at=0.0))
        session.add(Serving(image_row=row, strategy="s", phase="p", why={}, served_at=0.0))
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("DELETE FROM images")
    connection.commit()
    counts = [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("labels", "servings")]
    connection.close()
    assert counts == [0, 0]


def test_folder_name_with_odd_characters_works(tmp_path):
    store = Store(tmp_path / "50 % of #1? ü")
    add_image(store)
    assert store.path.is_file()
    store.close()


def test_vectors_are_kept_as_little_endian_float32_and_points_as_float64():
    vector = np.array([1.5, -2.25, 3.0])
    assert vector_to_bytes(vector) == vector.astype("<f4").tobytes()
    assert np.array_equal(bytes_to_vector(vector_to_bytes(vector)), vector)
    point = np.array([0.1, 1e-300])
    assert np.array_equal(bytes_to_vector(vector_to_bytes(point[::1], POINT_DTYPE), POINT_DTYPE), point)
    assert vector_to_bytes(np.arange(6.0)[::2]) == np.array([0, 2, 4], "<f4").tobytes()
