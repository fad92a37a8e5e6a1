"""From vectors to a plan: keep the 2D map, make the cold-start plan and carry it on."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.orm import Session, undefer

from coldstart.campaign.drafting import Cluster, Ground, is_outdated, pick_values, propose, settle
from coldstart.campaign.map_lines import record_map, record_placed
from coldstart.campaign.plan_lines import record_plan
from coldstart.campaign.vectors import encoder_key
from coldstart.embedding import Encoder
from coldstart.projection import fit_projection, place
from coldstart.selection import choose_n_clusters
from coldstart.settings import Settings
from coldstart.store import (
    FormerPoint,
    Image,
    ImageMap,
    Label,
    Plan,
    PlanPick,
    Serving,
    Store,
    bytes_to_vector,
    vector_to_bytes,
)
from coldstart.store.schema import POINT_DTYPE

logger = logging.getLogger(__name__)


def configured_encoder(settings: Settings) -> str:
    """What the settings ask for, as one string; a change of it asks for new vectors."""
    return settings.encoder if settings.encoder_weights is None else f"{settings.encoder} {settings.encoder_weights}"


def needs_embedding(session: Session, settings: Settings) -> bool:
    """Tell whether images wait for their vector or point, or the plan for being made or carried on."""
    current = current_map(session)
    if current is None or (current.configured, current.method) != (configured_encoder(settings), settings.projection):
        return session.scalar(select(Image.id).where(Image.present, Image.problem.is_(None)).limit(1)) is not None
    # An image that made the map and was held out since asks for another map.
    waiting = Image.vector.is_(None) | Image.map_id.is_distinct_from(current.id) | (Image.fitted & Image.held_out)
    if session.scalar(select(Image.id).where(Image.present, Image.problem.is_(None), waiting).limit(1)) is not None:
        return True
    return _plan_is_outdated(session, current, settings)


def update_map(store: Store, settings: Settings, encoder: Encoder) -> None:
    """Make the map where there is none for this encoder and projection; place on it what is not there yet.

    Held-out images never fit the map: where one did before it was held out, the map is made anew without it.
    """
    key = encoder_key(encoder)
    with store.reading() as session:
        current = current_map(session)
        embedded = select(Image).where(Image.vector.is_not(None), Image.encoder == key).options(undefer(Image.vector))
        rows = list(session.scalars(embedded.order_by(Image.image_id)))
    if current is not None and (current.encoder, current.method) == (key, settings.projection):
        fitted = [row for row in rows if row.fitted and row.map_id == current.id]
        if fitted and not any(row.held_out for row in fitted):
            _place_missing(store, settings, current, rows)
            return
    fitting = [row for row in rows if row.present and not row.held_out and row.problem is None]
    if not fitting:
        return
    points = fit_projection(_vectors(fitting), settings.projection, random_state=settings.random_state)
    with store.writing() as session:
        made = ImageMap(
            created_at=time.time(),
            configured=configured_encoder(settings),
            encoder=key,
            method=settings.projection,
            random_state=settings.random_state,
        )
        session.add(made)
        session.flush()
        _write_points(session, made, fitting, points, fitted=True)
        record_map(session, made, fitting, points, encoder, settings)
    with store.reading() as session:
        rows = list(session.scalars(embedded.order_by(Image.image_id)))
    _place_missing(store, settings, made, rows)


def _place_missing(store: Store, settings: Settings, current: ImageMap, rows: Sequence[Image]) -> None:
    fitted = [row for row in rows if row.fitted and row.map_id == current.id]
    missing = [row for row in rows if row.map_id != current.id]
    if missing:
        with store.reading() as session:
            of_map = select(FormerPoint).where(FormerPoint.map_id == current.id, FormerPoint.fitted)
            former = session.scalars(of_map).all()
        basis: list[Image | FormerPoint] = [*fitted, *former]
        points = place(_vectors(missing), _vectors(basis), _points(basis), settings.projection)
    with store.writing() as session:
        if current.configured != configured_encoder(settings):
            session.execute(
                update(ImageMap).where(ImageMap.id == current.id).values(configured=configured_encoder(settings))
            )
        if missing:
            _write_points(session, current, missing, points, fitted=False)
            _inherit_clusters(session, missing, points, fitted)
            record_placed(session, current, missing, basis, points)


def _write_points(
    session: Session, made: ImageMap, rows: Sequence[Image], points: NDArray[Any], *, fitted: bool
) -> None:
    for row, point in zip(rows, points, strict=True):
        unchanged = update(Image).where(Image.image_id == row.image_id, Image.signature == row.signature)
        session.execute(unchanged.values(map_id=made.id, point=vector_to_bytes(point, POINT_DTYPE), fitted=fitted))


def _inherit_clusters(session: Session, rows: Sequence[Image], points: NDArray[Any], fitted: Sequence[Image]) -> None:
    """An image placed later belongs to the cluster of its nearest neighbour among those that made the map."""
    clustered = [row for row in fitted if row.cluster is not None]
    if not clustered:
        return
    known = _points(clustered)
    for row, point in zip(rows, points, strict=True):
        nearest = int(np.argmin(np.linalg.norm(known - point, axis=1)))
        session.execute(update(Image).where(Image.id == row.id).values(cluster=clustered[nearest].cluster))


def update_plan(store: Store, settings: Settings, cluster: Cluster = choose_n_clusters) -> None:
    """Make the plan, carry it on when the budget was raised or the map renewed, cut it when the budget was lowered.

    Picks that were served or labelled stay; what they are is what the rest of a plan starts from.
    """
    with store.reading() as session:
        current = current_map(session)
        if current is None or not _plan_is_outdated(session, current, settings):
            return
        pool = pool_rows(session, current)
        rows = [row.id for row in pool]
        ground = Ground(
            current.id, rows, _points(pool), taken_rows(session), current_plan(session), _read_picks(session)
        )
    if settings.budget > len(rows):
        logger.warning(
            "The budget of %d is more than the pool's %d images: all are planned.", settings.budget, len(rows)
        )
    made = propose(ground, settings, cluster)
    with store.writing() as session:
        # Clicks went on while the plan was made.
        now = replace(ground, taken=taken_rows(session), picks=_read_picks(session))
        plan, picks = settle(now, made, settings)
        session.execute(delete(PlanPick))
        session.execute(delete(Plan))
        session.add(plan)
        session.flush()
        session.add_all(PlanPick(plan_id=plan.id, rank=rank, **pick) for rank, pick in enumerate(picks))
        record_plan(session, settings, ground, now, made is not None, plan, picks)
        if made is not None:
            _write_clusters(session, dict(zip(rows, made.labels.tolist(), strict=True)))


def _write_clusters(session: Session, clusters: dict[int, int]) -> None:
    before = session.execute(select(Image.id, Image.cluster)).tuples()
    changed = [{"id": row, "cluster": clusters[row]} for row, old in before if clusters.get(row, old) != old]
    if changed:
        session.execute(update(Image), changed)


def _plan_is_outdated(session: Session, current: ImageMap, settings: Settings) -> bool:
    n_images = session.scalar(select(func.count()).select_from(pool_of(current).order_by(None).subquery()))
    return is_outdated(current_plan(session), current.id, n_images or 0, settings)


def _read_picks(session: Session) -> list[dict[str, Any]]:
    return [pick_values(pick) for pick in session.scalars(select(PlanPick).order_by(PlanPick.rank))]


def current_map(session: Session) -> ImageMap | None:
    """The newest map."""
    return session.scalar(select(ImageMap).order_by(ImageMap.id.desc()).limit(1))


def current_plan(session: Session) -> Plan | None:
    """The plan in force."""
    return session.scalar(select(Plan).order_by(Plan.id.desc()).limit(1))


def pool_of(current: ImageMap) -> Select[Image]:
    """Asks for the images on the map that may be served, labelled ones included, by id."""
    usable = select(Image).where(Image.present, ~Image.held_out, Image.problem.is_(None))
    return usable.where(Image.map_id == current.id).order_by(Image.image_id)


def pool_rows(session: Session, current: ImageMap) -> list[Image]:
    """What `pool_of` asks for."""
    return list(session.scalars(pool_of(current)))


def taken_rows(session: Session) -> set[int]:
    """Rows of the images that were labelled or ever served."""
    labelled = session.scalars(select(Label.image).join(Image).where(~Image.held_out))
    return set(labelled) | set(session.scalars(select(Serving.image_row)))


def _vectors(rows: Sequence[Image | FormerPoint]) -> NDArray[Any]:
    return np.stack([bytes_to_vector(row.vector) for row in rows if row.vector is not None])


def _points(rows: Sequence[Image | FormerPoint]) -> NDArray[Any]:
    return np.stack([bytes_to_vector(row.point, POINT_DTYPE) for row in rows if row.point is not None])
