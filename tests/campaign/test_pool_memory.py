"""What a click keeps in memory is what the database holds, whoever wrote; and a click reads no more than it must."""

from __future__ import annotations

import campaign_case as case
import numpy as np
import pytest
from campaign_case import BUDGET, click, clicks, label, planned
from sqlalchemy import event, select, text

from coldstart.campaign import STRATEGIES, serving
from coldstart.campaign.reservations import read_reservations, read_revision
from coldstart.store import Image, Model, Revision


def revisions(campaign):
    with campaign.store.reading() as session:
        return dict(session.execute(select(Revision.topic, Revision.number)).tuples().all())


def write(campaign, statement):
    with campaign.store.writing() as session:
        session.execute(text(statement))


@pytest.mark.parametrize(
    ("topic", "statement"),
    [
        *(("pool", f"UPDATE images SET {change} WHERE id = 3") for change in ("present = 0", "held_out = 1")),
        *(("pool", f"UPDATE images SET {change} WHERE id = 3") for change in ("problem = 'x'", "map_id = NULL")),
        *(("pool", f"UPDATE images SET {change} WHERE id = 3") for change in ("point = x'00'", "cluster = 9")),
        *(("pool", f"UPDATE images SET {change} WHERE id = 3") for change in ("entropy = 0.1", "scoring_id = NULL")),
        ("pool", "DELETE FROM plan_picks WHERE rank = 0"),
        ("pool", "UPDATE plans SET budget = 99"),
        ("pool", "UPDATE maps SET encoder = 'another'"),
        ("pool", "INSERT INTO models (version, created_at, details) VALUES ('m', 0, '{}')"),
        ("pool", "INSERT INTO scorings VALUES (1, 'm', 0, 0, 0, 0, 0)"),
        ("labels", "INSERT INTO labels (image, path, signature, saved_at) VALUES (3, '/', '1', 0)"),
        ("servings", "INSERT INTO servings (image_row, strategy, phase, why, served_at) VALUES (3, 's', 'p', '{}', 0)"),
        ("servings", "UPDATE servings SET outcome = 'labelled'"),
        ("servings", "DELETE FROM servings"),
    ],
)
def test_revision_rises_with_what_is_kept_in_memory(campaign, topic, statement):
    click(campaign)
    before = revisions(campaign)
    write(campaign, statement)
    after = revisions(campaign)
    assert after.pop(topic) > before.pop(topic)
    assert after == before


def test_revision_stays_with_what_every_click_or_an_embedding_run_writes(campaign):
    before, seen = revisions(campaign), campaign.revision()
    click(campaign, annotator="anna")
    click(campaign, annotator="anna")
    write(campaign, "UPDATE images SET vector = x'00', encoder = 'e', path = '/', signature = '2'")
    write(campaign, "UPDATE progress SET done = 0")
    assert revisions(campaign) | {"servings": 0} == before | {"servings": 0}
    assert campaign.revision() == seen  # a click gives nobody a reason to read the folder


def test_revisions_of_two_databases_differ(campaign, make_new):
    assert not set(revisions(campaign).values()) & set(revisions(make_new()).values())


def test_click_sees_at_once_what_another_process_wrote(campaign, make_campaign, pictures):
    other = make_campaign()  # with connections and a memory of its own, as another process has
    expected = planned(campaign)
    assert click(campaign).image_id == expected[0]
    label(other, expected[1])
    assert click(campaign).image_id == expected[2]
    other.remove_label(expected[1])
    assert click(campaign).image_id == expected[1]
    files = case.list_files(pictures)
    other.sync({key: path for key, path in files.items() if key != expected[3]}, {})
    assert click(campaign).image_id == expected[4]
    other.sync(files, {})
    assert click(campaign).image_id == expected[3]
    assert click(other).image_id == expected[5]
    assert click(campaign).image_id == expected[6]
    case.score(other, case.random_entropies())
    assert click(campaign, "entropy_diversity").why["model_version"] == "m1"
    assert campaign.status() | {"held_out_unknown": []} == other.status() | {"held_out_unknown": []}


def test_status_follows_every_change(campaign, pictures):
    first = campaign.status()
    assert (first["images"], first["held_out"], first["labelled"]) == (case.N_POOL, len(case.HELD_OUT), 0)
    label(campaign, "p00", values=(9,))
    label(campaign, case.HELD_OUT[0])  # held out: counts for nothing
    write(campaign, "UPDATE images SET problem = 'empty' WHERE image_id = 'p01'")
    files = case.list_files(pictures)
    del files["p02"]
    campaign.sync(files, {})
    second = campaign.status()
    assert (second["images"], second["labelled"]) == (case.N_POOL - 2, 1)
    assert second["set_aside"] == {"p01": "empty"}
    assert len(second["label_problems"]) == 1
    assert "p00" in second["label_problems"][0]


def test_click_reads_no_image_label_or_serving_unless_they_changed(campaign):
    statements = []
    clicks(campaign, 2, annotator="anna")
    with campaign.store.reading() as session:
        engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    clicks(campaign, 2)
    clicks(campaign, 2, annotator="anna")
    campaign.status()
    read = " ".join(statements)
    assert "FROM revisions" in read
    for table in ("images", "labels", "plan_picks", "maps", "scorings", "servings"):
        assert f"FROM {table}" not in read
    label(campaign, click(campaign).image_id)
    click(campaign)
    assert "FROM labels" in " ".join(statements)
    assert "FROM servings" in " ".join(statements)


def test_clicks_of_two_processes_leave_both_with_what_the_database_holds(campaign, make_campaign):
    """Any mixture of writers; `other` is one with connections and a memory of its own, as another process has."""
    rng, desks = np.random.default_rng(0), (campaign, make_campaign())
    case.score(campaign, case.random_entropies())
    for _ in range(80):
        one = desks[rng.integers(2)]
        sample = click(one, STRATEGIES[rng.integers(4)], annotator=(None, "anna", "ben", "cleo")[rng.integers(4)])
        if rng.random() < 0.2:
            label(desks[rng.integers(2)], sample.image_id)
        if rng.random() < 0.1:
            one.remove_label(sample.image_id)
        if rng.random() < 0.1:
            write(campaign, "DELETE FROM servings WHERE id % 5 = 0")
        with one.store.reading() as session:
            kept, read = one._desk._reservations.take(session), read_reservations(session)
            one._desk._reservations.keep(read_revision(session), kept)
        assert (kept.reserved(0), kept.skipped) == (read.reserved(0), read.skipped)
        assert kept._held == read._held
        assert kept.n_active_picks(1) == read.n_active_picks(1)


def test_click_that_could_not_be_written_leaves_nothing_in_memory(campaign, monkeypatch):
    first, second, third = planned(campaign)[:3]
    assert click(campaign).image_id == first

    def fail(session):
        raise KeyError("anything, after the serving was written and before its commit")

    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(serving, "read_revision", fail)
        click(campaign)
    assert clicks(campaign, 2) == [second, third]
    assert [image_id for image_id, _ in case.servings(campaign)] == [first, second, third]


@pytest.mark.parametrize("question", ["reserved", "skipped", "mine", "active"])
def test_questions_of_a_click_use_an_index(campaign, question):
    statement = {
        "reserved": "SELECT id, image_row FROM servings WHERE outcome IS NULL AND served_at > 5",
        "skipped": "SELECT image_row FROM servings WHERE outcome = 'skipped'",
        "mine": "UPDATE servings SET outcome = 'skipped' WHERE annotator = 'a' AND outcome IS NULL",
        "active": "SELECT count(*) FROM servings WHERE scoring_id = 1",
    }[question]
    with campaign.store.reading() as session:
        plan = session.execute(text(f"EXPLAIN QUERY PLAN {statement}")).all()
    assert "INDEX ix_servings_" in plan[0][3]


def test_pool_is_read_from_the_index_apart_from_the_vectors(campaign):
    with campaign.store.reading() as session:
        engine, statements = session.get_bind(), []
        event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    click(campaign)
    reading = next(statement for statement in statements if "FROM images" in statement)
    with campaign.store.reading() as session:
        plan = session.execute(text(f"EXPLAIN QUERY PLAN {reading}")).all()
    assert plan[0][3] == "SCAN images USING COVERING INDEX ix_images_pool"


def test_model_and_image_added_by_hand_are_noticed(campaign):
    clicks(campaign, BUDGET)
    with campaign.store.writing() as session:
        session.add(Model(version="by hand", created_at=0.0, details={}))
        session.add(Image(image_id="zz", path="/zz", signature="1", added_at=0.0))
    assert click(campaign).why["model_version"] == "by hand"
    assert "zz" in clicks(campaign, case.N_POOL - BUDGET)
