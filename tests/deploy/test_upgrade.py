"""A campaign that the first version of the app left, on today's server: the store is migrated, and all goes on."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import requests
from alembic import command
from sqlalchemy import create_engine

from coldstart.adapters.offline import open_campaign
from coldstart.adapters.server import Server
from coldstart.campaign.plans import read_plan
from coldstart.campaign.replay import replay
from coldstart.store import FILE_NAME, SCHEMA_HEAD, Store, engine

CONF = {"preset": "sample", "encoder": "descriptor", "budget": "5", "prelabel": "0", "device": "cpu"}
N_LABELLED = 2


@pytest.fixture
def old(repository: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A studies folder with two labels and a database of the first schema, and the ids of its plan."""
    studies, chest = tmp_path / "chest", repository / "sample-data" / "chest"
    final = studies / "labels" / "final"
    final.mkdir(parents=True)
    for number in range(1, 11):
        shutil.copy(chest / f"chest_{number:03d}.nrrd", studies)
    campaign = open_campaign(str(studies), CONF, begin=True).campaign
    campaign.embed()
    planned = [image.image_id for image in read_plan(campaign).images]
    for _ in range(N_LABELLED):
        sample = campaign.next_sample("coldstart_al", annotator="ann")
        shutil.copy(chest / "groundtruth" / f"{sample.image_id}.nrrd", final)
        open_campaign(str(studies), CONF, begin=True)  # notices the label
    campaign.next_sample("coldstart_al", annotator="ben")
    campaign.store.close()
    as_the_first_version_left_it(studies / "coldstart")
    return studies, planned


def as_the_first_version_left_it(state: Path) -> None:
    """Take what the first schema has columns for into a database of that schema; nothing else is left."""
    first = state.parent / "first.sqlite"
    config, made = engine._alembic_config(), create_engine(f"sqlite:///{first}")
    with made.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.commit()
    made.dispose()
    with closing(sqlite3.connect(first)) as database:
        database.execute("ATTACH ? AS new", (str(state / FILE_NAME),))
        for (table,) in database.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            if table != "alembic_version":
                columns = ", ".join(column for _, column, *_ in database.execute(f"PRAGMA main.table_info({table})"))
                database.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        database.commit()
    shutil.rmtree(state)
    state.mkdir()
    first.rename(state / FILE_NAME)


def query(studies: Path, text: str) -> list[tuple]:
    with closing(sqlite3.connect(studies / "coldstart" / FILE_NAME)) as connection:
        return connection.execute(text).fetchall()


KEPT = [
    "SELECT image_id, signature, vector, point, cluster FROM images ORDER BY image_id",
    "SELECT image, signature, saved_at FROM labels ORDER BY image",
    "SELECT id, image_row, annotator, strategy, phase, served_at FROM servings ORDER BY id LIMIT 3",
    "SELECT rank, image_row, cluster, role FROM plan_picks ORDER BY rank",
]


def test_campaign_of_the_first_schema_goes_on_after_a_start(old: tuple[Path, list[str]], tmp_path: Path) -> None:
    studies, planned = old
    assert query(studies, "SELECT version_num FROM alembic_version") == [("0001",)]
    before = [query(studies, text) for text in KEPT]
    with Server(studies, CONF, tmp_path / "server.log") as server:
        state = requests.get(f"{server.url}/info/", timeout=60).json()["coldstart"]
        assert (state["images"], state["labelled"]) == (10, N_LABELLED)
        assert query(studies, "SELECT version_num FROM alembic_version") == [(SCHEMA_HEAD,)]
        assert [query(studies, text) for text in KEPT] == before
        clicked = requests.post(
            f"{server.url}/activelearning/coldstart_al", json={"client_id": "ann"}, timeout=60
        ).json()
        assert clicked["id"] == planned[N_LABELLED + 1]  # the third is reserved for Ben since before the upgrade
        assert clicked["coldstart"]["phase"] == "cold_start"
        truth = Path(__file__).parents[2] / "sample-data" / "chest" / "groundtruth" / f"{clicked['id']}.nrrd"
        with truth.open("rb") as label:
            address = f"{server.url}/datastore/label?image={clicked['id']}"
            assert requests.put(address, files={"label": (truth.name, label)}, timeout=60).ok
        until = time.monotonic() + 60
        while requests.get(f"{server.url}/info/", timeout=60).json()["coldstart"]["labelled"] < N_LABELLED + 1:
            assert time.monotonic() < until
            time.sleep(0.2)
    store = Store(studies / "coldstart")
    found = [one.same for one in replay(store)]
    store.close()
    assert found == [True, None]  # the click; what was served before there was a log cannot be told
