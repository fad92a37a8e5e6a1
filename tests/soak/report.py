"""The report of a week or two: JSON, a page in Markdown, and a picture."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch

from coldstart.experiments.runs import hardware
from soak.annotators import HABITS
from soak.checks import HANDLE_GROWTH, LEAST_SEGMENT_S, MEMORY_GROWTH, WARM_UP_S, n_refused
from soak.week import N_HELD_OUT, N_IMAGES, Week

matplotlib.use("Agg")

COLOURS = {"kill": "tab:red", "away": "tab:orange", "full": "tab:purple", "model": "tab:green", "images": "0.8"}
SPANS = {"away": "back", "full": "room"}
NAMES = {"kill": "kill -9", "away": "away", "full": "disk full", "model": "new model", "images": "images come"}


def write_report(weeks: Sequence[Week], folder: Path, command: str) -> None:
    """Write `soak.json`, `soak.md` and `soak.png`."""
    document = {
        "command": command,
        "hardware": f"{hardware(torch.device('cpu'))}, {platform.system()} {platform.machine()}; load average "
        f"{os.getloadavg()[2]:.1f} over the last 15 minutes, other work on the machine among it",
        "weeks": [_document(week) for week in weeks],
    }
    (folder / "soak.json").write_text(json.dumps(document, indent=2) + "\n")
    (folder / "soak.md").write_text(_page(document, weeks))
    _draw(weeks, folder / "soak.png")


def _document(week: Week) -> dict[str, Any]:
    clicks, saves = week.journal.clicks, week.journal.saves
    return {
        "place": week.place,
        "is_good": week.is_good,
        "minutes": week.options.minutes,
        "seed": week.options.seed,
        "images": N_IMAGES,
        "held_out": N_HELD_OUT,
        "conf": {key: value for key, value in week.conf.items() if "/" not in value},
        "annotators": {
            habit.name: {
                "clicks": sum(click.who == habit.name for click in clicks),
                "labels_taken": sum(save.who == habit.name and save.is_taken for save in saves),
            }
            for habit in HABITS
        },
        "saves_not_taken": n_refused(saves),
        "phases": Counter(click.phase for click in clicks if click.image is not None),
        "verdicts": [
            {
                "name": one.name,
                "is_true": one.is_true,
                "sentence": one.sentence,
                "problems": one.problems,
                **one.figures,
            }
            for one in week.verdicts
        ],
        "events": [
            {"at_s": round(one.at - week.began, 1), "kind": one.kind, "what": one.sentence}
            for one in week.journal.events
        ],
    }


def _page(document: dict[str, Any], weeks: Sequence[Week]) -> str:
    lines = [
        "# A week in an hour",
        "",
        f"`{document['command']}` on {document['hardware']}.",
        "",
        "What is played, and what each line means: [a simulated week](../../docs/soak.md).",
        "",
        "![Memory, handles, labels and what happened](soak.png)",
    ]
    for week, found in zip(weeks, document["weeks"], strict=True):
        lines += [
            "",
            f"## On {'a folder' if week.place == 'folder' else 'an archive (Orthanc)'}: "
            f"{week.options.minutes:g} minutes, seed {week.options.seed}",
            "",
            "| what | holds | counted |",
            "|---|---|---|",
            *(
                f"| {one['name']} | {'yes' if one['is_true'] else '**no**'} | {one['sentence']} |"
                for one in found["verdicts"]
            ),
        ]
        problems = [f"- {one['name']}: {said}" for one in found["verdicts"] for said in one["problems"]]
        lines += ["", *problems] if problems else []
        lines += ["", "| annotator | clicks | labels taken |", "|---|---:|---:|"]
        lines += [f"| {who} | {n['clicks']} | {n['labels_taken']} |" for who, n in found["annotators"].items()]
        refused = ", ".join(f"{number} with {status}" for status, number in found["saves_not_taken"].items())
        lines += ["", f"Attempts to save that were not taken, each tried again: {refused or 'none'}."]
        lines += [
            "",
            "| process | seconds | memory MB | growth MB | limit MB | slope MB/h | handles | growth | limit |",
        ]
        lines += ["|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
        lines += [_segment(one) for one in _segments(found)]
        lines += ["", "| second | what happened |", "|---:|---|"]
        lines += [f"| {one['at_s']:.0f} | {one['what']} |" for one in found["events"]]
    lines += [
        "",
        "Memory is what the server's own process has allocated and written (its anonymous pages). Growth is from the "
        f"median of the first quarter of its life, from {WARM_UP_S:.0f} s after its first inference on, to that of the "
        f"last; at most {MEMORY_GROWTH:.0%} and {HANDLE_GROWTH} handles. A process that was warm for less than "
        f"{LEAST_SEGMENT_S:.0f} s is not judged.",
        "",
    ]
    return "\n".join(lines)


def _segments(found: dict[str, Any]) -> list[dict[str, Any]]:
    return next(one["segments"] for one in found["verdicts"] if "segments" in one)


def _segment(one: dict[str, Any]) -> str:
    if not one["judged"]:
        return f"| start {one['start']} | {one['seconds']} | not judged | | | | | | |"
    return (
        f"| start {one['start']} | {one['seconds']} | {one['memory_mb']:.0f} | {one['memory_growth_mb']:+.1f} "
        f"| {one['memory_limit_mb']:.0f} | {one['memory_slope_mb_per_hour']:+.0f} | {one['handles']:g} "
        f"| {one['handle_growth']:+g} | {HANDLE_GROWTH} |"
    )


def _draw(weeks: Sequence[Week], path: Path) -> None:
    from matplotlib import pyplot

    rows = ("memory, MB", "handles", "labels")
    figure, axes = pyplot.subplots(
        len(rows), len(weeks), figsize=(7.5 * len(weeks), 7), sharex="col", squeeze=False, layout="constrained"
    )
    for column, week in enumerate(weeks):
        starts = sorted({sample.start for sample in week.journal.samples})
        for start in starts:
            mine = [sample for sample in week.journal.samples if sample.start == start]
            days = [(sample.at - week.began) / week.day_s for sample in mine]
            for row, name in enumerate(("memory_mb", "handles", "labelled")):
                axes[row][column].plot(days, [getattr(one, name) for one in mine], color="tab:blue", linewidth=1)
        for row, label in enumerate(rows):
            _mark(axes[row][column], week)
            axes[row][column].set_ylabel(label)
            axes[row][column].set_ylim(bottom=0)
        axes[0][column].set_title(f"{week.place}, {week.options.minutes:g} minutes")
        axes[-1][column].set_xlabel("day of the week")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(COLOURS), frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _mark(axis: Any, week: Week) -> None:
    events, seen = week.journal.events, set()
    for event in events:
        if event.kind not in COLOURS:
            continue
        day = (event.at - week.began) / week.day_s
        label = None if event.kind in seen else NAMES[event.kind]
        seen.add(event.kind)
        if (end := SPANS.get(event.kind)) is not None:
            over = next((one.at for one in events if one.kind == end and one.at > event.at), event.at)
            axis.axvspan(day, (over - week.began) / week.day_s, color=COLOURS[event.kind], alpha=0.3, label=label)
        else:
            axis.axvline(day, color=COLOURS[event.kind], linewidth=1, label=label)
