import math
import re

import numpy as np
import pytest
from report_case import SEEDS, Values, make_protocol, rows_of

from coldstart.experiments.protocol import Protocol
from coldstart.experiments.results import Line, Study, arrange
from coldstart.experiments.statistics import Interval, expanded_level
from coldstart.experiments.verdict import judge, labels_needed, signed, verdict

OURS = "Cold start (ours)"


def study_of(values: Values, **changes: object) -> Study:
    protocol = make_protocol(**changes)
    return arrange(protocol, rows_of(protocol, values))


def line_of(study: Study, label: str) -> Line:
    return next(line for line in study.lines if line.label == label)


def curves(by_arm: dict[str, dict[int, float]], jitter: float = 0.0) -> Values:
    """Dice by arm and budget; seeds differ by a multiple of `jitter`, the same for all arms."""
    return lambda title, budget, seed: (by_arm[title][budget] + jitter * (seed - 48), 10.0)


def shifts(differences: dict[int, float], base: float = 0.8) -> Values:
    """Ours is better than random by a number for each seed, at each budget."""
    return lambda title, budget, seed: (base + 0.01 * budget + (title == OURS) * differences[seed], 10.0)


def alternating(amplitude: float, offset: float, seeds: tuple[int, ...] = SEEDS) -> dict[int, float]:
    return {seed: offset + amplitude * (-1) ** seed * (1 + seed % 5) for seed in seeds}


def first_words(study: Study) -> list[str]:
    return [outcome for outcome, _ in verdict(study)[0].by_budget]


def test_a_clear_gain_is_better() -> None:
    study = study_of(shifts(alternating(0.001, 0.02)))
    found = verdict(study)[0]
    assert found.summary == f"{OURS} against random, by mean Dice at 2 budgets: better at 2."
    assert [outcome for outcome, _ in found.by_budget] == [
        "8 labels: better than random.",
        "12 labels: better than random.",
    ]
    basis = found.by_budget[0][1]
    mean = np.mean(list(alternating(0.001, 0.02).values()))
    assert basis.startswith(f"Mean Dice {0.88 + mean:.4f} against 0.8800: +{mean:.4f} (95 % interval +0.0")
    assert "11 seeds" in basis
    # all 11 differences have one sign: p = 2 / 2**11, twice that for two budgets
    assert "Wilcoxon p = 0.002, allowing for 2 budgets." in basis


def test_a_clear_loss_is_worse() -> None:
    study = study_of(shifts(alternating(0.001, -0.02)))
    assert first_words(study) == ["8 labels: worse than random.", "12 labels: worse than random."]


def test_noise_around_nothing_cannot_be_told() -> None:
    study = study_of(shifts(alternating(0.01, 0.0005)))
    assert first_words(study) == ["8 labels: cannot tell.", "12 labels: cannot tell."]
    assert "The interval holds 0, so chance can explain the difference." in verdict(study)[0].by_budget[0][1]


def test_the_same_values_are_the_same() -> None:
    study = study_of(shifts(dict.fromkeys(SEEDS, 0.0)))
    found = verdict(study)[0]
    assert first_words(study) == ["8 labels: the same as random.", "12 labels: the same as random."]
    assert "If there is a difference, it is smaller than 0.001." in found.by_budget[0][1]
    assert "+0.0000 (95 % interval +0.0000 to +0.0000; 11 seeds)" in found.by_budget[0][1]


def test_a_difference_within_the_margin_of_a_draw_is_the_same() -> None:
    assert first_words(study_of(shifts(alternating(0.0001, 0.0004))))[0] == "8 labels: the same as random."


def test_one_seed_cannot_tell_however_large_the_gain() -> None:
    study = study_of(shifts({43: 0.1}), seeds=[43])
    found = verdict(study)[0]
    assert first_words(study)[0] == "8 labels: cannot tell."
    assert "(one seed). One seed says nothing about chance; run at least 6." in found.by_budget[0][1]
    assert "nan" not in str(found)


@pytest.mark.parametrize(("n", "percent"), [(2, "50"), (3, "25"), (5, "6.25")])
def test_few_seeds_cannot_tell_and_say_how_often_chance_does_it(n: int, percent: str) -> None:
    seeds = SEEDS[:n]
    study = study_of(shifts(alternating(0.001, 0.05, seeds)), seeds=seeds)
    assert first_words(study)[0] == "8 labels: cannot tell."
    assert f"chance alone puts all {n} on one side in {percent} % of cases" in str(verdict(study)[0])


def test_six_seeds_can_tell() -> None:
    seeds = SEEDS[:6]
    study = study_of(shifts(alternating(0.001, 0.05, seeds)), seeds=seeds, budgets=[8])
    assert first_words(study) == ["8 labels: better than random."]
    assert "Wilcoxon p = 0.031." in str(verdict(study)[0])


def test_many_budgets_turn_shown_into_likely() -> None:
    seeds = SEEDS[:6]  # p = 0.031 at each of 4 budgets: 0.125 by Holm's rule
    study = study_of(shifts(alternating(0.001, 0.05, seeds)), seeds=seeds, budgets=[8, 10, 12, 16])
    assert "Wilcoxon p = 0.12, allowing for 4 budgets, so this is likely rather than shown." in str(verdict(study)[0])


def test_only_pairs_count_and_missing_seeds_are_named() -> None:
    protocol = make_protocol(budgets=[8])
    rows = rows_of(protocol, shifts(alternating(0.001, 0.02)))
    # random without seed 43, whose value would spoil the mean; ours without the last two seeds
    kept = [
        row
        for row in rows
        if not (row.cell.seed == 43 and row.cell.method == "random")
        and not (row.cell.seed > 51 and row.cell.method == "cold_start")
    ]
    basis = verdict(arrange(protocol, kept))[0].by_budget[0][1]
    seeds = range(44, 52)
    mean = np.mean([alternating(0.001, 0.02)[seed] for seed in seeds])
    assert f"+{mean:.4f} (95 % interval" in basis
    assert "8 of 11 seeds so far" in basis


def test_nothing_to_pair_cannot_be_told() -> None:
    protocol = make_protocol(budgets=[8])
    rows = rows_of(protocol, shifts(alternating(0.001, 0.02)))
    kept = [row for row in rows if (row.cell.seed < 48) == (row.cell.method == "random")]
    found = verdict(arrange(protocol, kept))[0]
    assert found.summary.endswith("at 1 budget: cannot tell at 1.")
    assert found.by_budget == [("8 labels: cannot tell.", "No seed has both this and random yet.")]


def test_without_random_there_is_nothing_to_say() -> None:
    study = study_of(shifts(alternating(0.001, 0.02)), arms=["cold_start", "k_means"])
    assert "Random selection is not among the methods" in verdict(study)[0].summary


def test_without_our_methods_the_tables_are_pointed_to() -> None:
    study = study_of(shifts(alternating(0.001, 0.02)), arms=["random", "k_means"])
    assert "Our own methods are not among those compared" in verdict(study)[0].summary


def test_without_rows_it_says_so() -> None:
    assert verdict(arrange(make_protocol(), []))[0].summary == "No training of this protocol is done yet."


def test_a_method_that_beats_ours_is_named() -> None:
    values = curves({"Random": {8: 0.80}, OURS: {8: 0.85}, "K-means to budget": {8: 0.86}})
    study = study_of(values, budgets=[8], arms=["random", "cold_start", "k_means"])
    assert verdict(study)[-1].by_budget == [("8 labels:", "K-means to budget, 0.8600.")]


def test_hd95_is_better_where_it_is_lower() -> None:
    def values(title: str, budget: int, seed: int) -> tuple[float, float]:
        return 0.9, 20.0 + seed - 5 * (title == OURS) + 0.1 * (seed % 3) * (title == OURS)

    study = study_of(values, budgets=[8])
    line, random = line_of(study, OURS), line_of(study, "Random")
    comparison = study.compare(study.hd95, line, random, 8)
    assert comparison is not None
    assert judge(comparison, study.hd95) == "better"
    assert "HD95 (mm), where lower is better: better, -4.89" in str(verdict(study)[0])


def test_hd95_carries_the_same_doubt_as_the_dice() -> None:
    def values(title: str, budget: int, seed: int) -> tuple[float, float]:
        return 0.9, 20.0 + seed - 5 * (title == OURS) + 0.1 * (seed % 3) * (title == OURS)

    def words(n_seeds: int) -> str:
        return str(verdict(study_of(values, seeds=SEEDS[:n_seeds], budgets=[8]))[0])

    # all differences have one sign: p = 2 / 2**6 and 2 / 2**7, twice that as the Dice was looked at too
    assert re.search(
        r"better: better, -4\.\d+ \(.*?\)\. Wilcoxon p = 0\.062, allowing for 2 comparisons, those of the Dice among "
        r"them, so this is likely rather than shown\.$",
        words(6),
        re.MULTILINE,
    )
    assert words(7).endswith("Wilcoxon p = 0.031, allowing for 2 comparisons, those of the Dice among them.")


def test_hd95_without_an_outcome_has_no_test() -> None:
    shown = str(verdict(study_of(shifts(alternating(0.001, 0.02))))[0])
    assert "HD95 (mm), where lower is better: the same, +0.00 (+0.00 to +0.00).\n" in shown


def needed(random: dict[int, float], ours: dict[int, float], budget: int = 8, jitter: float = 0.0) -> object:
    study = study_of(curves({"Random": random, OURS: ours}, jitter), budgets=sorted(random))
    return labels_needed(study, line_of(study, OURS), budget)


@pytest.mark.parametrize(
    ("dice", "estimate", "words"),
    [
        (0.86, 14.0, "about 14 labels (95 % interval 14)"),  # a half of the way from 12 to 16
        (0.82, 10.0, "about 10 labels (95 % interval 10)"),
        (0.8525, 13.25, "about 14 labels (95 % interval 14)"),  # rounded up
        (0.84, 12.0, "about 12 labels (95 % interval 12)"),
        (0.80, -math.inf, "8 or fewer labels (95 % interval 8 or fewer)"),
        (0.70, -math.inf, "8 or fewer labels (95 % interval 8 or fewer)"),
        (0.90, math.inf, "more than 16 labels (95 % interval more than 16)"),
    ],
)
def test_labels_by_hand(dice: float, estimate: float, words: str) -> None:
    found = needed({8: 0.80, 12: 0.84, 16: 0.88}, {8: dice, 12: 0.9, 16: 0.9}, jitter=0.003)
    assert found.estimate == pytest.approx(estimate)  # type: ignore[attr-defined]
    assert str(found) == words  # seeds move both curves alike, so that there is no spread


def test_labels_where_random_falls_and_rises_again_count_to_the_first_time() -> None:
    random = {8: 0.80, 10: 0.90, 12: 0.82, 16: 0.95}
    ours = {8: 0.88, 10: 0.9, 12: 0.9, 16: 0.9}
    assert needed(random, ours).estimate == pytest.approx(9.6)  # type: ignore[attr-defined]


def test_labels_of_one_budget_lie_outside() -> None:
    assert str(needed({8: 0.8}, {8: 0.9})).startswith("more than 8 labels")
    assert str(needed({8: 0.8}, {8: 0.8})).startswith("8 or fewer labels")


def test_labels_of_one_seed_have_no_interval() -> None:
    values = curves({"Random": {8: 0.8, 12: 0.9}, OURS: {8: 0.85, 12: 0.9}})
    study = study_of(values, seeds=[43])
    assert str(labels_needed(study, line_of(study, OURS), 8)) == "about 10 labels (one seed, so no interval)"


def test_labels_agree_with_a_bootstrap_written_out() -> None:
    generator = np.random.default_rng(5)
    random = np.array([0.8, 0.84, 0.88]) + generator.normal(0, 0.012, (11, 3))
    ours = 0.855 + generator.normal(0, 0.012, 11)

    def values(title: str, budget: int, seed: int) -> tuple[float, float]:
        dice = ours[seed - 43] if title == OURS else random[seed - 43, [8, 12, 16].index(budget)]
        return float(dice), 10.0

    study = study_of(values, budgets=[8, 12, 16])
    found = labels_needed(study, line_of(study, OURS), 8)
    assert found is not None and found.interval is not None and found.n_seeds == 11

    def first(curve: np.ndarray, target: float) -> float:
        steps = np.linspace(8, 16, 8001)
        reached = steps[np.interp(steps, [8, 12, 16], curve) >= target]
        if len(reached) == 0:
            return math.inf
        return float(reached[0]) if reached[0] > 8 else -math.inf

    assert found.estimate == pytest.approx(first(random.mean(axis=0), ours.mean()), abs=0.01)
    drawn = generator.integers(11, size=(400, 11))
    theirs = sorted(first(random[rows].mean(axis=0), ours[rows].mean()) for rows in drawn)
    level = expanded_level(11)
    assert found.interval.low == pytest.approx(theirs[int(level * 400)], abs=0.5)
    assert found.interval.high == pytest.approx(theirs[-1 - int(level * 400)], abs=0.7)


def test_labels_use_only_seeds_that_have_random_at_all_its_budgets() -> None:
    protocol = make_protocol()
    rows = rows_of(protocol, curves({"Random": {8: 0.8, 12: 0.9}, OURS: {8: 0.85, 12: 0.9}}))
    kept = [row for row in rows if row.cell.method != "random" or row.cell.budget == 8 or row.cell.seed < 47]
    study = arrange(protocol, kept)
    found = labels_needed(study, line_of(study, OURS), 8)
    assert found is not None
    assert found.n_seeds == 4
    nothing = [row for row in kept if row.cell.method != "random" or (row.cell.budget == 8) == (row.cell.seed > 46)]
    study = arrange(protocol, nothing)
    assert labels_needed(study, line_of(study, OURS), 8) is None
    assert "shows once a seed has random at all its budgets" in str(verdict(study)[0])


def test_signed_numbers_have_no_negative_zero() -> None:
    assert [signed(value, 2) for value in (-0.001, 0.0, -1.5, 2.0)] == ["+0.00", "+0.00", "-1.50", "+2.00"]


def test_interval_knows_what_it_holds() -> None:
    assert 0 in Interval(-1, 0)
    assert 0.1 not in Interval(-1, 0)


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_random_against_itself_is_seldom_better_or_worse(share: float) -> None:
    """Under no difference about 5 % of verdicts may be wrong; with a large one hardly any says otherwise."""
    generator = np.random.default_rng(11)
    protocol: Protocol = make_protocol(budgets=[8])
    wrong = 0
    for _ in range(60):
        differences = dict(zip(SEEDS, generator.normal(share, 0.02, 11), strict=True))
        study = arrange(protocol, rows_of(protocol, shifts(differences)))
        outcome = first_words(study)[0]
        wrong += ("cannot" not in outcome) if share == 0 else ("better" not in outcome)
    assert wrong <= 8
