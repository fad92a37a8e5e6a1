"""The map page under the gate: MONAI Label's roles, its tasks, and OHIF where the studies are in an archive."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Security
from monailabel.config import settings
from monailabel.endpoints.user import auth

from coldstart.adapters.archive import ArchiveDatastore
from coldstart.adapters.chain import Chain
from coldstart.adapters.errors import AppError
from coldstart.adapters.gate import user_of
from coldstart.adapters.inference import AttentionUnetInference
from coldstart.adapters.tasks import Tasks
from coldstart.adapters.training import AttentionUnetTraining
from coldstart.adapters.training_now import training_now
from coldstart.campaign import Campaign
from coldstart.campaign.overview import read_progress
from coldstart.web import Page, Viewer, create_router

if TYPE_CHECKING:
    from coldstart.adapters.app import ColdStartApp

STEERING_ROLES = (settings.MONAI_LABEL_AUTH_ROLE_REVIEWER, settings.MONAI_LABEL_AUTH_ROLE_ADMIN)

LABELLED_IN_OHIF = ("CT", "MR")
"""Modalities for which OHIF offers its MONAI Label mode."""

_STEPS = {
    "embedding": ("download", "embedding"),
    "entropy": ("download", "entropy"),
    "prelabel": ("prelabel",),
    "train": ("download", "evaluation"),
}
"""What each task says how far it is under, in the order in which it does that."""


class _AnyOf(auth.RBAC):  # type: ignore[misc]
    """MONAI Label's check of several roles, with a sentence that names them all."""

    async def __call__(self, user: auth.User = Security(auth.get_current_user)) -> auth.User:  # noqa: B008  FastAPI's way
        if settings.MONAI_LABEL_AUTH_ENABLE and not set(self.roles) & set(user.roles):
            raise AppError(f"This needs the role {' or '.join(self.roles)}. Ask whoever runs the realm for it.", 403)
        return user


def install_page(
    server: FastAPI,
    app: ColdStartApp,
    tasks: Tasks,
    chain: Chain,
    model: AttentionUnetInference,
    trainer: AttentionUnetTraining,
) -> None:
    """Add the routes of the map page to MONAI Label's server, which is starting with `app`."""
    authentication = bool(settings.MONAI_LABEL_AUTH_ENABLE)
    studies = app.datastore()

    def viewer(request: Request) -> Viewer:
        user = user_of(request)
        return Viewer(
            name=user.username if authentication else None,
            may_steer=not authentication or bool(set(STEERING_ROLES) & set(user.roles)),
            may_label=not authentication or settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR in user.roles,
        )

    def fetch(image_id: str) -> Path:
        path = studies.get_image_uri(image_id)
        if not path or not Path(path).is_file():
            raise AppError("The file of this image is not there just now. Look whether its folder can be reached.", 404)
        return Path(path)

    def link(image_id: str) -> str | None:
        return ohif_address(studies, image_id) if isinstance(studies, ArchiveDatastore) else None

    page = Page(
        campaign=app.campaign,
        app_version=str(app.version),
        may_read=_AnyOf([settings.MONAI_LABEL_AUTH_ROLE_USER]),
        may_steer=_AnyOf(STEERING_ROLES),
        viewer=viewer,
        tasks=partial(_tasks, app.campaign, tasks, trainer),
        training=partial(training_now, app.campaign, chain, tasks, trainer),
        ask_for_training=chain.ask,
        fetch=fetch,
        model=model.model,
        link=link,
        archive=isinstance(studies, ArchiveDatastore),
        authentication=authentication,
    )
    server.include_router(create_router(page), prefix=settings.MONAI_LABEL_API_STR)


def ohif_address(archive: ArchiveDatastore, image_id: str) -> str | None:
    """Where OHIF shows a series; relative to the page, so that it holds behind a proxy too.

    In the mode in which it is labelled, where OHIF has that for its modality, and else to look at.
    """
    study = archive.study_of(image_id)
    if study is None:
        return None
    mode = "monai-label" if archive.get_image_info(image_id).get("Modality") in LABELLED_IN_OHIF else "viewer"
    return f"../ohif/{mode}?StudyInstanceUIDs={quote(study)}&initialSeriesInstanceUID={quote(image_id)}"


def _tasks(campaign: Campaign, tasks: Tasks, trainer: AttentionUnetTraining) -> list[dict[str, Any]]:
    """The newest task of each name with how far it is, in the store's words or in the training's."""
    with campaign.store.reading() as session:
        progress = read_progress(session)
    shown = []
    for task in tasks.shown():
        steps = [progress[name] for name in _STEPS.get(task["name"], ()) if name in progress]
        since = task["started_at"] or 0.0
        step = max(
            (step for step in steps if step["updated_at"] >= since), key=lambda one: one["updated_at"], default={}
        )
        how_far = {key: step.get(key) for key in ("done", "total", "message")}
        if task["name"] == "train" and task["state"] == "running" and not step:
            stats = trainer.stats()
            how_far = {"done": stats.get("epoch"), "total": stats.get("total_epochs"), "message": "epochs"}
        shown.append({**task, **how_far})
    return shown
