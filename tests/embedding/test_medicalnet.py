"""MedicalNet through MONAI, with random weights in the published file's form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet50

from coldstart.embedding import create_encoder, medicalnet
from coldstart.exceptions import EncoderError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = resnet50(spatial_dims=3, n_input_channels=1, feed_forward=False, bias_downsample=False)
    path = tmp_path_factory.mktemp("medicalnet") / "resnet_50_23dataset.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, path)
    return path


def test_volume_is_resized_and_z_scored(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medicalnet, "GRID", (24, 24, 24))
    encoder = create_encoder("medicalnet", weights=weights, device="cpu")
    volume = np.random.default_rng(0).random((1, 24, 24, 24), dtype=np.float32)
    # MONAI's own loading of such a file, as its users do it.
    flat = weights.with_name("flat.pth")
    torch.save(torch.load(weights, weights_only=True)["state_dict"], flat)
    reference = resnet50(
        pretrained=str(flat), spatial_dims=3, n_input_channels=1, feed_forward=False, bias_downsample=False
    ).eval()
    with torch.inference_mode():
        expected = reference(torch.tensor((volume - volume.mean()) / volume.std())[None]).numpy()

    vectors = encoder.embed(volume[None])

    assert (encoder.name, encoder.spatial_dims, encoder.n_features) == ("medicalnet", 3, 2048)
    assert vectors.shape == (1, 2048) and np.allclose(vectors, expected, atol=1e-4 * np.abs(expected).max())
    assert np.allclose(encoder.prepare(np.full((1, 5, 6, 7), 3, dtype=np.float32)), 0)


def test_grid_is_the_one_stated(weights: Path) -> None:
    prepared = create_encoder("medicalnet", weights=weights, device="cpu").prepare(
        np.random.default_rng(0).random((1, 30, 120, 7), dtype=np.float32)
    )

    assert prepared.shape == (1, 96, 96, 96)
    assert prepared.mean() == pytest.approx(0, abs=1e-4) and prepared.std() == pytest.approx(1, abs=1e-3)


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.conv1.weight": torch.zeros(64, 1, 7, 7, 7)}}, tmp_path / "a.pth")

    with pytest.raises(EncoderError, match=r"must be MedicalNet's resnet_50_23dataset.pth; \d+ keys are missing"):
        create_encoder("medicalnet", weights=tmp_path / "a.pth", device="cpu")
