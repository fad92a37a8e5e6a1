"""One labelling campaign on one studies folder: what the server, its child processes and the command line ask."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import select
from sqlalchemy.orm import Session

from coldstart.campaign import fetching, inventory, planning, prelabels, work
from coldstart.campaign.baselines import BASELINES, Baselines
from coldstart.campaign.choosing import StrategyName
from coldstart.campaign.fetching import Fetch, all_are_here
from coldstart.campaign.held_out import read_held_out
from coldstart.campaign.inventory import ImageFile, LabelFile
from coldstart.campaign.pool import PoolMemory
from coldstart.campaign.progress import reporter
from coldstart.campaign.publishing import Publisher
from coldstart.campaign.refill import Refill
from coldstart.campaign.serving import Desk, Sample
from coldstart.campaign.steering import Lookout, Preview, SteeredSettings, retry_set_aside
from coldstart.campaign.trainings import Trainings
from coldstart.campaign.uncounted import UncountedLabels
from coldstart.campaign.work import TaskName
from coldstart.exceptions import ModelError, StoreError
from coldstart.memory import enough_memory
from coldstart.segmentation import load_published
from coldstart.settings import Settings
from coldstart.store import Image, Label, Progress, Store

logger = logging.getLogger(__name__)

_READ_PROGRESS = select(Progress.task, Progress.done, Progress.total, Progress.message)  # built once: clicks read it


class Campaign:
    """The campaign's state and what can be done with it.

    Parameters
    ----------
    configured : Settings
        What the preset and `--conf` say; see `coldstart.campaign.steering`. A click may bring its own alpha.
    folder : Path
        Folder of the database and the models.

    Raises
    ------
    StoreError
        If the database cannot be used.
    SettingsError
        If the list of held-out images cannot be read.
    """

    def __init__(self, configured: Settings, folder: Path):
        self.configured = configured
        self.folder = folder
        self.held_out = read_held_out(configured.heldout)
        self.unknown_held_out: list[str] = []
        self._refill = Refill()
        self.store = Store(folder, self._fill)
        self._steered = SteeredSettings(self.store, configured)
        self._memory = PoolMemory(configured.random_state)
        self._uncounted = UncountedLabels()
        self._desk = Desk(self.store, self._steered.read, self._memory, self._uncounted.states)
        self._lookout = Lookout(self.store, self._desk)
        self._replanning = threading.Lock()
        self._baselines = Baselines(self.store, self._steered.read, self._desk.remember)
        self.model_path = folder / "models" / "attention_unet.pt"
        self.publisher = Publisher(self.store, self.model_path)
        self.trainings = Trainings(self.store, self._steered.now, self.publisher)
        self.fetch: Fetch = all_are_here

    def __reduce__(self) -> tuple[type[Campaign], tuple[Settings, Path]]:
        """Pickle for another process, which opens the database anew."""
        return Campaign, (self.configured, self.folder)

    def _fill(self, session: Session) -> None:
        self._refill.write(session, self.held_out)
        self._steered.fill(session)

    @property
    def settings(self) -> Settings:
        """The settings in force: those configured, and over them what was chosen while the server ran."""
        return self._steered.now()

    def sync(self, images: Mapping[str, Path | ImageFile], labels: Mapping[str, LabelFile]) -> None:
        """Take over what the datastore shows: images by id, and final labels by image id."""
        uncounted = self._uncounted.note_gone(self._refill.images.keys() - images.keys())
        self._refill.images, self._refill.labels = images, dict(labels)
        self._say_unknown_held_out(images)
        self.store.look_over()
        self._desk.write_remembered()
        inventory.sync_images(self.store, images, self.held_out, self.settings.spatial_dims)
        inventory.sync_labels(self.store, labels, self.settings.labels)
        self._uncounted.written(uncounted)

    def take_over_servings(self, served_at: Mapping[str, float]) -> None:
        """Keep reserved what the datastore noted as served, where the database that knew for whom was lost."""
        since = time.time() - 60 * self.settings.reserve_minutes
        inventory.take_over_servings(self.store, {name: at for name, at in served_at.items() if at > since})

    def revision(self) -> tuple[object, ...]:
        """What changes whenever `sync` may have something to do although the datastore shows the same as before."""
        self.store.look_over()
        return inventory.revision(self.store)

    def _say_unknown_held_out(self, images: Mapping[str, object]) -> None:
        unknown = sorted(self.held_out - images.keys())
        if unknown != self.unknown_held_out:
            self.unknown_held_out = unknown
            if unknown:
                logger.warning(
                    "--conf heldout lists %d ids that no image has, for example '%s'. An id is a file's name without "
                    "its suffix; correct %s, or these images are served and trained on when they come by another id.",
                    len(unknown),
                    unknown[0],
                    self.settings.heldout,
                )

    def save_label(self, image_id: str, label: LabelFile) -> str | None:
        """Count a label that was just saved; return why it stays out of training, or None.

        Raises
        ------
        StoreError
            If the database cannot be written: clicks count the label all the same, and the next `sync` writes it.
            Until then nobody waits for the database again.
        """
        self._refill.labels[image_id] = label
        with self._uncounted.counting(image_id, labelled=True):
            self._desk.write_remembered()
            return inventory.save_label(self.store, image_id, label, self.settings.labels)

    def remove_label(self, image_id: str) -> None:
        """Make an image whose final label was removed a candidate again."""
        self._refill.labels.pop(image_id, None)
        with self._uncounted.counting(image_id, labelled=False):
            inventory.remove_label(self.store, image_id)

    @property
    def unwritten(self) -> str | None:
        """Why what was saved is counted but not written to the database yet, or None."""
        return self._uncounted.reason

    def label_problem(self, image_id: str) -> str | None:
        """Why the label of an image stays out of training, or None."""
        with self.store.reading() as session:
            return session.scalar(select(Label.problem).join(Image).where(Image.image_id == image_id))

    def is_known_image(self, image_id: str) -> bool:
        """Whether the file of an image was read, and is one."""
        with self.store.reading() as session:
            read = select(Image.id).where(
                Image.image_id == image_id, Image.problem.is_(None), Image.vector.is_not(None)
            )
            return session.scalar(read) is not None

    def prepare(self, strategy: StrategyName) -> None:
        """Have everything ready for a click, which may take minutes where a method has to plan first; in any thread.

        Raises
        ------
        InvalidInputError
            If the method cannot plan this pool.
        """
        if strategy in BASELINES:
            self._baselines.plan(strategy)

    def next_sample(
        self, strategy: StrategyName, *, annotator: str | None = None, alpha: float | None = None
    ) -> Sample | None:
        """Choose and reserve the next image; see `coldstart.campaign.serving.Desk` and `prepare`."""
        plan = self._baselines.plan(strategy) if strategy in BASELINES else None
        sample = self._desk.next_sample(strategy, annotator=annotator, alpha=alpha, method_plan=plan)
        if sample is not None:
            self._refill.note_serving(sample.image_id, sample.why, strategy, annotator)
        return sample

    def next_in_line(self, n: int) -> list[str]:
        """Ids of the images that the next `n` clicks would be served; none is reserved by asking."""
        return [coming.image_id for coming in self.preview(n=n).picks]

    def preview(self, *, alpha: float | None = None, budget: int | None = None, n: int = 10) -> Preview:
        """Tell which images would come next under other values; nothing is written or reserved.

        Parameters
        ----------
        alpha, budget : float, int, optional
            By default those in force.
        n : int
            How many images at most.

        Raises
        ------
        SettingsError
            If a value is not valid.
        """
        given = {"alpha": alpha, "budget": budget}
        wanted = {name: value for name, value in given.items() if value is not None}
        settings = self.settings
        return self._lookout.preview(settings.override(wanted) if wanted else settings, n)

    def use(self, *, who: str | None, alpha: float | None = None, budget: int | None = None) -> Settings:
        """Put values in force for the whole campaign, in every process, and return the settings then in force.

        They hold until others are chosen, or `--conf` says something else than now. Another budget carries the plan on
        or cuts it at once; while images are being embedded, when that has ended.

        Parameters
        ----------
        who : str or None
            Who chose them.
        alpha, budget : float, int, optional
            What is left out stays as it is.

        Raises
        ------
        SettingsError
            If a value is not valid.
        InvalidInputError
            If none is given.
        StoreError
            If the database cannot be written: nothing has changed.
        """
        with self._replanning:
            settings = self._steered.use(who=who, alpha=alpha, budget=budget)
            if budget is not None:
                self._replan()
        return settings

    def end_overruled_choices(self) -> None:
        """Forget what was chosen while `--conf` said something else than now: for a server to do when it starts."""
        try:
            self._steered.end_overruled()
        except StoreError as error:
            logger.warning("Choices that no longer hold are forgotten at the next start: %s", error)

    def _replan(self) -> None:
        """Make the plan what the budget asks for; whatever hinders it, the search for work finds it to do."""
        try:
            with FileLock(self.folder / "embedding.lock", timeout=0):
                planning.update_plan(self.store, self.settings, self._lookout.cluster)
        except (Timeout, StoreError) as error:
            logger.warning("The plan follows the new budget a little later: %s", error)

    def chosen_settings(self) -> dict[str, dict[str, Any]]:
        """Settings in force that were chosen while the server ran: `value`, `configured`, `who` and `at` of each."""
        with self.store.reading() as session:
            return self._steered.chosen(session)

    def retry_set_aside(self, image_ids: Collection[str] | None = None) -> int:
        """Have images that were set aside tried again, all or those given; return how many there are."""
        return retry_set_aside(self.store, image_ids)

    def tasks_to_do(self) -> dict[TaskName, str]:
        """Tasks that have something to do, each with a fingerprint that changes when there is something else to do."""
        self.publisher.settle()
        with self._replanning:  # between a new budget and its plan there would seem to be work
            return work.to_do(self.store, self.settings, self.model_path)

    def embed(self) -> int:
        """Embed what is new or changed, keep the map and the plan; return how many images were looked at."""
        with FileLock(self.folder / "embedding.lock"):
            return work.embed(self.store, self.settings, self.fetch)

    def fetch_training_images(self) -> None:
        """Have the labelled images here that `train` reads, also in other processes."""
        self.store.patiently(partial(fetching.fetch_for_training, self.store, self.fetch))

    @enough_memory(
        what="The entropy scoring",
        remedy="The scoring before stays in use, and it is tried again by itself. Free memory on the device.",
        error=ModelError,
    )
    def score(self) -> int:
        """Score the unlabelled images with the published model; return how many were scored.

        Two servers on one folder take turns; the second finds the work done.

        Raises
        ------
        ModelError
            If the memory is not enough, or the model cannot be read: the scoring before stays in use.
        """
        with FileLock(self.folder / "scoring.lock"):
            model = load_published(self.model_path, self.settings.device)
            return work.score(self.store, self.settings, self.fetch, model)

    def prelabel(self, keep: prelabels.KeepPrelabel) -> str | None:
        """Have `keep` segment the images next in line with the newest model; return its version if it did."""
        n = self.settings.prelabel
        with FileLock(self.folder / "prelabel.lock"):
            with self.store.reading() as session:
                model = prelabels.waiting_model(session, n)
            if model is None:
                return None
            report = reporter(self.store, "prelabel", f"model {model.version}")
            prelabels.prelabel(self.store, model.version, self.next_in_line(n), n, keep, report)
            return model.version

    def status(self) -> dict[str, Any]:
        """The campaign in numbers, for `GET /info/`; plain JSON types."""
        with self.store.reading() as session:
            pool, labels = self._memory.read(session)
            progress = session.execute(_READ_PROGRESS).tuples().all()
        return {
            "preset": self.settings.preset,
            "encoder": pool.map.encoder if pool.map is not None else f"{self.settings.encoder} (not embedded yet)",
            "projection": self.settings.projection,
            "images": len(pool),
            "held_out": pool.n_held_out,
            "held_out_unknown": self.unknown_held_out,
            "labelled": int(pool.mask(labels.rows).sum()),
            "budget": self.settings.budget,
            "planned": pool.plan.size if pool.plan is not None else None,
            "n_clusters": pool.plan.n_clusters if pool.plan is not None else None,
            "model_version": pool.model_version,
            "scored_model_version": pool.scoring.model_version if pool.scoring is not None else None,
            "set_aside": pool.set_aside,
            "label_problems": labels.problems,
            "progress": {
                task: {"done": done, "total": total, "message": message} for task, done, total, message in progress
            },
            "state_dir": str(self.store.folder),
        }
