"""A click's line of the selection log: what the choice read, what it compared, and what it gave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from coldstart.campaign.choosing import Pick, State, StrategyName
from coldstart.campaign.decisions import Arrays, record, settings_of_a_choice, software
from coldstart.campaign.pool import Pool
from coldstart.campaign.snapshots import PoolLog
from coldstart.settings import Settings
from coldstart.store import MethodPlan

KIND = "click"

MEASURED = ("score", "distance")
"""What the log holds for each candidate; the entropies are the pool's."""

_PLAN_FIELDS = ("method", "created_at", "budget", "size", "random_state")


@dataclass(frozen=True, eq=False)
class Choice:
    """One answer to a click, taken down at once: what it read may be another a moment later."""

    pool: Pool
    who: str | None
    at: float
    image_id: str
    details: dict[str, Any]
    arrays: Arrays

    @classmethod
    def of(
        cls,
        state: State,
        strategy: StrategyName,
        alpha: float,
        pick: Pick,
        why: dict[str, Any],
        *,
        who: str | None,
        at: float,
    ) -> Choice:
        """Take down what `choose(state, strategy, alpha)` gave, and the explanation of it."""
        details = {
            "image_id": state.pool.image_ids[pick.index],
            "strategy": strategy,
            "alpha": alpha,
            "settings": settings_of_a_choice(state.settings),
            "n_labelled": int(state.labelled.sum()),
            "n_reserved": len(state.reserved),
            "n_skipped": len(state.skipped),
            "n_active_picks": state.n_active_picks,
            "answer": why,
            "software": software(),
        }
        arrays: dict[str, NDArray[Any]] = {
            "labelled": np.packbits(state.labelled),
            "reserved": np.array(list(state.reserved.items()), dtype=np.int64).reshape(-1, 2),
            "skipped": np.array(list(state.skipped.items()), dtype=np.int64).reshape(-1, 2),
        }
        if (plan := state.method_plan) is not None:
            details["method_plan"] = {name: getattr(plan, name) for name in _PLAN_FIELDS}
            arrays["method_picks"] = np.frombuffer(json.dumps(plan.picks).encode(), dtype=np.uint8)
        for name in MEASURED:
            if name in pick.candidates:
                arrays[name] = pick.candidates[name].astype(np.float32)
        return cls(state.pool, who, at, state.pool.image_ids[pick.index], details, arrays)


def state_of(details: dict[str, Any], arrays: Arrays, pool: Pool) -> State:
    """Return the state that a choice with these details and arrays read."""
    plan = details.get("method_plan")
    return State(
        settings=Settings.model_construct(**details["settings"]),
        pool=pool,
        labelled=np.unpackbits(arrays["labelled"], count=len(pool)).astype(bool),
        reserved=dict(arrays["reserved"].tolist()),
        skipped=dict(arrays["skipped"].tolist()),
        n_active_picks=details["n_active_picks"],
        method_plan=MethodPlan(**plan, picks=json.loads(arrays["method_picks"].tobytes())) if plan else None,
    )


class SelectionLog:
    """Writes the lines of clicks; for one thread at a time."""

    def __init__(self) -> None:
        self._pools = PoolLog()

    def write_choice(self, session: Session, choice: Choice, *, serving: int | None) -> None:
        """Write a choice, whose row among the servings is given where it has one, and before it the pool it read."""
        details = {"pool": self._pools.line(session, choice.pool), "serving": serving, **choice.details}
        record(
            session,
            KIND,
            details,
            who=choice.who,
            image_id=choice.image_id,
            arrays=choice.arrays,
            at=choice.at,
        )
