"""OHIF as MONAI Label's wheel carries it, with what is broken there put right: routes before MONAI Label's own.

MONAI Label answers `/ohif/assets/...` with the start page, and OHIF asks Google for a font. Its configuration,
`app-config.js`, is ours; see there.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Annotated

import monailabel.endpoints
from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from coldstart.adapters.dicom_proxy import DicomProxy
from coldstart.adapters.errors import AppError

CONFIGURATION = Path(__file__).with_name("ohif-config.js")
BUILD = Path(monailabel.endpoints.__path__[0]) / "static" / "ohif"

_FONTS = re.compile(
    r"<link[^>]*//fonts\.(?:googleapis|gstatic)\.com[^>]*>|@import url\(https://fonts\.googleapis\.com[^)]*\);"
)
_NAMED_BY_CONTENT = re.compile(r"[.-]?[0-9a-f]{20}\.")
"""A name that holds the hash of what is in the file."""
_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"

OhifUser = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]


def install_ohif(server: FastAPI) -> None:
    """Put our routes for OHIF and for its way to the archive before MONAI Label's own."""

    def route(path: str, answer: Callable[..., Awaitable[Response]], *methods: str) -> APIRoute:
        return APIRoute(
            f"{settings.MONAI_LABEL_API_STR}{path}",
            answer,
            methods=["GET", "HEAD", *methods],
            include_in_schema=False,
            dependency_overrides_provider=server,  # through which the gate looks at what is asked
        )

    routes = [route("/ohif/app-config.js", _configuration), route("/ohif/{path:path}", _page)]
    studies = settings.MONAI_LABEL_STUDIES
    # Google's archive wants a token of Google's, which MONAI Label's own proxy gets.
    if studies.startswith(("http://", "https://")) and "googleapis.com" not in studies:
        name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        proxy = DicomProxy(studies, (name, password) if name and password else None)

        async def pass_on(request: Request, path: str, user: OhifUser) -> Response:
            return await proxy.answer(request, path)

        routes.append(route("/proxy/dicom/{path:path}", pass_on, "POST"))
    server.router.routes[:0] = routes


async def _configuration(user: OhifUser) -> Response:
    return FileResponse(CONFIGURATION, headers={"Cache-Control": _ASK_AGAIN})


async def _page(request: Request, path: str, user: OhifUser) -> Response:
    """A file of the build; the start page for what OHIF takes for an address of its own, such as `/ohif/viewer`."""
    name = path.rpartition("/")[2]
    if "." not in name:
        path = "index.html"
    if path in ("index.html", "app.bundle.css"):
        kind = "text/html" if path == "index.html" else "text/css"
        return Response(_without_fonts(path), media_type=kind, headers={"Cache-Control": _ASK_AGAIN})
    if not (BUILD / path).is_file():
        raise AppError(f"OHIF has no file '{path}'. Start at /ohif/.", 404)
    answer = await _files().get_response(path, request.scope)
    answer.headers["Cache-Control"] = _FOR_EVER if _NAMED_BY_CONTENT.search(name) else _ASK_AGAIN
    return answer


@cache
def _files() -> StaticFiles:
    return StaticFiles(directory=BUILD)


@cache
def _without_fonts(name: str) -> str:
    """A file of the build that asks nobody else for fonts: the browser has its own."""
    return _FONTS.sub("", (BUILD / name).read_text(encoding="utf-8"))
