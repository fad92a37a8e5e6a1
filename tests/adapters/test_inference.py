"""The model that the infer task has in memory, where the memory is not enough for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coldstart.adapters.errors import AppError
from coldstart.adapters.inference import AttentionUnetInference
from coldstart.campaign import Campaign
from coldstart.exceptions import ModelError
from coldstart.segmentation import Model, Sample, TrainingConfig, save_model, train
from coldstart.settings import Settings

FULL = "CUDA out of memory. Tried to allocate 20.00 MiB."


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """With a model of an epoch, and the picture that it learned from."""
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray((pixels > 127).astype(np.uint8)).save(tmp_path / "label.png")
    settings = Settings(labels={"bright": 1}, spatial_dims=2, spatial_size=(32, 32), device="cpu")
    made = Campaign(settings, tmp_path / "state")
    save_model(trained(tmp_path, epochs=1), made.model_path)
    return made


def is_full(module: torch.nn.Module, device: torch.device) -> None:
    """In the place of `torch.nn.Module.to`."""
    raise torch.OutOfMemoryError(FULL)


def trained(folder: Path, epochs: int) -> Model:
    config = TrainingConfig(("bright",), 2, (32, 32), channels=(2, 4), epochs=epochs, device="cpu")
    return train([Sample("image", folder / "image.png", folder / "label.png", {1: 1})], config)


def test_model_that_does_not_fit_onto_the_card_is_said_and_loaded_for_the_next_request(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = AttentionUnetInference(campaign)
    before = task.model().version
    newer = trained(tmp_path, epochs=2)
    save_model(newer, campaign.model_path)

    with monkeypatch.context() as full, pytest.raises(AppError) as refused:
        full.setattr(torch.nn.Module, "to", is_full)
        task({"image": str(tmp_path / "image.png")})
    assert refused.value.status_code == 409
    assert refused.value.detail.startswith(f"Loading the model ran out of memory ({FULL}). Free memory on the device")
    assert task.model().version == newer.version != before


def test_scoring_and_check_say_that_the_model_does_not_fit_onto_the_card(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = campaign.publisher
    in_use, newer = campaign.model_path.read_bytes(), trained(tmp_path, epochs=2)
    publisher.versions.keep(newer, newer.metadata, "unchecked")
    with monkeypatch.context() as full:
        full.setattr(torch.nn.Module, "to", is_full)
        with pytest.raises(ModelError, match=r"^The entropy scoring ran out of memory .*Free memory on the device"):
            campaign.score()
        with pytest.raises(ModelError, match=r"^The check of the trained model ran out of memory .*The model in use"):
            publisher.check(newer.version, campaign.settings)
    assert campaign.model_path.read_bytes() == in_use and publisher.versions.states()[newer.version] == "unchecked"
    publisher.check(newer.version, campaign.settings)
    assert publisher.in_use() == newer.version
