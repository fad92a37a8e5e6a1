"""Plans of the other methods of the cold start, each made when it is first asked for.

As our own plan they hold as many images as the budget leaves room for, and count what is labelled or was served by
then. They are kept in the database until the budget, the map or the seed is another one; then what was taken of them
stays, and the method plans the rest anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, undefer

from coldstart.campaign.plan_lines import record_method_plan
from coldstart.campaign.planning import current_map, pool_of, taken_rows
from coldstart.exceptions import InvalidInputError, StoreBusyError
from coldstart.selection import METHODS, Method
from coldstart.settings import Settings
from coldstart.store import Image, ImageMap, MethodPlan, Store, bytes_to_vector
from coldstart.store.schema import POINT_DTYPE

logger = logging.getLogger(__name__)

BASELINES: Mapping[str, Method] = {
    name: method
    for name, method in METHODS.items()
    if "cold_start" in method.stages and name not in ("random", "cold_start")
}
"""Methods that are a strategy of their own, by name: chance and our own plan are served without a plan from here."""


class Baselines:
    """Makes and keeps the plans of `BASELINES`.

    Parameters
    ----------
    store : Store
        The campaign's database.
    settings : callable
        Returns the settings in force, as a session's transaction sees them.
    remember : callable
        Takes what could not be written, and calls it with a session as soon as one can write.
    """

    def __init__(
        self,
        store: Store,
        settings: Callable[[Session], Settings],
        remember: Callable[[Callable[[Session], None]], None],
    ):
        self._store = store
        self._settings = settings
        self._remember = remember
        self._unwritten: dict[str, MethodPlan] = {}
        self._turns = {name: threading.Lock() for name in BASELINES}

    def plan(self, name: str) -> MethodPlan | None:
        """Return a method's plan, which takes as long as the method where it has to be made; None without a map.

        Raises
        ------
        InvalidInputError
            If the method cannot plan this pool.
        StoreBusyError
            If the database cannot be read for now.
        """
        with self._turns[name]:  # who asks for the same meanwhile waits for it
            with self._store.reading() as session:
                settings, current = self._settings(session), current_map(session)
                if current is None:
                    return None
                before = self._unwritten.get(name) or session.get(MethodPlan, name)
                if before is not None and _is_in_force(session, before, current, settings):
                    return before
                rows = list(session.scalars(_embedded(current).options(undefer(Image.vector))))
                taken = taken_rows(session)
            if not rows:
                return None
            picks = before.picks if before is not None else {}
            made = make_method_plan(name, current.id, rows, taken, picks, settings)
            log = partial(record_method_plan, made=made, rows=rows, taken=taken, before=picks, settings=settings)
            self._keep(made, log)
            return made

    def _keep(self, made: MethodPlan, log: Callable[[Session], None]) -> None:
        """Write a plan; while that is not possible this process knows it, and another start makes it anew."""

        def write(session: Session) -> None:
            current = current_map(session)
            if current is not None and current.id == made.map_id:
                session.merge(made)
            log(session)

        try:
            with self._store.writing() as session:
                write(session)
        except StoreBusyError as error:
            self._unwritten[made.method] = made
            self._remember(write)
            logger.warning("The plan of '%s' is not written, but remembered: %s", made.method, error)
        else:
            self._unwritten.pop(made.method, None)


def _is_in_force(session: Session, plan: MethodPlan, current: ImageMap, settings: Settings) -> bool:
    wanted = (current.id, settings.budget, settings.random_state)
    if (plan.map_id, plan.budget, plan.random_state) != wanted:
        return False
    # A budget that is more than the pool held is planned on when images come.
    return plan.size == plan.budget or plan.size >= (session.scalar(_counted(current)) or 0)


def make_method_plan(
    name: str, map_id: int, rows: list[Image], taken: set[int], before: Mapping[str, str], settings: Settings
) -> MethodPlan:
    """Have a method plan what the budget leaves room for.

    Parameters
    ----------
    name : str
        One of `BASELINES`.
    map_id : int
        The map in force.
    rows : list of Image
        The images on it that may be served, with their vectors, by id.
    taken : set of int
        Rows of those that were labelled or ever served.
    before : mapping of str to str
        The picks of the method's plan before, with their reasons; those that were taken stay.

    Raises
    ------
    InvalidInputError
        If the method cannot plan this pool.
    """
    ids = [row.image_id for row in rows]
    labelled = [index for index, row in enumerate(rows) if row.id in taken]
    size = min(settings.budget, len(rows))
    served = {ids[index] for index in labelled}
    picks = {image_id: reason for image_id, reason in before.items() if image_id in served}
    if size > len(labelled):
        picks |= _chosen(BASELINES[name], rows, size - len(labelled), labelled, settings.random_state)
    return MethodPlan(
        method=name,
        created_at=time.time(),
        map_id=map_id,
        budget=settings.budget,
        size=size,
        random_state=settings.random_state,
        picks=picks,
    )


def _chosen(method: Method, rows: list[Image], n: int, labelled: list[int], seed: int) -> dict[str, str]:
    vectors = [bytes_to_vector(row.vector) for row in rows if row.vector is not None]
    points = [bytes_to_vector(row.point, POINT_DTYPE) for row in rows if row.point is not None]
    try:
        made = method.select(vectors, points, n, labelled=labelled, random_state=seed, **method.options)
    except (InvalidInputError, MemoryError) as error:
        why = str(error) if isinstance(error, InvalidInputError) else "The server has not enough memory for that."
        raise InvalidInputError(
            f"The strategy '{method.name}' cannot plan the pool's {len(rows)} images; choose another one. {why}"
        ) from error
    return {rows[index].image_id: reason for index, reason in zip(made.indices, made.reasons, strict=True)}


def _embedded(current: ImageMap) -> Select[Image]:
    """The images of the pool that have a vector of the encoder that the map was made with."""
    return pool_of(current).where(Image.vector.is_not(None), Image.encoder == current.encoder)


def _counted(current: ImageMap) -> Select[int]:
    return select(func.count()).select_from(_embedded(current).order_by(None).subquery())
