"""Metrics and health of the server under the gate: what is looked at, and who may read it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from monailabel.config import settings
from monailabel.endpoints.user import auth
from monailabel.utils.async_tasks.utils import tasks as monailabel_tasks
from starlette.middleware import Middleware

from coldstart.adapters.archive import ArchiveDatastore
from coldstart.adapters.chain import TIMES, TRIGGER
from coldstart.adapters.errors import AppError
from coldstart.adapters.gate import user_of
from coldstart.adapters.tasks import KINDS, STATES, Tasks
from coldstart.adapters.watch import LOOK_FOR_FILES, Watch
from coldstart.campaign.overview import revisions
from coldstart.memory import available_memory
from coldstart.web.cards import Cards
from coldstart.web.health import Check, Health
from coldstart.web.metrics import Metrics, RequestTimes, Sources, TaskRun
from coldstart.web.monitor import create_monitor

if TYPE_CHECKING:
    from coldstart.adapters.app import ColdStartApp

GIB = 1 << 30
DISK_LOW = GIB
"""Room on a disk below which the next training or download may fail."""
MEMORY_LOW = GIB // 2
"""Free memory below which the system may end a process at any time."""

_PARTS = {"embedding": ("embedding",), "scoring": ("entropy", "prelabel")}


def install_monitor(server: FastAPI, app: ColdStartApp, tasks: Tasks, watches: Iterable[Watch]) -> None:
    """Add the routes to MONAI Label's server, which is starting with `app`, and note how long requests take."""
    campaign, studies = app.campaign, app.datastore()
    health = Health(_checks(app, tasks, tuple(watches)))
    metrics = Metrics(
        Sources(
            campaign=campaign,
            app_version=str(app.version),
            tasks=_runs,
            ill=health.ill,
            cards=Cards().read,
            caches={"series": lambda: studies.room.taken} if isinstance(studies, ArchiveDatastore) else {},
        )
    )
    user = settings.MONAI_LABEL_AUTH_ROLE_USER
    may_scrape = [] if campaign.settings.metrics_open else [auth.RBAC(user)]
    router = create_monitor(
        metrics, health, may_scrape=may_scrape, may_see_details=lambda request: user in user_of(request).roles
    )
    server.include_router(router, prefix=settings.MONAI_LABEL_API_STR)
    server.user_middleware.insert(0, Middleware(RequestTimes, times=metrics.requests))
    server.middleware_stack = None  # built again with it, see `install_gate`


def _checks(app: ColdStartApp, tasks: Tasks, watches: tuple[Watch, ...]) -> dict[str, Check]:
    campaign, studies = app.campaign, app.datastore()
    archived = isinstance(studies, ArchiveDatastore)

    def database() -> str | None:
        with campaign.store.reading() as session:
            revisions(session)
        if not all(os.access(path, os.W_OK) for path in (campaign.store.path, campaign.folder)):
            return (
                f"The database {campaign.store.path} cannot be written: its disk is read-only, or its permissions are. "
                "Clicks are remembered until that is put right."
            )
        return campaign.unwritten

    def images() -> str | None:
        if not archived:
            try:
                studies.require_folder()
            except AppError as error:
                return str(error.detail)
        return next((watch.troubles[LOOK_FOR_FILES] for watch in watches if LOOK_FOR_FILES in watch.troubles), None)

    def watched() -> str | None:
        found = [watch.stalled for watch in watches]
        found += [why for watch in watches for name, why in watch.troubles.items() if name != LOOK_FOR_FILES]
        return next((why for why in found if why is not None), None)

    def failed(names: tuple[str, ...]) -> str | None:
        states, errors = tasks.states(), tasks.errors()
        return next((errors[name] for name in names if states.get(name) == "ERROR"), None)

    def training() -> str | None:
        newest = monailabel_tasks("train")[-1:]
        # Whoever asks by a viewer is told there, and nothing tries it again: it would be ill for good.
        return failed(("train",)) if any(TRIGGER in task["request"] for task in newest) else None

    folders = [campaign.folder] if archived else [campaign.folder, Path(app.studies)]
    return {
        "database": database,
        "archive" if archived else "studies": images,
        "watch": watched,
        **{part: partial(failed, names) for part, names in _PARTS.items()},
        "training": training,
        "model": lambda: campaign.publisher.problem,
        "disk": partial(_disk, folders),
        "memory": _memory,
        "log": lambda: app.log_file.trouble,
    }


def _disk(folders: list[Path]) -> str | None:
    for folder in folders:
        room, status = shutil.disk_usage(folder).free, os.statvfs(folder)
        if room < DISK_LOW:
            return f"The disk of {folder} has {room / GIB:.1f} GiB left, and needs {DISK_LOW / GIB:.0f}. Make room."
        if status.f_files and not status.f_favail:
            return f"The disk of {folder} takes no more files: it has no free inodes. Remove files that nobody needs."
    return None


def _memory() -> str | None:
    room = available_memory()
    if room >= MEMORY_LOW:
        return None
    return (
        f"Of this machine's memory, or of what this server may have of it, {room / GIB:.2f} GiB are left, and "
        f"{MEMORY_LOW / GIB:.1f} are needed. End what else uses it."
    )


def _runs() -> list[TaskRun]:
    """What MONAI Label knows of the tasks since the server began; it notes whole seconds."""
    return [
        TaskRun(
            "train" if kind == "train" else task["request"]["method"],
            STATES.get(task["status"], "running"),
            _took(task),
        )
        for kind in KINDS
        for task in list(monailabel_tasks(kind))
    ]


def _took(task: dict[str, str]) -> float | None:
    """Seconds from the beginning to the end, which are noted in the server's local time; None before the end.

    Where the clocks go back by an hour in between, the end may read earlier; of a clock that was put right it is 0.
    """
    if "end_ts" not in task:
        return None
    ended, began = (datetime.strptime(task[key], TIMES) for key in ("end_ts", "start_ts"))
    if ended < began:
        ended = ended.replace(fold=1)
    return max(0.0, ended.timestamp() - began.timestamp())
