"""A campaign whose database is lost while it runs, or cannot be written: what it still knows, and what goes on."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import campaign_case as case
from campaign_case import click, label
from sqlalchemy import select

from coldstart.campaign import Campaign, LabelFile
from coldstart.campaign.progress import reporter
from coldstart.store import Progress, Serving, database, engine


def lose_database(campaign: Campaign) -> None:
    for file in campaign.folder.glob(f"{database.FILE_NAME}*"):
        file.unlink()


def test_click_meets_every_image_and_label_and_whoever_has_an_image(campaign, pictures):
    campaign.sync(case.list_files(pictures), {})
    mine = [click(campaign, annotator="named").image_id for _ in range(2)]
    label(campaign, mine[1], annotator="named")
    others = case.clicks(campaign, 3)
    lose_database(campaign)
    seen = case.clicks(campaign, case.N_POOL - 5)
    assert not set(seen) & {*mine, *others}
    assert case.labels(campaign).keys() == {mine[1]}
    assert {row.image_id for row in case.rows(campaign).values() if row.held_out} == set(case.HELD_OUT)
    with campaign.store.reading() as session:
        outcomes = dict(session.execute(select(case.Image.image_id, Serving.outcome).join(Serving)).tuples().all())
    assert [outcomes[image_id] for image_id in (*mine, *others)] == ["skipped", "labelled", None, None, None]
    assert click(campaign).image_id == mine[0], "what was skipped comes back when nothing else is left"


def test_everything_is_computed_and_checked_again(campaign, pictures):
    shown = case.list_files(pictures)
    campaign.sync(shown, {})
    first = click(campaign).image_id
    label(campaign, first)
    before = case.pool(campaign)[1]
    assert campaign.tasks_to_do() == {}
    shutil.rmtree(campaign.folder)
    case.clicks(campaign, 1)
    assert "has not been checked yet" in (campaign.label_problem(first) or "")
    path = case.draw_label(campaign.folder.parent / f"{first}.png")
    campaign.sync(shown, {first: LabelFile(path)})
    assert campaign.label_problem(first) is None
    to_do = campaign.tasks_to_do()
    assert set(to_do) == {"embedding"}
    campaign.embed()
    assert (case.pool(campaign)[1] == before).all()
    assert campaign.tasks_to_do() == {}


def test_task_is_another_one_in_another_database(campaign, pictures):
    tasks = []
    for _ in range(2):
        lose_database(campaign)
        campaign.sync(case.list_files(pictures), {})
        tasks.append(campaign.tasks_to_do()["embedding"])
    assert tasks[0] != tasks[1], "what failed on the one before would not be tried"


def test_progress_that_cannot_be_noted_does_not_end_its_task(campaign, monkeypatch, caplog):
    for module in (engine, database):
        monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.1)
    campaign.store.close()
    campaign = Campaign(campaign.settings, campaign.folder)
    report = reporter(campaign.store, "embedding", "encoder")
    with closing(sqlite3.connect(campaign.store.path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        report(7, 7)
    assert "How far 'embedding' is cannot be noted; it goes on." in caplog.text
    report(8, 8)
    with campaign.store.reading() as session:
        assert session.scalar(select(Progress.done)) == 8
    campaign.store.close()
