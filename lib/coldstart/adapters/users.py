"""Who asks: the authenticated user, else a client id of one's own, else nobody in particular.

MONAI Label does not hand the user of a request to a strategy or a datastore. FastAPI resolves the user as a dependency
of every request, in the request's own context: there it is noted. The token is checked here too, because MONAI Label's
own check calls PyJWT without the algorithm that current versions require.
"""

from __future__ import annotations

from contextvars import ContextVar

import jwt
from fastapi import Depends, FastAPI, HTTPException, status
from monailabel.config import settings
from monailabel.endpoints.user import auth

SHARED_CLIENT_ID = "user-xyz"
"""3D Slicer's default `client_id`, which all users of Slicer share."""

_current: ContextVar[str | None] = ContextVar("coldstart_user", default=None)


def annotator(client_id: object) -> str | None:
    """Name of the annotator who sent the request at hand; None is anonymous."""
    if (user := _current.get()) is not None:
        return user
    return client_id if isinstance(client_id, str) and client_id not in ("", SHARED_CLIENT_ID) else None


def note_users(app: FastAPI) -> None:
    """Make `annotator` know the authenticated user of each request to `app`."""
    app.dependency_overrides[auth.get_current_user] = _authenticated if settings.MONAI_LABEL_AUTH_ENABLE else _anybody


async def _anybody() -> auth.User:
    return auth.DEFAULT_USER


async def _authenticated(token: str = Depends(auth.oauth2_scheme)) -> auth.User:
    try:
        user = _user_of(token)
    except jwt.InvalidTokenError as error:
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED,
            f"The login is not valid: {error}. Log in again.",
            headers={"WWW-Authenticate": "Bearer"},
        ) from None
    _current.set(user.username)
    return user


def _user_of(token: str) -> auth.User:
    key = auth.get_public_key(settings.MONAI_LABEL_AUTH_REALM_URI)
    payload = jwt.decode(token, key, algorithms=["RS256"], options={"verify_aud": False})
    roles: object = payload
    for name in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        roles = roles.get(name) if isinstance(roles, dict) else None
    return auth.User(
        username=payload[settings.MONAI_LABEL_AUTH_TOKEN_USERNAME],
        email=payload.get(settings.MONAI_LABEL_AUTH_TOKEN_EMAIL),
        name=payload.get(settings.MONAI_LABEL_AUTH_TOKEN_NAME),
        roles=roles if isinstance(roles, list) else [],
    )
