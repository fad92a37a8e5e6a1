"""What came out, in plain words: better than random or not, by how much, how sure, and what that is worth in labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from coldstart.experiments.results import Line, Metric, Study
from coldstart.experiments.statistics import (
    DECIMALS,
    MIN_SEEDS,
    Comparison,
    Interval,
    expanded_level,
    holm,
    resamples,
)

Outcome = Literal["better", "the same", "cannot tell", "worse"]
SIGNIFICANCE = 0.05


def judge(comparison: Comparison, metric: Metric) -> Outcome:
    """Say what a comparison shows.

    Notes
    -----
    Better or worse: the interval of the mean difference leaves out 0. The same: it lies within the margin of a draw.
    Cannot tell: everything else, and whatever fewer than 6 seeds show.
    """
    n, mean, _, _, interval = comparison.difference
    if interval is None or n < MIN_SEEDS:
        return "cannot tell"
    if -metric.draw_margin < interval.low and interval.high < metric.draw_margin:
        return "the same"
    if 0 in interval:
        return "cannot tell"
    return "better" if metric.better(mean, 0) else "worse"


@dataclass(frozen=True)
class LabelsNeeded:
    """How many labels random needs for the mean Dice of another arm.

    Attributes
    ----------
    estimate : float
        On random's mean curve; infinite where the curve stays below, minus infinite where it starts above.
    interval : Interval or None
        95 %, over seeds; None of one seed.
    smallest, largest : int
        Random's smallest and largest budget.
    n_seeds : int
        Seeds that have the arm, and random at all its budgets.
    """

    estimate: float
    interval: Interval | None
    smallest: int
    largest: int
    n_seeds: int

    def __str__(self) -> str:
        text = f"{'about ' if math.isfinite(self.estimate) else ''}{self._words(self.estimate)} labels"
        if self.interval is None:
            return f"{text} (one seed, so no interval)"
        low, high = (self._words(value) for value in self.interval)
        return f"{text} (95 % interval {low if low == high else f'{low} to {high}'})"

    def _words(self, value: float) -> str:
        if math.isfinite(value):
            return str(math.ceil(round(value, DECIMALS)))
        return f"more than {self.largest}" if value > 0 else f"{self.smallest} or fewer"


def labels_needed(study: Study, line: Line, budget: int) -> LabelsNeeded | None:
    """Find how many labels random would have needed for the mean Dice that an arm has at a budget.

    Returns
    -------
    needed : LabelsNeeded or None
        None without random, or where no seed has finished the arm and random at all its budgets.

    Notes
    -----
    Random's mean curve is straight between its budgets, and nothing is guessed beyond them. Where it falls and rises
    again, the first number of labels that reaches the Dice counts; that is in random's favour. The interval resamples
    seeds, of the arm and of random together, by the rule of `statistics.bootstrap_interval`.
    """
    if study.random is None:
        return None
    curves = [study.at(study.random, each) for each in study.budgets]
    budgets = [each for each, curve in zip(study.budgets, curves, strict=True) if curve]
    curves = [curve for curve in curves if curve]
    seeds = [seed for seed in study.at(line, budget) if all(seed in curve for curve in curves)]
    if not seeds or not budgets:
        return None
    targets = np.array([study.dice.value(study.at(line, budget)[seed]) for seed in seeds])
    values = np.array([[study.dice.value(curve[seed]) for curve in curves] for seed in seeds])
    estimate = float(_first_reached(values[None], targets[None], budgets)[0])
    return LabelsNeeded(estimate, _interval(values, targets, budgets), budgets[0], budgets[-1], len(seeds))


def _interval(values: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], budgets: list[int]) -> Interval | None:
    if len(targets) < 2:
        return None
    drawn = resamples(len(targets))
    found = np.sort(_first_reached(values[drawn], targets[drawn], budgets))
    place = int(expanded_level(len(targets)) * len(found))
    return Interval(float(found[place]), float(found[-1 - place]))


def _first_reached(
    values: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], budgets: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Return where the mean curve of each draw first reaches its mean target.

    `values` has the shape (n_draws, n_seeds, n_budgets), `targets` (n_draws, n_seeds).
    """
    curves, levels = values.mean(axis=1).round(DECIMALS), targets.mean(axis=1).round(DECIMALS)
    reached = curves >= levels[:, None]
    found = np.where(reached[:, 0], -np.inf, np.inf)
    for right in range(1, len(budgets)):
        new = (found == np.inf) & reached[:, right]
        below, above = curves[new, right - 1], curves[new, right]
        share = (levels[new] - below) / (above - below)
        found[new] = budgets[right - 1] + share * (budgets[right] - budgets[right - 1])
    return found


@dataclass(frozen=True)
class Finding:
    """What a study shows of one line, in plain words.

    Attributes
    ----------
    summary : str
        Of all budgets.
    by_budget : list of (str, str)
        The outcome in a few words, then what it rests on.
    """

    summary: str
    by_budget: list[tuple[str, str]]

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"- {outcome} {basis}" for outcome, basis in self.by_budget)])


def verdict(study: Study) -> list[Finding]:
    """Say in plain words how our methods did against random.

    Parameters
    ----------
    study : Study

    Returns
    -------
    findings : list of Finding
        One for each of `study.ours`, then which line has the highest mean at each budget, whosesoever it is.
    """
    random = study.random
    if not study.done:
        return [Finding("No training of this protocol is done yet.", [])]
    if random is None:
        text = "Random selection is not among the methods, so nothing can be said about better or worse than random."
        return [Finding(text, []), *_best(study)]
    if not study.ours:
        text = "Our own methods are not among those compared; the tables say how the others did against random."
        return [Finding(text, []), *_best(study)]
    return [_finding(study, line, random) for line in study.ours] + _best(study)


def signed(value: float, digits: int) -> str:
    """Write a number with its sign; what rounds to zero has a plus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _finding(study: Study, line: Line, random: Line) -> Finding:
    found = {budget: study.compare(study.dice, line, random, budget) for budget in line.starts}
    outcomes = [judge(each, study.dice) if each else "cannot tell" for each in found.values()]
    counts = [f"{word} at {outcomes.count(word)}" for word in get_args(Outcome) if word in outcomes]
    many = "1 budget" if len(found) == 1 else f"{len(found)} budgets"
    summary = f"{line.label} against random, by mean {study.dice.title} at {many}: {', '.join(counts)}."
    dice = _adjusted(study, line, random, [study.dice])
    # the Dice is what a study is about: who looks at HD95 too has looked twice
    both = _adjusted(study, line, random, [study.dice, study.hd95])
    return Finding(summary, [_at_budget(study, line, random, budget, dice, both) for budget in found])


_Adjusted = Mapping[tuple[Metric, int], float]


def _adjusted(study: Study, line: Line, random: Line, metrics: Sequence[Metric]) -> _Adjusted:
    """Return the p-value of each metric at each budget that can be compared, adjusted for their number."""
    places = [(metric, budget) for metric in metrics for budget in line.starts]
    found = {(metric, budget): study.compare(metric, line, random, budget) for metric, budget in places}
    p_values = {place: comparison.p_value for place, comparison in found.items() if comparison is not None}
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))


_WORDS: dict[Outcome, str] = {
    "better": "better than random",
    "the same": "the same as random",
    "cannot tell": "cannot tell",
    "worse": "worse than random",
}


def _at_budget(
    study: Study, line: Line, random: Line, budget: int, dice: _Adjusted, both: _Adjusted
) -> tuple[str, str]:
    comparison = study.compare(study.dice, line, random, budget)
    if comparison is None:
        return f"{budget} labels: cannot tell.", "No seed has both this and random yet."
    outcome = judge(comparison, study.dice)
    values, others = study.pairs(study.dice, line, random, budget)
    planned = len(study.protocol.seeds)
    seeds = f"{len(values)} of {planned} seeds so far" if len(values) < planned else f"{planned} seeds"
    interval = comparison.difference.interval
    spread = f"95 % interval {_from_to(interval, study.dice)}; {seeds}" if interval else "one seed"
    return (
        f"{budget} labels: {_WORDS[outcome]}.",
        f"Mean {study.dice.title} {np.mean(values):.4f} against {np.mean(others):.4f}: "
        f"{signed(comparison.difference.mean, study.dice.digits)} ({spread}). "
        f"{_reason(comparison, outcome, study.dice, dice, budget)}"
        f"{_labels_words(study, line, budget)}{_hd95_words(study, line, random, budget, both)}",
    )


def _reason(comparison: Comparison, outcome: Outcome, metric: Metric, adjusted: _Adjusted, budget: int) -> str:
    n = comparison.difference.n
    if n == 1:
        return f"One seed says nothing about chance; run at least {MIN_SEEDS}."
    if n < MIN_SEEDS:
        return (
            f"Too few seeds: chance alone puts all {n} on one side in {100 * 2.0 ** (1 - n):.3g} % of cases; run at "
            f"least {MIN_SEEDS}."
        )
    if outcome == "cannot tell":
        return "The interval holds 0, so chance can explain the difference."
    if outcome == "the same":
        return f"If there is a difference, it is smaller than {metric.draw_margin}."
    allowing = f", allowing for {len(adjusted)} budgets" if len(adjusted) > 1 else ""
    return _test_words(adjusted[metric, budget], allowing)


def _test_words(p_value: float, allowing: str) -> str:
    doubt = "" if p_value < SIGNIFICANCE else ", so this is likely rather than shown"
    return f"Wilcoxon p = {p_value:.2g}{allowing}{doubt}."


def _labels_words(study: Study, line: Line, budget: int) -> str:
    needed = labels_needed(study, line, budget)
    if needed is None:
        return " How many labels random would have needed shows once a seed has random at all its budgets."
    return f" Random would have needed {needed} for this Dice."


def _hd95_words(study: Study, line: Line, random: Line, budget: int, both: _Adjusted) -> str:
    comparison = study.compare(study.hd95, line, random, budget)
    if comparison is None or comparison.difference.interval is None:
        return ""
    outcome = judge(comparison, study.hd95)
    words = (
        f" {study.hd95.title}, where lower is better: {outcome}, "
        f"{signed(comparison.difference.mean, study.hd95.digits)} "
        f"({_from_to(comparison.difference.interval, study.hd95)})."
    )
    if outcome in ("better", "worse"):
        allowing = f", allowing for {len(both)} comparisons, those of the Dice among them"
        words += f" {_test_words(both[study.hd95, budget], allowing)}"
    return words


def _from_to(interval: Interval, metric: Metric) -> str:
    return f"{signed(interval.low, metric.digits)} to {signed(interval.high, metric.digits)}"


def _best(study: Study) -> list[Finding]:
    """Name the line with the highest mean at each budget, so that one better than ours is not passed over."""
    parts = []
    for budget in study.budgets:
        means = {line: each.mean for line in study.lines if (each := study.summary(study.dice, line, budget))}
        if len(means) > 2:
            best = max(means, key=lambda line: means[line])
            parts.append((f"{budget} labels:", f"{best.label}, {means[best]:.4f}."))
    return [Finding(f"The highest mean {study.dice.title} of all, by chance or not:", parts)] if parts else []
