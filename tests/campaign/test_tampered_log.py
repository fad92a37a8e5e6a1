"""A selection log that somebody changed, in a copy of the database whose guards are gone: found, and named."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import campaign_case as case
import numpy as np
import pytest
from campaign_case import BUDGET, click, label

from coldstart.campaign import Campaign
from coldstart.campaign.decisions import Line, pack, unpack
from coldstart.campaign.replay import replay
from coldstart.store import FILE_NAME, Store

COLUMNS = "at, kind, who, image_id, details, arrays"


@pytest.fixture(scope="module")
def finished(embedded_folder, held_out_file, tmp_path_factory):
    """Database of a campaign with a plan, a scoring and 13 clicks."""
    folder = tmp_path_factory.mktemp("finished") / "state"
    shutil.copytree(embedded_folder, folder)
    campaign = Campaign(case.make_settings(heldout=held_out_file), folder)
    for strategy in ("k_means", *["coldstart_al"] * (BUDGET - 1)):
        label(campaign, click(campaign, strategy, annotator="anna").image_id)
    case.score(campaign, case.random_entropies())
    for alpha in (0.2, 0.4, 0.6, 0.8, 1.0):
        click(campaign, annotator="ben", alpha=alpha)
    campaign.store.close()
    return folder


@pytest.fixture
def tampered(finished, tmp_path):
    """A copy that can be changed, with a connection that may."""
    shutil.copytree(finished, tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy" / FILE_NAME, isolation_level=None)) as connection:
        guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE name LIKE 'keep_decisions%'").fetchall()
        for name, _ in guards:
            connection.execute(f"DROP TRIGGER {name}")
        yield Tampered(tmp_path / "copy", connection, [sql for _, sql in guards])


class Tampered:
    def __init__(self, folder, connection, guards):
        self.folder, self.connection, self.guards = folder, connection, guards

    def lines(self, kind):
        return [id_ for (id_,) in self.connection.execute("SELECT id FROM decisions WHERE kind = ?", (kind,))]

    def read(self, line):
        return Line(*self.connection.execute(f"SELECT {COLUMNS} FROM decisions WHERE id = ?", (line,)).fetchone())

    def write(self, line, changed):
        self.connection.execute(f"UPDATE decisions SET ({COLUMNS}) = (?, ?, ?, ?, ?, ?) WHERE id = ?", (*changed, line))

    def seal_anew(self):
        """As somebody would who knows how the seals are made."""
        seal = ""
        for (line,) in self.connection.execute("SELECT id FROM decisions ORDER BY id").fetchall():
            seal = self.read(line).seal(seal)
            self.connection.execute("UPDATE decisions SET seal = ? WHERE id = ?", (seal, line))

    def differing(self):
        for sql in self.guards:
            self.connection.execute(sql)
        store = Store(self.folder)
        found = [one for one in replay(store) if one.same is not True]
        store.close()
        return found


def test_untouched_copy_is_the_same(tampered):
    assert tampered.differing() == []


@pytest.mark.parametrize(
    "change",
    [
        "who = 'somebody else'",
        "at = at + 1",
        "image_id = 'p00'",
        "kind = 'settings'",
        "details = replace(details, '\"alpha\": 0.4', '\"alpha\": 0.5')",
        "details = replace(details, 'cluster', 'clustre')",
        "details = substr(details, 2)",
        "arrays = NULL",
        "arrays = x'00'",
        "arrays = (SELECT arrays FROM decisions WHERE kind = 'click' ORDER BY id DESC LIMIT 1)",
        "seal = 'x'",
    ],
)
def test_line_that_was_changed_is_named(tampered, change):
    line = tampered.lines("click")[BUDGET + 1]
    tampered.connection.execute(f"UPDATE decisions SET {change} WHERE id = ?", (line,))
    found = tampered.differing()
    assert line in {one.id for one in found}
    assert {one.id for one in found} <= {line, line + 1, 0}  # with another seal the next one does not follow
    assert "its seal does not fit" in next(one.sentence for one in found if one.id == line)


@pytest.mark.parametrize("kind", ["map", "placed", "plan", "pool", "scoring", "method_plan"])
def test_line_of_every_kind_is_sealed(tampered, kind):
    line = tampered.lines(kind)[-1]
    tampered.connection.execute("UPDATE decisions SET at = at - 60 WHERE id = ?", (line,))
    assert [one.id for one in tampered.differing()] == [line]


def test_line_that_was_removed_is_named(tampered):
    line = tampered.lines("click")[3]
    tampered.connection.execute("DELETE FROM decisions WHERE id = ?", (line,))
    removed, unlogged = tampered.differing()
    assert removed.sentence == f"Line {line} of the log: somebody removed what was here."
    assert unlogged.sentence.startswith("Serving 4 has no line in the log")


def test_last_line_that_was_removed_is_missed_by_its_serving(tampered):
    tampered.connection.execute("DELETE FROM decisions WHERE id = (SELECT max(id) FROM decisions)")
    (found,) = tampered.differing()
    assert "has no line in the log: somebody removed it, or wrote the serving by hand." in found.sentence


def test_lines_in_another_order_are_named(tampered):
    first, second = tampered.lines("click")[2:4]
    for old, new in ((first, -1), (second, first), (-1, second)):
        tampered.connection.execute("UPDATE decisions SET id = ? WHERE id = ?", (new, old))
    assert {one.id for one in tampered.differing()} >= {first, second}


def test_log_that_is_not_guarded_any_more_is_said(tampered):
    tampered.guards.pop()
    (found,) = tampered.differing()
    assert "does not refuse changes of the log any more: its trigger keep_decisions_" in found.sentence


# Sealed anew by somebody who knows how: deciding again finds what does not follow


def change_details(tampered, line, change):
    before = tampered.read(line)
    details = json.loads(before.text)
    change(details)
    tampered.write(line, before._replace(text=json.dumps(details), image_id=details.get("image_id")))
    tampered.seal_anew()
    return tampered.differing()


def change_arrays(tampered, line, change):
    before = tampered.read(line)
    arrays = unpack(before.arrays)
    change(arrays)
    tampered.write(line, before._replace(arrays=pack(arrays)))
    tampered.seal_anew()
    return tampered.differing()


def test_other_image_does_not_come_out(tampered):
    line = tampered.lines("click")[BUDGET + 2]
    found = change_details(tampered, line, lambda details: details.update(image_id="p00"))
    assert [one.id for one in found] == [line, 0]
    assert found[1].sentence.endswith("and the log says 'p00'.")
    assert "comes out, and 'p00' was served." in found[0].sentence


def test_other_alpha_gives_another_score(tampered):
    line = tampered.lines("click")[BUDGET + 2]
    found = change_details(tampered, line, lambda details: details.update(alpha=0.61))
    assert [one.id for one in found] == [line]


@pytest.mark.parametrize(("name", "value"), [("score", 0.5), ("entropy", 0.9), ("reason", "because"), ("rank", 99)])
def test_other_answer_does_not_come_out(tampered, name, value):
    line = tampered.lines("click")[BUDGET + 2]
    (found,) = change_details(tampered, line, lambda details: details["answer"].update({name: value}))
    assert found.id == line
    assert f"The {name} comes out as" in found.sentence


def test_other_scores_of_the_candidates_do_not_come_out(tampered):
    line = tampered.lines("click")[BUDGET + 2]

    def raise_one(arrays):
        arrays["score"][np.nanargmin(arrays["score"])] += 0.01

    (found,) = change_arrays(tampered, line, raise_one)
    assert found.sentence == "The candidates' score comes out otherwise."


def test_other_entropies_of_the_pool_give_other_clicks(tampered):
    pool, active = tampered.lines("pool")[-1], tampered.lines("click")[BUDGET:]
    found = change_arrays(tampered, pool, lambda arrays: arrays.update(entropy=arrays["entropy"][::-1]))
    assert {one.id for one in found} == {*active}


def test_points_of_the_pool_that_are_not_the_maps_are_found(tampered):
    pool = tampered.lines("pool")[0]
    found = change_arrays(tampered, pool, lambda arrays: arrays.update(points=arrays["points"] + 1.0))
    assert (found[0].id, found[0].sentence) == (pool, "Image 'p00' is not where the map has it.")


def test_plan_of_the_pool_that_was_not_made_is_found(tampered):
    def exchange(arrays):
        picks = json.loads(arrays["picks"].tobytes())
        arrays["picks"] = np.frombuffer(json.dumps(picks[::-1]).encode(), dtype=np.uint8)

    pool = tampered.lines("pool")[0]
    found = change_arrays(tampered, pool, exchange)
    assert (found[0].id, found[0].sentence) == (pool, "The plan that clicks read is not the one that was made.")


def test_serving_of_another_image_than_its_line_says_is_found(tampered):
    tampered.connection.execute("UPDATE servings SET image_row = 30 WHERE id = 2")
    (found,) = tampered.differing()
    assert found.sentence.startswith("Serving 2 is of image '")


def test_other_picks_of_a_plan_do_not_come_out(tampered):
    def exchange(details):
        details["picks"][0], details["picks"][1] = details["picks"][1], details["picks"][0]

    found = change_details(tampered, tampered.lines("plan")[0], exchange)
    assert found[0].sentence.startswith("Pick 1 comes out otherwise")
    assert [one.id for one in found[1:]] == tampered.lines("pool")


def test_other_picks_of_a_method_do_not_come_out(tampered):
    def leave_out(details):
        details["picks"].popitem()

    (found,) = change_details(tampered, tampered.lines("method_plan")[0], leave_out)
    assert found.sentence == "Other picks of 'k_means' come out, or for other reasons."


def test_other_points_of_a_map_do_not_come_out(tampered):
    line = tampered.lines("map")[0]
    found = change_arrays(tampered, line, lambda arrays: arrays.update(points=arrays["points"] * 1.001))
    assert (found[0].id, found[0].sentence) == (line, "The points come out otherwise.")


def test_vectors_that_are_gone_are_said(tampered):
    tampered.connection.execute("UPDATE images SET vector = x'00000000' WHERE image_id = 'p03'")
    found = tampered.differing()
    assert [(one.same, one.kind) for one in found] == [(None, kind) for kind in ("map", "placed", "method_plan")]
    assert found[0].sentence.startswith(f"1 of {case.N_POOL} vectors are not in the database any more: ")


def test_other_checksum_of_the_pool_is_found(tampered):
    line = tampered.lines("map")[0]
    (found,) = change_details(tampered, line, lambda details: details.update(checksum="0" * 64))
    assert found.sentence == "The checksum of the ids, signatures and vectors is another one."


def test_other_software_is_named_where_something_differs(tampered):
    def change(details):
        details["software"]["numpy"] = "0.1"
        details["answer"]["rank"] = 99

    (found,) = change_details(tampered, tampered.lines("click")[0], change)
    assert "it was decided with python" in found.sentence
    assert "numpy 0.1" in found.sentence
