"""A model whose training was killed before it was checked, beside another training that somebody asked for."""

import time
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from coldstart.adapters.chain import TRIGGER
from coldstart.adapters.training import AttentionUnetTraining
from coldstart.campaign import Campaign, LabelFile
from coldstart.campaign.triggers import ask, asked_request
from coldstart.segmentation import Model
from coldstart.settings import Settings

SETTINGS = Settings(
    labels={"disc": 1}, spatial_dims=2, spatial_size=(32, 32), encoder="descriptor", epochs=1, device="cpu"
)
KILLED = "20990101T000000000Z-killed"


def test_checking_it_leaves_the_other_training_to_be_begun_with_its_own_settings(tmp_path: Path) -> None:
    image, drawn = tmp_path / "a.png", tmp_path / "label.png"
    Picture.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(image)
    Picture.fromarray(np.eye(16, dtype=np.uint8)).save(drawn)
    campaign = Campaign(SETTINGS, tmp_path / "state")
    campaign.sync({"a": image}, {})
    campaign.save_label("a", LabelFile(drawn))
    model, _ = campaign.trainings.train(SETTINGS, lambda _: None)
    versions = campaign.publisher.versions
    metadata = {**model.metadata, "version": KILLED}
    versions.keep(Model(model.network, metadata), {**metadata, "began_at": time.time(), "learned": {}}, "unchecked")
    ask(campaign.store, None, {"max_epochs": "7"})
    assert campaign.trainings.due().trigger == "check"

    AttentionUnetTraining(campaign)({"model": "attention_unet", TRIGGER: "check"}, None)
    assert versions.states() == {model.version: "done", KILLED: "done"} and campaign.publisher.in_use() == KILLED
    assert campaign.trainings.due().trigger == "asked" and asked_request(campaign.store) == {"max_epochs": "7"}
    campaign.store.close()
