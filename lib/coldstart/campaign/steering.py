"""What somebody chose while the server ran, and what another choice would mean.

In force are the preset's values, over them those of `--conf`, and over them what was chosen, as long as `--conf` says
what it said then. The choices are in the database: they hold in every process, and after a restart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from coldstart.campaign.choosing import ACTIVE, State, explain, look_ahead
from coldstart.campaign.decisions import record
from coldstart.campaign.drafting import Ground, is_outdated, pick_values, propose, settle
from coldstart.campaign.planning import taken_rows
from coldstart.campaign.pool import Pool
from coldstart.campaign.serving import Desk
from coldstart.exceptions import InvalidInputError, StoreError
from coldstart.selection import Clustering, Clusterings
from coldstart.settings import Settings
from coldstart.store import ChosenSetting, Image, PlanPick, Store
from coldstart.store.schema import Base

logger = logging.getLogger(__name__)

_BATCH = 500
"""Ids in one question to the database, which takes no longer lists everywhere."""
_CHOSEN = Base.metadata.tables["chosen_settings"]
_READ_CHOSEN = select(_CHOSEN)  # built once, and on the table: every click reads it


class SteeredSettings:
    """The settings in force.

    Parameters
    ----------
    store : Store
        The campaign's database.
    configured : Settings
        What the preset and `--conf` say.
    """

    def __init__(self, store: Store, configured: Settings):
        self.configured = configured
        self._store = store
        self._last: tuple[dict[str, Any], Settings] = {}, configured

    def chosen(self, session: Session) -> dict[str, dict[str, Any]]:
        """Return the choices that hold, by the setting's name: `value`, `configured`, `who` and `at`."""
        return {
            one["name"]: {key: one[key] for key in ("value", "configured", "who", "at")}
            for one in session.execute(_READ_CHOSEN).mappings()
            if one["configured"] == getattr(self.configured, one["name"])
        }

    def read(self, session: Session) -> Settings:
        """Return what is in force as this session's transaction sees it."""
        chosen = self.chosen(session)
        known, settings = self._last
        if chosen != known:
            settings = self.configured.model_copy(update={name: one["value"] for name, one in chosen.items()})
            self._last = chosen, settings
        return settings

    def now(self) -> Settings:
        """Return what is in force; while the database cannot be read, what was when it last could."""
        try:
            with self._store.reading() as session:
                return self.read(session)
        except StoreError:
            return self._last[1]

    def use(self, *, who: str | None, alpha: float | None, budget: int | None) -> Settings:
        """Put values in force, and return the settings with them; see `Campaign.use`."""
        given = {"alpha": alpha, "budget": budget}
        wanted = {name: value for name, value in given.items() if value is not None}
        if not wanted:
            raise InvalidInputError("`alpha` or `budget` must be given; got neither. Name the value to use.")
        valid, at = self.configured.override(wanted), time.time()
        values = {name: getattr(valid, name) for name in wanted}
        with self._store.writing() as session:
            before = self.read(session)
            for name, value in values.items():
                configured = getattr(self.configured, name)
                session.merge(ChosenSetting(name=name, value=value, configured=configured, who=who, at=at))
            session.flush()
            details = {"before": {name: getattr(before, name) for name in values}, "now": values}
            record(session, "settings", details, who=who, at=at)
            return self.read(session)

    def end_overruled(self) -> None:
        """Forget the choices that do not hold, and say so: were `--conf` put back, they would hold again unasked."""
        with self._store.writing() as session:
            held = self.chosen(session)
            overruled = [one for one in session.scalars(select(ChosenSetting)) if one.name not in held]
            for one in overruled:
                now = getattr(self.configured, one.name)
                logger.warning(
                    "`%s` is %s, as configured now; %s, which was chosen when %s was configured, no longer holds.",
                    *(one.name, now, one.value, one.configured),
                )
                record(session, "settings", {"before": {one.name: one.value}, "now": {one.name: now}})
                session.delete(one)

    def fill(self, session: Session) -> None:
        """Put into a database that is made anew the choices that held in the one before."""
        there = set(session.scalars(select(ChosenSetting.name)))
        session.add_all(ChosenSetting(name=name, **one) for name, one in self._last[0].items() if name not in there)


@dataclass(frozen=True)
class Coming:
    """An image that would come next; `rank` 1 comes first.

    Phase, reason, entropy, distance and score are those that the answer to the click would carry.
    """

    rank: int
    image_id: str
    phase: str
    reason: str
    entropy: float | None
    distance: float | None
    score: float | None


@dataclass(frozen=True)
class Preview:
    """What the next clicks would be served under these values; the sentence says what the values do to it."""

    alpha: float
    budget: int
    picks: list[Coming]
    sentence: str


class Lookout:
    """Tells which images would come next; keeps what the next question needs again.

    Parameters
    ----------
    store : Store
        The campaign's database.
    desk : Desk
        It knows what is labelled and who holds what.
    """

    def __init__(self, store: Store, desk: Desk):
        self._store = store
        self._desk = desk
        self._turn = threading.Lock()
        self._clusterings: Clusterings | None = None
        self._clustering_turn = threading.Lock()
        self._pools: tuple[Pool, Pool] | None = None
        self._draft: tuple[Pool, int, set[int], Pool] | None = None

    def preview(self, settings: Settings, n: int) -> Preview:
        """Return what the next `n` clicks on the automatic strategy would be served under these settings."""
        with self._turn:
            with self._store.reading() as session:
                state = self._desk.look(session)
                taken = taken_rows(session).union(state.reserved, state.skipped)
            state = replace(state, settings=settings, pool=self._own_pool(state.pool))
            state = replace(state, pool=self._planned(state, taken))
            picks = look_ahead(state, n, "coldstart_al", settings.alpha)
            coming = []
            for rank, pick in enumerate(picks, start=1):
                why = explain(state, pick)
                values = {name: why[name] for name in ("phase", "reason", "entropy", "distance", "score")}
                coming.append(Coming(rank=rank, image_id=state.pool.image_ids[pick.index], **values))
        return Preview(settings.alpha, settings.budget, coming, _sentence(coming, settings))

    def cluster(self, points: NDArray[Any], budget: int, *, k_max: int, random_state: int) -> Clustering:
        """Do what `choose_n_clusters` does, at once where the points are those of the time before."""
        with self._clustering_turn:
            kept = self._clusterings
            if (
                kept is None
                or (kept.k_max, kept.random_state) != (k_max, random_state)
                or not np.array_equal(kept.points, points)
            ):
                kept = self._clusterings = Clusterings(points, k_max=k_max, random_state=random_state)
                kept.choose(len(points))  # all that any budget can ask for: the next one waits for nothing
            return kept.choose(budget)

    def _own_pool(self, pool: Pool) -> Pool:
        """A copy of the pool that clicks read: what is kept of distances is for one thread at a time."""
        if self._pools is None or self._pools[0] is not pool:
            self._pools = pool, replace(pool)
        return self._pools[1]

    def _planned(self, state: State, taken: set[int]) -> Pool:
        """The pool with the plan that it will have under the state's settings."""
        pool, on_map, budget = state.pool, np.flatnonzero(state.pool.on_map), state.settings.budget
        if pool.map is None or not is_outdated(pool.plan, pool.map.id, len(on_map), state.settings):
            return pool
        if (draft := self._draft) is not None and draft[0] is pool and draft[1:3] == (budget, taken):
            return draft[3]  # another alpha for the same budget
        rows = [pool.rows[index] for index in on_map]
        before = [pick_values(pick) for pick in pool.picks]
        ground = Ground(pool.map.id, rows, pool.points[on_map], taken, pool.plan, before)
        plan, picks = settle(ground, propose(ground, state.settings, self.cluster), state.settings)
        planned = pool.under(plan, [PlanPick(rank=rank, **pick) for rank, pick in enumerate(picks)])
        self._draft = pool, budget, taken, planned
        return planned


def _sentence(coming: list[Coming], settings: Settings) -> str:
    if not coming:
        return "Nothing comes next: every image that can be used is labelled, or with somebody."
    these = "this image comes" if len(coming) == 1 else f"these {len(coming)} images come"
    sentence = f"With alpha {settings.alpha:g} and a budget of {settings.budget}, {these} next"
    if any(one.phase == ACTIVE for one in coming):
        return f"{sentence}."
    return (
        f"{sentence}; alpha plays no part yet: it counts once {settings.budget} images are labelled and a model has "
        "scored the others."
    )


def retry_set_aside(store: Store, image_ids: Collection[str] | None) -> int:
    """Make images that were set aside wait for another try, all or those given; return how many there are."""
    ids = None if image_ids is None else sorted(set(image_ids))
    batches = [None] if ids is None else [ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)]
    tried = 0
    with store.writing() as session:
        for batch in batches:
            aside = update(Image).where(Image.present, Image.problem.is_not(None))
            if batch is not None:
                aside = aside.where(Image.image_id.in_(batch))
            tried += session.execute(aside.values(problem=None)).rowcount  # type: ignore[attr-defined]
    return tried
