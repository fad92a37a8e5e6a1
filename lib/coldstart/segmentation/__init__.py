"""The segmentation model: training, its file, inference, evaluation, and what label values mean (torch and MONAI)."""

from coldstart.segmentation.config import Sample, TrainingConfig
from coldstart.segmentation.course import EpochReport
from coldstart.segmentation.evaluate import Evaluation, ImageEvaluation, evaluate
from coldstart.segmentation.infer import faster, predict_prepared, predict_probabilities, predict_with_dropout, segment
from coldstart.segmentation.labels import check_label, check_label_file, class_names, map_values, value_of_class
from coldstart.segmentation.metrics import ClassScore
from coldstart.segmentation.model_file import (
    Model,
    keep_last_good,
    load_model,
    load_published,
    read_model,
    save_model,
    write_model,
)
from coldstart.segmentation.network import build_network, resolve_device
from coldstart.segmentation.preprocess import prepare_image, prepare_label
from coldstart.segmentation.train import train

__all__ = [
    "ClassScore",
    "EpochReport",
    "Evaluation",
    "ImageEvaluation",
    "Model",
    "Sample",
    "TrainingConfig",
    "build_network",
    "check_label",
    "check_label_file",
    "class_names",
    "evaluate",
    "faster",
    "keep_last_good",
    "load_model",
    "load_published",
    "map_values",
    "predict_prepared",
    "predict_probabilities",
    "predict_with_dropout",
    "prepare_image",
    "prepare_label",
    "read_model",
    "resolve_device",
    "save_model",
    "segment",
    "train",
    "value_of_class",
    "write_model",
]
