"""DESIGN, "Who asks": skipping, reserving, and what comes when nothing is free; adapters tell who is named."""

from __future__ import annotations

import campaign_case as case
import pytest
from campaign_case import BUDGET, N_POOL, click, clicks, label, planned, servings

from coldstart.campaign import STRATEGIES
from coldstart.store import Serving

SHARED = "also with another annotator"
SKIPPED_BEFORE = "skipped before"


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


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("first", STRATEGIES)
def test_reserved_image_is_given_by_no_strategy(campaign, first, strategy):
    case.score(campaign, case.random_entropies())
    mine = click(campaign, first, annotator="anna").image_id
    assert mine not in clicks(campaign, N_POOL - 1, strategy)
    assert SHARED in click(campaign, strategy).why["reason"]


def test_named_annotator_alone_gets_back_what_she_skipped_rather_than_what_others_hold(campaign, clock):
    others = clicks(campaign, N_POOL - 1)
    mine = click(campaign, annotator="anna").image_id
    assert mine not in others
    for _ in range(2):
        again = click(campaign, annotator="anna")
        assert (again.image_id, again.why["phase"]) == (mine, "skipped_before")


def test_shared_image_is_another_one_than_the_annotator_just_held(campaign, clock):
    order = clicks(campaign, N_POOL)  # all with somebody
    first = click(campaign, annotator="anna")
    assert (first.image_id, first.why["phase"]) == (order[0], "shared")
    second = click(campaign, annotator="anna")
    assert (second.image_id, second.why["phase"]) == (order[1], "shared")


def test_image_skipped_by_one_and_then_served_to_another_is_reserved_for_the_other(campaign, clock):
    skipped = click(campaign, annotator="anna").image_id
    click(campaign, annotator="anna")
    clicks(campaign, N_POOL - 2)
    assert click(campaign, annotator="ben").image_id == skipped
    # anna's click skips only what she holds now
    assert click(campaign, annotator="anna").image_id != skipped
    assert servings(campaign)[0] == (skipped, "skipped")
    assert [outcome for image_id, outcome in servings(campaign) if image_id == skipped] == ["skipped", None]


def test_image_whose_reservation_is_over_is_a_candidate_in_the_normal_order_and_nobodys(make_campaign, clock):
    campaign = make_campaign(reserve_minutes=10)
    expected = planned(campaign)
    assert click(campaign, annotator="anna").image_id == expected[0]
    clock.now += 11 * 60
    assert click(campaign, annotator="ben").image_id == expected[0]
    # it is ben's now: anna's next click does not take it from him
    assert click(campaign, annotator="anna").image_id == expected[1]
    assert click(campaign).image_id == expected[2]
    assert servings(campaign)[:2] == [(expected[0], "skipped"), (expected[0], None)]


def test_named_annotator_who_comes_back_after_her_time_skips_all_the_same(make_campaign, clock):
    campaign = make_campaign(reserve_minutes=10)
    expected = planned(campaign)
    clicks(campaign, 1, annotator="anna")
    clock.now += 11 * 60
    assert click(campaign, annotator="anna").image_id == expected[1]
    assert click(campaign).image_id == expected[2]


def test_label_saved_by_anybody_ends_every_reservation_of_its_image(campaign, clock):
    order = clicks(campaign, N_POOL)
    assert click(campaign, annotator="anna").image_id == order[0]  # shared: held twice
    label(campaign, order[0], annotator="ben")
    assert [outcome for image_id, outcome in servings(campaign) if image_id == order[0]] == ["labelled"] * 2
    campaign.remove_label(order[0])
    free = click(campaign)
    assert free.image_id == order[0]
    assert free.why["phase"] != "shared"


def test_named_and_anonymous_clicks_mixed_hand_out_every_image_once(campaign):
    names = (None, "anna", None, "ben")
    got = []
    for index in range(N_POOL):
        name = names[index % 4]
        got.append(click(campaign, annotator=name).image_id)
        if name is not None:
            label(campaign, got[-1], annotator=name)
    assert len(set(got)) == N_POOL
    assert [outcome for _, outcome in servings(campaign)] == [None, "labelled"] * (N_POOL // 2)


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
            session.query(Serving).delete()
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
        row = session.query(Serving).one()
    assert (row.annotator, row.strategy, row.phase) == ("anna", "coldstart_al", "cold_start")
    assert row.why == sample.why
    assert len(planned(campaign)) == BUDGET
