"""A database of the first schema becomes one of the newest, with all that it held, or stays what it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from alembic import command
from sqlalchemy import create_engine, select

from coldstart.store import FILE_NAME, SCHEMA_HEAD, Image, Revision, Serving, Store, engine


@pytest.fixture
def first_schema(tmp_path):
    """A database as the first version left it, with an image that was served."""
    path = tmp_path / FILE_NAME
    config = engine._alembic_config()
    made = create_engine(f"sqlite:///{path}")
    with made.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.commit()
    made.dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO images (id, image_id, path, signature, added_at, present, held_out, fitted, vector) "
            "VALUES (1, 'a', '/a', '1', 0, 1, 0, 0, x'00')"
        )
        connection.execute(
            "INSERT INTO servings (image_row, strategy, phase, why, served_at) VALUES (1, 's', 'p', '{}', 5)"
        )
        connection.commit()
    return path


def version(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def test_database_of_the_first_schema_keeps_its_content(first_schema):
    store = Store(first_schema.parent)
    assert version(first_schema) == SCHEMA_HEAD
    with store.reading() as session:
        assert session.scalars(select(Image.image_id)).all() == ["a"]
        assert session.scalars(select(Serving.served_at)).all() == [5.0]
        assert set(session.scalars(select(Revision.topic))) == {"pool", "labels", "servings", "judgements", "settings"}
    store.close()


def test_migration_that_is_cut_off_leaves_the_database_as_it_was(first_schema, monkeypatch):
    """As a kill would: whatever was done is in one transaction, and another start does it all."""
    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Store(first_schema.parent)
    assert version(first_schema) == "0001"
    with closing(sqlite3.connect(first_schema)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name LIKE 'revis%'").fetchone() == (0,)
    Store(first_schema.parent).close()
    assert version(first_schema) == SCHEMA_HEAD
