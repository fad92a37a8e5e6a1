"""What the routes of the map page need, handed in by whoever mounts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request

from coldstart.campaign import Campaign
from coldstart.segmentation import Model


@dataclass(frozen=True)
class Viewer:
    """Who looks at the page; `name` is None where nobody logs in."""

    name: str | None
    may_steer: bool
    may_label: bool


@dataclass(frozen=True)
class Page:
    """The campaign, and what of the server around it the page shows.

    Attributes
    ----------
    may_read, may_steer : callable
        Dependencies of FastAPI that refuse whoever has not the role.
    viewer : callable
        Who sent a request.
    tasks : callable
        The long tasks, newest state of each; plain JSON types as `coldstart.web.models.Task`.
    training : callable
        How far the training is that runs or waits; as `coldstart.web.models.TrainingNow`.
    ask_for_training : callable
        Has the server train as soon as it can, for the user of a name; tells whether that takes another training than
        those on their way.
    fetch : callable
        Path of an image's file, which may have to be fetched from an archive first.
    model : callable
        The published model; it raises an error with a sentence where there is none.
    link : callable
        Address at which a viewer opens an image, or None.
    archive, authentication : bool
        Whether the images are in an archive, and whether users log in.
    """

    campaign: Campaign
    app_version: str
    may_read: Callable[..., Any]
    may_steer: Callable[..., Any]
    viewer: Callable[[Request], Viewer]
    tasks: Callable[[], list[dict[str, Any]]]
    training: Callable[[], dict[str, Any]]
    ask_for_training: Callable[[str | None], bool]
    fetch: Callable[[str], Path]
    model: Callable[[], Model]
    link: Callable[[str], str | None]
    archive: bool
    authentication: bool
