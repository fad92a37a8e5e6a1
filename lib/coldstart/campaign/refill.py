"""What a process has seen and done, to fill a database with that is made anew while the process runs."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from coldstart.campaign.decisions import record_taken_over
from coldstart.campaign.inventory import LABELLED, SKIPPED, ImageFile, LabelFile, path_of
from coldstart.store import Image, Label, Serving


class Refill:
    """The datastore as it was last shown, and what was handed out since this process began."""

    def __init__(self) -> None:
        self.images: Mapping[str, Path | ImageFile] = {}
        self.labels: dict[str, LabelFile] = {}
        self._servings: dict[str, dict[str, Any]] = {}

    def note_serving(self, image_id: str, why: dict[str, Any], strategy: str, annotator: str | None) -> None:
        """Remember who got an image."""
        self._servings.pop(image_id, None)  # the dict is in the order of the newest servings
        self._servings[image_id] = {
            "why": why,
            "phase": why["phase"],
            "strategy": strategy,
            "annotator": annotator,
            "served_at": time.time(),
        }

    def write(self, session: Session, held_out: Collection[str]) -> None:
        """Put in what is not there.

        Somebody's click may be waiting for this, so no file is looked at: an empty signature makes the next sync do so.
        """
        known = set(session.scalars(select(Image.image_id)))
        session.add_all(
            Image(image_id=name, path=str(path_of(file)), signature="", added_at=time.time(), held_out=name in held_out)
            for name, file in self.images.items()
            if name not in known
        )
        rows = dict(session.execute(select(Image.image_id, Image.id)).tuples().all())
        labelled, served = set(session.scalars(select(Label.image))), set(session.scalars(select(Serving.image_row)))
        for image_id, file in list(self.labels.items()):
            if (row := rows.get(image_id)) is not None and row not in labelled:
                session.add(_unchecked(row, file))
        taken_over: dict[str, Serving] = {}
        latest = {serving["annotator"]: image_id for image_id, serving in self._servings.items()}
        for image_id, serving in list(self._servings.items()):
            if (row := rows.get(image_id)) is None or row in served:
                continue
            skipped = serving["annotator"] is not None and latest[serving["annotator"]] != image_id
            outcome = LABELLED if image_id in self.labels else SKIPPED if skipped else None
            ended_at = None if outcome is None else time.time()
            taken_over[image_id] = Serving(image_row=row, outcome=outcome, ended_at=ended_at, **serving)
        record_taken_over(session, taken_over, "known to the server when the database was made anew")


def _unchecked(row: int, file: LabelFile) -> Label:
    return Label(
        image=row,
        path=str(file.path),
        signature="",
        saved_at=time.time(),
        annotator=file.annotator,
        label_info=file.label_info,
        problem=f"The label {file.path} has not been checked yet.",
    )
