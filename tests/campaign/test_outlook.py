"""What the page says of trainings: each trigger in words, how the last one ended, and why none can be asked for."""

from __future__ import annotations

from typing import Any

import campaign_case as case
import pytest
from campaign_case import label

from coldstart.campaign.outlook import training_outlook, triggers_in_words
from coldstart.campaign.retraining import Situation


def words(options: dict[str, Any], **values: Any) -> list[str]:
    plain: dict[str, Any] = {"new_labels": [], "n_labelled": 4, "n_planned": 6, "n_learned": 0, "has_model": False}
    plain |= {"trained_at": None, "asked_at": None, "active_at": None, **values}
    return triggers_in_words(Situation(**plain), case.make_settings(**{"retrain_at_budget": False, **options}))


def test_no_trigger_is_no_word() -> None:
    assert words({}) == []


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({"retrain_at_budget": True}, {}, "when the first batch is labelled (4 of 6)"),
        ({"retrain_every": 5}, {"new_labels": [1.0, 2.0]}, "after 3 more new labels"),
        ({"retrain_every": 3}, {"new_labels": [1.0, 2.0]}, "after 1 more new label"),
        ({"retrain_at": ("02:00",)}, {"new_labels": [1.0]}, "at 02:00"),
        ({"retrain_at": ("02:00",)}, {}, "at 02:00, if there is a new label by then"),
        (
            {"retrain_idle_minutes": 30.0},
            {"new_labels": [1.0]},
            "when nobody has asked or saved anything for 30 min",
        ),
    ],
)
def test_trigger_is_said_in_words(options: dict[str, Any], values: dict[str, Any], expected: str) -> None:
    assert words(options, **values) == [expected]


def test_model_of_the_whole_budget_ends_the_wait_for_it() -> None:
    options = {"retrain_at_budget": True, "retrain_at": ("02:00", "12:30")}
    assert words(options, has_model=True, n_learned=6, new_labels=[1.0]) == ["at 02:00", "at 12:30"]
    assert words(options, has_model=True, n_learned=1, new_labels=[1.0] * 3)[0].startswith("when the first batch is")


def test_outlook_follows_labels_and_trainings(make_campaign: Any) -> None:
    campaign = make_campaign(retrain_at_budget=False, retrain_every=2, epochs=1)
    found = training_outlook(campaign)
    assert found["hindrance"].startswith("A training needs at least 1 labelled image")
    assert (found["n_new"], found["last"], found["due"]) == (0, None, None)
    label(campaign, "p00")
    found = training_outlook(campaign)
    assert (found["hindrance"], found["n_new"], found["triggers"]) == (None, 1, ["after 1 more new label"])
    label(campaign, "p01")
    assert training_outlook(campaign)["due"] == "there are 2 new labels"
    campaign.trainings.train(campaign.settings, lambda _: None)
    found = training_outlook(campaign)
    assert (found["n_new"], found["due"], found["last"]["used"]) == (0, None, True)
    assert found["last"]["sentence"].startswith("It is used")
    first = campaign.publisher.in_use()
    campaign.trainings.train(campaign.settings.override({"random_state": 1}), lambda _: None)
    assert "put into use since" not in training_outlook(campaign)["last"]["sentence"]
    campaign.publisher.choose(first, "ann", campaign.settings.labels)
    assert training_outlook(campaign)["last"]["sentence"].endswith("Another model was put into use since.")
    campaign.trainings.note_ended("It was stopped.")
    last = training_outlook(campaign)["last"]
    assert (last["used"], last["sentence"]) == (False, "It was stopped.")
