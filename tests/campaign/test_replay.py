"""Replay: every decision of a campaign comes out the same from its log alone."""

from __future__ import annotations

from collections import Counter

import campaign_case as case
import pytest
from campaign_case import BUDGET, click, clicks, label
from test_serving_brute_force import held
from test_unwritten_clicks import write_remembered

from coldstart.campaign import BASELINES, STRATEGIES, Campaign
from coldstart.campaign.replay import decision_rows, replay
from coldstart.store import engine


def replayed(campaign):
    """Decide everything again, all of it alike; the number of decisions of each kind."""
    found = list(replay(campaign.store))
    assert [one for one in found if one.same is not True] == []
    return Counter(one.kind for one in found)


def rows_of(campaign, kind):
    return [row for row in decision_rows(campaign.store) if row["kind"] == kind]


def test_clicks_of_every_strategy_are_decided_the_same(campaign):
    clicks(campaign, 3)
    for image_id in clicks(campaign, 3, annotator="anna"):
        label(campaign, image_id)
    case.score(campaign, case.random_entropies())
    for alpha in (0.0, 0.5, 1.0):
        for strategy in STRATEGIES:
            click(campaign, strategy, alpha=alpha, annotator="ben")
    clicks(campaign, BUDGET)
    assert replayed(campaign) == {"map": 1, "placed": 1, "plan": 1, "click": 18 + BUDGET}


@pytest.mark.parametrize("projection", ["tsne", "pca", "none"])
def test_map_and_what_was_placed_on_it_come_out_the_same(make_new, pictures, tmp_path, projection):
    files = case.list_files(pictures)
    campaign = make_new(projection=projection)
    campaign.sync({key: files[key] for key in list(files)[:20]}, {})
    campaign.embed()
    clicks(campaign, 2)
    other = case.draw_image(tmp_path / "other.png", 7, seed=70)
    campaign.sync({**files, "p03": other}, {})  # new images, and one of those that made the map replaced
    campaign.embed()
    clicks(campaign, 2)
    late = list(files)[21]
    another = case.draw_image(tmp_path / "another.png", 8, seed=71)
    campaign.sync({**files, "p03": other, late: another}, {})  # and one that was placed on it
    campaign.embed()
    clicks(campaign, 2)
    assert replayed(campaign) == {"map": 1, "placed": 2, "plan": 1, "click": 6}


def test_every_other_method_plans_the_same(campaign):
    for name in BASELINES:
        click(campaign, name)
    assert replayed(campaign)["method_plan"] == len(BASELINES)


def test_whole_campaign_is_decided_the_same(make_new, pictures, tmp_path, monkeypatch):
    """All that happens to a campaign, one after the other."""
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.05)
    files = case.list_files(pictures)
    first = {key: path for key, path in files.items() if key not in ("p20", "p21", *case.HELD_OUT)}
    held_out = tmp_path / "heldout.txt"
    held_out.write_text("h0\nh1\n")
    campaign = make_new(budget=6, heldout=held_out)
    campaign.sync({**first, "h0": files["h0"], "h1": files["h1"]}, {})
    early = click(campaign).image_id  # before the embedding
    campaign.embed()
    shown = [early, *clicks(campaign, 2, annotator="anna"), *clicks(campaign, 2)]
    for image_id in shown[:3]:
        label(campaign, image_id)
    click(campaign, "k_means", annotator="ben")
    campaign.use(who="lead", budget=9)
    with held(campaign):
        click(campaign, "k_center_map")  # its plan is made now
        clicks(campaign, 2, annotator="anna")
    write_remembered(campaign)
    shown += clicks(campaign, 1, "k_means")
    now = dict(first)
    for image_id in ("p20", "p21"):  # arrive one by one
        now[image_id] = files[image_id]
        campaign.sync({**now, "h0": files["h0"], "h1": files["h1"]}, {})
        campaign.embed()
        shown += clicks(campaign, 1)
    campaign.use(who="lead", budget=5)
    now["p05"] = case.draw_image(tmp_path / "new.png", 5, seed=99)
    del now["p06"]
    campaign.sync(now, {})
    campaign.embed()
    shown += clicks(campaign, 2)
    for image_id in shown:
        label(campaign, image_id)
    case.score(campaign, case.random_entropies())
    clicks(campaign, 2, alpha=0.9)
    campaign.use(who="lead", alpha=0.6)
    with held(campaign):
        clicks(campaign, 2, annotator="anna")
    write_remembered(campaign)
    other = Campaign(campaign.configured, campaign.folder)
    clicks(other, 2, "entropy_diversity", alpha=1.0)
    clicks(campaign, 1, "uniform_random", annotator="anna")
    case.score(other, case.random_entropies(1), "m2")
    clicks(campaign, 2)
    other.remove_label(shown[0])
    clicks(other, 25, annotator="cleo")  # also what she skipped
    clicks(campaign, 25)  # also what others have
    other.store.close()
    phases = Counter(row["details"]["answer"]["phase"] for row in rows_of(campaign, "click"))
    assert phases.keys() == {
        *("before_embedding", "cold_start", "k_means", "k_center_map", "plan_complete", "active"),
        *("uniform_random", "skipped_before", "shared"),
    }
    assert replayed(campaign)["click"] == len(case.servings(campaign))
