"""What a request must look like before MONAI Label's own code sees it.

Its endpoints join names to paths, hand bodies to child processes, and answer what they do not expect with a stack trace
in the log and "Internal Server Error". What is refused here is refused with a sentence, before anything was done.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.tasks.batch_infer import BatchInferImageType

from coldstart.adapters.archive import ArchiveDatastore
from coldstart.adapters.datastore_checks import checked_tag
from coldstart.adapters.errors import AppError
from coldstart.adapters.values import MAX_NAME_LENGTH, require_file_name, require_name, short

if TYPE_CHECKING:
    from coldstart.adapters.app import ColdStartApp

MAX_LOG_LINES = 100_000

_SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_GPUS = re.compile(r"(all|\d{1,3}(,\d{1,3}){0,31})?")
_CHECKSUM = re.compile(r"((SHA256|SHA512|MD5):)?[0-9a-fA-F]{1,128}")
_OF_A_CLICK = ("alpha", "client_id", "strategy")
_OF_THE_SERVER = ("bundle_path",)
"""What MONAI Label's tasks read from a request although only the server may say it: it ends in a PYTHONPATH."""


@dataclass(frozen=True)
class Asked:
    """A request, taken apart."""

    method: str
    route: str
    """The path with its parameters as names, such as `/infer/{model}`."""
    names: Mapping[str, str]
    """Parameters of the path and of the query."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """The JSON body."""
    form: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The JSON fields of the form."""
    files: tuple[tuple[str, str], ...] = ()
    """Field and name of each uploaded file."""
    may_annotate: bool = True
    """Whether the user has the role to save labels."""

    @property
    def unpacks(self) -> bool:
        """Whether MONAI Label will unpack what was uploaded; of several files it unpacks none."""
        return self.route == "/session/" and len(self.files) == 1 and self.is_set("uncompress")

    def is_set(self, name: str) -> bool:
        """Whether a parameter of the query that is true or false is given, and not as false."""
        return self.names.get(name, "false").lower() not in ("false", "0", "no", "off", "n", "f")


def check(asked: Asked, app: ColdStartApp) -> None:
    """Refuse what the endpoint could not answer.

    Parameters
    ----------
    asked : Asked
        The request.
    app : ColdStartApp
        The app that will be asked.

    Raises
    ------
    AppError
        4xx, with the sentence.
    """
    for name, value in asked.names.items():
        require_name(name, value)
    for _, name in asked.files:
        require_file_name(name)
    for source in (asked.body, *asked.form.values()):
        if (client_id := source.get("client_id")) is not None:
            require_name("client_id", client_id)
    if (session_id := asked.names.get("session_id")) and not _SESSION_ID.fullmatch(session_id):
        raise AppError(f"There is no session '{session_id}'. Create one first.", 404)
    if asked.is_set("run_sync"):
        raise AppError("`run_sync` would keep the server from answering anybody until the task ends. Leave it out.")
    route = f"{asked.method} {asked.route}"
    if route in _CHECKS:
        _CHECKS[route](asked, app)


def _check_click(asked: Asked, app: ColdStartApp) -> None:
    for key in asked.body:
        if key not in _OF_A_CLICK:
            raise AppError(f"Unknown key {short(key)} in the request. Valid keys: {', '.join(_OF_A_CLICK)}.")
    _require_same(asked.body, "strategy", asked.names["strategy"])


def _check_infer(asked: Asked, app: ColdStartApp) -> None:
    image, files = asked.names.get("image"), dict(asked.files)
    params = asked.form.get("params", {})
    _require_same(params, "model", asked.names["model"])
    _require_same(params, "image", image)
    if "session" in params:
        raise AppError("`session` cannot be given in `params`. Name the session with `session_id`.")
    if asked.names.get("session_id"):
        _require_one_image(_require_session(asked, app))
    elif not image and "file" not in files:
        raise AppError("Name an image with `image`, a session with `session_id`, or send a `file`.")
    if image:
        _require_image(image, app)
    if "label_tag" in params:
        checked_tag(params["label_tag"])
    if params.get("save_label") and not asked.may_annotate:
        raise AppError("Saving a label needs the role of an annotator. Leave `save_label` out.", 403)
    if asked.names.get("output") == "dicom_seg":
        if not image or not isinstance(app.datastore(), ArchiveDatastore):
            raise AppError("DICOM SEG is made for a series of an archive only. Choose another `output`.")
        if params.get("label_info") is None:
            raise AppError("DICOM SEG needs `label_info` in `params`; an empty list stands for the preset's names.")
    if files.get("label", "").endswith(".bin"):
        raise AppError("This app uses no scribbles. Send no `label`.")


def _check_session(asked: Asked, app: ColdStartApp) -> None:
    image = _require_session(asked, app)
    if asked.names.get("image"):
        _require_one_image(image)


def _check_new_session(asked: Asked, app: ColdStartApp) -> None:
    for _, name in asked.files:
        if Path(name).name in ("", "..") or len(Path(name).name.encode()) > MAX_NAME_LENGTH:
            raise AppError(
                f"An uploaded file must have a file name of 1 to {MAX_NAME_LENGTH} bytes; got {short(name)}."
            )


def _check_training(asked: Asked, app: ColdStartApp) -> None:
    _check_task(asked.body)
    _require_same(asked.body, "model", asked.names["model"])
    app.check_training(asked.names["model"], asked.body)


def _check_all_trainings(asked: Asked, app: ColdStartApp) -> None:
    for model in app.trainer_names():
        app.check_training(model, _of_one(asked.body, model, app.trainer_names()))


def _check_scoring(asked: Asked, app: ColdStartApp) -> None:
    _check_task(asked.body)
    _require_same(asked.body, "method", asked.names["method"])
    app.check_scoring(asked.names["method"])


def _check_all_scorings(asked: Asked, app: ColdStartApp) -> None:
    for method in app.scoring_names():
        _of_one(asked.body, method, app.scoring_names())
        app.check_scoring(method)


def _check_batch(asked: Asked, app: ColdStartApp) -> None:
    _check_task(asked.body)
    _require_same(asked.body, "model", asked.names["model"])
    app.require_model(asked.names["model"])
    for key in ("max_workers", "max_batch_size"):
        value = asked.body.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise AppError(f"`{key}` must be a whole number, 0 or more; got {short(value)}.")
    if "label_tag" in asked.body:
        checked_tag(asked.body["label_tag"])
    choices = [choice.value for choice in BatchInferImageType]
    images = asked.body.get("images", choices[0])
    if images not in choices and not (isinstance(images, list) and all(isinstance(image, str) for image in images)):
        raise AppError(f"`images` must be one of {', '.join(choices)}, or a list of ids; got {short(images)}.")
    for image in images if isinstance(images, list) else ():
        _require_image(image, app)


def _check_task(body: Mapping[str, Any]) -> None:
    """What goes into the environment and the command line of a child process."""
    for key in _OF_THE_SERVER:
        if key in body:
            raise AppError(f"`{key}` cannot be given in a request. Leave it out.")
    gpus = body.get("gpus")
    if gpus is not None and not (isinstance(gpus, str) and _GPUS.fullmatch(gpus)):
        raise AppError(f"`gpus` must be 'all' or numbers such as '0,1'; got {short(gpus)}.")
    if not isinstance(body.get("multi_gpu", False), bool):
        raise AppError(f"`multi_gpu` must be true or false; got {short(body['multi_gpu'])}.")
    device = body.get("device")
    devices = device if isinstance(device, list) else [device]
    if not all(name is None or (isinstance(name, str) and len(name) <= MAX_NAME_LENGTH) for name in devices):
        raise AppError(f"`device` must be the name of one, such as cpu or cuda; got {short(device)}.")


def _of_one(body: Mapping[str, Any], name: str, names: tuple[str, ...]) -> dict[str, Any]:
    """What a request for all tasks says to one of them: its own part, and what is said to all."""
    common = {key: value for key, value in body.items() if key not in names}
    own = body.get(name) or {}
    if not isinstance(own, dict):
        raise AppError(f"`{name}` must be a JSON object; got {short(own)}.")
    for part in (common, own):
        _check_task(part)
        for key in ("model", "method"):
            _require_same(part, key, None)
    return own | common


def _check_checksum(asked: Asked, app: ColdStartApp) -> None:
    if (value := asked.names.get("check_sum")) and not _CHECKSUM.fullmatch(value):
        raise AppError(f"`check_sum` must look like SHA256:0a1b (or SHA512, MD5); got {short(value)}.")


def _check_known_image(asked: Asked, app: ColdStartApp) -> None:
    if "image" in asked.names:
        _require_image(asked.names["image"], app)


def _check_image_info(asked: Asked, app: ColdStartApp) -> None:
    # MONAI Label notes each click there, and expects an object.
    if not isinstance(strategy := asked.form.get("info", {}).get("strategy", {}), dict):
        raise AppError(f"`strategy` in the info of an image must be an object; got {short(strategy)}.")


def _check_model_upload(asked: Asked, app: ColdStartApp) -> None:
    app.require_model(asked.names["model"])


def _check_logs(asked: Asked, app: ColdStartApp) -> None:
    # Not 0 lines, which stands for the whole file: it grows while it is sent, and that breaks the answer off.
    for key, least in (("lines", 1), ("refresh", 0)):
        try:
            value = int(asked.names.get(key, least))
        except ValueError:
            continue  # FastAPI says so
        if not least <= value <= MAX_LOG_LINES:
            raise AppError(f"`{key}` must be between {least} and {MAX_LOG_LINES}; got {short(value)}.")


def _check_gpu(asked: Asked, app: ColdStartApp) -> None:
    if shutil.which("nvidia-smi") is None:
        raise AppError("This server has no nvidia-smi, so nothing is known of its GPUs.", 404)


_CHECKS: dict[str, Callable[[Asked, ColdStartApp], None]] = {
    "POST /activelearning/{strategy}": _check_click,
    "POST /infer/{model}": _check_infer,
    "POST /train/{model}": _check_training,
    "POST /train/": _check_all_trainings,
    "POST /scoring/{method}": _check_scoring,
    "POST /scoring/": _check_all_scorings,
    "POST /batch/infer/{model}": _check_batch,
    "GET /session/{session_id}": _check_session,
    "PUT /session/": _check_new_session,
    "HEAD /datastore/image": _check_checksum,
    "GET /datastore/image/info": _check_known_image,
    "PUT /datastore/image/info": _check_image_info,
    "PUT /model/{model}": _check_model_upload,
    "GET /logs/": _check_logs,
    "GET /logs/gpu": _check_gpu,
}


def _require_image(image: str, app: ColdStartApp) -> None:
    if not app.datastore().image_path(image):
        raise AppError(f"The server has no image '{image}'. Choose one that it lists.", 404)


def _require_session(asked: Asked, app: ColdStartApp) -> Path:
    """Path of a session's image, or folder of its images."""
    if app.sessions() is None:
        raise AppError("This server keeps no sessions (MONAI_LABEL_SESSIONS is off). Send the image as a file.", 406)
    session = app.sessions().get_session(asked.names["session_id"], update_ts=False)
    if session is None:
        raise AppError(f"There is no session '{asked.names['session_id']}'. Create one first.", 404)
    return Path(session.image)


def _require_one_image(image: Path) -> None:
    """Refuse the folder of a session that was made of several files, or of an archive."""
    if not image.is_file():
        raise AppError("This session holds several files, not one image. Create one for each image.")


def _require_same(body: Mapping[str, Any], key: str, expected: str | None) -> None:
    """What the address of a request names cannot be named anew in its body."""
    if key in body and body[key] != expected:
        raise AppError(f"`{key}` is named by the address of the request; got {short(body[key])} in its body as well.")
