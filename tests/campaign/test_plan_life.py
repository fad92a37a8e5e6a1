"""DESIGN, "The life of a plan": a test for each sentence."""

from __future__ import annotations

import campaign_case as case
import numpy as np
import pytest
from campaign_case import BUDGET, N_POOL, click, clicks, fresh_plan, label, plan, planned, pool
from scipy.spatial.distance import cdist

from coldstart.campaign import Campaign, drafting

PLAN_COMPLETE = "plan complete, first model not trained yet"


def raise_budget(make_campaign, budget: int) -> Campaign:
    campaign = make_campaign(budget=budget)
    assert "embedding" in campaign.tasks_to_do()
    campaign.embed()
    assert campaign.tasks_to_do() == {}
    return campaign


def test_plan_is_made_when_the_first_embedding_ends_with_the_budget_in_force(make_new, pictures):
    campaign = make_new(budget=5)
    campaign.sync(case.list_files(pictures), {})
    assert set(campaign.tasks_to_do()) == {"embedding"}
    assert campaign.embed() == N_POOL + len(case.HELD_OUT)
    assert plan(campaign).budget == plan(campaign).size == 5
    assert planned(campaign) == fresh_plan(campaign, 5)
    assert campaign.tasks_to_do() == {}
    assert campaign.embed() == 0


def test_clicks_follow_the_plan_in_its_order_and_say_why(campaign):
    expected = fresh_plan(campaign, BUDGET)
    samples = [click(campaign) for _ in range(BUDGET)]
    assert [sample.image_id for sample in samples] == expected
    n_clusters = plan(campaign).n_clusters
    assert all(sample.why["phase"] == "cold_start" for sample in samples)
    assert [sample.why["rank"] for sample in samples] == list(range(1, BUDGET + 1))
    assert samples[0].why["reason"].startswith("cold start: medoid of cluster ")
    assert samples[0].why["distance"] is None
    assert f" of {n_clusters} (" in samples[0].why["reason"]
    assert samples[-1].why["reason"].startswith("cold start: farthest point of cluster ")
    assert samples[-1].why["distance"] > 0
    assert all(sample.why["cluster"] == case.rows(campaign)[sample.image_id].cluster for sample in samples)


def test_default_budget_is_ten():
    assert type(case.make_settings()).model_fields["budget"].default == 10


def test_budget_above_the_pool_plans_the_pool_and_says_so(make_campaign, caplog):
    campaign = raise_budget(make_campaign, 500)
    assert plan(campaign).size == N_POOL
    assert sorted(planned(campaign)) == pool(campaign)[0]
    assert "The budget of 500 is more than the pool's 30 images: all are planned." in caplog.text
    assert "the budget of 500 is more than the pool holds, so all of it is planned" in click(campaign).why["reason"]


def test_budget_above_a_pool_that_grows_plans_what_comes(make_new, pictures):
    files = case.list_files(pictures)
    campaign = make_new(budget=12)
    campaign.sync({key: files[key] for key in list(files)[:10]}, {})
    campaign.embed()
    served = clicks(campaign, 3)
    campaign.sync(files, {})
    campaign.embed()
    assert planned(campaign)[:3] == served
    assert plan(campaign).size == len(planned(campaign)) == 12


def test_budget_raised_continues_with_what_is_taken_as_selected(campaign, make_campaign):
    served = clicks(campaign, 2)
    outside = next(image_id for image_id in pool(campaign)[0] if image_id not in planned(campaign))
    label(campaign, outside)
    raised = raise_budget(make_campaign, 14)
    taken = (*served, outside)
    assert planned(raised) == served + fresh_plan(raised, 14, taken)
    assert len(planned(raised)) == 14 - 1  # the image that was labelled out of turn counts
    assert clicks(raised, 3) == fresh_plan(raised, 14, taken)[:3]


def test_budget_lowered_cuts_the_plan_and_keeps_what_was_served_or_labelled(campaign, make_campaign):
    before = planned(campaign)
    served = clicks(campaign, 2)
    label(campaign, before[6])
    lowered = raise_budget(make_campaign, 5)
    assert planned(lowered) == [*before[:4], before[6]]
    assert planned(lowered)[:2] == served
    assert clicks(lowered, 3) == [*before[2:4], click_after_plan(lowered)]


def click_after_plan(campaign: Campaign) -> str:
    """The image farthest from all that is labelled, reserved, or will have been by the end of the plan."""
    ids, points = pool(campaign)
    taken = [ids.index(image_id) for image_id in planned(campaign)]
    return ids[int(cdist(points, points[taken]).min(axis=1).argmax())]


def test_budget_lowered_below_what_is_taken_keeps_all_of_it(campaign, make_campaign):
    served = clicks(campaign, 4)
    lowered = raise_budget(make_campaign, 2)
    assert planned(lowered) == served


def test_cut_does_not_count_taken_images_that_went_away(campaign, make_campaign, pictures):
    before = planned(campaign)
    gone = clicks(campaign, 3)
    files = {key: path for key, path in case.list_files(pictures).items() if key not in gone}
    campaign.sync(files, {})
    lowered = raise_budget(make_campaign, 4)
    assert [image_id for image_id in planned(lowered) if image_id not in gone] == before[3:7]


def test_pick_served_while_the_plan_is_carried_on_stays(campaign, make_campaign, monkeypatch):
    """k-means of a large pool takes seconds, in which clicks go on."""
    raised, original, during = make_campaign(budget=14), drafting.plan_cold_start, []

    def planning_with_a_click(*args, **kwargs):
        made = original(*args, **kwargs)
        if not during:
            during.append(click(campaign).image_id)
        return made

    monkeypatch.setattr(drafting, "plan_cold_start", planning_with_a_click)
    raised.embed()
    assert planned(raised) == during + fresh_plan(raised, 14, tuple(during))


def test_new_images_are_placed_on_the_map_and_are_candidates_after_the_plan(campaign, pictures, tmp_path):
    before = {key: case.point(row) for key, row in case.rows(campaign).items()}
    in_plan, chart = planned(campaign), case.newest_map(campaign).id
    # unlike all others, so that "farthest point" has to choose it
    stripes = np.tile(np.uint8([0, 0, 255, 255]), (48, 12))
    case.Picture.fromarray(stripes).save(tmp_path / "z_stripes.png")
    campaign.sync(case.list_files(pictures) | {"z_stripes": tmp_path / "z_stripes.png"}, {})
    assert set(campaign.tasks_to_do()) == {"embedding"}
    assert campaign.embed() == 1
    after = case.rows(campaign)
    assert all(np.array_equal(case.point(after[key]), point) for key, point in before.items())
    assert after["z_stripes"].map_id == chart
    assert not after["z_stripes"].fitted
    assert after["z_stripes"].cluster is not None
    assert planned(campaign) == in_plan
    assert clicks(campaign, BUDGET) == in_plan
    assert "z_stripes" in clicks(campaign, 3)


@pytest.mark.parametrize("projection", ["tsne", "none"])
def test_other_projections_keep_old_points_when_an_image_arrives(make_new, pictures, projection):
    files = case.list_files(pictures)
    campaign = make_new(projection=projection, budget=4)
    campaign.sync({key: path for key, path in files.items() if key != "p07"}, {})
    campaign.embed()
    before = {key: row.point for key, row in case.rows(campaign).items()}
    campaign.sync(files, {})
    campaign.embed()
    after = {key: row.point for key, row in case.rows(campaign).items()}
    new = after.pop("p07")
    assert after == before
    assert new is not None
    assert case.newest_map(campaign).method == projection


def test_other_projection_makes_another_map_and_carries_the_plan_on(campaign, make_campaign):
    served = clicks(campaign, 3)
    other = make_campaign(projection="none")
    assert set(other.tasks_to_do()) == {"embedding"}
    assert other.embed() == 0  # the vectors are there
    assert case.newest_map(other).method == "none"
    assert planned(other)[:3] == served
    assert planned(other)[3:] == fresh_plan(other, BUDGET, tuple(served))


def test_plan_used_up_without_model_gives_farthest_points_of_the_whole_map(campaign):
    taken = clicks(campaign, BUDGET)
    ids, points = pool(campaign)
    for _ in range(5):
        selected = [ids.index(image_id) for image_id in taken]
        gaps = cdist(points, points[selected]).min(axis=1)
        sample = click(campaign)
        assert sample.image_id == ids[int(gaps.argmax())]
        assert PLAN_COMPLETE in sample.why["reason"]
        assert sample.why["phase"] == "plan_complete"
        assert sample.why["distance"] == pytest.approx(gaps.max())
        taken.append(sample.image_id)


def test_plan_used_up_without_model_gives_farthest_points_also_when_the_budget_is_labelled(campaign):
    for image_id in clicks(campaign, BUDGET):
        label(campaign, image_id)
    assert PLAN_COMPLETE in click(campaign).why["reason"]


def test_model_that_is_not_scored_yet_is_said(campaign):
    clicks(campaign, BUDGET)
    case.learning.record_model(campaign.store, "m1", {})
    sample = click(campaign)
    assert "plan complete, first model not scored yet" in sample.why["reason"]
    assert sample.why["model_version"] == "m1"


def test_budget_labelled_and_model_scored_gives_acquisition(campaign):
    for image_id in clicks(campaign, BUDGET):
        label(campaign, image_id)
    case.score(campaign, case.random_entropies())
    assert click(campaign).why["phase"] == "active"


def test_budget_counts_labelled_images_whether_they_were_planned_or_not(campaign):
    outside = [image_id for image_id in pool(campaign)[0] if image_id not in planned(campaign)]
    case.score(campaign, case.random_entropies())
    for image_id in outside[: BUDGET - 1]:
        label(campaign, image_id)
    assert click(campaign).why["phase"] == "cold_start"
    label(campaign, outside[BUDGET - 1])
    assert click(campaign).why["phase"] == "active"


def test_budget_not_labelled_follows_the_plan_although_a_model_is_scored(campaign):
    served = clicks(campaign, BUDGET - 1)
    for image_id in served:
        label(campaign, image_id)
    case.score(campaign, case.random_entropies())
    sample = click(campaign)
    assert sample.image_id == planned(campaign)[-1]
    assert sample.why["phase"] == "cold_start"
    # the last planned image is with somebody, its label is not there: what comes is mixed, not the farthest point
    assert click(campaign).why["phase"] == "active"


def test_clicks_before_the_first_embedding_are_seeded_random_and_not_reserved(make_new, pictures, tmp_path):
    campaign = make_new(budget=6)
    campaign.sync(case.list_files(pictures), {})
    samples = [click(campaign) for _ in range(6)]
    ids = [sample.image_id for sample in samples]
    assert len(set(ids)) == 6
    assert ids != sorted(ids)
    assert {sample.why["phase"] for sample in samples} == {"before_embedding"}
    assert samples[0].why["reason"] == "drawn at random: the images have not been embedded yet"
    assert samples[0].why["encoder"] == "descriptor (not embedded yet)"
    orders = {}
    for name, seed in (("same", 0), ("other", 1)):
        twin = Campaign(case.make_settings(random_state=seed), tmp_path / name)
        twin.sync(case.list_files(pictures), {})
        orders[name] = clicks(twin, 6)
        twin.store.close()
    assert orders["same"] == ids
    assert orders["other"] != ids


def test_click_before_the_first_embedding_counts_as_taken(make_new, pictures):
    campaign = make_new(budget=6)
    campaign.sync(case.list_files(pictures), {})
    early = clicks(campaign, 2)
    campaign.embed()
    assert planned(campaign) == fresh_plan(campaign, 6, tuple(early))
    assert len(planned(campaign)) == 4
    assert not set(planned(campaign)) & set(early)


def test_image_that_is_not_on_the_map_yet_is_served_when_nothing_else_is_free(make_new, pictures):
    files = case.list_files(pictures)
    campaign = make_new(budget=2)
    campaign.sync({key: files[key] for key in list(files)[:6]}, {})
    campaign.embed()
    clicks(campaign, 6)
    campaign.sync({key: files[key] for key in list(files)[:7]}, {})
    sample = click(campaign)
    assert sample.image_id == list(files)[6]
    assert sample.why["phase"] == "before_embedding"
    assert "not been embedded yet" in sample.why["reason"]


def test_fewer_than_five_images_and_one_are_planned(make_new, pictures):
    files = case.list_files(pictures)
    campaign = make_new(projection="tsne")
    campaign.sync({"p00": files["p00"]}, {})
    campaign.embed()
    assert planned(campaign) == ["p00"]
    campaign.sync({key: files[key] for key in ("p00", "p01", "p02")}, {})
    campaign.embed()
    assert sorted(planned(campaign)) == ["p00", "p01", "p02"]


def test_folder_without_images_has_nothing_to_do_and_nothing_to_serve(make_new):
    campaign = make_new()
    campaign.sync({}, {})
    assert campaign.tasks_to_do() == {}
    assert campaign.embed() == 0
    assert campaign.next_sample("coldstart_al") is None


def test_restart_with_the_same_settings_changes_nothing(campaign, make_campaign):
    before = planned(campaign), plan(campaign).created_at
    again = make_campaign()
    assert again.tasks_to_do() == {}
    assert again.embed() == 0
    assert (planned(again), plan(again).created_at) == before
