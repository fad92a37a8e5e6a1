"""When a training is due, each trigger on its own and together, and which of two models is used."""

from __future__ import annotations

import time
from datetime import datetime

import campaign_case as case
import pytest
from campaign_case import label

from coldstart.campaign.retraining import Situation, compare, training_due
from coldstart.exceptions import ModelError, SettingsError
from coldstart.settings import Settings

NOON = datetime(2026, 3, 4, 12, 0).timestamp()
HOUR = 3600.0


def situation(**values: object) -> Situation:
    plain = dict(
        new_labels=[],
        n_labelled=20,
        n_planned=10,
        n_learned=10,
        has_model=True,
        trained_at=None,
        asked_at=None,
        active_at=None,
    )
    return Situation(**{**plain, **values})


def due(now: float = NOON, options: dict[str, object] | None = None, **values: object) -> str | None:
    settings = case.make_settings(**{"retrain_at_budget": False, **(options or {})})
    found = training_due(situation(**values), settings, now)
    return None if found is None else found.trigger


def test_nothing_is_due_by_default_once_there_is_a_model_of_the_whole_budget() -> None:
    found = training_due(situation(new_labels=[NOON - 90 * HOUR] * 50), case.make_settings(), NOON)
    assert found is None


def test_budget_is_due_with_the_last_label_of_the_cold_start_and_no_model() -> None:
    on = {"retrain_at_budget": True}
    new = {"new_labels": [NOON] * 10, "has_model": False}
    assert due(options=on, **new, n_labelled=10) == "budget"
    assert due(options=on, **new, n_labelled=9) is None
    assert due(options=on, **{**new, "has_model": True}, n_labelled=10) is None
    assert due(options=on, new_labels=[NOON], n_learned=9, n_labelled=10) == "budget", "a model of fewer labels"
    assert due(options=on, new_labels=[NOON], n_learned=8, n_labelled=9) is None
    assert due(options=on, n_learned=9, n_labelled=10) is None, "nothing is new"
    assert due(options=on, has_model=False, n_labelled=10) is None, "it failed on these labels a moment ago"
    assert due(**new, n_labelled=10) is None, "switched off"


def test_every_n_counts_labels_that_the_last_training_had_not() -> None:
    assert due(options={"retrain_every": 3}, new_labels=[NOON] * 2) is None
    assert due(options={"retrain_every": 3}, new_labels=[NOON] * 3) == "labels"


@pytest.mark.parametrize(
    ("idle_minutes", "new", "expected"), [(31, 1, "idle"), (30, 1, "idle"), (29, 1, None), (31, 0, None)]
)
def test_idle_needs_the_time_without_click_and_label_and_a_new_label(
    idle_minutes: float, new: int, expected: str | None
) -> None:
    options = {"retrain_idle_minutes": 30}
    early = [NOON - 9 * HOUR] * new
    assert due(options=options, new_labels=early, active_at=NOON - 60 * idle_minutes) == expected
    late = [NOON - 60 * idle_minutes] * new
    assert due(options=options, new_labels=late, active_at=NOON - 9 * HOUR) == expected


def test_time_of_day_is_due_once_and_only_for_labels_from_before_it() -> None:
    options = {"retrain_at": ("02:00", "11:30")}
    before, after = [NOON - HOUR], [NOON - 0.25 * HOUR]
    assert due(options=options, new_labels=before) == "time"
    assert due(options=options, new_labels=after) is None
    assert due(options=options, new_labels=[]) is None
    assert due(options=options, new_labels=before, trained_at=NOON - 0.4 * HOUR) is None, "done since"
    assert due(options=options, new_labels=before, trained_at=NOON - 0.6 * HOUR) == "time", "began before it was time"


def test_time_of_day_that_passed_while_no_server_ran_is_made_up_for() -> None:
    assert due(options={"retrain_at": ("13:00",)}, new_labels=[NOON - 30 * HOUR], trained_at=NOON - 50 * HOUR) == "time"


def test_somebody_who_asks_is_heard_also_without_a_new_label() -> None:
    assert due(asked_at=NOON) == due(asked_at=NOON, new_labels=[NOON]) == "asked"


ALL = {"retrain_at_budget": True, "retrain_every": 3, "retrain_at": ("11:30",), "retrain_idle_minutes": 5}


def test_all_triggers_together_give_one_training_and_name_the_first() -> None:
    new = {"new_labels": [NOON - HOUR] * 3, "active_at": NOON - HOUR, "n_labelled": 10}
    assert due(options=ALL, **new, has_model=False, asked_at=NOON) == "asked"
    assert due(options=ALL, **new, has_model=False) == "budget"
    assert due(options=ALL, **new) == "labels"
    assert due(options=ALL, **{**new, "new_labels": [NOON - HOUR] * 2}) == "time"
    assert due(options=ALL, **{**new, "new_labels": [NOON - HOUR / 4] * 2, "active_at": None}) == "idle"
    assert due(options=ALL, **{**new, "new_labels": []}) is None


def test_first_model_comes_with_the_budget_where_every_n_is_more_than_that() -> None:
    new = {"new_labels": [NOON] * 10, "n_labelled": 10, "has_model": False}
    assert due(options={"retrain_every": 50, "retrain_at_budget": True}, **new) == "budget"
    assert due(options={"retrain_every": 50}, **new) is None


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("label", "trained", "now", "expected"),
    [
        ("2026-03-28T22:00+01:00", None, "2026-03-29T01:59+01:00", None),
        ("2026-03-28T22:00+01:00", None, "2026-03-29T03:29+02:00", None),  # 02:30 does not come in this night
        ("2026-03-28T22:00+01:00", None, "2026-03-29T03:31+02:00", "time"),
        ("2026-10-24T22:00+02:00", None, "2026-10-25T02:31+02:00", "time"),
        (
            "2026-10-25T02:40+02:00",
            "2026-10-25T02:31+02:00",
            "2026-10-25T02:31+01:00",
            None,
        ),  # 02:30 for the second time
        ("2026-10-25T02:40+02:00", "2026-10-25T02:31+02:00", "2026-10-26T02:31+01:00", "time"),
    ],
)
def test_time_of_day_comes_once_in_each_night_when_the_clocks_change(
    berlin: None, label: str, trained: str | None, now: str, expected: str | None
) -> None:
    found = due(at(now), {"retrain_at": ("02:30",)}, new_labels=[at(label)], trained_at=trained and at(trained))
    assert found == expected


@pytest.mark.parametrize(
    ("options", "trigger"), [({"retrain_at": ("02:00",)}, "time"), ({"retrain_idle_minutes": 9}, "idle")]
)
def test_times_of_a_clock_that_was_ahead_do_not_put_off_a_training(options: dict[str, object], trigger: str) -> None:
    years = 3 * 365 * 24 * HOUR
    assert due(options=options, new_labels=[NOON - 20 * HOUR], trained_at=NOON + years) == trigger
    assert due(options=options, new_labels=[NOON + years], trained_at=NOON + years, active_at=NOON + years) == trigger
    moment_ago = [NOON + 60]  # by a clock that has just been put right by a few minutes
    assert due(options=options, new_labels=moment_ago) is None


@pytest.mark.parametrize("text", ["24:00", "2:00", "02:60", "noon", "02:00;03:00", "02:00:00"])
def test_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="must be a time from 00:00 to 23:59, hours and minutes"):
        case.make_settings().override({"retrain_at": text})


def test_times_are_read_from_text() -> None:
    def times(text: str) -> tuple[str, ...]:
        settings: Settings = case.make_settings().override({"retrain_at": text})
        return settings.retrain_at

    assert times("12:30,02:00,12:30") == ("02:00", "12:30")
    assert times("none") == times("") == ()


@pytest.mark.parametrize(("loss", "fit"), [(-0.1, True), (0.0, True), (0.02, True), (0.0201, False), (0.5, False)])
def test_new_model_may_be_worse_by_the_margin_and_no_more(loss: float, fit: bool) -> None:
    old = {"a": 0.9, "b": 0.7, "only_old": 0.1}
    new = {"a": 0.9 - loss - 0.05, "b": 0.7 - loss + 0.05, "only_new": 0.0}
    found = compare("m1", old, new, basis="heldout", n_learned=0, margin=0.02)
    assert found.fit is fit
    assert (found.old, found.new, found.n) == (pytest.approx(0.8), pytest.approx(0.8 - loss), 2)
    assert ("It is used" in found.sentence) is fit
    assert found.low is not None and found.high is not None and found.low < -loss < found.high


def test_nothing_in_common_speaks_against_nobody() -> None:
    found = compare("m1", {"a": 1.0}, {"b": 0.0}, basis="prequential", n_learned=0, margin=0.0)
    assert found.fit and "without a comparison" in found.sentence


def trained(campaign: case.Campaign) -> str:
    model, _ = campaign.trainings.train(campaign.settings, lambda _: None)
    return model.version


def test_campaign_counts_labels_saved_again_and_those_saved_during_a_training(make_campaign) -> None:
    campaign = make_campaign(retrain_every=2)
    for image_id in ("p00", "p01"):
        label(campaign, image_id)
    assert campaign.trainings.due().trigger == "labels"

    def save_another(_: object) -> None:
        label(campaign, "p02")

    campaign.trainings.train(campaign.settings, save_another)
    assert campaign.trainings.due() is None
    label(campaign, "p00", values=(2,))
    assert campaign.trainings.due().trigger == "labels", "one is new, and another one changed"
    label(campaign, "h0")
    trained(campaign)
    assert campaign.trainings.due() is None


def test_training_that_fails_is_not_due_again_on_the_same_labels(make_campaign) -> None:
    campaign = make_campaign(retrain_every=1, learning_rate=1e30, epochs=4)
    label(campaign, "p00")
    with pytest.raises(ModelError, match="diverged"):
        campaign.trainings.train(campaign.settings, lambda _: None)
    assert campaign.trainings.due() is None
    label(campaign, "p01")
    assert campaign.trainings.due().trigger == "labels"


def test_training_that_was_asked_for_is_due_until_one_has_begun(make_campaign) -> None:
    campaign = make_campaign()
    with pytest.raises(ModelError, match="at least 1 labelled image"):
        campaign.trainings.ask("ann")
    label(campaign, "p00")
    assert campaign.trainings.due() is None
    campaign.trainings.ask("ann")
    campaign.trainings.ask("bob")
    assert make_campaign().trainings.due().trigger == "asked", "for another process too"

    def ask_again(_: object) -> None:
        time.sleep(0.01)
        campaign.trainings.ask("ann")

    campaign.trainings.train(campaign.settings, ask_again)
    assert campaign.trainings.due().trigger == "asked"
    trained(campaign)
    assert campaign.trainings.due() is None


@pytest.mark.parametrize("step_s", [-3 * HOUR, 3 * HOUR])
def test_training_that_was_asked_for_comes_once_where_the_clock_is_changed(make_campaign, monkeypatch, step_s) -> None:
    campaign = make_campaign()
    label(campaign, "p00")
    campaign.trainings.ask("ann")
    put_clock(monkeypatch, step_s)
    assert campaign.trainings.due().trigger == "asked"
    trained(campaign)
    assert campaign.trainings.due() is None
    put_clock(monkeypatch, step_s)
    assert campaign.trainings.due() is None
    campaign.trainings.ask("ann")
    assert campaign.trainings.due().trigger == "asked"


def test_click_counts_also_beside_a_label_of_a_clock_that_was_ahead(make_campaign, monkeypatch) -> None:
    campaign = make_campaign(retrain_idle_minutes=1)
    label(campaign, "p00")
    put_clock(monkeypatch, -100 * HOUR)
    assert campaign.trainings.due().trigger == "idle"
    campaign.next_sample("coldstart_al")
    assert campaign.trainings.due() is None


def put_clock(monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead_s)


def test_training_that_somebody_stopped_is_not_due_again(make_campaign) -> None:
    campaign = make_campaign(retrain_every=1)
    label(campaign, "p00")
    campaign.trainings.note_ended("It was stopped.")
    assert campaign.trainings.due() is None


def test_labels_saved_during_a_training_that_somebody_stopped_are_new(make_campaign, monkeypatch) -> None:
    campaign = make_campaign(retrain_every=3)
    label(campaign, "p00")
    begun_at = time.time()
    time.sleep(0.01)
    for image_id in ("p01", "p02", "p03"):
        label(campaign, image_id)
    campaign.trainings.note_ended("It was stopped.", begun_at)
    found = campaign.trainings.due()
    assert found is not None and found.sentence == "there are 3 new labels"
    put_clock(monkeypatch, -HOUR)
    campaign.trainings.note_ended("It was stopped.", begun_at - HOUR)
    assert campaign.trainings.due() is None, "it would begin again by itself until the clock is there again"


def test_label_that_another_training_learned_from_while_a_stopped_one_waited_is_not_new(make_campaign) -> None:
    campaign = make_campaign(retrain_every=1, epochs=1)
    asked_at = time.time()
    time.sleep(0.01)
    label(campaign, "p00")
    trained(campaign)
    campaign.trainings.note_ended("It was stopped.", asked_at)
    assert campaign.trainings.due() is None


def test_budget_is_due_after_earlier_trainings_and_when_it_is_raised(make_campaign) -> None:
    campaign = make_campaign(budget=3, epochs=1, retrain_at_budget=True)
    first, *others = case.planned(campaign)[:3]
    label(campaign, first)
    trained(campaign)
    for image_id in others:
        assert campaign.trainings.due() is None
        label(campaign, image_id)
    assert campaign.trainings.due().trigger == "budget"
    campaign.trainings.note_ended("It was stopped.")
    assert campaign.trainings.due() is None
    trained(campaign)
    label(campaign, first, values=(2,))
    assert campaign.trainings.due() is None, "that was the budget"
    label(campaign, "p20")
    label(campaign, "p21", values=(7,))
    raised = make_campaign(budget=5, epochs=1, retrain_at_budget=True)
    assert raised.trainings.due().trigger == "budget"
    trained(raised)
    assert raised.trainings.due() is None
    assert raised.trainings.triggers.situation(raised.settings).awaits_budget is False, "one of 5 labels is of no use"
