"""The routes of the map page. What takes time runs in threads: nobody's click waits for a page."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from coldstart.campaign.map_table import map_revision, reserved_since
from coldstart.campaign.model_lines import model_lines
from coldstart.campaign.outlook import training_outlook
from coldstart.campaign.overview import overview, revisions
from coldstart.campaign.records import UnknownImageError, image_record
from coldstart.campaign.steering import Preview
from coldstart.exceptions import ImageError
from coldstart.web import models
from coldstart.web.answers import answer_bytes, answer_json
from coldstart.web.headers import file_geometry
from coldstart.web.page import Page
from coldstart.web.pictures import Pictures, Wish
from coldstart.web.static_files import StaticFile, StaticFiles
from coldstart.web.table import Table

PATH = "/coldstart"
TAG = "Map page"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; worker-src 'self' blob:; base-uri 'none'; form-action 'self'"
)
"""What a browser loads for the page: nothing from another host. Plotly makes functions for its shaders."""
OPEN_FILES = "no-cache"
FOR_EVER = "public, max-age=31536000, immutable"
"""Of a file whose address names its version. Browsers keep the compiled script of such a file, too."""
PICTURE_KEPT = "private, max-age=60"
"""A picture looked at again within a minute is not asked for again."""
N_DRAWN_AT_ONCE = 2
"""Each may hold a whole volume in memory."""
NOBODY_WAITS = 499
"""Status of an answer that nobody will read."""

ImageId = Annotated[str, Query(alias="id", description="id of an image, as MONAI Label lists it")]
Side = Annotated[int, Query(ge=96, le=256, description="pixels of the square that each plane fits into")]
Count = Annotated[int, Query(ge=1, le=100, description="how many images")]
Refused: dict[int | str, dict[str, Any]] = {404: {"model": models.Sentence}}


def create_router(page: Page) -> APIRouter:
    """The routes of a campaign's page; all but the page's own files ask for the role of a reader."""
    router = APIRouter()
    router.include_router(_files())
    router.include_router(_numbers(page))
    router.include_router(_steering(page))
    router.include_router(_pictures(page))
    return router


def _files() -> APIRouter:
    """The page itself, which holds no data: it asks for a name and a password where the server wants them."""
    router, files = APIRouter(prefix=PATH, include_in_schema=False), StaticFiles()

    files.warm_up()

    def answer(request: Request, file: StaticFile, cache: str = OPEN_FILES, **headers: str) -> Response:
        content, packed, kind, tag = file
        return answer_bytes(request, content, kind, packed=packed, tag=tag, cache=cache, headers=headers)

    @router.get("")
    def without_slash() -> Response:
        return RedirectResponse("coldstart/", 307)

    @router.api_route("/", methods=["GET", "HEAD"])
    def start_page(request: Request) -> Response:
        return answer(request, files.start_page(), **{"Content-Security-Policy": POLICY})

    @router.api_route("/static/{name:path}", methods=["GET", "HEAD"])
    def file(request: Request, name: str) -> Response:
        version, _, rest = name.partition("/")
        kept = version == files.version()
        found = files.get(rest if kept else name)
        if found is None:
            raise HTTPException(404, f"The map page has no file {ascii(name)[:80]}. Start at {PATH}/.")
        return answer(request, found, FOR_EVER if kept else OPEN_FILES)

    return router


def _numbers(page: Page) -> APIRouter:
    router = APIRouter(prefix=f"{PATH}/api", tags=[TAG], dependencies=[Depends(page.may_read)])
    campaign, table = page.campaign, Table(page.campaign)

    @router.get("/state", response_model=models.State)
    def state(request: Request) -> Response:
        """Tell by two texts whether anything that the page shows changed."""
        return answer_json(request, _state(page))

    @router.get("/campaign", response_model=models.CampaignAnswer)
    def campaign_at_a_glance(request: Request) -> Response:
        """Tell the campaign's numbers, its phase, who labelled what, and what the server is doing."""
        viewer = page.viewer(request)
        found = {
            "revision": _state(page).revision,
            "app_version": page.app_version,
            **overview(campaign),
            "tasks": page.tasks(),
            "training": {"now": page.training(), **training_outlook(campaign)},
            "models": model_lines(campaign),
            "user": {"name": viewer.name, "may_steer": viewer.may_steer, "may_label": viewer.may_label},
            "archive": page.archive,
            "authentication": page.authentication,
        }
        return answer_json(request, models.CampaignAnswer.model_validate(found))

    @router.get("/map", response_model=models.MapAnswer)
    def map_of_the_images(request: Request) -> Response:
        """Give the table behind the map, column by column."""
        packed = table.packed()
        return answer_bytes(request, packed.content, "application/json", packed=packed.packed, tag=packed.revision)

    @router.get("/table.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}})
    def table_as_csv(request: Request) -> Response:
        """Give the table behind the map for a spreadsheet."""
        headers = {"Content-Disposition": 'attachment; filename="coldstart-map.csv"'}
        return answer_bytes(request, table.csv(), "text/csv; charset=utf-8", headers=headers)

    @router.get("/image", response_model=models.ImageRecord, responses=Refused)
    def record_of_an_image(request: Request, image_id: ImageId = "") -> Response:
        """Tell all that is known of one image."""
        with _sentences():
            record = image_record(campaign, image_id)
        shown = table.read()
        at = shown.index_of_id[image_id]
        found = {
            **record,
            "state": shown.moving["state"][at],
            "geometry": file_geometry(Path(record["file"])),
            "ohif_url": page.link(image_id),
            "has_prediction": record["model_version"] is not None and record["problem"] is None,
        }
        return answer_json(request, models.ImageRecord.model_validate(found))

    return router


def _state(page: Page) -> models.State:
    """The numbers of the database, and what only this server knows: a file is not looked at for it."""
    campaign = page.campaign
    with campaign.store.reading() as session:
        of_map = map_revision(session, reserved_since(campaign.settings))
        known = revisions(session)
    tasks = [(task["name"], task["state"], task["log"][-1:], len(task["log"])) for task in page.tasks()]
    everything = repr((of_map, known, tasks, page.training(), campaign.settings.alpha, campaign.settings.budget))
    return models.State(
        revision=hashlib.blake2b(everything.encode(errors="replace"), digest_size=12).hexdigest(), map_revision=of_map
    )


def _steering(page: Page) -> APIRouter:
    """What comes next under other values is for every reader; to put them in force takes a role."""
    router = APIRouter(prefix=f"{PATH}/api", tags=[TAG])
    reader, steerer = [Depends(page.may_read)], [Depends(page.may_steer)]
    campaign = page.campaign

    def values(wanted: models.Wanted) -> dict[str, Any]:
        """What is wanted, checked as `--conf` checks it; the error names the key and the value."""
        given = wanted.model_dump(exclude_none=True)
        settings = campaign.settings.override(given)
        return {name: getattr(settings, name) if name in given else None for name in ("alpha", "budget")}

    @router.get("/next", response_model=Preview, dependencies=reader)
    def next_images(request: Request, n: Count = 10, alpha: str | None = None, budget: str | None = None) -> Response:
        """Tell which images would come next under these values; nothing is reserved by asking."""
        preview = campaign.preview(**values(models.Wanted(alpha=alpha, budget=budget)), n=n)
        return answer_json(request, asdict(preview))

    @router.post("/settings", response_model=models.Values, dependencies=steerer)
    def use(request: Request, wanted: models.Wanted) -> models.Values:
        """Put values in force for the whole campaign, for everybody and over restarts."""
        settings = campaign.use(who=page.viewer(request).name, **values(wanted))
        return models.Values(alpha=settings.alpha, budget=settings.budget)

    @router.post("/train", response_model=models.Asked, dependencies=steerer)
    def train(request: Request) -> models.Asked:
        """Have the server train as soon as it can, unless a training is on its way that learns from every label."""
        return models.Asked(asked=page.ask_for_training(page.viewer(request).name))

    @router.post("/model", response_model=models.InUse, dependencies=steerer)
    def use_model(request: Request, wanted: models.Version) -> models.InUse:
        """Put a kept model into use, until the next training makes a better one."""
        campaign.publisher.choose(wanted.version, page.viewer(request).name, campaign.settings.labels)
        return models.InUse(in_use=wanted.version)

    @router.post("/retry", response_model=models.Tried, dependencies=steerer)
    def retry(wanted: models.Retry) -> models.Tried:
        """Have images that were set aside tried again: those named, or all."""
        return models.Tried(tried=campaign.retry_set_aside(wanted.image_ids))

    return router


def _pictures(page: Page) -> APIRouter:
    router = APIRouter(prefix=f"{PATH}/api", tags=[TAG], dependencies=[Depends(page.may_read)])
    pictures = Pictures(page)
    images, overlays = asyncio.Semaphore(N_DRAWN_AT_ONCE), asyncio.Semaphore(1)

    def responses(kind: str) -> dict[int | str, dict[str, Any]]:
        return {200: {"content": {kind: {}}}, **Refused}

    async def answer(request: Request, turns: asyncio.Semaphore, kind: str, wished: Callable[[], Wish]) -> Response:
        """A picture that is kept, at once; another one in its turn, unless nobody waits for it any more."""
        with _sentences():
            wish = await run_in_threadpool(wished)
            content = await run_in_threadpool(pictures.kept, wish)
            if content is None:
                async with turns:
                    if await request.is_disconnected():
                        return Response(status_code=NOBODY_WAITS)
                    content = await run_in_threadpool(pictures.drawn, wish)
        return answer_bytes(request, content, kind, tag=wish.tag, cache=PICTURE_KEPT)

    @router.get("/thumbnail", response_class=Response, responses=responses("image/webp"))
    async def thumbnail(request: Request, image_id: ImageId = "", size: Side = 128) -> Response:
        """Give a small picture of an image; of a volume three planes through its middle, side by side."""
        return await answer(request, images, "image/webp", lambda: pictures.thumbnail(image_id, size))

    @router.get("/preview", response_class=Response, responses=responses("image/webp"))
    async def preview(request: Request, image_id: ImageId = "") -> Response:
        """Give a larger picture of an image."""
        return await answer(request, images, "image/webp", lambda: pictures.preview(image_id))

    @router.get("/overlay", response_class=Response, responses=responses("image/png"))
    async def overlay(
        request: Request, image_id: ImageId = "", kind: Literal["prediction", "entropy"] = "prediction"
    ) -> Response:
        """Give what the newest model predicts, or where it is uncertain, transparent, to lie over the preview."""
        return await answer(request, overlays, "image/png", lambda: pictures.overlay(image_id, kind))

    return router


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except (UnknownImageError, ImageError) as error:
        raise HTTPException(404, str(error)) from error
