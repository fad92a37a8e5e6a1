"""`coldstart models` as a command: what it lists, compares and puts back, and how it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coldstart.adapters.server import APP_FOLDER
from coldstart.campaign import Campaign, LabelFile
from coldstart.campaign.configured import remember
from coldstart.segmentation import load_model
from coldstart.settings import load_settings
from coldstart.store import state_folder

CONF = {
    "preset": "chest_xray",
    "labels": "disk:1",
    "encoder": "descriptor",
    "projection": "pca",
    "spatial_size": "32,32",
    "epochs": "1",
    "budget": "2",
    "publish_margin": "1",
    "device": "cpu",
}
N_IMAGES = 8


def write(folder: Path, index: int) -> Path:
    generator = np.random.default_rng(index)
    rows, columns = np.mgrid[:32, :32]
    disk = np.hypot(rows - generator.uniform(10, 22), columns - generator.uniform(10, 22)) < generator.uniform(4, 8)
    name = f"case_{index}.png"
    pixels = np.clip(60 + 90 * disk + generator.normal(0, 8, disk.shape), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / name)
    (folder / "labels" / "final").mkdir(parents=True, exist_ok=True)
    Image.fromarray(disk.astype(np.uint8)).save(folder / "labels" / "final" / name)
    return folder / "labels" / "final" / name


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A campaign with two models, and a held-out image that judged both."""
    studies = tmp_path_factory.mktemp("models") / "studies"
    studies.mkdir()
    held_out = studies.with_name("heldout.txt")
    held_out.write_text("case_7\n")
    conf = {**CONF, "heldout": str(held_out)}
    campaign = Campaign(load_settings(conf, APP_FOLDER / "configs"), state_folder(studies, None))
    labels = {f"case_{index}": write(studies, index) for index in range(N_IMAGES)}
    images = {path.stem: path for path in studies.glob("*.png")}
    versions = []
    for n, seed in ((2, 0), (3, 5)):
        shown = {key: LabelFile(path) for key, path in labels.items() if key < f"case_{n}" or key == "case_7"}
        campaign.sync(images, shown)
        model, _ = campaign.trainings.train(campaign.settings.override({"random_state": seed}), lambda _: None)
        versions.append(model.version)
    remember(campaign.folder, conf)
    for index in range(3, 7):
        labels[f"case_{index}"].unlink()
    campaign.store.close()
    return studies, versions


@pytest.fixture
def studies(trained: tuple[Path, list[str]], tmp_path: Path) -> Path:
    shutil.copytree(trained[0], tmp_path / "studies")
    return tmp_path / "studies"


def run(*arguments: object) -> tuple[int, str, str]:
    words = [sys.executable, "-m", "coldstart", "models", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_models_are_listed_compared_and_put_back(trained: tuple[Path, list[str]], studies: Path) -> None:
    first, second = trained[1]
    code, out, _ = run("list", studies, "--json")
    found = json.loads(out)
    assert code == 0 and found["in_use"] == second and not found["server"]
    lines = {line["version"]: line for line in found["models"]}
    assert list(lines) == [first, second]
    assert [lines[one]["n_images"] for one in (first, second)] == [2, 3]
    assert [lines[one]["random_state"] for one in (first, second)] == [0, 5]
    assert [lines[one]["in_use"] for one in (first, second)] == [False, True]
    assert f"against {lines[first]['heldout_dice']:.3f} of {first} on 1 held-out images" in lines[second]["sentence"]

    code, out, _ = run("compare", studies, first, second, "--json")
    compared = json.loads(out)
    assert (compared["only_in_first"], compared["only_in_second"], compared["in_both"]) == ([], ["case_2"], 2)
    assert compared["settings"] == {"random_state": [0, 5]}
    assert compared["heldout"]["gain"] == pytest.approx(lines[second]["heldout_dice"] - lines[first]["heldout_dice"])

    for line in lines.values():  # there is but one held-out image, and its size is the network's
        assert line["validation_images"] == 1
        assert line["validation"] == {"1": pytest.approx(line["heldout_dice"])}
    code, out, _ = run("compare", studies, first, second)
    assert code == 0 and "Dice in its training" in out

    code, out, _ = run("rollback", studies)
    assert code == 0 and f"{first} is in use, instead of {second}, until the next training" in out
    state = studies / "coldstart"
    assert load_model(state / "models" / "attention_unet.pt", "cpu").version == first
    code, out, _ = run("list", studies)
    assert code == 0 and first in out and second in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("compare", "{studies}", "x", "y"), "`version` must be one of the models that are kept"),
        (("rollback", "{studies}", "{second}"), "another model than the one in use"),
        (("list", "{studies}/nowhere"), "STUDIES must be a folder"),
    ],
)
def test_refusals_are_sentences_with_exit_code_2(
    trained: tuple[Path, list[str]], studies: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    code, out, err = run(*(word.format(studies=studies, second=trained[1][1]) for word in arguments), "--json")
    assert code == 2 and sentence in json.loads(out)["error"] and sentence in err.replace("\n", " ")
    assert "Traceback" not in err


def test_training_is_asked_for_by_hand(studies: Path) -> None:
    code, out, _ = run("train", studies)
    assert code == 0 and "it begins a training when it starts" in out
    assert json.loads(run("list", studies, "--json")[1])["training_due"] == "somebody asked for it"
