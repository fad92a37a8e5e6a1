"""The MONAI Label app: builds the campaign and its adapters, and watches for work while the server runs."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from monailabel.endpoints import infer as infer_endpoint
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import gpu_count

from coldstart.adapters.archive import ArchiveDatastore
from coldstart.adapters.archive_client import require_archive_address
from coldstart.adapters.chain import Chain
from coldstart.adapters.datastore import CampaignDatastore, FolderDatastore
from coldstart.adapters.errors import AppError, answered
from coldstart.adapters.gate import install_gate
from coldstart.adapters.inference import AttentionUnetInference, result_values
from coldstart.adapters.limits import keep_within_limits
from coldstart.adapters.logs import write_log
from coldstart.adapters.monitor import install_monitor
from coldstart.adapters.ohif import install_ohif
from coldstart.adapters.page import install_page
from coldstart.adapters.prelabel import Prelabels, PrelabelScoring
from coldstart.adapters.request_files import install_request_files, remove_at_the_end
from coldstart.adapters.scoring import EmbeddingScoring, EntropyScoring
from coldstart.adapters.server import is_archive
from coldstart.adapters.strategies import strategies
from coldstart.adapters.tasks import SERVER_PID, Tasks, end_with_server
from coldstart.adapters.training import AttentionUnetTraining
from coldstart.adapters.watch import LOOK_FOR_FILES, Watch
from coldstart.campaign import BEFORE_EMBEDDING, Campaign
from coldstart.campaign.configured import ServerMark, remember
from coldstart.campaign.judging import Judge
from coldstart.exceptions import ColdStartError, ImageError, InvalidInputError
from coldstart.segmentation import resolve_device
from coldstart.settings import load_settings
from coldstart.store import state_folder

logger = logging.getLogger(__name__)

MODEL_NAME = "attention_unet"


class ColdStartApp(MONAILabelApp):  # type: ignore[misc]
    """Which scan to label next: cold start, then active learning, on one studies folder."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]):
        with _ending_in_a_sentence():
            self.campaign = _open_campaign(Path(app_dir), studies, conf)
            if SERVER_PID not in os.environ:
                self.log_file = write_log(self.campaign.settings, self.campaign.folder)
        self._conf = conf
        end_with_server()
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf={},
            name="coldstart_al",
            description="Tells which image to label next: cold start, then active learning",
            version=version("coldstart-al"),
            labels=list(result_values(self.campaign.settings.labels)),
        )
        self._auto_update_scoring = False  # MONAI Label would queue every method; the watch queues what has work
        trainer = self._trainers[MODEL_NAME]
        self._chain = Chain(self.campaign, MODEL_NAME, trainer.is_plain, trainer.is_running)
        self._tasks = Tasks(self.campaign, self._chain)
        self._watch = Watch({LOOK_FOR_FILES: self._datastore.sync, "search for work": self._tasks.begin})
        self._judge = Judge(self.campaign)
        self._judging = Watch({"judging of saved labels": self._judge.judge_waiting})

    def init_datastore(self) -> CampaignDatastore:
        """Open the studies folder, or the archive; unlike MONAI Label's own this fetches no program from elsewhere."""
        with _ending_in_a_sentence():
            if is_archive(self.studies):
                return ArchiveDatastore(require_archive_address(self.studies), self.campaign)
            return FolderDatastore(self.studies, self.campaign)

    def init_infers(self) -> dict[str, InferTask]:
        """One model, listed once it is trained."""
        return {MODEL_NAME: AttentionUnetInference(self.campaign)}

    def init_trainers(self) -> dict[str, TrainTask]:
        """One trainer."""
        return {MODEL_NAME: AttentionUnetTraining(self.campaign)}

    def init_strategies(self) -> dict[str, Strategy]:
        """All strategies, ours first."""
        return strategies(self.campaign)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Embedding, entropy and pre-labels."""
        return {
            "embedding": EmbeddingScoring(self.campaign),
            "entropy": EntropyScoring(self.campaign),
            "prelabel": PrelabelScoring(self.campaign, self._infers[MODEL_NAME]),
        }

    def info(self) -> dict[str, Any]:
        """What MONAI Label says of an app and, under `coldstart`, the campaign in numbers."""
        info: dict[str, Any] = super().info()
        status = self.campaign.status()
        for name, said in info["scoring"].items():
            said["stats"] = status["progress"].get(name, {})
        info["coldstart"] = {
            **status,
            "tasks": self._tasks.states(),
            "task_errors": self._tasks.errors(),
            "left_out": self._datastore.left_out(),
            "watch_errors": self._watch.troubles | self._judging.troubles,
            "model_problem": self.campaign.publisher.problem,
            "retraining": {"due": self._chain.reason, **self.campaign.trainings.status()},
        }
        return info

    def infer(self, request: dict[str, Any], datastore: CampaignDatastore | None = None) -> dict[str, Any]:
        """Segment an image that the server lists, or a file that it wrote itself for this request."""
        self.require_model(request.get("model"))
        studies = datastore or self._datastore
        image = request.get("image", "")
        listed = studies.get_image_uri(image)
        if not listed and not Path(image).is_file():
            raise AppError(f"The server has no image '{image}'. Choose one that it lists.", 404)
        tag = request.get("label_tag", DefaultLabelTag.ORIGINAL)
        saved = listed and request.get("save_label")
        if saved:
            studies.require_no_final(image, tag)
        # By its path: MONAI Label would take an id for a file of the folder that the server was started in.
        result: dict[str, Any] = super().infer({**request, "image": listed or image, "save_label": False}, studies)
        remove_at_the_end(result["file"])
        if saved:
            names = [{"name": name, "idx": value} for name, value in result["params"]["label_names"].items()]
            info = {"model": request["model"], "params": result["params"], "label_info": names}
            result["label"] = studies.save_prediction(image, result["file"], tag, info)
        return result

    def batch_infer(self, request: dict[str, Any], datastore: CampaignDatastore | None = None) -> dict[str, Any]:
        """Segment many images; MONAI Label shares them among its GPUs, also where there are none."""
        request = {**request, "multi_gpu": request.get("multi_gpu", True) and gpu_count() > 0}
        result: dict[str, Any] = super().batch_infer(request, datastore)
        return result

    def prepare_click(self, strategy: str) -> None:
        """Take the time that the first click on a strategy may need; in any thread."""
        with answered():
            self.campaign.prepare(strategy)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a click; unlike the base class it queues nothing, since the watch does where there is work."""
        strategy = self._strategies.get(request.get("strategy"))
        if strategy is None:
            raise AppError(
                f"There is no strategy '{request.get('strategy')}'. Choose one of {', '.join(self._strategies)}.", 404
            )
        self._datastore.require_folder()
        answer: dict[str, Any] = strategy(request, self._datastore)
        if answer:
            if answer["coldstart"]["phase"] == BEFORE_EMBEDDING and (error := self._tasks.errors().get("embedding")):
                answer["coldstart"]["reason"] += f"; embedding them failed: {error}"
            answer["path"] = self._datastore.image_path(answer["id"])
        return answer

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """Answer a saved label; `warning` says why it stays out of training, where it does."""
        problem = self._datastore.label_warning(image_id)
        return {"coldstart": {"warning": problem}} if problem else {}

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a training in this process; the watch of the server notices the new model and has it scored."""
        result: dict[str, Any] = self._trainers[request["model"]](dict(request), self._datastore)
        return result

    def bundle_path(self, model: str | None) -> None:
        """Refuse a task that is bound to fail.

        The server asks this before it spawns a child process for a task: the only place where a request can still be
        answered with a sentence instead of a log that nobody reads.
        """
        self._datastore.require_folder()
        if model is None:
            return
        self.require_model(model)
        if not self._infers[model].is_valid():
            self._datastore.sync()
            with answered(409):
                self.campaign.trainings.require_images()

    def fetch_image(self, image_id: str) -> None:
        """Have an archived image here; the endpoints would fetch it on the event loop, where everybody waits."""
        if isinstance(self._datastore, ArchiveDatastore):
            self._datastore.get_image_uri(image_id)

    def require_model(self, model: object) -> None:
        """Refuse a model that this app does not have."""
        if model not in (*self._infers,):
            raise AppError(f"There is no model '{model}'. Choose one of {', '.join(self._infers)}.", 404)

    def check_model_upload(self, model: str, content: IO[bytes]) -> None:
        """Refuse an uploaded model that could not be used; see `AttentionUnetInference.check_upload`."""
        self._infers[model].check_upload(content)

    def trainer_names(self) -> tuple[str, ...]:
        """Models that can be trained."""
        return tuple(self._trainers)

    def scoring_names(self) -> tuple[str, ...]:
        """Scoring methods."""
        return tuple(self._scoring_methods)

    def check_training(self, model: str, request: Mapping[str, Any]) -> None:
        """Refuse a training with settings that it could not use."""
        self.require_model(model)
        self._trainers[model].pre_process({**request}, self._datastore)

    def check_scoring(self, method: str) -> None:
        """Refuse a scoring that does not exist, or that would find nothing to do."""
        if method not in self._scoring_methods:
            raise AppError(
                f"There is no scoring method '{method}'. Choose one of {', '.join(self._scoring_methods)}.", 404
            )
        with answered():
            self._datastore.sync()
            to_do = self.campaign.tasks_to_do()
        if method not in to_do:
            raise AppError(f"There is nothing to do for '{method}': what can be scored now has been.", 409)

    def on_init_complete(self) -> None:
        """Begin to watch for files, finished trainings and work; called in the server only."""
        install_ohif(sys.modules["monailabel.app"].app)
        install_gate(sys.modules["monailabel.app"].app, self)
        install_request_files()
        model, trainer = self._infers[MODEL_NAME], self._trainers[MODEL_NAME]
        install_page(sys.modules["monailabel.app"].app, self, self._tasks, self._chain, model, trainer)
        install_monitor(sys.modules["monailabel.app"].app, self, self._tasks, (self._watch, self._judging))
        if isinstance(self._datastore, ArchiveDatastore):
            # MONAI Label's endpoint calls dcmqi by this name, which fails for radiographs, frames and empty labels.
            infer_endpoint.nifti_to_dicom_seg = self._datastore.segmentation_of_result
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._tasks.end_before(self._datastore.flushing_before(signal.getsignal(number))))
        os.environ[SERVER_PID] = str(os.getpid())
        if self.campaign.settings.prelabel == 0:
            Prelabels(self._datastore).remove_all()
        self._mark = ServerMark(self.campaign.folder)
        remember(self.campaign.folder, self._conf)
        self.campaign.end_overruled_choices()
        self._watch.begin()
        self._judging.begin_apart()
        atexit.register(self._end_judging)
        super().on_init_complete()

    def _end_judging(self) -> None:
        """Let the image that is being segmented end; Python would break off its thread in the middle of torch."""
        self._judge.end()
        self._judging.end()


@contextmanager
def _ending_in_a_sentence() -> Iterator[None]:
    try:
        yield
    except ColdStartError as error:
        logger.critical("%s", error)
        sys.tracebacklimit = 0  # the start ends here: what follows is the sentence again, not forty frames
        raise error from None


def _open_campaign(app_dir: Path, studies: str, conf: dict[str, str]) -> Campaign:
    settings = load_settings(conf, app_dir / "configs")
    resolve_device(settings.device)
    keep_within_limits(settings)
    if is_archive(studies):
        return Campaign(settings, state_folder(require_archive_address(studies), settings.state_dir))
    if Path(studies).is_file():
        raise InvalidInputError(
            f"--studies must be a folder; {studies} is a file. Give another folder, or move the file."
        )
    if SERVER_PID in os.environ and not Path(studies).is_dir():
        raise ImageError(f"The studies folder {studies} is away. If it is on a share, mount that again.")
    Path(studies).mkdir(parents=True, exist_ok=True)
    return Campaign(settings, state_folder(Path(studies), settings.state_dir))
