"""The numbers of a campaign and of its server, in the format of Prometheus.

What the store knows is read when somebody asks for it, so a request costs no more than noting how long it took.
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coldstart.campaign import Campaign
from coldstart.campaign.map_table import reserved_since
from coldstart.campaign.triggers import TO_LEARN_FROM
from coldstart.exceptions import StoreError
from coldstart.store import Image, Judgement, Label, Model, Serving
from coldstart.web.cards import Card

logger = logging.getLogger(__name__)

REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
TASK_BUCKETS_S = (10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OTHER = "other"
"""Stands for a method or an address that the server does not have: whoever asks at random must make no series."""
_COUNT_LABELS = select(func.count(), func.count().filter(*TO_LEARN_FROM)).select_from(Label).join(Image)


class TaskRun(NamedTuple):
    """One long task since the server began; `seconds` is None until it ends, and where it could not begin."""

    name: str
    state: str
    seconds: float | None


@dataclass(frozen=True)
class Sources:
    """What is measured besides the campaign.

    Attributes
    ----------
    tasks : callable
        The long tasks since the server began, those that wait or run among them.
    ill : callable
        For each part of the server whether it is ill.
    cards : callable
        The graphics cards.
    caches : mapping of str to callable
        How many bytes each cache takes on the disk.
    """

    campaign: Campaign
    app_version: str
    tasks: Callable[[], Sequence[TaskRun]]
    ill: Callable[[], Mapping[str, bool]]
    cards: Callable[[], Sequence[Card]]
    caches: Mapping[str, Callable[[], int]]


class Metrics:
    """The metrics of one server."""

    def __init__(self, sources: Sources):
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Histogram(
            "coldstart_request_seconds",
            "How long requests took, by method, route and class of status",
            ("method", "route", "status"),
            buckets=REQUEST_BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_Campaign(sources))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics, in the format that `accept` prefers, and the name of that format."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind


class RequestTimes:
    """ASGI middleware: notes how long each request took, by the pattern of its route, never by its address."""

    def __init__(self, app: ASGIApp, times: Histogram):
        self._app = app
        self._times = times

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            route = getattr(scope.get("route"), "path", None) or OTHER
            self._times.labels(method, route, f"{status // 100}xx").observe(time.perf_counter() - began)


class _Campaign(Collector):
    def __init__(self, sources: Sources):
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        """Say nothing: the registry would else collect once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything but the requests and the process itself."""
        sources = self._sources
        yield _info("coldstart_app", "Version of the app", {"version": sources.app_version})
        ill = {(part,): float(not is_ill) for part, is_ill in sources.ill().items()}
        yield _gauge("coldstart_part_well", "1 where a part of the server is well, 0 where it is ill", ill, "part")
        yield from _of_the_server(sources)
        try:
            yield from _of_the_store(sources.campaign)
        except StoreError as error:
            logger.debug("The metrics come without what the database knows: %s", error)  # `coldstart_part_well` says it


def _of_the_store(campaign: Campaign) -> Iterator[Metric]:
    status = campaign.status()
    with campaign.store.reading() as session:
        clicks = _clicks(session, reserved_since(campaign.settings))
        labels = session.execute(_COUNT_LABELS).one()
        n_aside = session.scalar(
            select(func.count()).select_from(Image).where(Image.present, Image.problem.is_not(None))
        )
        dice = _dice(session)
        trained_at = session.scalar(select(Model.created_at).order_by(Model.id.desc()).limit(1))
    images = {"pool": status["images"], "held_out": status["held_out"], "set_aside": n_aside or 0}
    unlabelled = status["images"] - status["labelled"]
    yield _gauge("coldstart_images", "Images by what they are for", _by_one(images), "kind")
    yield _gauge("coldstart_images_unlabelled", "Images of the pool without a final label", {(): unlabelled})
    counts = {"total": labels[0], "usable": labels[1]}
    yield _gauge("coldstart_labels", "Final labels: all, and those that can be learned from", _by_one(counts), "kind")
    yield _gauge("coldstart_budget", "Images of the cold start, counted in labelled images", {(): status["budget"]})
    yield _gauge("coldstart_clicks", "Answers to Next Sample so far", clicks, "strategy", "phase", "outcome")
    held = sum(n for (_, _, outcome), n in clicks.items() if outcome == "reserved")
    yield _gauge("coldstart_reservations_open", "Images that are with somebody", {(): held})
    if status["model_version"] is not None:
        scored = str(status["scored_model_version"] or "")
        versions = {"version": status["model_version"], "scored_version": scored}
        yield _info("coldstart_model", "Model in use, and the one whose scoring clicks go by", versions)
        yield _gauge("coldstart_model_trained_timestamp_seconds", "When the model in use was trained", {(): trained_at})
        means, images_judged = ({(basis,): one[at] for basis, one in dice.items()} for at in (0, 1))
        yield _gauge("coldstart_model_dice", "Mean Dice of the model in use: held out, or before learning", means, "on")
        yield _gauge("coldstart_model_dice_images", "Images behind `coldstart_model_dice`", images_judged, "on")
    size = sum(_size(Path(f"{campaign.store.path}{suffix}")) for suffix in ("", "-wal"))
    yield _gauge("coldstart_database_bytes", "Size of the database with what is not merged into it yet", {(): size})


def _of_the_server(sources: Sources) -> Iterator[Metric]:
    runs = sources.tasks()
    counts = Counter((run.name, run.state) for run in runs)
    # A series that went away with its task would leave a gap in graphs; zero says that it ended.
    opened = {(run.name, state): counts[run.name, state] for run in runs for state in ("waiting", "running")}
    yield _gauge("coldstart_tasks_open", "Long tasks that wait or run", opened, "task", "state")
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in runs:
        if run.seconds is not None:
            took[run.name, run.state].append(run.seconds)
    durations = HistogramMetricFamily(
        "coldstart_task_seconds", "How long tasks took since the server began", labels=("task", "state")
    )
    for key, seconds in took.items():
        durations.add_metric(key, _buckets(seconds), sum(seconds))
    yield durations
    disk = {(name,): size() for name, size in sources.caches.items()}
    yield _gauge("coldstart_cache_bytes", "What the caches hold on the disk", disk, "cache")
    cards = sources.cards()
    used = {(card.number, card.name): card.used for card in cards}
    total = {(card.number, card.name): card.total for card in cards}
    yield _gauge("coldstart_gpu_memory_used_bytes", "Memory of a card in use, by whomever", used, "gpu", "name")
    yield _gauge("coldstart_gpu_memory_total_bytes", "Memory of a card", total, "gpu", "name")


def _clicks(session: Session, since: float) -> dict[tuple[str, ...], int]:
    is_open = case((Serving.served_at > since, "reserved"), else_="expired")
    outcome = func.coalesce(Serving.outcome, is_open)
    found = session.execute(
        select(Serving.strategy, Serving.phase, outcome, func.count()).group_by(
            Serving.strategy, Serving.phase, outcome
        )
    ).tuples()
    return {key: n for *key_parts, n in found for key in [tuple(map(str, key_parts))]}


def _dice(session: Session) -> dict[str, tuple[float, int]]:
    """Mean Dice of the model in use, and on how many images: held out ones, and those labelled after its training."""
    newest = session.scalar(select(Model).order_by(Model.id.desc()).limit(1))
    if newest is None:
        return {}
    images = (newest.details.get("heldout") or {}).get("images", ())
    rated = [one["dice"] for one in images if math.isfinite(one["dice"])]
    judged = session.execute(
        select(func.avg(Judgement.dice), func.count(Judgement.dice))
        .join(Label, Label.image == Judgement.image)
        .where(Judgement.model_version == newest.version)
    ).one()
    found = {"heldout": (sum(rated) / len(rated), len(rated))} if rated else {}
    return found | ({"prequential": (judged[0], judged[1])} if judged[1] else {})


def _buckets(seconds: list[float]) -> list[tuple[str, float]]:
    """How many are within each bound, as Prometheus wants them: each bucket holds those before it."""
    within = Counter(bisect_left(TASK_BUCKETS_S, one) for one in seconds)
    counts = accumulate(within[index] for index in range(len(TASK_BUCKETS_S) + 1))
    return [(bound, float(n)) for bound, n in zip([*map(str, TASK_BUCKETS_S), "+Inf"], counts, strict=True)]


def _by_one(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(name,): value for name, value in values.items()}


def _info(name: str, what: str, value: dict[str, str]) -> Metric:
    return InfoMetricFamily(name, what, value)


def _gauge(name: str, what: str, values: Mapping[Any, float | None], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, what, labels=labels)
    for key, value in values.items():
        if value is not None:
            family.add_metric(key, value)
    return family


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
