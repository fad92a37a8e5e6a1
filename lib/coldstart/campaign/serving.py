"""Answer a click: the choice and the reservation are one transaction, so two clicks never get the same image while
another is free.

While the database cannot be written (no room on the disk, or another program holds it), clicks are answered all the
same: what they got is remembered, counts for the clicks that follow, and is written first thing when that is possible.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from coldstart.campaign.choices import Choice, SelectionLog
from coldstart.campaign.choosing import ACTIVE, State, StrategyName, choose, explain
from coldstart.campaign.pool import PoolMemory
from coldstart.campaign.reservations import (
    ReservationMemory,
    Reservations,
    read_reservations,
    read_revision,
    skip_open_servings,
)
from coldstart.campaign.unwritten import NewServing, UnwrittenServings
from coldstart.exceptions import StoreBusyError
from coldstart.settings import Settings
from coldstart.store import MethodPlan, Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """An image to label next; `why` is what the answer carries under `coldstart`."""

    image_id: str
    why: dict[str, Any]


class _Click(NamedTuple):
    strategy: StrategyName
    annotator: str | None
    alpha: float | None
    method_plan: MethodPlan | None


class Desk:
    """Hands out images, to all threads of this process and beside other processes.

    Parameters
    ----------
    store : Store
        The campaign's database.
    settings : callable
        Returns the settings in force, as a session's transaction sees them.
    memory : PoolMemory
        Where the pool is kept between clicks.
    uncounted : mapping of str to bool
        Images that the database does not know to be labelled, or gone (True), or free again (False) yet.
    """

    def __init__(
        self,
        store: Store,
        settings: Callable[[Session], Settings],
        memory: PoolMemory,
        uncounted: Mapping[str, bool],
    ):
        self._store = store
        self._uncounted = uncounted
        self._settings = settings
        self._memory = memory
        self._reservations = ReservationMemory()
        self._unwritten = UnwrittenServings()
        self._log = SelectionLog()
        # Threads take turns at the database anyway; here they wait in line instead of asking again and again.
        self._turn = threading.Lock()

    def next_sample(
        self,
        strategy: StrategyName,
        *,
        annotator: str | None,
        alpha: float | None,
        method_plan: MethodPlan | None = None,
    ) -> Sample | None:
        """Choose an image by `strategy`, reserve it for the annotator, and say why.

        Parameters
        ----------
        annotator : str or None
            Who asks; None is anonymous. A named annotator who asks again without having saved skips the image before.
        alpha : float or None
            Weight of distance against entropy for this click, in [0, 1] (equation 10 of Levy et al., 2026); None for
            the campaign's.
        method_plan : MethodPlan, optional
            Of the method that `strategy` names, where it names one of `coldstart.campaign.baselines.BASELINES`.

        Returns
        -------
        Sample or None
            None when every usable image is labelled.
        """
        click = _Click(strategy, annotator, alpha, method_plan)
        with self._turn:
            if self._unwritten.try_to_write():
                try:
                    return self._serve(click)
                except StoreBusyError as error:
                    self._unwritten.postpone()
                    logger.warning("What this click got is not written yet, but remembered: %s", error)
            return self._serve_and_remember(click)

    def look(self, session: Session) -> State:
        """The campaign as the next click would see it; distances on its pool are for clicks alone."""
        with self._turn:
            reservations = read_reservations(session)
            self._unwritten.apply(reservations)
        return self._state(session, time.time(), reservations)

    def remember(self, write: Callable[[Session], None]) -> None:
        """Call `write` with a session as soon as the database can be written, before what clicks got is written."""
        with self._turn:
            self._unwritten.add_other(write)

    def write_remembered(self) -> None:
        """Write what clicks got while the database could not be written, where there is any and a try is due.

        Raises
        ------
        StoreBusyError
            If it was tried in vain.
        """
        with self._turn:
            if self._unwritten and self._unwritten.try_to_write():
                try:
                    with self._store.writing() as session:
                        self._unwritten.write(session, self._log)
                    self._unwritten.clear()
                except StoreBusyError:
                    self._unwritten.postpone()
                    raise

    def _serve(self, click: _Click) -> Sample | None:
        with self._store.writing() as session:
            now = time.time()
            self._unwritten.write(session, self._log)
            reservations = self._reservations.take(session)
            if click.annotator is not None and reservations.skip(click.annotator):
                skip_open_servings(session, click.annotator, now)
            serving = self._choose(session, click, now, reservations)
            if serving is not None:
                serving.reserve(reservations, serving.write(session, self._log))
            revision = read_revision(session)
        self._reservations.keep(revision, reservations)
        self._unwritten.clear()
        return _sample(serving)

    def _serve_and_remember(self, click: _Click) -> Sample | None:
        with self._store.reading() as session:
            now = time.time()
            reservations = read_reservations(session)
            self._unwritten.apply(reservations)
            if click.annotator is not None:
                reservations.skip(click.annotator)
            serving = self._choose(session, click, now, reservations)
        if serving is not None:
            self._unwritten.add(serving)
        return _sample(serving)

    def _choose(self, session: Session, click: _Click, now: float, reservations: Reservations) -> NewServing | None:
        state = replace(self._state(session, now, reservations), method_plan=click.method_plan)
        alpha = state.settings.alpha if click.alpha is None else click.alpha
        pick = choose(state, click.strategy, alpha)
        if pick is None:
            return None
        pool, why = state.pool, explain(state, pick)
        values = {
            "image_row": pool.rows[pick.index],
            "annotator": click.annotator,
            "strategy": click.strategy,
            "phase": pick.phase,
            "why": why,
            "scoring_id": pool.scoring.id if pick.phase == ACTIVE and pool.scoring is not None else None,
            "served_at": now,
        }
        choice = Choice.of(state, click.strategy, alpha, pick, why, who=click.annotator, at=now)
        return NewServing(pool.image_ids[pick.index], values, choice)

    def _state(self, session: Session, now: float, reservations: Reservations) -> State:
        settings = self._settings(session)
        pool, labels = self._memory.read(session)
        labelled = pool.mask(labels.rows)
        if uncounted := dict(self._uncounted):
            for index, image_id in enumerate(pool.image_ids):
                labelled[index] = uncounted.get(image_id, labelled[index])
        return State(
            settings=settings,
            pool=pool,
            labelled=labelled,
            reserved=reservations.reserved(now - 60 * settings.reserve_minutes),
            skipped=reservations.skipped,
            n_active_picks=reservations.n_active_picks(pool.scoring.id if pool.scoring is not None else None),
        )


def _sample(serving: NewServing | None) -> Sample | None:
    return None if serving is None else Sample(serving.image_id, serving.values["why"])
