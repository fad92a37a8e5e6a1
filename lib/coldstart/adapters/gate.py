"""The gate: every request passes it before MONAI Label's own code sees it.

In front of everything it decides who may ask what, so that nothing is read from somebody who may not. In front of each
endpoint it looks at what was asked. Behind it, every error leaves as a status and a sentence.

Under authentication, everything is closed unless it is named here or asks for a role itself: open to everybody is what
somebody needs in order to log in (the pages that describe the API, the map page without its data, and the two routes
under `/auth/`).
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Request, status
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import OAuth2PasswordRequestForm
from monailabel.config import settings
from monailabel.endpoints.user import auth
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coldstart.adapters.checks import Asked, check
from coldstart.adapters.errors import AppError, answer_to
from coldstart.adapters.realm import Realm
from coldstart.adapters.request_files import removed_at_the_end
from coldstart.adapters.unpacking import check_archive
from coldstart.adapters.users import note_user
from coldstart.adapters.values import json_object

if TYPE_CHECKING:
    from coldstart.adapters.app import ColdStartApp

MAX_BODY_BYTES = 32 * 1024
"""Of a body that is no upload: it becomes an argument of a child process's command line, where 128 KiB is the limit."""

_API = settings.MONAI_LABEL_API_STR
_USER = "coldstart.user"
"""Where the scope of a request holds its user."""
_JSON_FIELDS = ("params", "info")

_ROLES = (
    settings.MONAI_LABEL_AUTH_ROLE_USER,
    settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR,
    settings.MONAI_LABEL_AUTH_ROLE_REVIEWER,
    settings.MONAI_LABEL_AUTH_ROLE_ADMIN,
)
_OPEN = re.compile(
    rf"/|/docs|/openapi\.json|/favicon\.ico|/static/.*|{_API}/auth/?|{_API}/auth/token|{_API}/coldstart(/|/static/.*)?"
)
_WITH_AND_WITHOUT = f"{_API}/coldstart/health"
"""Answers everybody, and says more to a user."""
_METRICS = f"{_API}/coldstart/metrics"
_NOBODY = auth.User(username="nobody")
_ANY_USER = f"{_API}/auth/token/valid"
_RAISED = (
    # MONAI Label documents the admin's role for these, and asks for the annotator's.
    (re.compile(rf"(PUT|DELETE) {_API}/model/.*"), settings.MONAI_LABEL_AUTH_ROLE_ADMIN),
    # Sent on to the archive, where it stores.
    (re.compile(rf"POST {_API}/proxy/.*"), settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR),
)
_NO_ARCHIVE = "This server's studies are a folder, not a DICOMweb archive: there is nothing to pass requests on to."
_CLOSED = (
    (re.compile(r".* /reload"), 403, "A running server cannot be reloaded: it would begin a second app. Restart it."),
    (re.compile(rf".* {_API}/infer/wsi(_v2)?/.*"), 404, "This app has no model for whole slides. Use /infer/ instead."),
)


class Gate:
    """ASGI middleware: lets a request in, and turns its error into an answer.

    Parameters
    ----------
    app : ASGIApp
        What is behind the gate.
    realm : Realm or None
        Who knows the users; None lets everybody in as MONAI Label's default user.
    metrics_open : bool
        Whether the metrics are for everybody.
    """

    def __init__(self, app: ASGIApp, realm: Realm | None, *, metrics_open: bool = False):
        self._app = app
        self._realm = realm
        self._open = (_METRICS,) if metrics_open else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = False

        async def send_and_note(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
            _require_open(scope["method"], path)
            scope[_USER] = await self._user(scope, path)
            with removed_at_the_end():
                await self._app(scope, _bounded(scope, receive), send_and_note)
        except Exception as error:
            if answering:
                raise
            await answer_to(error)(scope, receive, send)

    async def _user(self, scope: Scope, path: str) -> auth.User:
        if self._realm is None:
            return auth.DEFAULT_USER
        authorization = Request(scope).headers.get("Authorization", "")
        if _OPEN.fullmatch(path) or path in self._open or (path == _WITH_AND_WITHOUT and not authorization):
            return _NOBODY
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AppError(
                "This server lets only known users in. Log in first.",
                status.HTTP_401_UNAUTHORIZED,
                headers={"WWW-Authenticate": "Bearer"},
            )
        user = await self._realm.user_of(token)
        note_user(user.username)
        raised = [role for pattern, role in _RAISED if pattern.fullmatch(f"{scope['method']} {path}")]
        needed = raised or list(_ROLES)
        if path not in (_ANY_USER, _WITH_AND_WITHOUT) and not set(needed) & set(user.roles):
            raise AppError(f"This needs the role {' or '.join(needed)}. Ask whoever runs the realm for it.", 403)
        if raised:  # instead of the role that the endpoint will ask for
            user.roles = list(_ROLES)
        return user


def install_gate(server: FastAPI, app: ColdStartApp) -> None:
    """Put the gate in front of MONAI Label's server, which is starting with `app`."""
    realm = None
    if settings.MONAI_LABEL_AUTH_ENABLE:
        realm = Realm(
            settings.MONAI_LABEL_AUTH_REALM_URI,
            settings.MONAI_LABEL_AUTH_CLIENT_ID,
            settings.MONAI_LABEL_AUTH_TIMEOUT,
        )
        # Before MONAI Label's own, which keeps for ever what it once heard of the realm, and waits for it on the loop.
        server.router.routes.insert(0, _login_route(realm))
    server.dependency_overrides[auth.get_current_user] = _checked_user_of(app)
    server.exception_handlers[HTTPException] = _answer
    server.exception_handlers[RequestValidationError] = _answer_validation
    # MONAI Label lets every website read the studies through a colleague's browser, and does not start where
    # MONAI_LABEL_CORS_ORIGINS names those that may.
    cors: object = CORSMiddleware
    server.user_middleware = [one for one in server.user_middleware if one.cls is not cors]
    # Starlette builds its stack before the app is loaded, and again when there is none.
    server.user_middleware.append(Middleware(Gate, realm=realm, metrics_open=app.campaign.settings.metrics_open))
    server.middleware_stack = None
    # Sessions unpack archives: no member may leave the folder (the default from Python 3.14 on).
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)


def user_of(request: Request) -> auth.User:
    """Who sent a request that the gate let in."""
    user: auth.User = request.scope[_USER]
    return user


def _require_open(method: str, path: str) -> None:
    if any(part in (".", "..") for part in path.split("/")) or any(ord(character) < 32 for character in path):
        raise AppError("The address holds '..', '.' or control characters. Leave them out.")
    for pattern, status_code, sentence in _CLOSED:
        if pattern.fullmatch(f"{method} {path}"):
            raise AppError(sentence, status_code)
    if path.startswith(f"{_API}/proxy/") and not settings.MONAI_LABEL_STUDIES.startswith(("http://", "https://")):
        raise AppError(_NO_ARCHIVE, 404)


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Read no more of a body than `MAX_BODY_BYTES`, unless it is an upload, which goes to the disk."""
    if Request(scope).headers.get("Content-Type", "").startswith(("multipart/", "application/dicom")):
        return receive
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise AppError(f"The body of this request must be at most {MAX_BODY_BYTES} bytes.", 413)
        return message

    return receive_bounded


def _checked_user_of(app: ColdStartApp) -> Callable[[Request], Awaitable[auth.User]]:
    """What each protected endpoint of MONAI Label asks for first: the user, after a look at what the user asks."""

    async def checked_user(request: Request) -> auth.User:
        user = user_of(request)
        # The endpoint's own look at the role, before the look at what was asked: it could tell what is there.
        for needed in request.scope["route"].dependant.dependencies:
            if isinstance(needed.call, auth.RBAC):
                await needed.call(user)
        asked = await _asked(request, settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR in user.roles)
        check(asked, app)
        if (image := asked.names.get("image")) and not asked.route.endswith("/info"):
            await run_in_threadpool(app.fetch_image, image)
        if asked.route == "/activelearning/{strategy}":  # MONAI Label answers a click on the loop, where all wait
            await run_in_threadpool(app.prepare_click, request.path_params["strategy"])
        if asked.unpacks:
            for value in (await request.form()).values():
                if isinstance(value, UploadFile):
                    await run_in_threadpool(check_archive, Path(value.filename or "").name, value.file)
        if "model" in request.path_params and request.method == "PUT":
            for value in (await request.form()).values():
                if isinstance(value, UploadFile):
                    await run_in_threadpool(app.check_model_upload, request.path_params["model"], value.file)
        return user

    return checked_user


async def _asked(request: Request, may_annotate: bool) -> Asked:
    names = {**request.query_params, **request.path_params}
    route = request.scope["route"].path.removeprefix(_API)
    body: Mapping[str, Any] = {}
    form: dict[str, Mapping[str, Any]] = {}
    files: list[tuple[str, str]] = []
    if request.method in ("POST", "PUT"):
        kind = request.headers.get("Content-Type", "").lower()
        if kind.startswith(("multipart/form-data", "application/x-www-form-urlencoded")):
            for name, value in (await request.form()).multi_items():
                if isinstance(value, UploadFile):
                    files.append((name, value.filename or ""))
                elif name in _JSON_FIELDS:
                    form[name] = json_object(value, name)
        elif "json" in kind and (text := (await request.body()).decode(errors="replace")).strip() != "null":
            body = json_object(text, "body")
    return Asked(request.method, route, names, body, form, tuple(files), may_annotate)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    return answer_to(error)


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's answer without what was received: that can be a password, or nothing that JSON can carry."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    return JSONResponse({"detail": [{key: found[key] for key in ("type", "loc", "msg")} for found in errors]}, 422)


def _login_route(realm: Realm) -> APIRoute:
    async def log_in(form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> dict[str, Any]:
        return await realm.log_in(form.username, form.password)

    return APIRoute(f"{_API}/auth/token", log_in, methods=["POST"], response_model=auth.Token, include_in_schema=False)
