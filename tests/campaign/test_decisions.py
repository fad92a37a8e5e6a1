"""The selection log: one line for each decision, complete, in the decision's own transaction, and only added to."""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import campaign_case as case
import numpy as np
import pytest
from campaign_case import BUDGET, click, clicks, label, pool
from sqlalchemy import exc, text
from test_concurrency import click_in_a_process
from test_serving_brute_force import held
from test_unwritten_clicks import write_remembered

from coldstart.campaign import serving
from coldstart.campaign.decisions import LIBRARIES, Line, pack, record, unpack
from coldstart.campaign.replay import candidates, decision_rows, replay
from coldstart.campaign.snapshots import WHOLE_EVERY, PoolLog, Snapshot, read_snapshot
from coldstart.exceptions import InvalidInputError
from coldstart.selection import acquire
from coldstart.store import Decision, Store, engine


def lines(campaign, kind):
    return [row for row in decision_rows(campaign.store) if row["kind"] == kind]


def n_lines(campaign):
    with campaign.store.reading() as session:
        return session.query(Decision).count()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE decisions SET who = 'x'", "DELETE FROM decisions", "REPLACE INTO decisions SELECT * FROM decisions"],
)
def test_database_refuses_to_change_or_remove_a_line(campaign, statement):
    click(campaign)
    before = list(decision_rows(campaign.store))
    with (
        pytest.raises((exc.IntegrityError, exc.OperationalError), match="only ever added to"),
        campaign.store.writing() as session,
    ):
        session.execute(text(statement))
    assert list(decision_rows(campaign.store)) == before


def test_every_click_has_one_line_in_its_own_transaction(campaign, monkeypatch):
    click(campaign)
    before = n_lines(campaign)

    def fail(session):
        raise KeyError("after the line was written and before the commit")

    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(serving, "read_revision", fail)
        click(campaign)
    assert n_lines(campaign) == before
    samples = [click(campaign, annotator=who) for who in ("anna", None, "ben")]
    logged = lines(campaign, "click")[1:]
    assert [row["image_id"] for row in logged] == [sample.image_id for sample in samples]
    assert [row["details"]["answer"] for row in logged] == [sample.why for sample in samples]
    assert [row["who"] for row in logged] == ["anna", None, "ben"]
    assert all(abs(row["at"] - time.time()) < 600 for row in logged)


def test_map_line_says_everything_that_it_was_made_with(campaign):
    (row,) = lines(campaign, "map")
    details = row["details"]
    name, weights = case.newest_map(campaign).encoder.rsplit(" ", 1)
    assert (details["encoder"]["name"], details["encoder"]["weights"]) == (name, weights)
    assert details["preprocessing"]["percentiles"] == [1, 99]
    assert details["projection"] == {"method": "pca", "random_state": 0}
    assert details["n_images"] == case.N_POOL
    assert len(details["checksum"]) == 64
    assert {*LIBRARIES, "python"} <= details["software"].keys()


def test_click_line_says_everything_that_it_was_chosen_from(make_campaign):
    campaign = make_campaign(alpha=0.4, random_state=3)
    served = clicks(campaign, BUDGET)
    for image_id in served:
        label(campaign, image_id)
    case.score(campaign, case.random_entropies())
    click(campaign)
    sample = click(campaign, annotator="anna", alpha=0.7)
    details = lines(campaign, "click")[-1]["details"]
    assert (details["strategy"], details["alpha"], details["settings"]["alpha"]) == ("coldstart_al", 0.7, 0.4)
    assert (details["settings"]["budget"], details["settings"]["random_state"]) == (BUDGET, 3)
    assert (details["n_labelled"], details["n_reserved"], details["n_active_picks"]) == (BUDGET, 1, 1)
    assert details["answer"] == sample.why
    assert details["software"].keys() >= {*LIBRARIES}
    pool_line = next(row for row in lines(campaign, "pool") if row["id"] == details["pool"])["details"]
    assert pool_line["scoring"]["model_version"] == "m1"
    assert pool_line["n_images"] == case.N_POOL


def test_candidates_have_the_scores_of_the_acquisition(campaign):
    served = clicks(campaign, BUDGET)
    for image_id in served:
        label(campaign, image_id)
    entropies = case.random_entropies()
    case.score(campaign, entropies)
    taken = [*served, click(campaign).image_id]
    sample = click(campaign, alpha=0.5)
    found = candidates(campaign.store, lines(campaign, "click")[-1]["id"])
    ids, points = pool(campaign)
    assert found.keys() == set(ids) - set(taken)
    scoring, left = case.newest_scoring(campaign), [image_id for image_id in ids if image_id not in taken]
    nats = np.array([case.rows(campaign)[image_id].entropy or 0.0 for image_id in ids])
    picks = acquire(
        points,
        nats,
        [ids.index(image_id) for image_id in taken],
        1,
        alpha=0.5,
        first_by_entropy=False,
        entropy_range=(scoring.minimum, scoring.maximum),
    )
    assert max(found, key=lambda image_id: found[image_id]["score"]) == sample.image_id == ids[picks.indices[0]]
    assert found[sample.image_id] == pytest.approx(
        {"score": picks.score[0], "distance": picks.distance[0], "entropy": picks.entropy[0]}, rel=1e-6
    )
    for image_id in left:
        one = found[image_id]
        assert one["score"] == pytest.approx(0.5 * one["distance"] + 0.5 * one["entropy"], rel=1e-5)


def test_candidates_of_what_is_no_click_are_refused(campaign):
    with pytest.raises(InvalidInputError, match="must be the number of a click's line in the log; got 1"):
        candidates(campaign.store, 1)
    click(campaign)
    assert candidates(campaign.store, lines(campaign, "click")[0]["id"]) == {}  # the plan decided


def test_click_that_could_not_be_written_is_logged_when_it_can(make_campaign, monkeypatch):
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.05)
    campaign = make_campaign()
    with held(campaign):
        before = time.time()
        samples = [click(campaign, annotator="anna"), click(campaign, "k_center_map")]
        after = time.time()
    assert lines(campaign, "click") == []
    write_remembered(campaign)
    logged = lines(campaign, "click")
    assert [row["details"]["answer"] for row in logged] == [sample.why for sample in samples]
    assert all(before <= row["at"] <= after for row in logged)
    assert [row["details"]["plan"]["method"] for row in lines(campaign, "method_plan")] == ["k_center_map"]
    assert [one for one in replay(campaign.store) if not one.same] == []


def test_choice_trainings_and_scorings_are_in_the_history(campaign):
    case.score(campaign, case.random_entropies())
    campaign.use(who="lead", alpha=0.9)
    kinds = [row["kind"] for row in decision_rows(campaign.store)]
    assert kinds[-3:] == ["training", "scoring", "settings"]
    assert lines(campaign, "settings")[0]["who"] == "lead"


def test_campaign_from_before_the_log_says_so(campaign):
    served = clicks(campaign, 3)
    with campaign.store.writing() as session:
        for guard in ("update", "delete"):
            session.execute(text(f"DROP TRIGGER keep_decisions_{guard}"))
        session.execute(text("DELETE FROM decisions"))
        for guard in ("update", "delete"):
            refused = "SELECT RAISE(ABORT, 'the selection log is only ever added to')"
            session.execute(
                text(f"CREATE TRIGGER keep_decisions_{guard} BEFORE {guard} ON decisions BEGIN {refused}; END")
            )
    (found,) = replay(campaign.store)
    assert (found.same, found.id) == (None, 0)
    assert found.sentence == "3 images were served before the campaign kept this log: that cannot be decided again."
    assert click(campaign).image_id not in served
    assert [one.same for one in replay(campaign.store)] == [True, None]


def test_database_made_anew_says_where_its_servings_come_from(campaign, pictures):
    campaign.sync(case.list_files(pictures), {})
    served = clicks(campaign, 2)
    campaign.store.path.unlink()
    campaign.sync(case.list_files(pictures), {})
    campaign.embed()
    clicks(campaign, 2)
    (taken_over,) = lines(campaign, "taken_over")
    assert [one["image_id"] for one in taken_over["details"]["servings"]] == served
    assert [one for one in replay(campaign.store) if one.same is not True] == []


def test_processes_write_one_log(campaign):
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(2), context.Queue()
    arguments = (campaign.configured, campaign.folder, start, answers)
    processes = [context.Process(target=click_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    served = [image_id for _ in processes for image_id in answers.get(timeout=60)]
    for process in processes:
        process.join(timeout=60)
    assert sorted(row["image_id"] for row in lines(campaign, "click")) == sorted(served)
    assert [one for one in replay(campaign.store) if one.same is not True] == []


def test_threads_write_one_log(campaign, make_campaign):
    other = make_campaign()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda index: click((campaign, other)[index % 2], annotator=f"a{index}"), range(24)))
    assert len(lines(campaign, "click")) == 24
    assert len(lines(campaign, "pool")) == 1
    assert [one for one in replay(campaign.store) if one.same is not True] == []


# The pool in the log


def test_pool_is_logged_only_when_it_is_another_one(campaign):
    clicks(campaign, 3)
    label(campaign, "p00")
    clicks(campaign, 2)
    assert len(lines(campaign, "pool")) == 1
    case.score(campaign, case.random_entropies())
    clicks(campaign, 2)
    assert len(lines(campaign, "pool")) == 2


def test_image_that_arrives_adds_little(make_new, tmp_path):
    files = {f"i{n:03}": case.draw_image(tmp_path / f"i{n:03}.png", n) for n in range(28)}
    campaign = make_new(budget=3)
    sizes = []
    for n in range(20, 28):
        campaign.sync(dict(list(files.items())[:n]), {})
        campaign.embed()
        click(campaign)
        with campaign.store.reading() as session:
            newest = session.query(Decision).filter_by(kind="pool").order_by(Decision.id.desc()).first()
            sizes.append(len(newest.arrays))
    assert max(sizes[1:]) < sizes[0] + 600  # names of arrays and bits, no column of the pool
    arrays = unpack(newest.arrays)
    assert len(arrays["points"]) == 1
    assert arrays["ids"].tobytes() == b"i026"
    assert [one for one in replay(campaign.store) if one.same is not True] == []


def random_snapshot(rng, revision):
    """Any pool: some of 60 images, some of their values new."""
    chosen = sorted(rng.choice(60, size=rng.integers(0, 60), replace=False).tolist())
    n = len(chosen)
    columns = {
        "rows": np.array(chosen, dtype=np.int64),
        "clusters": rng.integers(-1, 2, n).astype(np.int32),
        "on_map": rng.random(n) < 0.9,
        "points": rng.integers(0, 2, (n, 2)).astype(float) if revision % 3 else np.zeros((n, 0)),
        "entropy": rng.integers(0, 2, n).astype(float),
    }
    picks = [[0, row, 0, 1, "medoid", None] for row in chosen[: rng.integers(0, 3)]]
    details = {"revision": revision, "n_images": n, "base": None}
    return Snapshot(details, [f"i{index:02}" for index in chosen], columns, picks)


def test_what_changed_gives_back_the_pool_whatever_changed():
    rng = np.random.default_rng(0)
    base = None
    for revision in range(200):
        snapshot = random_snapshot(rng, revision)
        again = Snapshot.after(base, snapshot.details, unpack(pack(snapshot.arrays(base))))
        assert again.image_ids == snapshot.image_ids
        assert again.picks == snapshot.picks
        for name, values in snapshot.columns.items():
            assert again.columns[name].dtype == values.dtype
            np.testing.assert_array_equal(again.columns[name].reshape(values.shape), values)
        base = again


def test_pool_is_logged_whole_now_and_then_and_read_without_memory(campaign):
    session_pools = []
    log = PoolLog()
    with campaign.store.writing() as session:
        known, _ = campaign._memory.read(session)
        for number in range(WHOLE_EVERY + 3):
            shifted = replace(known, revision=number, entropy=known.entropy + number)
            session_pools.append((log.line(session, shifted), shifted))
    depths = [row["details"]["depth"] for row in lines(campaign, "pool")]
    assert depths == [*range(WHOLE_EVERY), 0, 1, 2]
    with campaign.store.reading() as session:
        for line, shifted in session_pools[-4:]:
            found = read_snapshot(session, line)
            np.testing.assert_array_equal(found.columns["entropy"], shifted.entropy)
            assert found.image_ids == shifted.image_ids


@pytest.mark.parametrize("details", [{"revision": 1, "base": 77, "depth": 1}, {}, [], "x"])
def test_pool_line_that_cannot_be_read_fails_no_click(campaign, make_campaign, details):
    click(campaign)
    with campaign.store.writing() as session:
        record(session, "pool", details)
    label(campaign, "p00")
    other = make_campaign()
    click(other)
    assert lines(campaign, "pool")[-1]["details"]["depth"] == 0


def test_seal_depends_on_everything(tmp_path):
    line = Line(1.5, "click", None, "p00", json.dumps({"a": 1}), b"x")
    others = [
        line._replace(at=1.6),
        line._replace(kind="plan"),
        line._replace(who=""),
        line._replace(image_id="p01"),
        line._replace(text="{}"),
        line._replace(arrays=None),
    ]
    assert len({one.seal("") for one in (line, *others)} | {line.seal("0")}) == len(others) + 2


def test_arrays_come_back_as_they_were():
    arrays = {
        "a": np.arange(5),
        "b": np.array([[0.5, np.nan]], np.float32),
        "c": np.zeros((0, 2)),
        "d": np.array([True]),
    }
    again = unpack(pack(arrays))
    assert again.keys() == arrays.keys()
    for name, values in arrays.items():
        assert again[name].dtype == values.dtype
        np.testing.assert_array_equal(again[name], values)


def test_details_that_are_no_json_are_given_as_they_are(campaign):
    with campaign.store.writing() as session:
        session.execute(text("INSERT INTO decisions (at, kind, details, seal) VALUES (0, 'x', 'no JSON', '')"))
    assert list(decision_rows(campaign.store))[-1]["details"] == "no JSON"


def test_log_of_a_new_database_is_empty(tmp_path):
    store = Store(tmp_path)
    assert list(replay(store)) == []
    assert list(decision_rows(store)) == []
    store.close()
