"""Replay: every decision of a campaign comes out the same from its log alone, and what was tampered with is named."""

from __future__ import annotations

import campaign_case as case
from campaign_case import BUDGET, click, clicks, label

from coldstart.campaign import STRATEGIES
from coldstart.campaign.replay import replay


def differing(campaign):
    return [one for one in replay(campaign.store) if one.same is not True]


def test_clicks_of_every_strategy_are_decided_the_same(campaign):
    clicks(campaign, 3)
    for image_id in clicks(campaign, 3, annotator="anna"):
        label(campaign, image_id)
    case.score(campaign, case.random_entropies())
    for alpha in (0.0, 0.5, 1.0):
        for strategy in STRATEGIES:
            click(campaign, strategy, alpha=alpha, annotator="ben")
    clicks(campaign, BUDGET)
    found = list(replay(campaign.store))
    assert [one.sentence for one in found if not one.same] == []
    assert len([one for one in found if one.kind == "click"]) == 18 + BUDGET
