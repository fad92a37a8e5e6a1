"""A process that publishes models without end, until it is killed; apart, so that it starts quickly."""

from multiprocessing.synchronize import Event
from pathlib import Path

from coldstart.segmentation import load_model, save_model


def save_without_end(first: Path, second: Path, target: Path, begun: Event) -> None:
    models = [load_model(first, "cpu"), load_model(second, "cpu")]
    while True:
        for model in models:
            save_model(model, target)
        begun.set()
