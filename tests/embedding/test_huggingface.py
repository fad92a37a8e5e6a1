"""Encoders from `transformers`: the real MobileNetV2 and tiny random models of every kind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from coldstart.embedding import create_encoder
from coldstart.embedding import encoder as encoder_module
from coldstart.exceptions import EncoderError

PREPROCESSOR = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}
TRANSFORMER = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


def save_model(folder: Path, config: Any, preprocessor: dict[str, Any] | None = None) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | (preprocessor or {})))
    return model


def sam_config() -> transformers.SamConfig:
    vision = {
        "hidden_size": 16,
        "output_channels": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "mlp_dim": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
        "num_pos_feats": 4,
    }
    prompt = {"hidden_size": 8, "image_embedding_size": 4, "image_size": 32, "patch_size": 8}
    decoder = {"hidden_size": 8, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 8}
    return transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((3, 32, 32), dtype=np.float32)


def normalised(image: np.ndarray) -> torch.Tensor:
    mean, std = (np.array(PREPROCESSOR[key])[:, None, None] for key in ("image_mean", "image_std"))
    return torch.tensor((image - mean) / std, dtype=torch.float32)[None]


@pytest.mark.parametrize(
    "config",
    [
        transformers.ViTConfig(**TRANSFORMER),
        transformers.Dinov2Config(**TRANSFORMER, num_register_tokens=0),
        transformers.Dinov2WithRegistersConfig(**TRANSFORMER, num_register_tokens=3),
        transformers.DeiTConfig(**TRANSFORMER),
    ],
    ids=lambda config: config.model_type,
)
def test_transformer_gives_its_class_token(config: Any, image: np.ndarray, tmp_path: Path) -> None:
    model = save_model(tmp_path, config)
    encoder = create_encoder(f"hf:{tmp_path}", device="cpu")
    with torch.inference_mode():
        expected = model(pixel_values=normalised(image)).last_hidden_state[:, 0]

    vectors = encoder.embed(image[None])

    assert (encoder.name, encoder.n_features, encoder.spatial_dims) == (f"hf:{tmp_path.name}", 24, 2)
    assert np.allclose(vectors, expected.numpy(), atol=1e-5)


def test_transformer_without_class_token_gives_the_mean_of_its_patches(image: np.ndarray, tmp_path: Path) -> None:
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    model = save_model(tmp_path, config)
    with torch.inference_mode():
        expected = model(pixel_values=normalised(image)).last_hidden_state.mean(dim=1)

    vectors = create_encoder(f"hf:{tmp_path}", device="cpu").embed(image[None])

    assert np.allclose(vectors, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        transformers.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1]),
    ],
    ids=lambda config: config.model_type,
)
def test_convolutional_network_gives_its_pooled_output(config: Any, image: np.ndarray, tmp_path: Path) -> None:
    model = save_model(tmp_path, config)
    with torch.inference_mode():
        expected = model(pixel_values=normalised(image)).pooler_output.flatten(1)

    vectors = create_encoder(f"hf:{tmp_path}", device="cpu").embed(image[None])

    assert vectors.shape == (1, 16)
    assert np.allclose(vectors, expected.numpy(), atol=1e-5)


def test_sam_gives_the_mean_of_its_feature_map(image: np.ndarray, tmp_path: Path) -> None:
    steps = {"size": {"longest_edge": 32}, "do_pad": True, "pad_size": {"height": 32, "width": 32}}
    model = save_model(tmp_path, sam_config(), steps)
    # 16 rows of 32 columns: nothing to resize, 16 rows of zeros are padded below.
    wide = image[:, :16]
    inputs = torch.zeros(1, 3, 32, 32)
    inputs[:, :, :16] = normalised(wide)
    with torch.inference_mode():
        expected = model.vision_encoder(inputs).last_hidden_state.mean(dim=(2, 3))

    vectors = create_encoder(f"hf:{tmp_path}", device="cpu").embed(wide[None])

    assert vectors.shape == (1, 8)
    assert np.allclose(vectors, expected.numpy(), atol=1e-5)


def test_model_of_image_and_text_gives_its_image_part(image: np.ndarray, tmp_path: Path) -> None:
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 99,
    }
    model = save_model(tmp_path, transformers.CLIPConfig(vision_config=TRANSFORMER, text_config=text))
    with torch.inference_mode():
        expected = model.vision_model(pixel_values=normalised(image)).last_hidden_state[:, 0]

    vectors = create_encoder(f"hf:{tmp_path}", device="cpu").embed(image[None])

    assert np.allclose(vectors, expected.numpy(), atol=1e-5)


def test_masked_autoencoder_sees_the_whole_image(image: np.ndarray, tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig(**TRANSFORMER, decoder_hidden_size=16, decoder_num_attention_heads=2)
    save_model(tmp_path, config)
    encoder = create_encoder(f"hf:{tmp_path}", device="cpu")

    assert np.allclose(encoder.embed(image[None]), encoder.embed(image[None]), atol=1e-5)


def test_another_size_than_trained_on_interpolates_the_positions(image: np.ndarray, tmp_path: Path) -> None:
    save_model(tmp_path, transformers.ViTConfig(**TRANSFORMER), {"size": {"height": 48, "width": 48}})

    assert create_encoder(f"hf:{tmp_path}", device="cpu").embed(image[None]).shape == (1, 24)


def test_model_of_one_channel_gets_grey(image: np.ndarray, tmp_path: Path) -> None:
    steps = {"image_mean": [0.5], "image_std": [0.5]}
    model = save_model(tmp_path, transformers.ViTConfig(**TRANSFORMER, num_channels=1), steps)
    grey = torch.tensor(image.mean(axis=0)[None, None] * 2 - 1)
    with torch.inference_mode():
        expected = model(pixel_values=grey).last_hidden_state[:, 0]

    vectors = create_encoder(f"hf:{tmp_path}", device="cpu").embed(image[None])

    assert np.allclose(vectors, expected.numpy(), atol=1e-5)


def test_large_inputs_pass_in_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, transformers.ViTConfig(**TRANSFORMER))
    encoder = create_encoder(f"hf:{tmp_path}", device="cpu")
    batch = np.random.default_rng(0).random((5, 1, 40, 40), dtype=np.float32)
    expected = encoder.embed(batch)
    sizes: list[int] = []
    monkeypatch.setattr(encoder_module, "MAX_PIXELS_AT_ONCE", 2 * 32 * 32)
    encoder.network.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda _, __, keywords: sizes.append(len(keywords["pixel_values"])), with_kwargs=True
    )

    vectors = encoder.embed(batch)

    assert sizes == [2, 2, 1]
    assert np.allclose(vectors, expected, atol=1e-5)


def test_version_depends_on_weights_and_preprocessing(tmp_path: Path) -> None:
    save_model(tmp_path, transformers.ViTConfig(**TRANSFORMER))
    first = create_encoder(f"hf:{tmp_path}", device="cpu").version
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | {"resample": 3}))

    assert create_encoder(f"hf:{tmp_path}", device="cpu").version != first


def test_mobilenet_of_imagenet_embeds_a_radiograph_as_its_card_says(shared_data: Path) -> None:
    folder = shared_data / "encoders" / "mobilenet_v2_imagenet_hf"
    path = sorted((shared_data / "montgomery" / "images").glob("*.png"))[0]
    encoder = create_encoder(f"hf:{folder}", device="cpu")
    pixels = np.asarray(Image.open(path).convert("L"))
    # In float: rounding to 8 bit when resizing alone moves this network's vectors by 8 %.
    resized = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((224, 224), Image.Resampling.BILINEAR))
    inputs = torch.tensor(resized / 127.5 - 1).expand(1, 3, 224, 224)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = model(pixel_values=inputs).pooler_output.numpy()

    vectors = encoder.embed(pixels[None, None].astype(np.float32) / 255)

    assert vectors.shape == (1, 1280)
    assert np.linalg.norm(vectors - expected) < 1e-3 * np.linalg.norm(expected)


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"must name a folder with config.json, .* holds no config.json"):
        create_encoder(f"hf:{tmp_path}")


def test_absent_folder_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"'hf:/no/such/folder' must name a folder .* is not a folder"):
        create_encoder("hf:/no/such/folder")


def test_folder_without_preprocessor_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, transformers.ViTConfig(**TRANSFORMER))
    (tmp_path / "preprocessor_config.json").unlink()

    with pytest.raises(EncoderError, match=r"must name a model with a preprocessor_config.json"):
        create_encoder(f"hf:{tmp_path}")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, transformers.ViTConfig(**TRANSFORMER))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(EncoderError, match=r"'hf:.*' cannot be loaded from .* whole weights; code .* never run"):
        create_encoder(f"hf:{tmp_path}")


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, transformers.ViTConfig(**TRANSFORMER))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))

    with pytest.raises(EncoderError, match=r"must come with all its weights; \d+ are missing in .* the first is '"):
        create_encoder(f"hf:{tmp_path}")


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")

    with pytest.raises(EncoderError, match="cannot be loaded"):
        create_encoder(f"hf:{tmp_path}")

    assert not (tmp_path / "ran").exists()


def test_language_model_is_refused(tmp_path: Path) -> None:
    save_model(
        tmp_path,
        transformers.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
        ),
    )

    with pytest.raises(EncoderError, match=r"'hf:.*' (cannot take images|must be a vision model)"):
        create_encoder(f"hf:{tmp_path}")
