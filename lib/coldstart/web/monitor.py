"""The routes by which a machine watches the server: its metrics, and which part of it is ill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from coldstart.web.health import Health, HealthAnswer
from coldstart.web.metrics import Metrics

PATH = "/coldstart"
TAG = "Monitoring"


def create_monitor(
    metrics: Metrics,
    health: Health,
    *,
    may_scrape: Sequence[Callable[..., Any]],
    may_see_details: Callable[[Request], bool],
) -> APIRouter:
    """The two routes; FastAPI runs them in threads, so nobody's click waits for them.

    Parameters
    ----------
    may_scrape : sequence of callable
        Dependencies of FastAPI that refuse whoever may not read the metrics.
    may_see_details : callable
        Whether who sent a request may read what is wrong, and not only where.
    """
    router = APIRouter(prefix=PATH, tags=[TAG])

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
        dependencies=[Depends(check) for check in may_scrape],
    )
    def read_metrics(request: Request) -> Response:
        """Give the metrics in the format of Prometheus."""
        content, kind = metrics.exposition(request.headers.get("Accept", ""))
        return Response(content, media_type=None, headers={"Content-Type": kind, "Cache-Control": "no-store"})

    @router.get("/health", response_model=HealthAnswer, responses={503: {"model": HealthAnswer}})
    def look(request: Request) -> Response:
        """Tell which part of the server is ill: 200 where all are well, 503 where one is not."""
        found = health.look(with_details=may_see_details(request))
        return Response(
            found.model_dump_json(),
            200 if found.status == "well" else 503,
            headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
        )

    return router
