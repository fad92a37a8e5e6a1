"""Encoders by name, and what `auto` takes."""

import logging
from pathlib import Path

import pytest
import torch

from coldstart.embedding import create_encoder, resnet
from coldstart.exceptions import EncoderError


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


@pytest.mark.usefixtures("offline")
def test_auto_without_weights_is_the_descriptor_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="coldstart"):
        encoder = create_encoder("auto")

    assert encoder.name == "descriptor"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "Encoder in use: descriptor, version 1, instead of radimagenet" in record.getMessage()
    assert "'Lab-Rasool/RadImageNet', which is not in the local cache and cannot be downloaded" in record.getMessage()


@pytest.mark.usefixtures("offline")
def test_radimagenet_without_weights_is_an_error_with_the_remedy() -> None:
    with pytest.raises(EncoderError, match=r"`--conf encoder radimagenet` needs .*`--conf encoder descriptor`, which"):
        create_encoder("radimagenet")


@pytest.mark.usefixtures("offline")
def test_medicalnet_without_weights_is_an_error_with_the_remedy() -> None:
    with pytest.raises(
        EncoderError, match=r"`--conf encoder medicalnet` needs .*TencentMedicalNet/MedicalNet-Resnet50"
    ):
        create_encoder("medicalnet")


@pytest.mark.usefixtures("offline")
def test_hub_model_that_is_not_here_is_an_error_with_the_remedy() -> None:
    with pytest.raises(
        EncoderError, match=r"`--conf encoder` 'hf:microsoft/rad-dino' needs .*`--conf encoder hf:<folder>`"
    ):
        create_encoder("hf:microsoft/rad-dino")


def test_auto_downloads_where_the_network_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ResNet50.pt"
    asked = []

    def fetch(repository: str, filename: str, option: str) -> Path:
        asked.append((repository, filename))
        renamed = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
        state = resnet.build_resnet50().state_dict()
        torch.save({f"backbone.{renamed[k.split('.')[0]]}.{k.split('.', 1)[1]}": v for k, v in state.items()}, path)
        return path

    monkeypatch.setattr(resnet, "find_radimagenet", lambda: None)
    monkeypatch.setattr(resnet, "fetch_hub_file", fetch)

    assert create_encoder("auto", device="cpu").name == "radimagenet"
    assert asked == [("Lab-Rasool/RadImageNet", "ResNet50.pt")]


def test_auto_does_not_hide_a_fault_in_the_weights_given(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"damaged")

    with pytest.raises(EncoderError, match="`--conf encoder_weights` must name a whole file"):
        create_encoder("auto", weights=path)


def test_the_encoder_in_use_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="coldstart"):
        create_encoder("descriptor")

    assert "Encoder in use: descriptor, version 1" in caplog.text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("radimagent", "Did you mean 'radimagenet'?"),
        ("Descriptor", "Did you mean 'descriptor'?"),
        ("resnet:/a.pth", "Did you mean 'resnet50:'?"),
        ("", "got ''."),
    ],
)
def test_unknown_name_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(EncoderError) as caught:
        create_encoder(name)

    assert str(caught.value).startswith("`--conf encoder` must be one of auto, radimagenet, medicalnet, descriptor, ")
    assert repr(name) in str(caught.value) and str(caught.value).endswith(hint)


def test_weights_for_an_encoder_without_are_refused() -> None:
    with pytest.raises(
        EncoderError, match=r"`--conf encoder_weights` goes with .* got encoder 'descriptor' with the w"
    ):
        create_encoder("descriptor", weights=Path("a.pt"))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "mps"])
def test_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(EncoderError, match=f"`device` must be auto, cpu, cuda or cuda:<number>; got '{device}'"):
        create_encoder("descriptor", device=device)


def test_absent_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    with pytest.raises(EncoderError, match=r"`device` 'cuda:3' is not on this machine, which has 1 GPUs"):
        create_encoder("descriptor", device="cuda:3")
