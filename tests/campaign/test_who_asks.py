"""DESIGN, "Who asks": skipping, reserving, and what comes when nothing is free; adapters tell who is named."""

from __future__ import annotations

import types

import campaign_case as case
import pytest
from campaign_case import BUDGET, N_POOL, click, clicks, label, planned, servings

from coldstart.campaign import STRATEGIES, serving

SHARED = "also with another annotator"
SKIPPED_BEFORE = "skipped before"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(serving, "time", types.SimpleNamespace(time=clock.time))
    return clock


def test_two_annotators_never_get_the_same_image(campaign):
    expected = planned(campaign)
    names = ("anna", "ben", None, "cleo")
    assert [click(campaign, annotator=name).image_id for name in names] == expected[:4]


def test_named_annotator_who_asks_again_skips_the_image_before(campaign):
    expected = planned(campaign)
    assert [click(campaign, annotator="anna").image_id for _ in range(3)] == expected[:3]
    assert servings(campaign) == [(expected[0], "skipped"), (expected[1], "skipped"), (expected[2], None)]
    # a skipped image is free for nobody while others are left
    assert click(campaign, annotator="ben").image_id == expected[3]


def test_named_annotator_who_saved_skips_nothing(campaign):
    expected = planned(campaign)
    assert click(campaign, annotator="anna").image_id == expected[0]
    label(campaign, expected[0], annotator="anna")
    assert click(campaign, annotator="anna").image_id == expected[1]
    assert servings(campaign) == [(expected[0], "labelled"), (expected[1], None)]


def test_named_annotator_does_not_skip_what_others_hold(campaign):
    expected = planned(campaign)
    clicks(campaign, 1, annotator="anna")
    clicks(campaign, 2, annotator="ben")
    assert servings(campaign)[0] == (expected[0], None)


def test_anonymous_click_never_skips_or_releases_anything(campaign):
    expected = planned(campaign)
    assert clicks(campaign, 1, annotator="anna") == expected[:1]
    assert clicks(campaign, 4) == expected[1:5]
    assert [outcome for _, outcome in servings(campaign)] == [None] * 5


def test_everything_reserved_gives_the_least_recently_served_and_says_so(campaign, clock):
    order = clicks(campaign, N_POOL)
    assert len(set(order)) == N_POOL
    sample = click(campaign)
    assert sample.image_id == order[0]
    assert SHARED in sample.why["reason"]
    assert sample.why["phase"] == "shared"
    # it has now been served most recently: the next in line follows
    assert clicks(campaign, 2) == order[1:3]


def test_labelled_image_is_never_shared(campaign, clock):
    order = clicks(campaign, N_POOL)
    label(campaign, order[0])
    assert clicks(campaign, 1) == order[1:2]


def test_nothing_comes_when_every_image_is_labelled(campaign):
    for image_id in case.pool(campaign)[0]:
        label(campaign, image_id)
    for strategy in STRATEGIES:
        assert campaign.next_sample(strategy) is None


def test_skipped_images_come_back_when_nothing_else_is_left_least_recently_served_first(campaign, clock):
    skipped = clicks(campaign, 3, annotator="anna")[:2]  # the third is still with anna
    others = clicks(campaign, N_POOL - 3)
    assert not set(skipped) & set(others)
    samples = [click(campaign), click(campaign)]
    assert [sample.image_id for sample in samples] == skipped
    assert all(sample.why["reason"] == "skipped before: nothing else is left" for sample in samples)
    assert all(sample.why["phase"] == "skipped_before" for sample in samples)
    # both are reserved again, so the next is shared
    assert SHARED in click(campaign).why["reason"]


def test_skipped_image_comes_before_one_that_is_with_somebody(campaign, clock):
    mine = clicks(campaign, 1, annotator="anna")
    clicks(campaign, N_POOL - 1)
    sample = click(campaign, annotator="anna")
    assert sample.image_id == mine[0]
    assert SKIPPED_BEFORE in sample.why["reason"]


def test_image_skipped_by_one_and_held_by_another_stays_reserved(campaign, clock):
    order = clicks(campaign, N_POOL, annotator=None)
    assert clicks(campaign, 1, annotator="anna") == order[:1]  # shared with whoever got it first
    sample = click(campaign, annotator="anna")  # skips it, but the first serving of it is still open
    assert sample.image_id == order[1]
    assert SHARED in sample.why["reason"]


def test_reservation_ends_after_reserve_minutes(make_campaign, clock):
    campaign = make_campaign(reserve_minutes=10)
    expected = planned(campaign)
    assert clicks(campaign, 1) == expected[:1]
    clock.now += 9 * 60
    assert clicks(campaign, 1) == expected[1:2]
    clock.now += 62  # the first click's time is up, not the second's
    assert clicks(campaign, 2) == [expected[0], expected[2]]


def test_image_whose_label_was_removed_is_a_candidate_again(campaign):
    expected = planned(campaign)
    clicks(campaign, 2)
    label(campaign, expected[0])
    campaign.remove_label(expected[0])
    assert clicks(campaign, 2) == [expected[0], expected[2]]


def test_label_with_a_problem_counts_as_labelled_for_serving(campaign):
    first = click(campaign).image_id
    assert label(campaign, first, values=(9,)) is not None
    assert servings(campaign) == [(first, "labelled")]
    assert first not in clicks(campaign, N_POOL - 1)


def test_image_that_went_away_or_is_set_aside_is_not_served(campaign, pictures):
    expected = planned(campaign)
    files = case.list_files(pictures)
    campaign.sync({key: path for key, path in files.items() if key != expected[0]}, {})
    assert clicks(campaign, 1) == expected[1:2]
    campaign.sync(files, {})
    assert clicks(campaign, 1) == expected[:1]


def test_uniform_random_is_seeded_and_takes_only_what_is_free(campaign, make_campaign):
    planned_first = clicks(campaign, 5)
    drawn = clicks(campaign, N_POOL - 5, "uniform_random")
    assert sorted(planned_first + drawn) == case.pool(campaign)[0]
    assert drawn != sorted(drawn)
    assert SHARED in click(campaign, "uniform_random").why["reason"]


def test_uniform_random_draws_the_same_for_the_same_seed_only(campaign, make_campaign):
    def restart(**values):
        again = make_campaign(**values)
        with again.store.writing() as session:
            session.query(serving.Serving).delete()
        return again

    first = clicks(campaign, 6, "uniform_random")
    assert clicks(restart(), 6, "uniform_random") == first
    assert clicks(restart(random_state=7), 6, "uniform_random") != first


def test_uniform_random_ignores_the_plan_also_when_a_model_is_scored(campaign):
    case.score(campaign, case.random_entropies())
    sample = click(campaign, "uniform_random")
    assert sample.why["phase"] == "uniform_random"
    assert sample.why["rank"] is None
    assert sample.why["reason"] == "drawn at random from the images that are free"


def test_what_was_served_is_written_with_its_reason(campaign):
    sample = click(campaign, annotator="anna")
    with campaign.store.reading() as session:
        row = session.query(serving.Serving).one()
    assert (row.annotator, row.strategy, row.phase) == ("anna", "coldstart_al", "cold_start")
    assert row.why == sample.why
    assert len(planned(campaign)) == BUDGET
