"""What has to be true of a week, judged from the annotators' own records; each check says what it counted.

They know nothing of the app: what it kept is handed in.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from soak.records import OK, Click, Sample, Save

WARM_UP_S = 60.0
"""A process loads what it needs when it first needs it: it is warm so long after its first inference."""
LEAST_SEGMENT_S = 90.0
"""A process that was observed for less after its warm-up tells nothing of a trend."""
MEMORY_GROWTH = 0.05
"""Part of the memory after the warm-up by which a process may grow until its end; an allocator is never still."""
HANDLE_GROWTH = 4
"""Files and sockets that a process may have more at its end: as many as requests can be under way."""
NOTICED_WITHIN_S = 75.0
"""What is stored in the archive past the server is noticed within a minute; a look takes a while itself."""


@dataclass
class Verdict:
    """Whether one thing is true of the week, and what was counted."""

    name: str
    sentence: str
    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def is_true(self) -> bool:
        return not self.problems


def may_be_kept(saves: Sequence[Save]) -> list[Save]:
    """Which saves of one image may be the one that is kept.

    One that was refused is not; one that was answered before another, which was taken, was sent, is not either. Where
    the connection broke before an answer nobody can tell, whatever came later before another was taken.
    """
    taken = [save for save in saves if save.is_taken]
    return [
        save
        for save in saves
        if (save.is_taken or save.is_open)
        and not any(later.asked > (save.answered if save.answered is not None else save.asked) for later in taken)
    ]


def check_labels(
    saves: Iterable[Save], kept: Mapping[str, str], what: Literal["file", "voxels"], where: str
) -> Verdict:
    """Every label that the server took is kept as it was sent, and no other.

    Parameters
    ----------
    kept : mapping of str to str
        Hash of what is there now, by image.
    what : str
        Which hash that is.
    where : str
        For the sentence.
    """
    by_image: dict[str, list[Save]] = defaultdict(list)
    for save in saves:
        by_image[save.image].append(save)
    problems, n_expected, n_again = [], 0, 0
    for image, mine in sorted(by_image.items()):
        allowed = {getattr(save, what) for save in may_be_kept(mine)}
        n_again += sum(save.is_taken for save in mine) > 1
        if image in kept:
            if kept[image] not in allowed:
                earlier = any(getattr(save, what) == kept[image] for save in mine)
                found = "an earlier or a refused one" if earlier else "one that nobody sent"
                problems.append(f"The label of {image} is not the one that was saved last, but {found}.")
        elif any(save.is_taken for save in mine):
            problems.append(f"The label of {image} is gone.")
        n_expected += any(save.is_taken for save in mine)
    problems += [f"{image} has a label that nobody saved." for image in sorted(kept.keys() - by_image.keys())]
    if not n_expected:
        problems.append("No label was saved, so nothing was shown.")
    same = "byte for byte" if what == "file" else "voxel for voxel"
    return Verdict(
        f"labels, {where}",
        f"{n_expected} images have the label that was saved last, {same}; {n_again} of them were saved several times",
        problems,
        {
            "labels": n_expected,
            "saved_several_times": n_again,
            "saves_taken": sum(s.is_taken for s in saves_of(by_image)),
        },
    )


def saves_of(by_image: Mapping[str, Sequence[Save]]) -> list[Save]:
    return [save for mine in by_image.values() for save in mine]


def check_reservations(clicks: Sequence[Click], saves: Sequence[Save], reserve_s: float) -> Verdict:
    """Nobody got an image that was with somebody else, or that was labelled.

    An image is with whoever got it from the answer until its label is sent, the same named annotator asks again, or
    `reserve_s` have passed since the question; whoever is anonymous keeps it until one of the other two. An answer that
    came before any of these was given while the image was with somebody.
    """
    served = sorted((click for click in clicks if click.image is not None), key=lambda click: click.asked)
    asked_by: dict[str, list[float]] = defaultdict(list)
    for click in clicks:
        if click.client_id is not None:
            asked_by[click.client_id].append(click.asked)
    saves_by: dict[str, list[Save]] = defaultdict(list)
    for save in saves:
        saves_by[save.image].append(save)
    clicks_by: dict[str, list[Click]] = defaultdict(list)
    for click in served:
        clicks_by[str(click.image)].append(click)
    problems, n_again = [], 0
    for image, mine in clicks_by.items():
        for index, first in enumerate(mine):
            over = [first.asked + reserve_s]
            over += [save.asked for save in saves_by[image] if save.asked >= first.asked]
            if first.client_id is not None:
                over += [at for at in asked_by[first.client_id] if at > first.asked]
            for second in mine[index + 1 :]:
                if second.answered is not None and second.answered < min(over):
                    problems.append(
                        f"{image} was served to {second.who} {second.answered - first.asked:.1f} s after {first.who} "
                        f"had asked, and was still with {first.who}."
                    )
        n_again += len(mine) > 1
        for save in saves_by[image]:
            if save.is_taken and save.answered is not None:
                known = save.answered + (NOTICED_WITHIN_S if save.way == "stow" else 0)
                late = [click for click in mine if click.asked > known]
                problems += [
                    f"{image} was served to {click.who} {click.asked - save.answered:.1f} s after {save.who} had "
                    "labelled it."
                    for click in late
                ]
    if not served:
        problems.append("Nothing was served, so nothing was shown.")
    return Verdict(
        "reservations",
        f"{len(served)} answers to Next Sample served {len(clicks_by)} images; {n_again} of them came again, each "
        "after it had been let go",
        problems,
        {"served": len(served), "images": len(clicks_by), "served_again": n_again},
    )


def check_replay(replayed: Mapping[str, Any], exit_code: int) -> Verdict:
    """Every decision comes out the same when it is made again from the log.

    Parameters
    ----------
    replayed : mapping
        What `coldstart replay --all --json` says.
    """
    problems = [f"{one['kind']} {one['id']}: {one['sentence']}" for one in replayed["lines"] if one["same"] is False]
    problems += [
        f"{one['kind']} {one['id']} cannot be decided again: {one['sentence']}"
        for one in replayed["lines"]
        if one["same"] is None
    ]
    if exit_code and not problems:
        problems.append(f"coldstart replay ended with {exit_code}.")
    if not replayed["same"]:
        problems.append("The log holds no decision, so nothing was shown.")
    counts = {name: replayed[name] for name in ("decisions", "same", "different", "cannot_tell")}
    return Verdict(
        "replay",
        f"{counts['same']} of {counts['decisions']} decisions come out the same from the log",
        problems,
        counts,
    )


def check_log(clicks: Sequence[Click], lines: Sequence[Mapping[str, Any]]) -> Verdict:
    """Every answer that an annotator got is a line of the selection log: that image, for whoever asked, at that time.

    Parameters
    ----------
    lines : sequence of mapping
        Of the clicks in the log: `at`, `who`, `image_id`.
    """
    unused: dict[tuple[str, str | None], list[float]] = defaultdict(list)
    for line in lines:
        unused[line["image_id"], line["who"]].append(line["at"])
    problems = []
    served = [click for click in clicks if click.image is not None and click.answered is not None]
    for click in served:
        times = unused[str(click.image), click.client_id]
        match = next((at for at in times if click.asked - 0.01 <= at <= click.answered + 0.01), None)
        if match is None:
            problems.append(f"That {click.image} was served to {click.who} is not in the log.")
        else:
            times.remove(match)
    left = sum(map(len, unused.values()))
    return Verdict(
        "log",
        f"each of {len(served)} answers is a line of the log; {left} lines more are of answers that a kill cut off",
        problems,
        {"answers": len(served), "lines": len(lines), "lines_without_answer": left},
    )


def check_flat(samples: Sequence[Sample]) -> Verdict:
    """Memory and handles of the server's process do not grow once it is warm, between one start and the next."""
    problems: list[str] = []
    segments = []
    for start in sorted({sample.start for sample in samples}):
        mine = [sample for sample in samples if sample.start == start]
        loaded_at = next((sample.at for sample in mine if sample.inferred), math.inf)
        warm = [sample for sample in mine if sample.at >= loaded_at + WARM_UP_S]
        lasted = warm[-1].at - warm[0].at if warm else 0.0
        figures: dict[str, Any] = {"start": start, "seconds": round(mine[-1].at - mine[0].at), "samples": len(mine)}
        if lasted < LEAST_SEGMENT_S:
            segments.append({**figures, "judged": False})
            continue
        memory, handles = ([getattr(one, name) for one in warm] for name in ("memory_mb", "handles"))
        more_mb, more_handles = _growth(memory), _growth(handles)
        slope_mb = 3600 * slope([one.at for one in warm], memory)
        figures |= {
            "judged": True,
            "memory_mb": round(_first(memory), 1),
            "memory_growth_mb": round(more_mb, 1),
            "memory_slope_mb_per_hour": round(slope_mb, 1),
            "memory_limit_mb": round(MEMORY_GROWTH * _first(memory), 1),
            "handles": _first(handles),
            "handle_growth": more_handles,
            "handle_slope_per_hour": round(3600 * slope([one.at for one in warm], handles), 1),
        }
        segments.append(figures)
        if more_mb > MEMORY_GROWTH * _first(memory):
            problems.append(
                f"Start {start}: memory grew by {more_mb:.1f} MB from {_first(memory):.1f} MB in {lasted:.0f} s, which "
                f"is more than {MEMORY_GROWTH:.0%}."
            )
        if more_handles > HANDLE_GROWTH:
            problems.append(
                f"Start {start}: {more_handles:g} handles more after {lasted:.0f} s; {HANDLE_GROWTH} may be."
            )
    judged = [segment for segment in segments if segment["judged"]]
    if not judged:
        problems.append(
            f"No process ran for {WARM_UP_S + LEAST_SEGMENT_S:.0f} s, so nothing was shown. Let the week last longer."
        )
    said = "; ".join(
        f"start {one['start']}, {one['seconds']} s: {one['memory_mb']:.0f} MB and {one['memory_growth_mb']:+.1f} MB, "
        f"{one['handles']:g} handles and {one['handle_growth']:+g}"
        for one in judged
    )
    return Verdict("memory and handles", said, problems, {"segments": segments})


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Growth a second: the median of the slopes between the first and the second half (Theil and Sen, thinned out)."""
    half = len(times) // 2
    pairs = zip(range(half), range(len(times) - half, len(times)), strict=True)
    return statistics.median((values[b] - values[a]) / (times[b] - times[a]) for a, b in pairs) if half else math.nan


def _first(values: Sequence[float]) -> float:
    return statistics.median(values[: max(1, len(values) // 4)])


def _growth(values: Sequence[float]) -> float:
    """From the median of the first quarter to that of the last."""
    return statistics.median(values[-max(1, len(values) // 4) :]) - _first(values)


def check_played(played: Mapping[str, int], least: Mapping[str, int]) -> Verdict:
    """What was to happen in the week happened, as often as it was to."""
    problems = [
        f"'{what}' happened {played.get(what, 0)} times, and was to happen {number} times."
        for what, number in least.items()
        if played.get(what, 0) < number
    ]
    said = ", ".join(f"{what} {played.get(what, 0)}" for what in least)
    return Verdict("what happened", said, problems, dict(played))


def check_well(info: Mapping[str, Any], health: Mapping[str, Any], failures: Sequence[str]) -> Verdict:
    """The server is well at the end, and nothing in the week's own threads failed."""
    problems = [f"{part} is ill: {sentence}" for part, sentence in (health.get("details") or {}).items()]
    problems += [f"{what}: {said}" for name in ("watch_errors", "task_errors") for what, said in info[name].items()]
    problems += list(failures)
    return Verdict("well at the end", f"{len(health['parts'])} parts are well, and no task has failed last", problems)


def n_refused(saves: Iterable[Save]) -> dict[str, int]:
    """How many saves were not taken, by what the server answered."""
    counts: dict[str, int] = defaultdict(int)
    for save in saves:
        if save.status != OK:
            counts["no answer" if save.status is None else str(save.status)] += 1
    return dict(counts)
