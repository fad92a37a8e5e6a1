import json
import os
import pickle
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from segmentation_helpers import image_of

from coldstart.exceptions import InvalidInputError, ModelError
from coldstart.segmentation import Model, load_model, predict_probabilities, save_model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model" / "attention_unet.pt"


def test_loaded_model_is_the_saved_one(disk_model, path):
    save_model(disk_model, path)
    loaded = load_model(path, "cpu")
    assert loaded.metadata == disk_model.metadata
    assert loaded.version == disk_model.version
    assert loaded.config == disk_model.config
    assert not loaded.network.training
    images = [image_of(np.random.default_rng(0).normal(size=(1, 40, 50)))]
    assert np.array_equal(predict_probabilities(loaded, images), predict_probabilities(disk_model, images))


def test_file_is_what_monai_label_reads(disk_model, path):
    save_model(disk_model, path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    assert set(content) == {"model", "metadata"}
    assert content["model"].keys() == disk_model.network.state_dict().keys()
    json.dumps(content["metadata"], allow_nan=False)


def test_saving_leaves_one_file_that_others_may_read(disk_model, path):
    save_model(disk_model, path)
    save_model(disk_model, path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("moment", ["replace", "fsync"])
def test_interrupted_save_leaves_the_old_model(disk_model, path, monkeypatch, moment):
    save_model(disk_model, path)
    before = path.read_bytes()

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_model(Model(disk_model.network, {**disk_model.metadata, "version": "newer"}), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_file_is_synced_before_it_replaces_the_old_one(disk_model, path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), rename(a, b)))
    save_model(disk_model, path)
    assert calls == ["fsync", "replace", "fsync"]


def test_what_a_killed_process_left_is_cleared_an_hour_later(disk_model, path):
    path.parent.mkdir()
    old, fresh = (path.parent / f".{path.name}.{name}.tmp" for name in ("old", "fresh"))
    for leftover in (old, fresh):
        leftover.write_bytes(b"half a model")
    os.utime(old, (time.time() - 7200,) * 2)
    save_model(disk_model, path)
    assert not old.exists()
    assert fresh.exists()


def test_failed_write_is_a_clear_error(disk_model, path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ModelError, match=r"could not be written to .*No space left on device. Free space"):
        save_model(disk_model, path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
def test_metadata_that_are_not_json_are_refused(disk_model, path, value):
    with pytest.raises(InvalidInputError, match="must be plain, finite JSON values"):
        save_model(Model(disk_model.network, {**disk_model.metadata, "extra": value}), path)
    assert not path.exists()


def test_missing_model_is_a_clear_error(path):
    with pytest.raises(
        ModelError, match=r"No trained model is at .*attention_unet.pt yet. Label some images and start"
    ):
        load_model(path)


class Malicious:
    def __init__(self, target) -> None:
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_file_that_would_run_code_is_refused(path, tmp_path, how):
    path.parent.mkdir()
    content = {"model": Malicious(tmp_path / "owned"), "metadata": {}}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ModelError, match=r"is damaged or not a model of this app: .* Train again"):
        load_model(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_cut_off_file_is_refused(disk_model, path, kept):
    save_model(disk_model, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ModelError, match="is damaged or not a model of this app"):
        load_model(path)


def test_random_bytes_are_refused(path):
    path.parent.mkdir()
    for seed in range(20):
        path.write_bytes(np.random.default_rng(seed).bytes(300))
        with pytest.raises(ModelError, match="is damaged or not a model of this app"):
            load_model(path)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"metadata": {"format": "other"}, "model": {}}])
def test_file_of_another_program_is_refused(path, content):
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(ModelError, match="is not a model of this app: it must hold 'model' and 'metadata'"):
        load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["metadata"].pop("config"),
        lambda content: content["metadata"]["config"].update(unknown=1),
        lambda content: content["metadata"]["config"].update(spatial_dims=5),
        lambda content: content["metadata"]["config"].update(label_names=["a", "b"]),
        lambda content: content["model"].popitem(),
        lambda content: content.update(model=[1]),
    ],
)
def test_model_that_does_not_fit_is_refused(disk_model, path, change):
    save_model(disk_model, path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"does not fit this version of the app: .* Train again"):
        load_model(path)


def test_absent_gpu_is_refused(disk_model, path):
    save_model(disk_model, path)
    with pytest.raises(InvalidInputError, match="must name a GPU"):
        load_model(path, "cuda:77")


def test_config_of_a_loaded_model_can_be_changed_for_the_next_training(disk_model, path):
    save_model(disk_model, path)
    assert replace(load_model(path, "cpu").config, epochs=3).epochs == 3
