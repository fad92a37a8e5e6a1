import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from segmentation_helpers import threads, write

from coldstart.exceptions import InvalidInputError, ModelError
from coldstart.segmentation import Model, Sample, build_network, evaluate, fitting, load_model, train
from coldstart.segmentation.training_set import share


def state(model: Model) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


def same(first: Model, second: Model) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(first).values(), state(second).values(), strict=True))


def test_training_learns_what_an_untrained_network_does_not_know(disk_model, disks):
    untrained = Model(build_network(disk_model.config), disk_model.metadata)
    assert evaluate(untrained, disks[10:]).dice < 0.5
    assert evaluate(disk_model, disks[10:]).dice > 0.93
    assert disk_model.metadata["losses"][-1] < 0.3 * disk_model.metadata["losses"][0]


def test_two_trainings_are_equal_bit_for_bit(disks, small_config):
    config = small_config(epochs=3)
    first = train(disks[:5], config)
    torch.manual_seed(1234)
    torch.rand(7)
    second = train(disks[:5], config)
    assert same(first, second)
    assert first.metadata["losses"] == second.metadata["losses"]
    assert not same(first, train(disks[:5], replace(config, random_state=1)))


def test_seed_reaches_the_order_of_the_samples(disks, small_config, monkeypatch):
    # same weights and no dropout: only the order is left to differ
    monkeypatch.setattr(fitting, "build_network", lambda config: build_network(replace(config, random_state=0)))
    config = small_config(dropout=0.0, epochs=1)
    first = train(disks[:6], config).metadata["losses"]
    assert first == train(disks[:6], config).metadata["losses"]
    assert first != train(disks[:6], replace(config, random_state=1)).metadata["losses"]


def test_papers_network_trains_reproducibly_on_two_threads(disks, small_config):
    config = small_config(channels=(32, 64, 128, 256, 512), spatial_size=(32, 32), epochs=1)
    with threads(2):
        assert same(train(disks[:1], config), train(disks[:1], config))


def test_training_leaves_global_generator_and_switches_alone(disks, small_config):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(disks[:2], small_config(epochs=1))
    assert torch.equal(torch.rand(4), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_first_loss_does_not_depend_on_earlier_trainings(disks, small_config):
    # retraining starts from the same weights, not from the last model
    first = train(disks[:2], small_config(epochs=1)).metadata["losses"][0]
    assert train(disks[:2], small_config(epochs=3)).metadata["losses"][0] == first


def test_dropout_reaches_the_training(disks, small_config):
    with_dropout = train(disks[:2], small_config(epochs=1, dropout=0.5)).metadata["losses"]
    assert with_dropout != train(disks[:2], small_config(epochs=1, dropout=0.0)).metadata["losses"]


@pytest.mark.parametrize("n_samples", [1, 3])
def test_one_label_and_an_odd_last_batch_train(disks, small_config, n_samples):
    model = train(disks[:n_samples], small_config(epochs=2))
    assert model.metadata["training_images"] == [f"disk{i}" for i in range(n_samples)]
    assert model.metadata["n_images"] == n_samples
    assert not model.network.training


def test_volumes_train(balls, small_config):
    config = small_config(label_names=("ball",), spatial_dims=3, spatial_size=(32, 32, 32), epochs=8, batch_size=1)
    model = train(balls[:2], config)
    assert evaluate(Model(build_network(config), model.metadata), balls[3:]).dice < 0.5
    assert evaluate(model, balls[3:]).dice > 0.8
    assert same(train(balls[:1], replace(config, epochs=1)), train(balls[:1], replace(config, epochs=1)))


def test_values_are_trained_as_their_classes(tmp_path, small_config):
    # left and right halves of one intensity step; the file's 9 is class 2, its 4 is class 1
    image = np.repeat(np.array([[0, 120, 240]], np.uint8), 12, axis=1).repeat(36, axis=0)
    values = np.repeat(np.array([[0, 9, 4]], np.uint8), 12, axis=1).repeat(36, axis=0)
    sample = Sample("a", write(image, tmp_path / "i.png"), write(values, tmp_path / "l.png"), {4: 1, 9: 2})
    model = train([sample], small_config(label_names=("right", "left"), epochs=40))
    score = evaluate(model, [sample])
    assert score.class_dice["right"] > 0.9
    assert score.class_dice["left"] > 0.9


def test_empty_label_trains(tmp_path, small_config):
    image = np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)
    sample = Sample("e", write(image, tmp_path / "i.png"), write(0 * image, tmp_path / "l.png"), {})
    model = train([sample], small_config(epochs=20))
    assert evaluate(model, [sample]).image_dice == 1.0


def test_every_epoch_is_reported(disks, small_config):
    reports = []
    model = train(disks[:2], small_config(epochs=3), on_epoch=reports.append)
    assert [(r.epoch, r.epochs) for r in reports] == [(1, 3), (2, 3), (3, 3)]
    assert [r.loss for r in reports] == model.metadata["losses"]
    assert reports[-1].remaining_s == 0
    assert reports[0].remaining_s == pytest.approx(2 * reports[0].elapsed_s)
    assert reports[0].elapsed_s < reports[1].elapsed_s


def test_exception_in_the_callback_ends_the_training(disks, small_config):
    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(disks[:1], small_config(), on_epoch=stop)
    assert not torch.are_deterministic_algorithms_enabled()


def test_no_label_is_a_clear_error(small_config):
    with pytest.raises(ModelError, match=r"at least one labelled image; there is none. Label an image"):
        train([], small_config())


def test_unusable_samples_are_left_out_with_their_reason(disks, small_config, tmp_path, caplog):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    broken = Sample("broken", tmp_path / "broken.png", disks[0].label, {7: 1})
    unnamed = replace(disks[1], image_id="unnamed", class_of_value={1: 1})
    other_size = replace(disks[2], label=write(np.zeros((9, 9), np.uint8), tmp_path / "small.png"), image_id="size")
    beyond = replace(disks[3], image_id="beyond", class_of_value={7: 2})
    model = train([broken, disks[0], unnamed, other_size, beyond], small_config(epochs=1))
    assert model.metadata["training_images"] == ["disk0"]
    reasons = model.metadata["left_out"]
    assert list(reasons) == ["broken", "unnamed", "size", "beyond"]
    assert "broken.png cannot be used" in reasons["broken"]
    assert "holds the value 7, whose meaning is not known (known: 1)" in reasons["unnamed"]
    assert "label has 9 x 9 pixels" in reasons["size"]
    assert "mapped to class 2, but the model has the classes 0 to 1: background, disk" in reasons["beyond"]
    assert "broken is left out of the training" in caplog.text
    assert same(model, train([disks[0]], small_config(epochs=1)))


def test_nothing_but_unusable_samples_is_a_clear_error(disks, small_config):
    with pytest.raises(ModelError, match=r"at least one usable label; none of the 1 can be used. disk0: The label"):
        train([replace(disks[0], class_of_value={})], small_config())


def test_volume_in_a_2d_training_is_left_out(balls, disks, small_config):
    model = train([disks[0], balls[0]], small_config(epochs=1))
    assert "segments 2D images; this one is 3D" in model.metadata["left_out"]["ball0"]


def test_diverged_training_is_a_clear_error(disks, small_config):
    with pytest.raises(ModelError, match=r"diverged.*no longer finite in epoch \d+ of 6; nothing was published"):
        train(disks[:4], small_config(epochs=6, learning_rate=1e30))


def test_absent_gpu_is_a_clear_error(disks, small_config):
    with pytest.raises(InvalidInputError, match="must name a GPU of this machine"):
        train(disks[:1], small_config(device="cuda:77"))


def test_metadata_say_what_was_trained(disk_model):
    metadata = disk_model.metadata
    assert metadata["label_names"] == ["disk"]
    assert metadata["config"]["spatial_size"] == [32, 32]
    assert metadata["training_images"] == [f"disk{i}" for i in range(10)]
    assert metadata["epochs"] == len(metadata["losses"]) == 15
    assert math.isfinite(metadata["losses"][-1])
    assert metadata["device"] == "cpu"
    assert disk_model.label_names == ("disk",)
    assert disk_model.device.type == "cpu"


def test_versions_of_two_trainings_differ_and_sort_by_age(disks, small_config):
    first, second = (train(disks[:1], small_config(epochs=1)).version for _ in range(2))
    assert first < second


@pytest.mark.parametrize(("n", "world_size"), [(1, 1), (5, 2), (6, 3), (1, 4), (2, 5)])
def test_processes_share_all_rows_evenly(n, world_size):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    shares = [share(order, rank, world_size).tolist() for rank in range(world_size)]
    assert {len(share) for share in shares} == {-(-n // world_size)}
    assert {row for share in shares for row in share} == set(range(n))
    assert world_size > 1 or shares[0] == order.tolist()


DISTRIBUTED = """
import json, sys
import torch
from torch import distributed
from coldstart.segmentation import Sample, TrainingConfig, save_model, train
from pathlib import Path
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
samples = [Sample(i, Path(a), Path(b), {7: 1}) for i, a, b in json.loads((folder / "samples.json").read_text())]
config = TrainingConfig.from_dict(json.loads((folder / "config.json").read_text()))
distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
reports = []
model = train(samples[:5], config, validation=samples[5:], on_epoch=reports.append, rank=rank, world_size=2)
save_model(model, folder / f"model{rank}.pt")
(folder / f"reports{rank}").write_text(str([report.dice for report in reports]))
distributed.destroy_process_group()
"""


def test_two_processes_train_one_model(disks, small_config, tmp_path):
    (tmp_path / "samples.json").write_text(json.dumps([(s.image_id, str(s.image), str(s.label)) for s in disks[:7]]))
    (tmp_path / "config.json").write_text(json.dumps(small_config(epochs=2, batch_size=1).to_dict()))
    processes = [
        subprocess.Popen([sys.executable, "-c", DISTRIBUTED, str(rank), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error.decode()[-2000:]
    models = [load_model(tmp_path / f"model{rank}.pt", "cpu") for rank in range(2)]
    first, second = (dict(model.network.named_parameters()) for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert models[0].metadata["losses"] == models[1].metadata["losses"]
    assert models[0].metadata["n_processes"] == 2
    assert models[0].metadata["n_images"] == 5
    untrained = build_network(models[0].config).parameters()
    assert not all(torch.equal(a, b) for a, b in zip(first.values(), untrained, strict=True))
    told = [(tmp_path / f"reports{rank}").read_text() for rank in range(2)]
    assert told == [str(list(models[0].metadata["validation"]["dice"].values())), "[]"]
    assert models[1].metadata["validation"] is None
