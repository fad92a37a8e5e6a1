"""The protocols: those of the paper are as its tables say, and a fault is refused with a sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_case import TINY, tiny_protocol

from coldstart.exceptions import SettingsError
from coldstart.experiments.protocol import Protocol
from coldstart.experiments.protocol_files import FOLDER, check_protocol, load_protocol, protocol_names, save_protocol
from coldstart.selection.methods import METHODS

PAPER = {
    "montgomery": ([8, 10, 12, 16], [(8, 4), (12, 4)], 120, 0.15, "per_class"),
    "chexmask": ([9, 12, 15, 18], [(10, 5), (13, 5)], 120, 0.15, "per_class"),
    "synthstrip": ([13, 19, 26, 33, 39], [(13, 13), (20, 13), (26, 13)], 150, 0.10, "image"),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_protocol_of_the_paper_is_as_its_section_4_says(name: str) -> None:
    protocol = load_protocol(name)
    budgets, stages, epochs, dropout, dice = PAPER[name]
    assert list(protocol.seeds) == list(range(43, 54))
    assert list(protocol.budgets) == budgets
    assert [(stage.start, stage.additional) for stage in protocol.active] == stages
    assert (protocol.epochs, protocol.dropout, protocol.dice) == (epochs, dropout, dice)
    assert protocol.spatial_size == (256, 256)
    assert (protocol.test_fraction, protocol.batch_size, protocol.learning_rate) == (0.2, 2, 1e-3)
    assert {arm.method for arm in protocol.arms} == {"random", "cold_start", "k_means"}
    assert [arm.options_of_round(1)["alpha"] for arm in protocol.active_arms] == [0, 0.3, 1]


def test_active_learning_of_the_paper_ends_at_budgets_of_its_tables() -> None:
    for name in PAPER:
        protocol = load_protocol(name)
        assert {stage.total for stage in protocol.active} <= set(protocol.budgets)


@pytest.mark.parametrize("name", protocol_names())
def test_a_protocol_that_comes_with_the_program_can_be_read(name: str) -> None:
    assert load_protocol(name).name


def test_the_ablations_vary_what_the_paper_leaves_open() -> None:
    alphas = load_protocol("alpha").active_arms
    assert {arm.options_of_round(1)["alpha"] for arm in alphas if arm.rounds == 1} == {0, 0.3, 0.5, 0.7, 1}
    falling = [arm.options["alpha"] for arm in alphas if isinstance(arm.options["alpha"], list)]
    assert len(falling) == 1
    assert falling[0] == sorted(falling[0], reverse=True)
    # the first image of a round is the most uncertain one, whatever alpha is
    assert min(stage.additional // arm.rounds for stage in load_protocol("alpha").active for arm in alphas) > 1
    arms = {name: load_protocol(name) for name in ("perplexity", "projection", "encoder", "fill")}
    ours = {name: [arm for arm in protocol.arms if arm.method == "cold_start"] for name, protocol in arms.items()}
    assert {arm.perplexity for arm in ours["perplexity"]} == {5, 15, 30, 50}
    assert {arm.projection for arm in ours["projection"]} == {"tsne", "pca", "none"}
    assert {str(arm.encoder).partition(":")[0] for arm in ours["encoder"]} == {
        "descriptor",
        "hf",
        "radimagenet",
        "random",
    }
    assert {arm.options["fill"] for arm in ours["fill"]} == {"farthest", "farthest_of_all", "neighbours"}


def test_an_ablation_has_the_settings_of_the_protocol_that_it_extends() -> None:
    base = load_protocol("montgomery")
    for name in ("alpha", "perplexity", "projection", "encoder", "fill"):
        ablation = load_protocol(name)
        assert (ablation.dataset, ablation.seeds, ablation.epochs) == (base.dataset, base.seeds, base.epochs)
        assert ablation.name != base.name


def test_a_saved_protocol_reads_as_the_same(tmp_path: Path) -> None:
    protocol = load_protocol("alpha")
    save_protocol(protocol, tmp_path / "protocol.yaml")
    assert load_protocol(tmp_path / "protocol.yaml") == protocol


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epoch": 3}, "no key 'epoch'.*nearest valid name is 'epochs'"),
        ({"arms": ["randm"]}, r"arms\[1\].*'randm' is no method.*'random'"),
        ({"arms": [{"method": "random", "tilte": "x"}]}, r"arms\[1\].*no key 'tilte'.*'title'"),
        ({"arms": [{"method": "cold_start", "options": {"fil": 1}}]}, "no option 'fil'.*'fill'"),
        ({"arms": [{"method": "random", "options": {"x": 1}}]}, "no option 'x'.*Its options are: none"),
        (
            {"arms": [{"method": "cold_start", "options": {"fill": "nearest"}}]},
            r"arms\[1\].*`fill` must be one of 'farthest'.*got 'nearest'",
        ),
        ({"active_arms": [{"method": "combined", "options": {"alpha": 3}}]}, "`alpha` must be between 0 .*alpha=3"),
        ({"active_arms": [{"method": "combined", "options": {"alpha": "x"}}]}, "`alpha` must be a finite number"),
        (
            {
                "active": [{"start": 2, "additional": 2}],
                "active_arms": [{"method": "combined", "rounds": 2, "options": {"alpha": [1, 7]}}],
            },
            r"active_arms\[1\].*alpha=7",
        ),
        (
            {"arms": [{"method": "typiclust", "options": {"n_neighbours": [5, 6]}}]},
            "`n_neighbours` must have a value for each of the 1 rounds",
        ),
        ({"arms": ["entropy"]}, "`arms` must hold methods from random.*got 'entropy'"),
        ({"active_arms": ["random"]}, "`active_arms` must hold methods from .*got 'random'"),
        ({"arms": ["random", "random"]}, "two arms called 'Random'"),
        ({"arms": [], "active": [], "active_arms": []}, "something to compare"),
        ({"arms": [{"method": "random", "rounds": 2}]}, "no network yet"),
        ({"active_arms": []}, "belong together"),
        ({"active_arms": [{"method": "entropy", "rounds": 2}]}, "2 rounds, more than the 1 images"),
        (
            {"active_arms": [{"method": "combined", "rounds": 1, "options": {"alpha": [1, 0.5]}}]},
            "value for each of the 1 rounds",
        ),
        ({"structures": {"disc": 1, "dot": 1}}, "`structures`.*a label value of its own"),
        ({"seeds": [43, 43]}, "`seeds`.*once"),
        ({"seeds": []}, "`seeds` .*the list has too few values"),
        ({"intensity_range": [1, 2, 3]}, "`intensity_range` .*the list has too many values"),
        ({"budgets": 4}, r"`budgets` has a bad value '4' in .*: it must be a list, such as \[4, 8\]\."),
        ({"spatial_size": 64}, r"`spatial_size` .*must be a list, such as"),
        ({"structures": [7, 40]}, r"`structures` .*must be a mapping, with a value for each name, such as \{lung: 1"),
        ({"active": [4]}, r"`active\[1\]` .*must be a mapping, with a value for each key, as in"),
        ({"images": 3}, "`images` .*must be a path"),
        ({"seeds": [-1]}, r"`seeds\[1\]`.*-1"),
        ({"seeds": True}, "true and false"),
        ({"epochs": True}, "true and false"),
        ({"budgets": [0]}, r"`budgets\[1\]`.*0"),
        ({"test_fraction": 1.0}, "`test_fraction`"),
        ({"dropout": 0, "active_arms": ["bald"]}, "without `dropout`"),
        ({"spatial_size": [33, 32]}, "multiple of 2"),
        ({"spatial_size": [32]}, "2 numbers, for volumes 3"),
        ({"projection": "tsn"}, "`projection`.*'tsn'"),
        ({"group_by": "patient", "images": None}, "needs a `manifest`"),
    ],
)
def test_a_fault_is_refused_with_a_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    with pytest.raises(SettingsError, match=sentence) as error:
        load_protocol(path)
    assert "mine.yaml" in str(error.value)


def test_a_fault_of_the_command_line_does_not_blame_the_file() -> None:
    with pytest.raises(SettingsError, match=r"`epochs` has a bad value '0' in the command line"):
        load_protocol("montgomery", {"epochs": 0})


def test_an_unknown_protocol_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"got 'montgomry'. The nearest valid name is 'montgomery'"):
        load_protocol("montgomry")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: [", "cannot be read as YAML"), ("- 1", "`key: value`"), ("extends: mine", "build on itself")],
)
def test_a_file_that_is_no_protocol_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=sentence):
        load_protocol(path)


def test_protocols_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("extends: two")
    (tmp_path / "two.yaml").write_text("extends: one")
    with pytest.raises(SettingsError, match="build on itself"):
        load_protocol(tmp_path / "one.yaml")


def test_a_protocol_can_extend_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "mine.yaml").write_text("extends: base\nepochs: 7\n")
    protocol = load_protocol(tmp_path / "mine.yaml")
    assert protocol == check_protocol(TINY, "here", {"epochs": 7})


def test_an_arm_is_called_after_what_is_special_about_it(tmp_path: Path) -> None:
    arm = {"method": "cold_start", "options": {"fill": "neighbours"}, "projection": "tsne", "perplexity": 5}
    assert tiny_protocol(tmp_path, arms=[arm]).arms[0].title == "Cold start (ours), fill neighbours, tsne, perplexity 5"


def test_options_that_the_method_has_anyway_are_not_special(tmp_path: Path) -> None:
    arms = [
        {"method": "combined", "title": "a", "options": {"alpha": 0.3}},
        {"method": "combined", "title": "b", "options": {"alpha": 0.5}},
    ]
    assert [arm.special_options for arm in tiny_protocol(tmp_path, active_arms=arms).active_arms] == [
        {},
        {"alpha": 0.5},
    ]


def test_an_alpha_falls_over_the_rounds(tmp_path: Path) -> None:
    arm = {"method": "combined", "rounds": 2, "options": {"alpha": [1.0, 0.5]}}
    protocol = tiny_protocol(tmp_path, active=[{"start": 2, "additional": 2}], active_arms=[arm])
    assert [protocol.active_arms[0].options_of_round(number)["alpha"] for number in (1, 2)] == [1.0, 0.5]


def test_every_field_is_described() -> None:
    assert [name for name, field in Protocol.model_fields.items() if not field.description] == []


def test_every_method_can_be_an_arm(tmp_path: Path) -> None:
    for name, method in METHODS.items():
        where = "arms" if "cold_start" in method.stages else "active_arms"
        assert getattr(tiny_protocol(tmp_path, **{where: [name]}), where)[0].title == method.title


def test_the_folder_of_protocols_holds_nothing_else() -> None:
    assert {file.suffix for file in FOLDER.rglob("*") if file.is_file()} == {".yaml"}
