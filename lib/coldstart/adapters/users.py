"""Who asks: the authenticated user, else a client id of one's own, else nobody in particular.

MONAI Label does not hand the user of a request to a strategy or a datastore. The gate notes the user in the request's
own context, where whatever the request causes finds it.
"""

from __future__ import annotations

from contextvars import ContextVar

SHARED_CLIENT_ID = "user-xyz"
"""3D Slicer's default `client_id`, which all users of Slicer share."""

_current: ContextVar[str | None] = ContextVar("coldstart_user", default=None)


def annotator(client_id: object) -> str | None:
    """Name of the annotator who sent the request at hand, without blanks around it; None is anonymous."""
    if (user := _current.get()) is not None:
        return user
    name = client_id.strip() if isinstance(client_id, str) else ""
    return name if name not in ("", SHARED_CLIENT_ID) else None


def note_user(name: str) -> None:
    """Make `annotator` know the authenticated user, for the request at hand."""
    _current.set(name)
