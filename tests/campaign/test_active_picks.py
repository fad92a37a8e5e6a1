"""Picks once a model is scored, against `selection.acquire` on the whole pool, and the strategies on their own."""

from __future__ import annotations

import json
import math
import shutil

import campaign_case as case
import numpy as np
import pytest
from campaign_case import BUDGET, KEYS, click, clicks, fresh_plan, label, pool, random_entropies, rows, score
from sqlalchemy import func, select

from coldstart.campaign import STRATEGIES
from coldstart.exceptions import ImageError
from coldstart.selection import acquire
from coldstart.store import Scoring, Serving

N_ACTIVE = 6


def label_budget(campaign) -> list[str]:
    served = clicks(campaign, BUDGET)
    for image_id in served:
        label(campaign, image_id)
    return served


def expected(campaign, labelled, n=N_ACTIVE, *, first_by_entropy=True, **kwargs):
    """What one call of `acquire` for n gives, from the entropies as the database holds them."""
    ids, points = pool(campaign)
    found, scoring = rows(campaign), case.newest_scoring(campaign)
    entropy = [found[key].entropy if found[key].scoring_id == scoring.id else scoring.mean for key in ids]
    acquisition = acquire(
        points,
        entropy,
        [ids.index(key) for key in labelled],
        n,
        first_by_entropy=first_by_entropy,
        entropy_range=(scoring.minimum, scoring.maximum),
        **kwargs,
    )
    return [ids[index] for index in acquisition.indices], acquisition


@pytest.mark.parametrize("alpha", [None, 0.0, 0.6, 1.0])
def test_n_clicks_equal_one_call_for_n(campaign, alpha):
    labelled = label_budget(campaign)
    score(campaign, random_entropies())
    asked = {} if alpha is None else {"alpha": alpha}
    wanted, acquisition = expected(campaign, labelled, **({"alpha": 0.3} | asked))
    samples = [click(campaign, **asked) for _ in range(N_ACTIVE)]
    assert [sample.image_id for sample in samples] == wanted
    for index, sample in enumerate(samples):
        assert sample.why["phase"] == "active"
        assert sample.why["rank"] == index + 1
        assert sample.why["alpha"] == (0.3 if alpha is None else alpha)
        assert sample.why["model_version"] == "m1"
        for key in ("entropy", "distance", "score"):
            assert sample.why[key] == pytest.approx(float(getattr(acquisition, key)[index]))


def test_labelling_between_clicks_changes_nothing(campaign):
    labelled = label_budget(campaign)
    score(campaign, random_entropies())
    wanted, _ = expected(campaign, labelled)
    for image_id in wanted:
        assert click(campaign, annotator="anna").image_id == image_id
        label(campaign, image_id)


def test_first_pick_after_a_scoring_is_the_highest_entropy_and_says_so(campaign):
    label_budget(campaign)
    score(campaign, random_entropies())
    free = {key: row.entropy for key, row in rows(campaign).items() if row.entropy is not None}
    sample = click(campaign, alpha=1.0)
    assert sample.image_id == max(free, key=free.__getitem__)
    assert sample.why["reason"].startswith("active learning: highest entropy, first after a new scoring")
    assert "highest score with alpha 0.25" in click(campaign, alpha=0.25).why["reason"]


def test_first_pick_after_a_new_scoring_is_by_entropy_again(campaign):
    labelled = label_budget(campaign)
    score(campaign, random_entropies())
    before = clicks(campaign, 3, alpha=1.0)
    score(campaign, random_entropies(1), "m2")
    taken = labelled + before
    wanted, _ = expected(campaign, taken, 3, alpha=1.0)
    by_score, _ = expected(campaign, taken, 3, alpha=1.0, first_by_entropy=False)
    assert wanted != by_score
    samples = [click(campaign, alpha=1.0) for _ in range(3)]
    assert [sample.image_id for sample in samples] == wanted
    assert [sample.why["rank"] for sample in samples] == [1, 2, 3]
    assert samples[0].why["model_version"] == "m2"


def test_alpha_belongs_to_a_click(campaign):
    labelled = label_budget(campaign)
    score(campaign, random_entropies())
    taken = [*labelled, click(campaign).image_id]
    for alpha in (1.0, 0.0, 0.5):
        wanted, _ = expected(campaign, taken, 1, alpha=alpha, first_by_entropy=False)
        sample = click(campaign, alpha=alpha)
        assert [sample.image_id] == wanted
        assert sample.why["alpha"] == alpha
        taken.append(sample.image_id)


def test_entropy_is_reported_in_nats_and_relative_to_its_largest(campaign):
    label_budget(campaign)
    score(campaign, random_entropies())
    sample = click(campaign)
    nats = rows(campaign)[sample.image_id].entropy
    assert sample.why["entropy_nats"] == pytest.approx(nats)
    assert sample.why["entropy_relative"] == pytest.approx(nats / math.log(3))  # two structures and the background
    assert sample.why["entropy"] == pytest.approx(1.0)


def test_skipped_images_are_neither_candidates_nor_selected(campaign):
    labelled = label_budget(campaign)
    score(campaign, random_entropies())
    ids, points = pool(campaign)
    found, scoring = rows(campaign), case.newest_scoring(campaign)
    skipped = [click(campaign, annotator="anna").image_id]
    for _ in range(4):
        keep = [index for index, key in enumerate(ids) if key not in skipped]
        acquisition = acquire(
            points[keep],
            [found[ids[index]].entropy or 0.0 for index in keep],
            [position for position, index in enumerate(keep) if ids[index] in labelled],
            1,
            alpha=0.9,
            first_by_entropy=False,
            entropy_range=(scoring.minimum, scoring.maximum),
        )
        sample = click(campaign, annotator="anna", alpha=0.9)
        assert sample.image_id == ids[keep[int(acquisition.indices[0])]]
        assert sample.why["distance"] == pytest.approx(float(acquisition.distance[0]))
        skipped.append(sample.image_id)


def test_entropy_range_is_that_of_the_scoring_and_is_kept(campaign):
    labelled = label_budget(campaign)
    score(campaign, random_entropies())
    unlabelled = [
        row.entropy for key, row in rows(campaign).items() if key in pool(campaign)[0] and key not in labelled
    ]
    scoring = case.newest_scoring(campaign)
    assert (scoring.minimum, scoring.maximum) == (min(unlabelled), max(unlabelled))
    assert scoring.mean == pytest.approx(np.mean(unlabelled))
    assert scoring.n_images == len(unlabelled)
    first, second = click(campaign, alpha=0.0), click(campaign, alpha=0.0)
    assert first.why["entropy"] == pytest.approx(1.0)
    # the highest is taken: with the range of those left the second would have 1 again
    largest_two = sorted(unlabelled)[-2:]
    relative = (largest_two[0] - scoring.minimum) / (scoring.maximum - scoring.minimum)
    assert second.why["entropy"] == pytest.approx(relative)


def test_image_unknown_to_the_scoring_gets_its_mean(campaign, pictures, tmp_path):
    label_budget(campaign)
    score(campaign, random_entropies())
    late = case.draw_image(tmp_path / "late.png", 200)
    campaign.sync(case.list_files(pictures) | {"late": late}, {})
    campaign.embed()
    assert rows(campaign)["late"].entropy is None
    scoring = case.newest_scoring(campaign)
    above = sum((row.entropy or 0) > scoring.mean for row in rows(campaign).values())
    order = [click(campaign, alpha=0.0) for _ in range(above + 1)]
    assert order[-1].image_id == "late"
    assert order[-1].why["entropy_nats"] == pytest.approx(scoring.mean)


def test_image_that_was_labelled_when_the_pool_was_scored_gets_the_mean(campaign):
    labelled = label_budget(campaign)
    score(campaign, random_entropies())
    campaign.remove_label(labelled[0])
    wanted, _ = expected(campaign, labelled[1:], 3, alpha=0.0)
    # its label is gone: the budget is not labelled any more, and it is the one planned image that is free
    assert click(campaign).image_id == labelled[0]
    assert clicks(campaign, 3, "entropy_diversity", alpha=0.0) == wanted


def test_last_complete_scoring_counts_while_another_runs(campaign):
    labelled = label_budget(campaign)
    score(campaign, random_entropies())
    wanted, _ = expected(campaign, labelled, 2)
    seen = []

    def ask_once():
        if not seen:
            seen.append(None)
            seen.extend([click(campaign), click(campaign)])

    score(campaign, random_entropies(1), "m2", on_image=ask_once)
    assert [sample.image_id for sample in seen[1:]] == wanted
    assert {sample.why["model_version"] for sample in seen[1:]} == {"m1"}
    assert click(campaign).why["model_version"] == "m2"


def test_scoring_that_fails_leaves_the_one_before(campaign):
    labelled = label_budget(campaign)
    score(campaign, random_entropies())
    wanted, _ = expected(campaign, labelled, 3)
    with pytest.raises(KeyError):
        score(campaign, {}, "m2")
    assert clicks(campaign, 3) == wanted


def test_scoring_looks_at_unlabelled_images_of_the_pool_only(campaign):
    labelled = label_budget(campaign)
    assert score(campaign, random_entropies()) == case.N_POOL - BUDGET
    scored = {key for key, row in rows(campaign).items() if row.entropy is not None}
    assert scored == set(pool(campaign)[0]) - set(labelled)


def test_new_model_asks_for_a_scoring_once(campaign):
    assert campaign.tasks_to_do() == {}
    case.learning.record_model(campaign.store, "m1", {})
    assert campaign.tasks_to_do() == {}, "its file was taken away"
    campaign.model_path.parent.mkdir()
    campaign.model_path.touch()
    first = campaign.tasks_to_do()
    assert set(first) == {"entropy"}
    score(campaign, random_entropies(), "m1")
    assert campaign.tasks_to_do() == {}
    case.learning.record_model(campaign.store, "m2", {})
    second = campaign.tasks_to_do()
    assert set(second) == {"entropy"} and second != first


def test_image_that_cannot_be_scored_gets_the_mean_and_does_not_stop_the_others(campaign, pictures, tmp_path):
    label_budget(campaign)
    shaky = case.draw_image(tmp_path / "shaky.png", 200)
    campaign.sync(case.list_files(pictures) | {"shaky": shaky}, {})
    campaign.embed()
    assert score(campaign, {**random_entropies(), 200: 0.65}) == case.N_POOL - BUDGET + 1
    shaky.write_bytes(b"not a picture any more")
    assert score(campaign, random_entropies(1), "m2") == case.N_POOL - BUDGET
    order = [click(campaign, alpha=0.0) for _ in range(case.N_POOL - BUDGET + 1)]
    mean = case.newest_scoring(campaign).mean
    answer = next(sample for sample in order if sample.image_id == "shaky")
    assert answer.why["entropy_nats"] == pytest.approx(mean)


def test_scoring_is_not_complete_while_files_are_away(campaign, pictures, tmp_path):
    label_budget(campaign)
    share = tmp_path / "share"
    shutil.copytree(pictures, share)
    campaign.sync(case.list_files(share), {})
    campaign.embed()
    assert score(campaign, random_entropies()) > 0
    share.rename(tmp_path / "away")
    with pytest.raises(ImageError, match=r"image file\(s\) went away meanwhile, .* see that it is mounted"):
        score(campaign, random_entropies(1), "m2")
    assert case.newest_scoring(campaign).model_version == "m1"
    (tmp_path / "away").rename(share)
    assert score(campaign, random_entropies(1), "m2") > 0


def test_scoring_of_a_pool_that_is_labelled_to_the_last_image_is_complete(campaign):
    for image_id in pool(campaign)[0]:
        label(campaign, image_id)
    assert score(campaign, random_entropies()) == 0
    assert campaign.tasks_to_do() == {}
    campaign.remove_label("p00")
    sample = click(campaign, "entropy_diversity")
    assert sample.image_id == "p00"
    json.dumps(sample.why, allow_nan=False)


def test_entropy_diversity_on_its_own_does_not_wait_for_the_budget(campaign):
    score(campaign, random_entropies())
    wanted, _ = expected(campaign, [], 4)
    assert clicks(campaign, 4, "entropy_diversity") == wanted


def test_entropy_diversity_without_a_scoring_follows_the_plan_and_says_so(campaign):
    sample = click(campaign, "entropy_diversity")
    assert sample.image_id == fresh_plan(campaign, BUDGET)[0]
    assert sample.why["reason"].endswith("; no model has been scored yet")


def test_cold_start_on_its_own_never_turns_active(campaign):
    served = clicks(campaign, BUDGET, "cold_start")
    assert served == fresh_plan(campaign, BUDGET)
    for image_id in served:
        label(campaign, image_id)
    score(campaign, random_entropies())
    sample = click(campaign, "cold_start")
    assert sample.why["phase"] == "plan_complete"
    assert sample.why["reason"] == "plan complete: farthest point of the whole map"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_answers_have_every_key_and_are_plain_json(campaign, make_new, pictures, strategy):
    early = make_new()
    early.sync(case.list_files(pictures), {})
    answers = [click(early, strategy)]
    answers += [click(campaign, strategy, annotator="anna") for _ in range(2)]  # plan, skipping
    for image_id in clicks(campaign, BUDGET):
        label(campaign, image_id)
    answers.append(click(campaign, strategy))  # no model
    score(campaign, random_entropies())
    answers += [click(campaign, strategy) for _ in range(case.N_POOL)]  # active, skipped before, shared
    for answer in answers:
        assert answer.why.keys() >= KEYS
        assert json.loads(json.dumps(answer.why, allow_nan=False)) == answer.why
        assert isinstance(answer.why["reason"], str)
        assert answer.why["reason"]
        assert answer.why["encoder"]
    assert answers[1].why["encoder"] == case.newest_map(campaign).encoder
    assert answers[0].why["model_version"] is None
    assert answers[-1].why["model_version"] == "m1"
    phases = {answer.why["phase"] for answer in answers}
    wanted = {"skipped_before", "shared"}
    wanted |= {"uniform_random"} if strategy == "uniform_random" else {"before_embedding", "cold_start"}
    assert phases >= wanted
    assert ("active" in phases) == (strategy in ("coldstart_al", "entropy_diversity"))


def test_all_points_equal_and_all_entropies_equal_still_give_finite_answers(make_new, pictures):
    files = {f"copy{index}": pictures / "p00.png" for index in range(6)}
    campaign = make_new(budget=2)
    campaign.sync(files, {})
    campaign.embed()
    for image_id in clicks(campaign, 2):
        label(campaign, image_id)
    score(campaign, dict.fromkeys(range(256), 0.3))
    for _ in range(4):
        sample = click(campaign)
        assert sample.why["phase"] == "active"
        json.dumps(sample.why, allow_nan=False)


def test_active_servings_remember_their_scoring(campaign):
    label_budget(campaign)
    score(campaign, random_entropies())
    clicks(campaign, 2)
    with campaign.store.reading() as session:
        counted = select(func.count()).select_from(Serving).join(Scoring, Scoring.id == Serving.scoring_id)
        assert session.scalar(counted) == 2


def test_image_replaced_while_it_is_scored_gets_the_mean(campaign, pictures, tmp_path):
    files = case.list_files(pictures)
    other = case.draw_image(tmp_path / "other.png", 20, seed=99)
    score(campaign, random_entropies(), on_image=lambda: campaign.sync(files | {"p00": other}, {}))
    row = rows(campaign)["p00"]
    assert (row.entropy, row.scoring_id) == (None, None)
    assert rows(campaign)["p01"].entropy is not None
