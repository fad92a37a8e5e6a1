"""The `coldstart` command through its entry point."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).with_name("coldstart"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120)


def test_help_lists_every_command_with_an_example() -> None:
    listing = run("--help").stdout
    for command in ("demo", "simulate", "serve", "sample-data"):
        assert command in listing
        assert f"coldstart {command}" in run(command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "--studies", ".", "--conf", "budgets", "3"], "nearest valid name is 'budget'"),
        (["serve", "--studies", ".", "--conf", "budget", "many"], "`budget` has a bad value 'many'"),
        (["serve", "--studies", ".", "--conf", "labels", "[/lung]"], "got '[/lung]'"),
        (["serve", "--studies", ".", "--preset", "chest"], "The nearest valid name is 'chest_xray'"),
        (["serve", "--studies", ".", "--conf", "budget"], "--conf must be followed by a key and a value"),
    ],
)
def test_error_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert sentence in " ".join(ended.stderr.split()) and "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plan", ".", "--budget", "0"], "--budget"),
        (["export", ".", "out"], "Missing option '--format'"),
        (["next"], "Missing argument 'STUDIES'"),
        (["status", ".", "--nothing"], "No such option: --nothing"),
        (["guess"], "No such command 'guess'"),
    ],
)
def test_wrong_arguments_are_one_sentence_for_scripts_too(arguments: list[str], sentence: str) -> None:
    ended = run(*arguments, "--json")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    said = json.loads(ended.stdout)["error"]
    assert sentence in said and ended.stderr == f"Error: {said}\n"


def test_port_that_is_taken_is_said_before_the_server_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("serve", "--studies", str(tmp_path), "--port", port)
    assert ended.returncode == 2 and ended.stderr.count("Error: ") == 1
    assert f"No server can listen on 127.0.0.1, port {port}: Address already in use" in " ".join(ended.stderr.split())


def test_a_group_of_commands_shows_its_help_and_nothing_else() -> None:
    ended = run("models")
    assert "rollback" in ended.stdout and ended.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        *(["plan", ".", "--output", "FILE"], ["map", ".", "--output", "FILE"], ["demo", "--output", "FILE"]),
        *(
            ["export", ".", "FILE", "--format", "monai"],
            ["bench", "chest", "--output", "FILE"],
            ["sample-data", "FILE"],
        ),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_file_in_the_place_of_the_output_is_said_so_before_any_work(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    ended = run(*(str(tmp_path / "mine.txt") if word == "FILE" else word for word in arguments))
    assert ended.returncode == 2 and f"'{tmp_path / 'mine.txt'}' is a file" in ended.stderr
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("arguments", [["data"], ["serve", "--studies", ".", "--conf", "budgets", "3", "--json"]])
def test_a_reader_that_has_seen_enough_is_no_error(arguments: list[str]) -> None:
    with subprocess.Popen([COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert "Traceback" not in said and "Exception" not in said and "roken" not in said


def test_simulation_leaves_a_folder_of_others_alone(tmp_path: Path, repository: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    chest = repository / "sample-data" / "chest"
    ended = run("simulate", str(chest), str(chest / "groundtruth"), "--output", str(mine))
    assert ended.returncode == 2 and "left alone" in ended.stderr
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_simulation_without_images_says_so(tmp_path: Path) -> None:
    ended = run("simulate", str(tmp_path), str(tmp_path), "--output", str(tmp_path / "out"))
    assert ended.returncode == 2 and "must hold images" in ended.stderr
