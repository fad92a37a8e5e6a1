"""Clicks, labels and time in random order, against the words of DESIGN spelled out over plain lists."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing, contextmanager

import campaign_case as case
import numpy as np
import pytest
from campaign_case import label, planned, random_entropies, rows
from scipy.spatial.distance import cdist

from coldstart.campaign import STRATEGIES
from coldstart.selection import acquire
from coldstart.store import engine

N_EVENTS = 120
RESERVE_S = 600.0
ANNOTATORS = (None, "anna", "ben", "cleo")


class Desk:
    """What was served, as a list of [image_id, annotator, served_at, outcome], and what follows from it."""

    def __init__(self, campaign):
        self.campaign, self.servings, self.labelled, self.n_active = campaign, [], set(), 0

    def click(self, strategy, annotator, alpha, now):
        if annotator is not None:
            for row in self.servings:
                if row[1] == annotator and row[3] is None:
                    row[3] = "skipped"
        image_id, phase = self.choose(strategy, alpha, now)
        self.n_active += phase == "active"
        self.servings.append([image_id, annotator, now, None])
        return image_id, phase

    def label(self, image_id):
        self.labelled.add(image_id)
        for row in self.servings:
            if row[0] == image_id and row[3] is None:
                row[3] = "labelled"

    def choose(self, strategy, alpha, now):
        found = {key: row for key, row in rows(self.campaign).items() if row.present and not row.held_out}
        reserved = {row[0] for row in self.servings if row[3] is None and row[2] > now - RESERVE_S}
        newest = {row[0]: (number, row[3]) for number, row in enumerate(self.servings)}
        skipped = {key for key, (_, outcome) in newest.items() if outcome == "skipped"}
        left = [key for key in found if key not in self.labelled]
        free = [key for key in left if key not in reserved | skipped]
        if free:
            return self.free_image(
                strategy, alpha, found, free, [key for key in found if key in self.labelled | reserved]
            )
        not_reserved = [key for key in left if key not in reserved]
        phase = "skipped_before" if not_reserved else "shared"
        return min(not_reserved or left, key=lambda key: newest[key][0]), phase

    def free_image(self, strategy, alpha, found, free, taken):
        points = {key: case.point(found[key]) for key in found}
        scoring = case.newest_scoring(self.campaign) if case.models(self.campaign) else None

        def active():
            pool = free + taken
            entropy = [found[key].entropy if found[key].scoring_id == scoring.id else scoring.mean for key in pool]
            acquisition = acquire(
                np.stack([points[key] for key in pool]),
                entropy,
                range(len(free), len(pool)),
                1,
                alpha=alpha,
                first_by_entropy=self.n_active == 0,
                entropy_range=(scoring.minimum, scoring.maximum),
            )
            return pool[int(acquisition.indices[0])], "active"

        if strategy == "uniform_random":
            return min(free, key=lambda key: hashlib.blake2b(f"0 {key}".encode()).digest()), "uniform_random"
        wants_active = strategy == "entropy_diversity" or (
            strategy == "coldstart_al" and len(self.labelled & found.keys()) >= case.BUDGET
        )
        if wants_active and scoring is not None:
            return active()
        if in_plan := [key for key in planned(self.campaign) if key in free]:
            return in_plan[0], "cold_start"
        if strategy == "coldstart_al" and scoring is not None:
            return active()
        gaps = cdist([points[key] for key in free], [points[key] for key in taken]).min(axis=1) if taken else [1.0]
        return free[int(np.argmax(gaps))], "plan_complete"


@contextmanager
def held(campaign):
    """Another program holds the database: it can be read, but not written."""
    with closing(sqlite3.connect(campaign.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def served(campaign):
    return [tuple(row) for row in case.servings(campaign)]


def play(campaign, clock, seed, *, hold):
    """Random events; `hold` also takes the database away for some of the clicks. Returns the phases met."""
    rng = np.random.default_rng(seed)
    desk, phases = Desk(campaign), set()
    pool = case.pool(campaign)[0]

    def click():
        strategy = STRATEGIES[0] if rng.random() < 0.6 else rng.choice(STRATEGIES)
        annotator, alpha = ANNOTATORS[rng.integers(4)], float(rng.choice([0.0, 0.3, 1.0]))
        sample = campaign.next_sample(strategy, annotator=annotator, alpha=alpha)
        wanted = desk.click(strategy, annotator, alpha, clock.now)
        assert sample is not None
        assert (sample.image_id, sample.why["phase"]) == wanted
        phases.add(wanted[1])

    for number in range(N_EVENTS):
        event = rng.random()
        if number == N_EVENTS // 2:
            case.score(campaign, random_entropies(seed))
            desk.n_active = 0
        elif event < 0.12 and len(desk.labelled) < len(pool) - 3:
            image_id = str(rng.choice(pool))
            label(campaign, image_id)
            desk.label(image_id)
        elif event < 0.16 and desk.labelled:
            image_id = str(rng.choice(sorted(desk.labelled)))
            campaign.remove_label(image_id)
            desk.labelled.discard(image_id)
        elif event < 0.20:
            clock.now += float(rng.choice([60, RESERVE_S]))
        elif event < 0.26 and hold:
            with held(campaign):
                for _ in range(3):
                    click()
            campaign._desk._unwritten._next_try = 0.0  # the wait is over
        else:
            click()
    click()
    assert served(campaign) == [(row[0], row[3]) for row in desk.servings]
    return phases


@pytest.mark.parametrize("seed", range(3))
def test_clicks_get_what_the_words_say(make_campaign, clock, seed):
    phases = play(make_campaign(reserve_minutes=RESERVE_S / 60), clock, seed, hold=False)
    assert phases >= {"cold_start", "active", "uniform_random"}


@pytest.mark.parametrize("seed", range(3, 5))
def test_clicks_while_the_database_is_held_get_the_same_and_are_written_afterwards(
    make_campaign, clock, monkeypatch, seed
):
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.02)
    play(make_campaign(reserve_minutes=RESERVE_S / 60), clock, seed, hold=True)
