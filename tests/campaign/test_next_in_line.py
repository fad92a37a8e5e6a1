"""What the next clicks would be served, asked without clicking; and when a model has segmented it."""

import campaign_case as case
import pytest
from campaign_case import BUDGET, click, clicks, label, random_entropies, score, servings

from coldstart.campaign import Campaign, learning


def label_budget(campaign) -> list[str]:
    served = clicks(campaign, BUDGET)
    for image_id in served:
        label(campaign, image_id)
    return served


def test_next_in_line_is_the_plan_and_then_the_farthest_points(campaign):
    ahead = campaign.next_in_line(BUDGET + 4)
    assert ahead[:BUDGET] == case.planned(campaign)
    assert clicks(campaign, BUDGET + 4) == ahead


def test_next_in_line_is_what_clicks_get_after_a_scoring(make_campaign):
    campaign = make_campaign(alpha=0.9)  # distance counts, except for the first
    label_budget(campaign)
    score(campaign, random_entropies())
    first = campaign.next_in_line(6)
    assert len(set(first)) == 6
    assert clicks(campaign, 2) == first[:2]
    assert campaign.next_in_line(4) == first[2:], "picks served before count as they do for a click"
    assert clicks(campaign, 4) == first[2:]


def test_asking_reserves_nothing(campaign):
    label_budget(campaign)
    score(campaign, random_entropies())
    before = servings(campaign)
    assert campaign.next_in_line(5) == campaign.next_in_line(5)
    assert servings(campaign) == before


def test_the_end_of_the_pool_is_the_end_of_the_line(campaign):
    label_budget(campaign)
    score(campaign, random_entropies())
    held = clicks(campaign, 3, annotator=None)
    skipped = click(campaign, annotator="ann").image_id
    click(campaign, annotator="ann")
    ahead = campaign.next_in_line(1000)
    assert len(ahead) == len(set(ahead)) == case.N_POOL - BUDGET - 4, "what somebody holds is in nobody's line"
    assert not set(ahead) & {*held, *case.HELD_OUT}
    assert ahead[-1] == skipped, "a skipped image comes last"
    assert clicks(campaign, len(ahead)) == ahead


def test_an_image_labelled_meanwhile_is_left_out(make_campaign, tmp_path):
    campaign = make_campaign(prelabel=4)
    ready(campaign)
    ahead = campaign.next_in_line(4)
    kept: list[tuple[str, str]] = []

    def keep(image_id: str, version: str) -> None:
        kept.append((image_id, version))
        label(campaign, ahead[2])

    assert campaign.prelabel(keep) == "m1"
    assert kept == [(ahead[0], "m1"), (ahead[1], "m1"), (ahead[3], "m1")]
    assert campaign.status()["progress"]["prelabel"] == {"done": 4, "total": 4, "message": "model m1"}


def ready(campaign, version="m1") -> None:
    if version == "m1":
        label_budget(campaign)
        campaign.model_path.parent.mkdir(exist_ok=True)
        campaign.model_path.write_bytes(b"not read here")
    score(campaign, random_entropies(), version)


def test_pre_labels_are_made_once_for_each_model_that_has_scored(make_campaign):
    campaign = make_campaign(prelabel=3)
    assert "prelabel" not in campaign.tasks_to_do()
    label_budget(campaign)
    campaign.model_path.parent.mkdir(exist_ok=True)
    campaign.model_path.write_bytes(b"not read here")
    learning.record_model(campaign.store, "m1", {})
    assert set(campaign.tasks_to_do()) == {"entropy"}, "who comes next is not known before the scoring"
    assert campaign.prelabel(lambda *_: pytest.fail("segmented too early")) is None
    score(campaign, random_entropies())
    assert set(campaign.tasks_to_do()) == {"prelabel"}
    assert campaign.prelabel(lambda *_: None) == "m1"
    assert campaign.tasks_to_do() == {}
    assert campaign.prelabel(lambda *_: pytest.fail("segmented again")) is None
    score(campaign, random_entropies(1), "m2")
    assert set(campaign.tasks_to_do()) == {"prelabel"}


def test_pre_labelling_that_failed_is_to_do_still(make_campaign):
    campaign = make_campaign(prelabel=3)
    ready(campaign)

    def fail(image_id: str, version: str) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        campaign.prelabel(fail)
    assert set(campaign.tasks_to_do()) == {"prelabel"}


def test_zero_switches_pre_labels_off_and_more_asks_for_more(make_campaign):
    campaign = make_campaign(prelabel=0)
    ready(campaign)
    assert campaign.tasks_to_do() == {}
    assert campaign.prelabel(lambda *_: pytest.fail("segmented")) is None
    for n, to_do in ((2, True), (2, False), (1, False), (3, True)):
        again = make_more(campaign, n)
        assert ("prelabel" in again.tasks_to_do()) == to_do
        again.prelabel(lambda *_: None)
        again.store.close()


def make_more(campaign, n):
    return Campaign(case.make_settings(heldout=campaign.settings.heldout, prelabel=n), campaign.folder)
