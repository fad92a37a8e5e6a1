"""The ResNet-50 encoders against hand-made forward passes with random weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from coldstart.embedding import create_encoder
from coldstart.embedding.keras_resnet import KerasResNet50
from coldstart.embedding.resnet import build_resnet50
from coldstart.exceptions import EncoderError

State = dict[str, torch.Tensor]
LAYERS = {"layer1": (64, 3), "layer2": (128, 4), "layer3": (256, 6), "layer4": (512, 3)}
BACKBONE = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def norm_shapes(prefix: str, n_channels: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{part}": (n_channels,) for part in parts} | {f"{prefix}.num_batches_tracked": ()}


def resnet50_shapes(*, biases: bool) -> dict[str, tuple[int, ...]]:
    """torchvision's resnet50 without fc, by rule; with `biases` as the Keras conversion has them."""

    def conv(prefix: str, n_out: int, n_in: int, kernel: int) -> dict[str, tuple[int, ...]]:
        bias = {f"{prefix}.bias": (n_out,)} if biases else {}
        return {f"{prefix}.weight": (n_out, n_in, kernel, kernel)} | bias

    shapes = conv("conv1", 64, 3, 7) | norm_shapes("bn1", 64)
    n_in = 64
    for layer, (width, n_blocks) in LAYERS.items():
        for block in range(n_blocks):
            prefix = f"{layer}.{block}"
            for number, (n_out, n_from, kernel) in enumerate(
                ((width, n_in, 1), (width, width, 3), (4 * width, width, 1)), start=1
            ):
                shapes |= conv(f"{prefix}.conv{number}", n_out, n_from, kernel)
                shapes |= norm_shapes(f"{prefix}.bn{number}", n_out)
            if block == 0:
                shapes |= conv(f"{prefix}.downsample.0", 4 * width, n_in, 1)
                shapes |= norm_shapes(f"{prefix}.downsample.1", 4 * width)
            n_in = 4 * width
    return shapes


def random_state(*, biases: bool = False) -> State:
    generator = torch.Generator().manual_seed(3)
    state = {}
    for key, shape in resnet50_shapes(biases=biases).items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        elif key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            state[key] = torch.rand(shape, generator=generator) + 0.5
        else:
            fan_in = np.prod(shape[1:]) if len(shape) > 1 else 4
            state[key] = torch.randn(shape, generator=generator) / float(fan_in) ** 0.5
    return state


def by_hand(state: State, inputs: torch.Tensor, *, stride_in_first: bool, epsilon: float) -> torch.Tensor:
    def conv(x: torch.Tensor, name: str, **keywords: int) -> torch.Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **keywords)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + epsilon) * weight + bias

    x = torch.relu(norm(conv(inputs, "conv1", stride=2, padding=3), "bn1"))
    padded = functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
    x = padded.unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(-2, -1))
    for layer, (_, n_blocks) in LAYERS.items():
        for block in range(n_blocks):
            name = f"{layer}.{block}"
            stride = 2 if block == 0 and layer != "layer1" else 1
            first, second = (stride, 1) if stride_in_first else (1, stride)
            y = torch.relu(norm(conv(x, f"{name}.conv1", stride=first), f"{name}.bn1"))
            y = torch.relu(norm(conv(y, f"{name}.conv2", stride=second, padding=1), f"{name}.bn2"))
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride=stride), f"{name}.downsample.1")
            x = torch.relu(x + y)
    return x.mean(dim=(2, 3))


def to_backbone(state: State) -> State:
    renamed = {}
    for key, value in state.items():
        part, rest = key.split(".", 1)
        renamed[f"backbone.{BACKBONE[part]}.{rest}"] = value
    return renamed


@pytest.fixture(scope="module")
def torchvision_state() -> State:
    return random_state()


@pytest.fixture(scope="module")
def keras_state() -> State:
    return random_state(biases=True)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    # 224 x 224, so that no resizing comes between; three different channels show their order.
    return np.random.default_rng(0).random((3, 224, 224), dtype=np.float32)


def save(state: object, folder: Path, name: str = "weights.pth") -> Path:
    path = folder / name
    torch.save(state, path)
    return path


def close(vectors: np.ndarray, expected: torch.Tensor) -> bool:
    values = expected.numpy()
    return bool(np.abs(vectors - values).max() <= 1e-4 * np.abs(values).max())


def test_monai_resnet_has_exactly_the_keys_and_shapes_of_torchvisions() -> None:
    network = build_resnet50()

    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == resnet50_shapes(biases=False)
    # torchvision's resnet50 has 25,557,032 parameters, 2,049,000 of them in its fully connected layer.
    assert sum(value.numel() for value in network.parameters()) == 25_557_032 - 2_049_000


@pytest.mark.parametrize("size", [64, 97])
def test_monai_resnet_computes_what_torchvisions_does(torchvision_state: State, size: int) -> None:
    network = build_resnet50().eval()
    network.load_state_dict(torchvision_state)
    inputs = torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(1))

    with torch.inference_mode():
        vectors = network(inputs)

    assert close(vectors.numpy(), by_hand(torchvision_state, inputs, stride_in_first=False, epsilon=1e-5))


@pytest.mark.parametrize("size", [64, 97])
def test_keras_resnet_computes_what_it_should(keras_state: State, size: int) -> None:
    network = KerasResNet50().eval()
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == resnet50_shapes(biases=True)
    network.load_state_dict(keras_state)
    inputs = torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(1))

    with torch.inference_mode():
        vectors = network(inputs)

    assert close(vectors.numpy(), by_hand(keras_state, inputs, stride_in_first=True, epsilon=1.001e-5))


@pytest.mark.parametrize("with_fc", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_resnet50_from_path_normalises_as_imagenet(
    torchvision_state: State, image: np.ndarray, tmp_path: Path, with_fc: bool, wrapped: bool
) -> None:
    state = dict(torchvision_state)
    if with_fc:
        state |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    path = save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if wrapped else state, tmp_path)
    encoder = create_encoder(f"resnet50:{path}", device="cpu")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    inputs = torch.tensor((image - mean[:, None, None]) / std[:, None, None], dtype=torch.float32)[None]

    vectors = encoder.embed(image[None])

    assert (encoder.name, encoder.n_features, encoder.spatial_dims) == ("resnet50:weights.pth", 2048, 2)
    assert vectors.shape == (1, 2048) and vectors.dtype == np.float32
    assert close(vectors, by_hand(torchvision_state, inputs, stride_in_first=False, epsilon=1e-5))


def test_resnet50_loads_safetensors(torchvision_state: State, image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(torchvision_state, path)
    other = save(torchvision_state, tmp_path)

    safe = create_encoder(f"resnet50:{path}", device="cpu").embed(image[None])

    assert np.array_equal(safe, create_encoder(f"resnet50:{other}", device="cpu").embed(image[None]))


def test_radimagenet_official_file_is_told_by_its_keys_and_gets_bgr(
    torchvision_state: State, image: np.ndarray, tmp_path: Path
) -> None:
    path = save(to_backbone(torchvision_state), tmp_path, "ResNet50.pt")
    encoder = create_encoder("radimagenet", weights=path, device="cpu")
    grey_levels = torch.tensor(image[::-1].copy() * 255)[None]

    vectors = encoder.embed(image[None])

    expected = by_hand(torchvision_state, (grey_levels - 127.5) * 2 / 255, stride_in_first=False, epsilon=1e-5)
    assert encoder.name == "radimagenet"
    assert close(vectors, expected)


def test_radimagenet_notop_file_is_told_by_its_keys_and_gets_bgr_less_means(
    keras_state: State, image: np.ndarray, tmp_path: Path
) -> None:
    path = save(keras_state, tmp_path, "RadImageNet-ResNet50_notop.pth")
    encoder = create_encoder("radimagenet", weights=path, device="cpu")
    inputs = torch.tensor(image[::-1].copy())[None] - torch.tensor([0.406, 0.456, 0.485])[:, None, None]

    vectors = encoder.embed(image[None])

    assert encoder.name == "radimagenet"
    assert close(vectors, by_hand(keras_state, inputs, stride_in_first=True, epsilon=1.001e-5))


def test_version_follows_the_content_not_the_name(torchvision_state: State, tmp_path: Path) -> None:
    backbone = to_backbone(torchvision_state)
    first = create_encoder("radimagenet", weights=save(backbone, tmp_path, "a.pt"), device="cpu")
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    same = create_encoder("radimagenet", weights=tmp_path / "b.pt", device="cpu")
    backbone["backbone.1.bias"] = backbone["backbone.1.bias"] + 1
    other = create_encoder("radimagenet", weights=save(backbone, tmp_path, "c.pt"), device="cpu")

    assert first.version == same.version != other.version


def test_auto_takes_radimagenet_when_weights_are_given(torchvision_state: State, tmp_path: Path) -> None:
    path = save(to_backbone(torchvision_state), tmp_path)

    assert create_encoder("auto", weights=path, device="cpu").name == "radimagenet"


def test_radimagenet_is_found_in_the_caches(
    torchvision_state: State, keras_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hub"
    snapshot = folder / "models--Lab-Rasool--RadImageNet" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "models--Lab-Rasool--RadImageNet" / "refs").mkdir()
    (folder / "models--Lab-Rasool--RadImageNet" / "refs" / "main").write_text("a" * 40)
    torch_folder = tmp_path / "torch"
    (torch_folder / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(torch_folder))

    notop = save(keras_state, torch_folder / "checkpoints", "RadImageNet-ResNet50_notop.pth")
    from_torch_hub = create_encoder("auto", device="cpu")
    official = save(to_backbone(torchvision_state), snapshot, "ResNet50.pt")
    from_hub = create_encoder("auto", device="cpu")

    assert from_torch_hub.version == create_encoder("radimagenet", weights=notop, device="cpu").version
    assert from_hub.version == create_encoder("radimagenet", weights=official, device="cpu").version


def missing_key(state: State) -> State:
    return {key: value for key, value in state.items() if key != "layer2.0.conv2.weight"}


def wrong_shape(state: State) -> State:
    return state | {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}


def unknown_key(state: State) -> State:
    return state | {"layer5.0.conv1.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (missing_key, r"torchvision's format; 1 keys are missing, the first is 'layer2.0.conv2.weight'"),
        (wrong_shape, r"1 shapes differ, the first is 'layer1.0.conv1.weight' with \(64, 64, 3, 3\)"),
        (unknown_key, r"1 keys are unknown, the first is 'layer5.0.conv1.weight'"),
    ],
)
def test_wrong_keys_are_named(
    torchvision_state: State, tmp_path: Path, change: Callable[[State], State], sentence: str
) -> None:
    path = save(change(torchvision_state), tmp_path)

    with pytest.raises(EncoderError, match=sentence):
        create_encoder(f"resnet50:{path}", device="cpu")


def test_radimagenet_file_given_as_resnet50_names_the_remedy(torchvision_state: State, tmp_path: Path) -> None:
    path = save(to_backbone(torchvision_state), tmp_path)

    with pytest.raises(
        EncoderError, match=r"the first is 'backbone.0.weight'. .*`--conf encoder radimagenet --conf en"
    ):
        create_encoder(f"resnet50:{path}", device="cpu")


def test_torchvision_file_given_as_radimagenet_names_the_remedy(torchvision_state: State, tmp_path: Path) -> None:
    path = save(torchvision_state, tmp_path)

    with pytest.raises(EncoderError, match=r"`--conf encoder_weights` must be RadImageNet's .*encoder resnet50:"):
        create_encoder("radimagenet", weights=path, device="cpu")


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    path = save({"encoder.weight": torch.zeros(1)}, tmp_path)

    with pytest.raises(EncoderError, match=r"holds 1 keys, the first is 'encoder.weight'. Download one of the two"):
        create_encoder("auto", weights=path, device="cpu")
