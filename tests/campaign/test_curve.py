"""The learning curve, whether more labels still help, and who labelled when."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import datetime

import numpy as np
import pytest
from scipy import stats

from coldstart.campaign import helping
from coldstart.campaign.curve import annotator_counts, day_counts, learning_curve
from coldstart.campaign.helping import Round, still_helping
from coldstart.campaign.intervals import mean_interval
from coldstart.store import Image, Judgement, Label, Model

EACH = 5
"""Labels of a round."""


@pytest.fixture
def store(make_new):
    return make_new().store


def add_image(session, image_id):
    image = Image(image_id=image_id, path="p", signature="s", added_at=0.0)
    session.add(image)
    session.flush()
    return image.id


def add_judged(store, image_id, dice, *, n_labels=4, version="m1", at=1.0, annotator=None):
    with store.writing() as session:
        row = add_image(session, image_id)
        session.add(Label(image=row, path="l", signature="s", saved_at=at, annotator=annotator))
        who = {"annotator": annotator, "n_labels": n_labels, "label_signature": "s", "class_dice": {}}
        session.add(Judgement(image=row, model_version=version, judged_at=at, dice=dice, **who))


def add_model(store, version, n_labels, dice, signatures=None):
    heldout = {"images": [{"image_id": f"h{i}", "dice": one} for i, one in enumerate(dice)]} if dice else None
    details = {"n_images": n_labels, "heldout": heldout, "heldout_labels": signatures}
    with store.writing() as session:
        session.add(Model(version=version, created_at=n_labels, details=details))


def rounds(means, *, n_images=12, noise=0.02, training_noise=0.0, each=EACH, seed=0):
    """A round for each mean: images of different difficulty, each with its own luck in each training."""
    generator = np.random.default_rng(seed)
    difficulty = generator.normal(0, 0.08, n_images)
    found = []
    for index, mean in enumerate(means):
        dice = mean + generator.normal(0, training_noise) + difficulty + generator.normal(0, noise, n_images)
        found.append(Round(each * (index + 1), {f"h{i}": float(one) for i, one in enumerate(dice)}))
    return found


def test_empty_campaign_has_an_empty_curve_and_says_what_is_missing(store):
    curve = learning_curve(store)
    assert (curve.prequential, curve.rounds, curve.heldout) == ([], [], [])
    assert curve.verdict.helping is None and "too early" in curve.verdict.sentence
    assert "so far 0" in curve.verdict.sentence
    assert json.loads(json.dumps(asdict(curve), allow_nan=False)) == asdict(curve)


def test_judged_labels_are_summed_up_for_each_model(store):
    for index, dice in enumerate((0.6, 0.8, 0.7)):
        add_judged(store, f"a{index}", dice, at=float(index), annotator="ada")
    add_judged(store, "b0", 0.9, version="m2", n_labels=7, at=9.0)
    add_judged(store, "b1", None, version="m2", n_labels=7, at=10.0)
    curve = learning_curve(store)
    assert [(one.image_id, one.dice, one.annotator) for one in curve.prequential[::3]] == [
        ("a0", 0.6, "ada"),
        ("b0", 0.9, None),
    ]
    first, second = curve.rounds
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert (first.n_labels, first.n, first.mean, first.at) == (4, 3, pytest.approx(0.7), 2.0)
    assert (first.low, first.high) == (pytest.approx(0.7 - half), pytest.approx(0.7 + half))
    assert (second.n_labels, second.n, second.mean, second.low, second.high) == (7, 1, 0.9, None, None)


def test_models_with_held_out_images_make_a_curve(store):
    add_model(store, "m1", 5, [0.5, 0.7])
    add_model(store, "without", 6, [])
    add_model(store, "m2", 8, [0.9, 0.9])
    first, second = learning_curve(store).heldout
    assert (first.model_version, first.n_labels, first.dice, first.n_images) == ("m1", 5, pytest.approx(0.6), 2)
    assert (first.low, first.high) == (0.0, 1.0)
    assert (second.dice, second.low, second.high) == (pytest.approx(0.9), pytest.approx(0.9), pytest.approx(0.9))


def test_verdict_comes_from_the_held_out_images_in_the_store(store):
    for one in rounds([0.5, 0.6, 0.7, 0.8, 0.9]):
        add_model(store, f"m{one.n_labels}", one.n_labels, [*one.dice.values()])
    verdict = learning_curve(store).verdict
    assert (verdict.helping, verdict.basis, verdict.n) == (True, "heldout", 12)


def test_held_out_labels_that_were_corrected_since_are_left_out_of_the_verdict(store):
    """By the wrong labels the first models look bad, and their labels would seem to have helped."""
    wrong, right = {f"h{i}": "before" if i < 4 else "same" for i in range(12)}, {f"h{i}": "same" for i in range(12)}
    for index, one in enumerate(rounds([0.8] * 8, noise=0.005)):
        early = index < 5
        dice = [value - 0.5 if early and i < 4 else value for i, value in enumerate(one.dice.values())]
        add_model(store, f"m{index}", one.n_labels, dice, wrong if early else right)
    verdict = learning_curve(store).verdict
    assert (verdict.helping, verdict.basis, verdict.n) == (False, "heldout", 8)
    assert abs(verdict.gain) < 0.02 and "8 held-out images" in verdict.sentence


def test_steady_rise_is_never_called_a_stop():
    for seed in range(20):
        said = [still_helping(rounds(0.6 + 0.02 * np.arange(n), seed=seed), []).helping for n in range(2, 13)]
        assert False not in said
        assert said[-1] is True


def test_plateau_is_called_a_stop_within_a_few_rounds():
    means = [0.5, 0.65, 0.75, 0.8] + 8 * [0.82]
    for seed in range(20):
        said = [still_helping(rounds(means[:n], seed=seed), []).helping for n in range(2, 13)]
        assert said[2] is True and False in said[-5:]
        assert False not in said[:4], "the rise is not over yet"


def test_stop_states_its_numbers():
    verdict = still_helping(rounds([0.5, 0.7] + 6 * [0.8]), [])
    assert verdict.helping is False and verdict.n == 12
    assert verdict.low < 0.0 < verdict.high < 0.04 and verdict.sure >= 0.95
    opening = "More labels have stopped helping: over the last 3 rounds (25 to 40 labels) the Dice on the 12 held-out"
    assert verdict.sentence.startswith(opening)
    assert f"{verdict.gain:+.3f} (95 % interval {verdict.low:+.3f} to {verdict.high:+.3f})" in verdict.sentence
    assert "sure" in verdict.sentence and "0.02" in verdict.rule and "3 rounds" in verdict.rule


def test_gain_is_the_mean_of_two_rounds_less_that_of_two_earlier_ones():
    found = rounds([0.5, 0.6, 0.7, 0.71, 0.72, 0.76], noise=0.01)
    dice = np.array([[*one.dice.values()] for one in found])
    each = (dice[5] + dice[4] - dice[2] - dice[1]) / 2
    verdict = still_helping(found, [])
    assert verdict.gain == pytest.approx(each.mean())
    half = stats.t.ppf(0.975, 11) * each.std(ddof=1) / math.sqrt(12)
    assert verdict.high - verdict.gain >= half * (1 - 1e-9), "trainings scatter as well"


def test_too_few_images_to_tell_is_said_and_not_taken_for_a_stop():
    verdict = still_helping(rounds(8 * [0.8], n_images=5, noise=0.15), [])
    assert verdict.helping is None and verdict.sentence.startswith("It cannot be told yet")
    assert verdict.low < 0 < 0.02 < verdict.high


def test_trainings_that_scatter_widen_the_interval():
    calm = still_helping(rounds(8 * [0.8], n_images=40), [])
    found = rounds(8 * [0.8], n_images=40)
    jumpy = [
        Round(one.n_labels, {image_id: dice + 0.04 * (-1) ** i for image_id, dice in one.dice.items()})
        for i, one in enumerate(found)
    ]
    wide = still_helping(jumpy, [])
    assert wide.high - wide.low > 3 * (calm.high - calm.low)
    assert calm.helping is False and wide.helping is None


def test_two_trainings_are_too_early_and_their_numbers_are_stated():
    """Each image gained, which is what a lucky second training does as well."""
    verdict = still_helping(rounds([0.6, 0.8]), [])
    assert verdict.helping is None and (verdict.basis, verdict.n) == ("heldout", 12)
    assert verdict.gain == pytest.approx(0.2, abs=0.02) and 0 < verdict.low < verdict.gain < verdict.high
    opening = "It is too early to tell whether more labels still help: over the last round (5 to 10 labels) the Dice on"
    assert verdict.sentence.startswith(opening)
    assert f"{verdict.gain:+.3f} (95 % interval {verdict.low:+.3f} to {verdict.high:+.3f})" in verdict.sentence
    assert "How far trainings differ by chance, which 3 rounds show, is not in this interval." in verdict.sentence
    assert "sure" not in verdict.sentence


@pytest.mark.parametrize(("n_rounds", "most"), [(2, 0.0), (3, 0.04), (4, 0.05), (6, 0.05)])
def test_gain_is_rarely_seen_where_trainings_differ_by_chance_alone(n_rounds, most):
    """400 campaigns without any gain; the interval is of 95 %, so that 0.025 of them lie above 0."""
    noise = {"noise": 0.015, "training_noise": 0.012}
    said = [still_helping(rounds(n_rounds * [0.9], **noise, seed=seed), []) for seed in range(400)]
    assert np.mean([one.helping is True for one in said]) <= most
    assert np.mean([one.helping is True and one.sure > 0.99 for one in said]) <= most / 2


def test_training_after_every_label_is_not_a_plateau_by_itself():
    """0.004 a label: three rounds bring next to nothing, and yet the curve rises clearly."""
    found = rounds(0.6 + 0.004 * np.arange(60), each=1)
    assert all(still_helping(found[:n], []).helping is not False for n in range(20, 61))


def test_too_early_names_what_is_missing_and_nothing_that_is_there():
    """Seven rounds that brought 6 of 106 labels: the rounds are there, the share of the labels is not."""
    late = [Round(100 + i, one.dice) for i, one in enumerate(rounds(7 * [0.8]))]
    held_out = still_helping(late, []).sentence
    assert held_out.endswith("To say that they stopped takes 20 % of the labels after round 2 of the 7 (so far 4 %).")
    assert "takes 5 rounds, each a training on more labels (so far 3)" in still_helping(late[:3], []).sentence
    judged = [Round(one.n_labels, {f"{one.n_labels}-{j}": 0.8 for j in range(EACH)}) for one in late]
    assert "or else 20 % of the labels after round 1 of the 7 (so far 5 %)." in still_helping([], judged).sentence
    spread = [Round(EACH * (i + 1), {f"{i}-{j}": 0.8 for j in range(EACH)}) for i in range(4)]
    sides = "or else 10 labels saved before the last rounds and 10 in them (so far 5 and 15)."
    assert sides in still_helping([], spread).sentence
    few = [Round(one.n_labels, dict(list(one.dice.items())[: 4 + 2 * i])) for i, one in enumerate(late)]
    assert "(so far 7 on 4)" in still_helping(few, []).sentence


def test_training_again_on_the_same_labels_is_no_round():
    found = rounds([0.5, 0.6, 0.7])
    again = [Round(15, one.dice) for one in rounds(8 * [0.7])]
    verdict = still_helping([*found, *again], [])
    assert verdict.helping is not False


def test_models_with_more_labels_than_the_newest_are_left_out():
    """Labels were removed since: what was learned from them says nothing of what more labels bring."""
    found = rounds([0.5, 0.6, 0.7, 0.8, 0.9])
    verdict = still_helping([*found, Round(1, found[0].dice)], [])
    assert verdict.gain is None


def test_only_images_that_all_compared_rounds_know_are_compared():
    found = rounds(8 * [0.8])
    grown = [*found[:-1], Round(found[-1].n_labels, {**found[-1].dice, "easy": 1.0})]
    assert still_helping(grown, []).gain == pytest.approx(still_helping(found, []).gain)
    others = [*found[:-1], Round(found[-1].n_labels, {f"x{i}": 0.9 for i in range(12)})]
    assert still_helping(others, []).gain is None


def test_equal_dice_on_all_images_is_a_stop():
    verdict = still_helping(rounds(6 * [0.8], noise=0.0), [])
    assert verdict.helping is False and verdict.gain == pytest.approx(0.0)
    assert "more than 99 %" in verdict.sentence


def test_judged_labels_decide_where_too_few_images_are_held_out():
    generator = np.random.default_rng(0)

    def judged(means):
        return [
            Round(EACH * (i + 1), {f"{i}-{j}": float(mean + generator.normal(0, 0.02)) for j in range(EACH)})
            for i, mean in enumerate(means)
        ]

    rising = still_helping(rounds(8 * [0.8], n_images=2), judged(0.5 + 0.05 * np.arange(8)))
    assert (rising.helping, rising.basis, rising.n) == (True, "prequential", 15)
    flat = still_helping([], judged([0.5, 0.6, *8 * [0.8]]))
    assert (flat.helping, flat.basis) == (False, "prequential")
    assert "15 newly labelled images" in flat.sentence
    assert still_helping([], judged([0.8, 0.8])).helping is None


def test_labels_judged_by_one_model_say_nothing_of_more_labels():
    assert still_helping([], [Round(10, {str(i): 0.8 for i in range(50)})]).helping is None


def test_interval_of_the_mean_covers_it():
    """2,000 campaigns of 10 images each: 95 in 100 intervals hold the true mean, give or take chance and skewness."""
    generator = np.random.default_rng(0)
    hits = [low <= 0.5 <= high for low, high in (mean_interval(generator.beta(4, 4, 10)) for _ in range(2000))]
    assert 0.935 < np.mean(hits) < 0.965


@pytest.mark.parametrize(
    ("training_noise", "n_images", "least"), [(0.0, 12, 0.93), (0.01, 12, 0.87), (0.01, 40, 0.87), (0.03, 40, 0.88)]
)
def test_interval_of_the_gain_covers_it(training_noise, n_images, least):
    """Where trainings scatter more than images, that is seen at few rounds only: 95 % is not quite reached."""
    hits = []
    for seed in range(400):
        means, noise = 0.6 + 0.01 * np.arange(8), {"training_noise": training_noise, "n_images": n_images}
        verdict = still_helping(rounds(means, **noise, seed=seed), [])
        hits.append(verdict.low <= 0.03 <= verdict.high)
    assert np.mean(hits) > least


def test_single_judged_label_has_no_interval():
    assert mean_interval([0.5]) == (None, None)


def test_labels_are_counted_for_each_annotator_and_day(store):
    first, second = datetime(2026, 3, 1, 12).timestamp(), datetime(2026, 3, 2, 12).timestamp()
    for index, (name, at) in enumerate([("ada", first), ("ada", second), ("ada", second + 1), (None, second)]):
        add_judged(store, f"p{index}", 0.5, at=at, annotator=name)
    ada, nobody = annotator_counts(store)
    assert (ada.name, ada.labels, ada.last_at) == ("ada", 3, second + 1)
    assert ada.days == {"2026-03-01": 1, "2026-03-02": 2}
    assert (nobody.name, nobody.labels) == (None, 1)
    assert [asdict(day) for day in day_counts(store)] == [
        {"day": "2026-03-01", "labels": 1},
        {"day": "2026-03-02", "labels": 3},
    ]


def test_rule_is_stated_with_the_numbers_in_force():
    for number in (helping.N_ROUNDS, helping.SMALLEST_GAIN, "20 %", "95 %"):
        assert str(number) in helping.RULE
