"""Yielding a GPU that others take, before a training and in its middle.

There is no GPU here: what `read_card` says of the card is made up, and so is the moment at which a step finds no
memory. All else runs as it would on a GPU, on a CPU in the card's place: so what goes on after a wait, or elsewhere,
has to end in the same weights, bit for bit, as a training that was left alone.
"""

from __future__ import annotations

import inspect
import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from coldstart.segmentation import TrainingConfig, build_network, card, fitting, train
from coldstart.segmentation.card import Card, CardMemory, capped, least_bytes
from coldstart.segmentation.training_memory import free_bytes, step_bytes

CPU = torch.device("cpu")
MB = 1 << 20
CONFIG = TrainingConfig(label_names=("a",), spatial_dims=3, spatial_size=(128, 128, 128), batch_size=4, device="cpu")
FREE = CardMemory(1 << 40, 1 << 40)
TAKEN = CardMemory(0, 1 << 40)


class FakeCard:
    """What the card is said to be: `memory`, or after `looks` looks free again."""

    def __init__(self) -> None:
        self.memory, self.taken, self.looks, self.asked = FREE, TAKEN, 0, 0

    def take(self, looks: int = 1) -> None:
        self.memory, self.looks = self.taken, looks

    def read(self, device: torch.device) -> CardMemory:
        self.asked += 1
        if self.memory is self.taken:
            self.looks -= 1
            if self.looks < 0:
                self.memory = FREE
        return self.memory


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    found = FakeCard()
    monkeypatch.setattr(card, "read_card", found.read)
    monkeypatch.setattr(card, "LOOK_EVERY_S", 0.01)
    return found


def same(first, second) -> bool:
    weights, others = first.network.state_dict(), second.network.state_dict()
    return all(torch.equal(weights[key], others[key]) for key in weights)


@pytest.mark.parametrize("n_looks", [0, 1, 3])
def test_training_waits_until_there_is_room(fake, n_looks, caplog):
    caplog.set_level(logging.INFO)
    said = []
    shared = Card(CPU, "wait", said.append)
    if n_looks:
        fake.take(looks=n_looks)
    shared.find_room(100 * MB)
    assert shared.device == CPU and shared.is_shared
    sentence = "The training needs 100 MB of the GPU's memory, which other programs hold: it waits until they give"
    if n_looks:
        assert said[0].startswith(sentence) and said[1:] == [None]
        assert caplog.records[0].message.startswith(sentence)
        assert "There is room on the GPU again, after 0 s: the training goes on." in caplog.text
    else:
        assert said == [] and caplog.text == ""


def test_training_leaves_a_taken_card_at_once_and_for_good_where_that_is_wanted(fake, caplog):
    shared = Card(torch.device("meta"), "cpu", pytest.fail)
    fake.take(looks=1000)
    shared.find_room(100 * MB)
    assert shared.device == CPU and not shared.is_shared and not shared.is_taken(100 * MB)
    assert "it goes on on the CPU." in caplog.text


@pytest.mark.parametrize(("needed", "obtainable", "taken"), [(100, 99, True), (100, 100, False), (1001, 0, False)])
def test_card_is_taken_where_others_hold_what_would_fit(fake, needed, obtainable, taken):
    fake.memory = CardMemory(obtainable, 1000)
    assert Card(CPU, "wait").is_taken(needed) is taken


def test_nobody_looks_where_nobody_is_to_yield(fake, disks, small_config):
    fake.take(looks=1000)
    alone = Card(CPU)
    assert not alone.is_shared and not alone.is_taken(100)
    train(disks[:1], small_config(epochs=1))
    assert fake.asked == 0


def test_cpu_is_never_taken_and_cuda_left_alone_there():
    before = torch.cuda.is_initialized()
    assert card.read_card(CPU) is None and not Card(CPU, "wait").is_shared
    with capped(CPU, 0.5):
        pass
    assert torch.cuda.is_initialized() == before


@pytest.fixture
def no_look(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A card of 16 MB, of which this process may have half; what it says when asked what is free."""
    says = ["CUDA error: out of memory"]

    def fail(device):
        raise RuntimeError(says[0])

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16 * MB))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.5)
    return says


def test_card_on_which_there_is_no_room_even_to_look_has_nothing_free(no_look):
    cuda = torch.device("cuda:0")
    assert card.read_card(cuda) == CardMemory(0, 8 * MB)
    assert free_bytes(cuda) == 0
    assert Card(cuda, "wait").is_taken(MB)


def test_card_that_fails_otherwise_is_not_taken_for_a_full_one(no_look):
    no_look[0] = "CUDA error: invalid device ordinal"
    for look in (card.read_card, free_bytes):
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            look(torch.device("cuda:0"))


def test_least_is_one_image_of_the_smallest_patch():
    least = least_bytes(CONFIG, CPU)
    assert step_bytes(CONFIG, (32, 32, 32), False) / 4 < least < step_bytes(CONFIG, (64, 32, 32), False)


@pytest.mark.parametrize("when_taken", ["wait", "cpu"])
def test_training_that_yields_between_two_epochs_ends_as_one_that_was_left_alone(fake, disks, small_config, when_taken):
    config = small_config(epochs=5, dropout=0.3)
    alone = train(disks[:5], config)
    said, reports = [], []

    def on_epoch(report):
        reports.append((report, fake.asked))
        if report.epoch == 2:
            fake.take(looks=3)

    shared = Card(CPU, when_taken, said.append)
    yielded = train(disks[:5], config, card=shared, on_epoch=on_epoch)
    assert yielded.metadata["losses"] == alone.metadata["losses"]
    assert same(yielded, alone)
    assert [report.epoch for report, _ in reports] == [1, 2, 3, 4, 5]
    assert len(said) == (2 if when_taken == "wait" else 0) and shared.is_shared == (when_taken == "wait")
    looked_after = fake.asked - reports[2][1]
    if when_taken == "wait":
        assert looked_after >= 2, "it looks on, once an epoch"
        assert yielded.metadata["device"] == "cpu"
    else:
        assert looked_after == 0, "it has left the card"
        assert yielded.metadata["device"] == "cpu, cpu from epoch 3"


@pytest.mark.parametrize("peak", [0, 1])
def test_training_goes_on_where_its_steps_were_seen_to_fit_whatever_was_estimated(fake, disks, small_config, peak):
    config = small_config(epochs=3)
    estimate = step_bytes(config, (32, 32), False)
    fake.memory = FREE._replace(peak=peak * estimate // 2)
    said = []

    def on_epoch(report):
        if report.epoch == 1:
            fake.memory = fake.memory._replace(obtainable=estimate - 1)

    def on_wait(sentence):
        said.append(sentence)
        fake.memory = FREE

    train(disks[:2], config, card=Card(CPU, "wait", on_wait), on_epoch=on_epoch)
    assert len(said) == (0 if peak else 2)


def fails_once_in_step(number: int, phase: str, fake: FakeCard | None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the memory run out in one step, at the end of its way forward or back; others have it then, if `fake`."""
    steps: list[int] = []

    def fail(*_):
        steps.append(len(steps) + 1)
        if steps[-1] == number:
            if fake is not None:
                fake.take(looks=3)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    def build(config):
        network = build_network(config)
        if phase == "forward":
            network.register_forward_hook(fail)
        else:
            next(network.parameters()).register_hook(fail)
        return network

    monkeypatch.setattr(fitting, "build_network", build)
    return steps


@pytest.mark.parametrize("when_taken", ["wait", "cpu"])
@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("step", [1, 5])
def test_step_that_others_took_the_memory_of_is_taken_again_and_nothing_is_lost(
    fake, disks, small_config, monkeypatch, when_taken, phase, step
):
    config = small_config(epochs=3, dropout=0.3)
    alone = train(disks[:5], config)
    said = []
    steps = fails_once_in_step(step, phase, fake, monkeypatch)
    yielded = train(disks[:5], config, card=Card(CPU, when_taken, said.append))
    assert len(steps) == 3 * 3 + 1, "one step of nine came twice"
    assert yielded.metadata["losses"] == alone.metadata["losses"]
    assert same(yielded, alone)
    assert len(said) == (2 if when_taken == "wait" else 0)


@pytest.mark.parametrize("allowed", [1.03, 1.05, 1.2])
def test_step_that_takes_nearly_all_that_the_training_may_have_is_waited_for(
    fake, disks, small_config, monkeypatch, allowed
):
    config = small_config(epochs=1)
    fake.taken = CardMemory(0, int(allowed * step_bytes(config, (32, 32), False)))
    said = []
    steps = fails_once_in_step(1, "forward", fake, monkeypatch)
    train(disks[:2], config, card=Card(CPU, "wait", said.append))
    assert len(steps) == 2 and len(said) == 2


@pytest.mark.parametrize("n_made", [0, 1, 2, 5])
@pytest.mark.parametrize("amp", [False, True])
def test_memory_that_runs_out_while_adam_makes_its_means_leaves_nothing_behind(
    fake, disks, small_config, monkeypatch, n_made, amp
):
    monkeypatch.setattr(fitting, "mixed_precision", lambda config, device: amp)
    config = small_config(epochs=2)
    alone = train(disks[:2], config)
    made = []

    def make(*given, **options):
        if sys._getframe(1).f_code.co_filename == inspect.getfile(torch.optim.Adam):
            made.append(given)
            if len(made) == n_made + 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return torch.full_like(given[0], 0, **options)

    monkeypatch.setattr(torch, "zeros_like", make)
    again = train(disks[:2], config, card=Card(CPU, "wait", pytest.fail))
    assert len(made) > n_made + 1 and again.config.batch_size == config.batch_size
    assert same(again, alone)


def test_step_whose_memory_nobody_else_has_is_tried_again_before_the_batch_is_halved(
    fake, disks, small_config, monkeypatch
):
    config = small_config(epochs=2)
    alone = train(disks[:4], config)
    steps = fails_once_in_step(2, "forward", None, monkeypatch)
    again = train(disks[:4], config, card=Card(CPU, "wait", pytest.fail))
    assert same(again, alone) and len(steps) == 5


def test_batch_is_halved_where_memory_runs_out_that_nobody_else_has(fake, disks, small_config, monkeypatch):
    def build(config):
        def fail(*_):
            if config.batch_size > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        network = build_network(config)
        network.register_forward_hook(fail)
        return network

    monkeypatch.setattr(fitting, "build_network", build)
    model = train(disks[:4], small_config(epochs=1, batch_size=2), card=Card(CPU, "wait", pytest.fail))
    assert model.config.batch_size == 1 and model.metadata["requested_batch_size"] == 2


def test_other_errors_of_a_step_are_not_swallowed(fake, disks, small_config, monkeypatch):
    def build(config):
        network = build_network(config)
        network.register_forward_hook(lambda *_: [][0])
        return network

    monkeypatch.setattr(fitting, "build_network", build)
    with pytest.raises(IndexError):
        train(disks[:1], small_config(epochs=1), card=Card(CPU, "wait"))


def test_time_left_does_not_count_the_wait(fake, disks, small_config, monkeypatch):
    monkeypatch.setattr(card, "LOOK_EVERY_S", 1.5)
    reports = []

    def on_epoch(report):
        reports.append(report)
        if report.epoch == 1:
            fake.take(looks=3)

    shared = Card(CPU, "wait")
    train(disks[:2], small_config(epochs=4), card=shared, on_epoch=on_epoch)
    assert shared.waited_s >= 1.5
    second = reports[1]
    assert second.elapsed_s > shared.waited_s
    assert second.remaining_s <= second.elapsed_s - shared.waited_s + 1e-3  # two epochs are left, two have run
    assert reports[-1].remaining_s == 0
