"""Presets, `--conf` and requests: who wins, how strings are read, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from coldstart.exceptions import SettingsError
from coldstart.settings import DEFAULT_PRESET, Settings, load_settings

CONFIGS = Path(__file__).resolve().parents[1] / "apps" / "coldstart_al" / "configs"
PRESETS = ("brain_mri_2d", "chest_xray", "sample", "volume_ct", "volume_mr")


def load(**conf: str) -> Settings:
    return load_settings(conf, CONFIGS)


@pytest.fixture
def own_preset(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads(name):
    settings = load(preset=name)
    assert settings.preset == name
    assert settings.spatial_dims == (3 if name.startswith("volume") else 2)
    assert len(settings.spatial_size) == settings.spatial_dims


def test_presets_are_the_five():
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == list(PRESETS)


def test_presets_carry_the_papers_training():
    assert (load(preset="chest_xray").epochs, load(preset="chest_xray").dropout) == (120, 0.15)
    assert (load(preset="brain_mri_2d").epochs, load(preset="brain_mri_2d").dropout) == (150, 0.10)
    for name in ("chest_xray", "brain_mri_2d"):
        settings = load(preset=name)
        assert (settings.spatial_size, settings.learning_rate, settings.batch_size) == ((256, 256), 1e-3, 2)


def test_defaults_are_those_of_the_design():
    settings = load()
    assert settings.preset == DEFAULT_PRESET
    assert (settings.budget, settings.alpha, settings.k_max) == (10, 0.3, 15)
    assert (settings.encoder, settings.projection) == ("auto", "tsne")


def test_preset_is_overridden_by_conf_and_conf_by_a_request(own_preset):
    path = own_preset("{labels: {a: 1}, spatial_dims: 2, spatial_size: [64, 64], alpha: 0.5, budget: 7, epochs: 3}")
    settings = load(preset=path, alpha="0.6", epochs="4")
    assert (settings.alpha, settings.budget, settings.epochs) == (0.6, 7, 4)
    asked = settings.override({"alpha": "0.7", "strategy": "coldstart_al", "client_id": "anna"})
    assert (asked.alpha, asked.budget, asked.epochs) == (0.7, 7, 4)
    assert settings.alpha == 0.6
    assert settings.preset == path


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("labels", "a:1,b:2", {"a": 1, "b": 2}),
        ("labels", "left:lung:1", {"left:lung": 1}),
        ("spatial_size", "64,96", (64, 96)),
        ("intensity_range", "-1000,400.5", (-1000.0, 400.5)),
        ("intensity_range", "none", None),
        ("spatial_dims", "2", 2),
        ("budget", "25", 25),
        ("alpha", "0", 0.0),
        ("k_max", "1", 1),
        ("encoder", "hf:microsoft/resnet-50", "hf:microsoft/resnet-50"),
        ("encoder", "hf:owner/model", "hf:owner/model"),
        ("encoder", "medicalnet", "medicalnet"),
        ("projection", "none", "none"),
        ("heldout", str(CONFIGS / "sample.yaml"), CONFIGS / "sample.yaml"),
        ("encoder_weights", str(CONFIGS / "sample.yaml"), CONFIGS / "sample.yaml"),
        ("reserve_minutes", "0.5", 0.5),
        ("prelabel", "0", 0),
        ("modalities", "mr,CT", ("MR", "CT")),
        ("state_dir", "/somewhere/else", Path("/somewhere/else")),
        ("epochs", "1", 1),
        ("batch_size", "4", 4),
        ("learning_rate", "1e-4", 1e-4),
        ("dropout", "0", 0.0),
        ("random_state", "7", 7),
        ("device", "cuda:1", "cuda:1"),
        ("amp", "false", False),
        ("amp", "true", True),
        ("embed_batch_size", "3", 3),
        ("score_batch_size", "3", 3),
        ("retrain_every", "3", 3),
        ("retrain_idle_minutes", "1.5", 1.5),
        ("retrain_at", "12:30,02:00", ("02:00", "12:30")),
        ("retrain_at_budget", "false", False),
        ("publish_margin", "0.1", 0.1),
        ("keep_models", "2", 2),
        ("gpu_memory_fraction", "0.5", 0.5),
        ("when_gpu_is_taken", "cpu", "cpu"),
        ("cores", "2", 2),
        ("memory_gb", "2.5", 2.5),
        ("cache_gb", "0.5", 0.5),
        ("log_dir", "/somewhere/else", Path("/somewhere/else")),
        ("log_mb", "0.5", 0.5),
        ("log_files", "2", 2),
        ("metrics_open", "true", True),
        ("preset", "sample", "sample"),
    ],
)
def test_every_key_can_be_given_as_a_string(key, text, value):
    assert getattr(load(**{key: text}), key) == value


def test_list_above_holds_every_key():
    marker = test_every_key_can_be_given_as_a_string.pytestmark[0]  # type: ignore[attr-defined]
    assert {key for key, _, _ in marker.args[1]} == set(Settings.model_fields)


def test_task_of_three_dimensions_can_be_given_by_conf_alone():
    settings = load(spatial_dims="3", spatial_size="32,48,64", labels="organ:1")
    assert (settings.spatial_dims, settings.spatial_size) == (3, (32, 48, 64))


def test_intensity_range_of_the_preset_can_be_switched_off():
    assert load(preset="volume_ct").intensity_range == (-1000, 1000)
    assert load(preset="volume_ct", intensity_range="none").intensity_range is None


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load().budget = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("conf", "parts"),
    [
        ({"bugdet": "12"}, ["'bugdet'", "'12'", "nearest valid name is 'budget'", "Valid keys: preset, labels"]),
        ({"ALPHA": "1"}, ["'ALPHA'", "'1'", "nearest valid name is 'alpha'"]),
        ({"zzz": "1"}, ["'zzz'", "'1'", "nearest valid name is '"]),
        ({"preset": "chest"}, ["preset", "'chest'", "nearest valid name is 'chest_xray'", ", ".join(PRESETS)]),
        ({"modalities": "CT,SEG"}, ["`modalities`", "'SEG'", "modalities of images", "CT, MR, CR, DX"]),
        ({"budget": "ten"}, ["`budget`", "'ten'", "integer", "counted in labelled images"]),
        ({"budget": "0"}, ["`budget`", "'0'", "greater than or equal to 1"]),
        ({"alpha": "1.5"}, ["`alpha`", "'1.5'", "less than or equal to 1", "distance"]),
        ({"alpha": "nan"}, ["`alpha`", "'nan'", "finite"]),
        ({"projection": "t-sne"}, ["`projection`", "'t-sne'", "nearest valid name is 'tsne'"]),
        ({"encoder": "radimagent"}, ["`encoder`", "'radimagent'", "nearest valid name is 'radimagenet'"]),
        ({"encoder": "hf:"}, ["`encoder`", "'hf:'", "hf:MODEL"]),
        ({"device": "gpu"}, ["`device`", "'gpu'", "auto, cpu, cuda or cuda:N"]),
        ({"amp": "maybe"}, ["`amp`", "'maybe'", "boolean"]),
        ({"heldout": "/no/such/file"}, ["`heldout`", "'/no/such/file'", "not point to a file", "held-out"]),
        ({"encoder_weights": "/no/such/file"}, ["`encoder_weights`", "'/no/such/file'"]),
        ({"labels": "lung"}, ["`labels`", "'lung'", "lung:1,heart:2"]),
        ({"labels": "lung:one"}, ["`labels`", "'lung:one'", "lung:1,heart:2"]),
        ({"labels": ":1"}, ["`labels`", "':1'", "lung:1,heart:2"]),
        ({"labels": "a:1,a:2"}, ["`labels`", "'a:1,a:2'"]),
        ({"labels": ""}, ["`labels`", "lung:1,heart:2"]),
        ({"labels": "a:1,b:1"}, ["`labels`", "value of its own", "'a': 1, 'b': 1"]),
        ({"labels": "a:0"}, ["`labels`", "'a': 0", "greater than or equal to 1"]),
        ({"labels": "Background:1,a:2"}, ["`labels`", "'Background': 1", "without the background"]),
        ({"spatial_size": "64"}, ["`spatial_size`", "2 axes", "[64]"]),
        ({"spatial_size": "64x64"}, ["`spatial_size`", "'64x64'", "256,256"]),
        ({"spatial_size": "100,100"}, ["`spatial_size`", "multiples of 16", "[100, 100]"]),
        ({"spatial_size": "64.5,64"}, ["`spatial_size`", "64.5", "integer"]),
        ({"spatial_dims": "4"}, ["`spatial_dims`", "'4'", "2 for images, 3 for volumes"]),
        ({"spatial_dims": "3"}, ["`spatial_size`", "3 axes", "[256, 256]"]),
        ({"intensity_range": "5,1"}, ["`intensity_range`", "low < high", "[5.0, 1.0]"]),
        ({"intensity_range": "5"}, ["`intensity_range`", "[5.0]"]),
        ({"intensity_range": "nan,1"}, ["`intensity_range`", "finite"]),
        ({"random_state": "-1"}, ["`random_state`", "'-1'"]),
        ({"dropout": "1"}, ["`dropout`", "'1'", "less than 1"]),
        ({"reserve_minutes": "0"}, ["`reserve_minutes`", "'0'"]),
    ],
    ids=lambda value: "-".join(value) + "=" + ",".join(value.values()) if isinstance(value, dict) else "",
)
def test_mistake_is_answered_with_a_sentence(conf, parts):
    with pytest.raises(SettingsError) as info:
        load(**conf)
    sentence = str(info.value)
    for part in parts:
        assert part in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        ({"alpha": "high"}, ["`alpha`", "'high'", "the request"]),
        ({"alpha": 2}, ["`alpha`", "'2'", "the request"]),
        ({"epochs": 0}, ["`epochs`", "'0'", "the request"]),
    ],
)
def test_bad_value_of_a_request_is_answered_with_a_sentence(request_, parts):
    with pytest.raises(SettingsError) as info:
        load().override(request_)
    assert all(part in str(info.value) for part in parts)


def test_unknown_key_of_a_preset_names_the_file(own_preset):
    path = own_preset("{labels: {a: 1}, spatial_dims: 2, spatial_size: [64, 64], epoch: 3}")
    with pytest.raises(SettingsError, match=rf"'epoch' with value '3' in the preset {path}.* 'epochs'"):
        load(preset=path)


def test_key_that_is_missing_is_named(own_preset):
    path = own_preset("{spatial_dims: 2, spatial_size: [64, 64]}")
    with pytest.raises(SettingsError, match=r"`labels` is missing\. Give it in the preset or with --conf labels VALUE"):
        load(preset=path)
    assert load(preset=path, labels="a:1").labels == {"a": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("- a list", "must hold `key: value` lines; got list"), ("{a: ", "cannot be read as YAML"), ("", "NoneType")],
)
def test_preset_that_is_no_mapping_is_answered_with_a_sentence(own_preset, text, sentence):
    path = own_preset(text)
    with pytest.raises(SettingsError, match=sentence) as info:
        load(preset=path)
    assert path in str(info.value)


def test_preset_runs_no_code(own_preset, tmp_path):
    path = own_preset(f"labels: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']")
    with pytest.raises(SettingsError):
        load(preset=path)
    assert not (tmp_path / "made").exists()
