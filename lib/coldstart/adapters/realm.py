"""The realm that knows the users: its key, its tokens, and what a token must say to be let in.

MONAI Label's own check calls PyJWT without the algorithm that current versions require, never looks at the audience,
and keeps the first key for ever. Here the algorithm is RS256 and nothing else, `exp` is required, and the realm's key,
which is in the realm's JSON as Keycloak gives it, is asked for again when it may have changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import jwt
import requests
from fastapi import status
from fastapi.concurrency import run_in_threadpool
from monailabel.config import settings
from monailabel.endpoints.user import auth

from coldstart.adapters.errors import AppError

logger = logging.getLogger(__name__)

KEY_MAX_AGE_S = 300.0
"""After this the realm is asked for its key again: a key that was withdrawn opens no longer than that."""
ASK_EVERY_S = 5.0
"""So long after an answer the realm is not asked for its key again, however many forged tokens arrive."""

_NEVER_S = 253_402_300_800
"""The year 10,000 in seconds; the time of now in milliseconds is later."""
_ISSUER_SUFFIX = "/protocol/openid-connect"
_MALFORMED = (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""What decoding raises for a token that says something else than it should: some of it comes from json and pydantic."""


class Realm:
    """A realm of a login service such as Keycloak.

    A token is accepted when the realm's key signed it with RS256; when it has an `exp` in the future and an `nbf` and
    `iat`, if any, in the past; when this client is its audience: `aud` holds `client_id` or `azp` is it (Keycloak names
    the client that a user logged in with in `azp`, and often nothing but `account` in `aud`); and when its `iss`, if
    any, is the realm, by the address configured or by the public one that the realm's JSON gives. A token without
    `iss` is the realm's too, since the key that signed it belongs to this realm alone.

    Parameters
    ----------
    uri : str
        Address of the realm.
    client_id : str
        Name under which the realm knows this server.
    timeout_s : float
        How long the realm may take to answer.
    """

    def __init__(self, uri: str, client_id: str, timeout_s: float):
        self._uri = uri.rstrip("/")
        self._client_id = client_id
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._key: Any = None
        self._issuers = {self._uri}
        self._asked_at = self._known_at = float("-inf")

    async def user_of(self, token: str) -> auth.User:
        """The user of a token.

        Raises
        ------
        AppError
            401 for a token that is not valid, 503 when the realm's key cannot be had.
        """
        await self._know_key(KEY_MAX_AGE_S)
        try:
            try:
                return self._read(token)
            except jwt.InvalidSignatureError:
                await self._know_key(ASK_EVERY_S)
                return self._read(token)
        except _MALFORMED as error:
            raise AppError(
                f"The login is not valid: {_reason(error)}. Log in again.",
                status.HTTP_401_UNAUTHORIZED,
                headers={"WWW-Authenticate": "Bearer"},
            ) from None

    async def log_in(self, username: str, password: str) -> dict[str, Any]:
        """The realm's answer to a name and a password: a token, among others.

        Raises
        ------
        AppError
            401 when the realm refuses, 503 when it does not answer.
        """
        return await run_in_threadpool(self._log_in, username, password)

    async def _know_key(self, max_age_s: float) -> None:
        """Have a key that is at most `max_age_s` old, or one that could not be asked for again yet.

        Whoever can do with the key that is known does not wait, however long the realm takes to answer somebody else.
        """
        if time.monotonic() - self._known_at <= max_age_s:
            return
        async with self._lock:
            now = time.monotonic()
            if now - self._known_at > max_age_s and now - self._asked_at > ASK_EVERY_S:
                try:
                    self._key, self._issuers = await run_in_threadpool(self._ask_key)
                    self._known_at = now
                finally:
                    self._asked_at = time.monotonic()
            if now - self._known_at > KEY_MAX_AGE_S:
                raise _unreachable("it did not answer just now")

    def _ask_key(self) -> tuple[Any, set[str]]:
        try:
            answer = requests.get(self._uri, timeout=self._timeout_s)
            answer.raise_for_status()
            realm = answer.json()
            pem = f"-----BEGIN PUBLIC KEY-----\n{realm['public_key']}\n-----END PUBLIC KEY-----"
            key = jwt.get_algorithm_by_name("RS256").prepare_key(pem)
            issuers = {self._uri, str(realm.get("token-service", self._uri)).removesuffix(_ISSUER_SUFFIX).rstrip("/")}
        except (requests.RequestException, *_MALFORMED) as error:
            raise _unreachable(type(error).__name__) from error
        logger.info("Asked the realm %s for its key.", self._uri)
        return key, issuers

    def _read(self, token: str) -> auth.User:
        claims = jwt.decode(token, self._key, algorithms=["RS256"], options={"require": ["exp"], "verify_aud": False})
        if not isinstance(claims["exp"], int | float) or not claims["exp"] < _NEVER_S:
            raise jwt.InvalidTokenError("its `exp` is no time in seconds")  # PyJWT reads text, and any number
        audience = claims.get("aud")
        clients = [*(audience if isinstance(audience, list) else [audience]), claims.get("azp")]
        if self._client_id not in clients:
            raise jwt.InvalidAudienceError(f"it was made for another client than '{self._client_id}'")
        if "iss" in claims and str(claims["iss"]).rstrip("/") not in self._issuers:
            raise jwt.InvalidIssuerError("it was made by another realm")
        return _user(claims)

    def _log_in(self, username: str, password: str) -> dict[str, Any]:
        try:
            answer = requests.get(f"{self._uri}/.well-known/openid-configuration", timeout=self._timeout_s)
            answer.raise_for_status()
            data = {
                "client_id": self._client_id,
                "username": username,
                "password": password,
                "grant_type": "password",
            }
            answer = requests.post(answer.json()["token_endpoint"], data=data, timeout=self._timeout_s)
            if 400 <= answer.status_code < 500:
                raise AppError("The realm refuses this name and password. Try again.", status.HTTP_401_UNAUTHORIZED)
            answer.raise_for_status()
            return dict(answer.json())
        except (requests.RequestException, ValueError, TypeError, KeyError) as error:
            raise _unreachable(type(error).__name__) from None


def _user(claims: Mapping[str, Any]) -> auth.User:
    roles: Any = claims
    for name in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        roles = roles.get(name) if isinstance(roles, dict) else None
    username = claims[settings.MONAI_LABEL_AUTH_TOKEN_USERNAME]
    if not username:
        raise ValueError("it names no user")
    return auth.User(
        username=username,
        email=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_EMAIL),
        name=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_NAME),
        roles=roles or [],
    )


def _reason(error: Exception) -> str:
    """What PyJWT says is a sentence; what other libraries say of a token may quote it."""
    return str(error).rstrip(".") if isinstance(error, jwt.PyJWTError) else "its contents are malformed"


def _unreachable(reason: str) -> AppError:
    return AppError(
        f"The realm that knows the users cannot be asked ({reason}). Try again in a moment.",
        status.HTTP_503_SERVICE_UNAVAILABLE,
    )
