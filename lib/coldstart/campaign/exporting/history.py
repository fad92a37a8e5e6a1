"""The history of the selection: which image was chosen when, why and for whom, and when it was labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from coldstart.campaign.exporting.cases import Case
from coldstart.campaign.inventory import LABELLED
from coldstart.store import Image, Serving, Store

COLUMNS = (
    *("case", "image_id", "part", "order", "phase", "strategy", "reason", "rank", "cluster", "distance", "entropy"),
    *("score", "alpha", "encoder", "model_version", "served_to", "served_at", "annotator", "saved_at", "left_out"),
)
"""`order` counts the servings that led to these labels, from 1; `rank` and `cluster` count from 1 as the reason does.
Times are UTC; `distance` is on the map, `entropy` in nats."""
_OF_THE_REASON = ("rank", "distance", "entropy", "score", "alpha", "encoder", "model_version")


def selection_rows(store: Store | None, cases: Sequence[Case], left_out: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row for each image, in the order in which they were served; those that nobody was served come last.

    Of several servings of one image the last one that ended with its label counts, else the last one.
    """
    served = _servings(store)
    ranked = sorted((case.image_id for case in cases if case.image_id in served), key=lambda name: served[name].id)
    order = {image_id: number for number, image_id in enumerate(ranked, start=1)}
    rows = [_row(case, served.get(case.image_id), order.get(case.image_id), left_out) for case in cases]
    return sorted(rows, key=lambda row: (row["order"] is None, row["order"] or 0))


def _servings(store: Store | None) -> dict[str, Serving]:
    if store is None:
        return {}
    with store.reading() as session:
        chosen: dict[str, Serving] = {}
        rows = session.execute(select(Image.image_id, Serving).join(Serving).order_by(Serving.id))
        for image_id, serving in rows.tuples():
            before = chosen.get(image_id)
            if before is None or serving.outcome == LABELLED or before.outcome != LABELLED:
                chosen[image_id] = serving
        return chosen


def _row(case: Case, serving: Serving | None, order: int | None, left_out: Mapping[str, str]) -> dict[str, Any]:
    why = serving.why if serving is not None else {}
    cluster = why.get("cluster")
    return {
        "case": case.name,
        "image_id": case.image_id,
        "part": "left out" if case.image_id in left_out else "held out" if case.held_out else "training",
        "order": order,
        "phase": serving.phase if serving is not None else None,
        "strategy": serving.strategy if serving is not None else None,
        "reason": why.get("reason"),
        "cluster": cluster + 1 if cluster is not None else None,
        **{key: why.get(key) for key in _OF_THE_REASON},
        "served_to": serving.annotator if serving is not None else None,
        "served_at": _utc(serving.served_at) if serving is not None else None,
        "annotator": case.annotator,
        "saved_at": _utc(case.saved_at) if case.saved_at is not None else None,
        "left_out": left_out.get(case.image_id),
    }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
