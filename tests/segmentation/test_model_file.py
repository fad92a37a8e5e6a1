import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from segmentation_helpers import image_of

from coldstart.exceptions import InvalidInputError, ModelError
from coldstart.segmentation import Model, keep_last_good, load_model, load_published, predict_probabilities, save_model
from coldstart.segmentation.model_file import last_good


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


def files(path):
    """Names of what lies beside a model, without the lock."""
    return sorted(entry.name for entry in path.parent.iterdir() if entry.suffix != ".lock")


def test_saving_leaves_the_model_and_its_copy_which_others_may_read(disk_model, path):
    save_model(disk_model, path)
    save_model(disk_model, path)
    assert files(path) == ["attention_unet.last-good.pt", "attention_unet.pt"]
    assert last_good(path).read_bytes() == path.read_bytes()
    assert last_good(path).stat().st_ino != path.stat().st_ino
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
    assert files(path) == ["attention_unet.last-good.pt", "attention_unet.pt"]


def test_file_is_synced_before_it_replaces_the_old_one(disk_model, path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), rename(a, b)))
    save_model(disk_model, path)
    assert calls == ["fsync", "replace", "fsync"] * 2, "the model, then its copy"


def test_what_a_killed_process_left_is_gone_after_the_next_save(disk_model, path):
    path.parent.mkdir()
    (path.parent / f".{path.name}.tmp").write_bytes(b"half a model")
    save_model(disk_model, path)
    assert files(path) == ["attention_unet.last-good.pt", "attention_unet.pt"]
    assert load_model(path, "cpu").version == disk_model.version


def test_failed_write_is_a_clear_error(disk_model, path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ModelError, match=r"could not be written to .*No space left on device. Free space"):
        save_model(disk_model, path)
    assert files(path) == []


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
    with pytest.raises(ModelError, match="not a model of this app: it does not hold 'model' and 'metadata'"):
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
        lambda content: content["metadata"].update(version=None),
        lambda content: content["metadata"].update(label_names=["other"]),
    ],
)
def test_model_that_does_not_fit_is_refused(disk_model, path, change):
    save_model(disk_model, path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"does not fit this version of the app: .* Train again"):
        load_model(path)


def test_config_of_a_network_that_is_not_in_the_file_is_refused_before_it_takes_memory(disk_model, path):
    save_model(disk_model, path)
    content = torch.load(path, weights_only=True)
    content["metadata"]["config"]["channels"] = [1_000_000, 1_000_000]
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"weights are not those of its config, first 'model"):
        load_model(path, "cpu")


def test_repeated_numbers_do_not_count_as_weights(disk_model, path):
    # a tensor of one number, seen as a million times a million, is a small file that would take terabytes
    save_model(disk_model, path)
    content = torch.load(path, weights_only=True)
    key = max(content["model"], key=lambda name: content["model"][name].numel())
    content["model"][key] = torch.zeros(1).expand(content["model"][key].shape)
    torch.save(content, path)
    with pytest.raises(ModelError, match="weights are not those of its config"):
        load_model(path, "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(disk_model, path, value):
    save_model(disk_model, path)
    content = torch.load(path, weights_only=True)
    next(iter(content["model"].values())).view(-1)[0] = value
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"is damaged or .*: not all of its weights are finite. Train again"):
        load_model(path, "cpu")


@pytest.mark.parametrize("damage", [b"", b"not a model", None])
def test_last_good_model_stands_in_for_a_damaged_file(disk_model, path, caplog, damage):
    save_model(disk_model, path)
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert load_published(path, "cpu").version == disk_model.version
    assert f"Until then the last good model, {disk_model.version}, is used" in caplog.text


def test_without_a_last_good_model_the_damaged_file_is_named(disk_model, path):
    save_model(disk_model, path)
    path.write_bytes(b"")
    last_good(path).write_bytes(b"")
    with pytest.raises(ModelError, match=r"model file .*attention_unet.pt is damaged"):
        load_published(path, "cpu")


def test_model_that_was_taken_away_is_not_brought_back(disk_model, path):
    save_model(disk_model, path)
    path.unlink()
    with pytest.raises(ModelError, match="No trained model"):
        load_published(path, "cpu")


def test_model_that_came_by_other_ways_is_kept_as_the_last_good_one(disk_model, path):
    path.parent.mkdir()
    other = Model(disk_model.network, {**disk_model.metadata, "version": "from elsewhere"})
    save_model(other, path.with_name("elsewhere.pt"))
    save_model(disk_model, path)
    path.write_bytes(path.with_name("elsewhere.pt").read_bytes())
    keep_last_good(load_model(path, "cpu"), path)
    path.write_bytes(b"")
    assert load_published(path, "cpu").version == "from elsewhere"


def test_absent_gpu_is_refused(disk_model, path):
    save_model(disk_model, path)
    with pytest.raises(InvalidInputError, match="must name a GPU"):
        load_model(path, "cuda:77")


def test_config_of_a_loaded_model_can_be_changed_for_the_next_training(disk_model, path):
    save_model(disk_model, path)
    assert replace(load_model(path, "cpu").config, epochs=3).epochs == 3
