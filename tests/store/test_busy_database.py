"""A database that another program holds: who waits, who is told what, and what goes on."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing

import pytest
from sqlalchemy import func, select

from coldstart.exceptions import StoreBusyError
from coldstart.store import Image, Store, database, engine


@pytest.fixture
def store(tmp_path, monkeypatch):
    for module in (engine, database):
        monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.2)
    store = Store(tmp_path / "state")
    yield store
    store.close()


@pytest.fixture
def holder(store):
    """Another program that has begun to write."""
    with closing(sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def count(store):
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(Image))


def add(store, image_id="a"):
    with store.writing() as session:
        session.add(Image(image_id=image_id, path="/", signature="1", added_at=0.0))


def test_writing_says_that_it_is_locked_and_works_once_it_is_free(store, holder):
    with pytest.raises(StoreBusyError, match=r"has been locked for more than 0\.2 s\. .*close that\.") as caught:
        add(store)
    assert str(store.path) in str(caught.value)
    holder.execute("ROLLBACK")
    add(store)
    assert count(store) == 1


def test_reading_and_opening_do_not_wait_for_who_holds_it(store, holder):
    assert count(store) == 0
    again = Store(store.folder)
    assert count(again) == 0
    again.close()


def test_thread_that_waits_too_long_for_another_one_is_told(store):
    with store.writing(), pytest.raises(StoreBusyError, match="has been locked"):
        add(store)
    add(store)
    assert count(store) == 1


def test_what_took_long_to_compute_waits_until_it_can_be_written(store, holder, monkeypatch, caplog):
    monkeypatch.setattr(database, "RETRY_EVERY_S", 0.05)
    calls = []

    def work():
        calls.append(time.monotonic())
        add(store)
        return "done"

    threading.Timer(0.6, holder.execute, ["ROLLBACK"]).start()
    assert store.patiently(work) == "done"
    assert count(store) == 1
    assert len(calls) >= 2
    assert "What waits to be written is tried again" in caplog.text


def test_patience_has_an_end(store, holder, monkeypatch):
    monkeypatch.setattr(database, "RETRY_EVERY_S", 0.01)
    monkeypatch.setattr(database, "PATIENCE_S", 0.3)
    with pytest.raises(StoreBusyError):
        store.patiently(lambda: add(store))
