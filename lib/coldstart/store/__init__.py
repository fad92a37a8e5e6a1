"""The app's own SQLite database: one row for each image, and what happened to it."""

from coldstart.store.copying import copy_database
from coldstart.store.database import FILE_NAME, Store
from coldstart.store.engine import SCHEMA_HEAD, require_whole
from coldstart.store.location import file_signature, state_folder
from coldstart.store.schema import (
    ChosenSetting,
    Decision,
    FormerPoint,
    Image,
    ImageMap,
    Judgement,
    Label,
    MethodPlan,
    Model,
    Plan,
    PlanPick,
    Progress,
    Revision,
    Scoring,
    Serving,
    bytes_to_vector,
    vector_to_bytes,
)

__all__ = [
    "FILE_NAME",
    "SCHEMA_HEAD",
    "ChosenSetting",
    "Decision",
    "FormerPoint",
    "Image",
    "ImageMap",
    "Judgement",
    "Label",
    "MethodPlan",
    "Model",
    "Plan",
    "PlanPick",
    "Progress",
    "Revision",
    "Scoring",
    "Serving",
    "Store",
    "bytes_to_vector",
    "copy_database",
    "file_signature",
    "require_whole",
    "state_folder",
    "vector_to_bytes",
]
