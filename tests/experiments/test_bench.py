"""`coldstart bench` through its entry point: stopped by force and continued, refused, and on somebody's own folders."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from bench_case import Log, bench_of, tiny_protocol, write_dataset, write_protocol
from filelock import FileLock

from coldstart.cli import app
from coldstart.cli_bench import PROTOCOLS
from coldstart.exceptions import ColdStartError, InvalidInputError
from coldstart.experiments.bench import LOCK, PROTOCOL, ROWS, choose_grid, run_benchmark
from coldstart.experiments.protocol import Protocol
from coldstart.experiments.protocol_files import load_protocol, protocol_names
from coldstart.experiments.rows import Row
from coldstart.experiments.runs import Labelled, run_job
from coldstart.selection.methods import METHODS

COMMAND = str(Path(sys.executable).with_name("coldstart"))
DEADLINE_S = 120
TIMES = ("select_s", "train_s", "evaluate_s")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("bench") / "data")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [COMMAND, "bench", *map(str, arguments), "--device", "cpu", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        # A test run in the background of a shell ignores Ctrl-C, and what it starts inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run_here(*arguments: object) -> None:
    app(["bench", *map(str, arguments), "--device", "cpu", "--workers", "1"], standalone_mode=False)


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.01)


def lines(folder: Path) -> list[str]:
    path = folder / ROWS
    return path.read_text().splitlines(keepends=True) if path.is_file() else []


def results(folder: Path) -> dict[str, Any]:
    """The rows by cell, less what differs from run to run: the times."""
    rows = [json.loads(line) for line in lines(folder)]
    found = {json.dumps(row["cell"], sort_keys=True): row | dict.fromkeys(TIMES) for row in rows}
    assert len(found) == len(rows), "a row was computed twice"
    return found


def one_by_one(protocol: Protocol, folder: Path) -> dict[str, Any]:
    """What `results` gives of a benchmark that nothing stops: every job in turn, in this process."""
    bench, jobs = bench_of(protocol, folder)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: dict[str, Row] = {}
    for job in jobs:
        parent = rows[job.parent.key] if job.parent is not None else None
        labelled = Labelled() if parent is None else Labelled(parent.picks, parent.reasons)
        rows[job.cell.key] = run_job(bench, job, labelled, "cpu")
    torch.set_num_threads(before)
    plain = [json.loads(json.dumps(asdict(row))) for row in rows.values()]
    return {json.dumps(row["cell"], sort_keys=True): row | dict.fromkeys(TIMES) for row in plain}


def test_a_benchmark_that_is_killed_goes_on_and_ends_with_equal_rows(studies: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"epochs": 40, "active_arms": ["entropy"]}
    protocol = write_protocol(tmp_path / "p.yaml", studies, **changes)
    output = tmp_path / "output"

    process = start(protocol, "--output", output)
    wait_for(lambda: len(lines(output)) >= 3)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert psutil.wait_procs(children, timeout=DEADLINE_S)[1] == []
    kept = lines(output)
    assert 3 <= len(kept) < 12

    process = start(protocol, "--output", output)
    wait_for(lambda: len(lines(output)) > len(kept))
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "the same command goes on" in " ".join(said.split())
    assert psutil.wait_procs(children, timeout=DEADLINE_S)[1] == []
    assert len(lines(output)) < 12

    process = start(protocol, "--output", output)
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "FAILED" not in said and "Traceback" not in said
    assert lines(output)[: len(kept)] == kept
    assert results(output) == one_by_one(tiny_protocol(studies, **changes), tmp_path / "here")


def test_somebodys_own_folders_go_through_every_method_and_the_report(
    studies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    command = ["--images", studies / "images", "--labels", studies / "labels", "--budget", "2,3"]
    command += ["--size", "32,32", "--smoke", "--output", output]
    run_here(*command)
    said = capsys.readouterr().out
    assert {row["cell"]["method"] for row in results(output).values()} == set(METHODS)
    assert "against random" in said
    before = lines(output)
    report = [output / "report.md", output / "report.html"]
    for path in report:
        assert path.stat().st_size > 1000
        path.unlink()

    run_here(*command)
    assert f"{len(before)} trainings, of which {len(before)} are done already" in capsys.readouterr().out
    assert lines(output) == before
    for path in report:
        path.unlink()
    app(["bench", "--report-only", str(output)], standalone_mode=False)
    assert all(path.stat().st_size > 1000 for path in report)


def test_an_arm_that_fails_costs_its_own_rows_alone(studies: Path, tmp_path: Path) -> None:
    protocol = tiny_protocol(studies, seeds=[43], epochs=1)
    (entropy,) = protocol.active_arms
    wrong = entropy.model_copy(update={"title": "Wrong", "options": {"alpha": 7}})  # as no file could ask for it
    log = Log()
    changed = protocol.model_copy(update={"active_arms": (entropy, wrong)})
    run_benchmark(changed, tmp_path / "out", devices=["cpu"], n_threads=1, watcher=log)
    failed = [one for one in log.outcomes if one.row is None]
    assert {one.job.arm.title for one in failed} == {"Wrong"} and "`alpha` must be" in str(failed[0].failure)
    assert len(lines(tmp_path / "out")) == len(log.outcomes) - len(failed) > 0


def test_two_benchmarks_do_not_share_an_output_folder(studies: Path, tmp_path: Path) -> None:
    log = Log()
    with FileLock(tmp_path / LOCK), pytest.raises(InvalidInputError, match="Another benchmark is writing to"):
        run_benchmark(tiny_protocol(studies), tmp_path, devices=["cpu"], n_threads=1, watcher=log)
    assert log.counts == (0, 0)
    assert not (tmp_path / ROWS).exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"budgets": [13], "active": [], "active_arms": []}, "between 1 and the 12 images of the pool.* got 13"),
        ({"active": [{"start": 8, "additional": 5}]}, "between 1 and the 12 images of the pool.* got 13"),
        ({"images": "nowhere"}, "there is no nowhere.*coldstart data"),
        ({"images": None, "labels": None}, "does not say where its images and labels are"),
        ({"encoder": "radimagent"}, "radimagent"),
        ({"arms": [{"method": "cold_start", "encoder": "hf:./nowhere"}]}, "nowhere"),
        ({"spatial_size": [32, 32, 32]}, "None of the 15 images .*it is 2D"),
        ({"group_by": "patient"}, "manifest.csv"),
        ({"structures": {"disc": 1, "dot": 2, "line": 3}}, "'line'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_trained(
    studies: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    protocol = tiny_protocol(studies, **changes)
    with pytest.raises(ColdStartError, match=sentence):
        run_benchmark(protocol, tmp_path / "out", devices=["cpu"], n_threads=1, watcher=Log())
    assert lines(tmp_path / "out") == []


def test_an_output_that_is_a_file_is_refused(studies: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InvalidInputError, match="must be one that can be written"):
        run_benchmark(tiny_protocol(studies), tmp_path / "out", devices=["cpu"], n_threads=1, watcher=Log())
    assert (tmp_path / "out").read_text() == "mine"


def test_rows_of_something_else_are_left_alone(studies: Path, tmp_path: Path) -> None:
    (tmp_path / ROWS).write_text("a thesis\n")
    with pytest.raises(InvalidInputError, match=r"Line 1 of .* must be a row"):
        run_benchmark(tiny_protocol(studies), tmp_path, devices=["cpu"], n_threads=1, watcher=Log())
    assert (tmp_path / ROWS).read_text() == "a thesis\n"


def test_what_is_left_out_is_said_and_stands_in_the_protocol_of_the_run(studies: Path, tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for path in (studies / kind).iterdir():
            (tmp_path / "data" / kind / path.name).symlink_to(path)
    (tmp_path / "data" / "labels" / "case_04.png").unlink()
    absent = {"method": "k_means", "title": "Absent", "encoder": "hf:./nowhere", "optional": True}
    protocol = tiny_protocol(
        tmp_path / "data", seeds=[43], budgets=[2], arms=["random", absent], active=[], active_arms=[], epochs=1
    )
    log = Log()
    result = run_benchmark(protocol, tmp_path / "out", devices=["cpu"], n_threads=1, watcher=log)
    assert any("case_04: it has no label" in sentence for sentence in log.sentences)
    assert any("Left out: Absent: " in sentence for sentence in log.sentences)
    assert [arm.title for arm in result.protocol.arms] == ["Random"]
    kept = load_protocol(tmp_path / "out" / PROTOCOL)
    assert "case_04" in kept.note
    assert "Absent" in kept.note
    assert [outcome.row is not None for outcome in log.outcomes] == [True]
    assert result.n_rows == 1


@pytest.mark.parametrize(
    ("shape", "largest", "grid"),
    [
        ((256, 256), None, (256, 256)),
        ((2000, 1500), None, (256, 256)),
        ((100, 30), None, (96, 32)),
        ((36, 50, 37), None, (32, 48, 32)),
        ((512, 512, 20), None, (96, 96, 32)),
        ((256, 200), 64, (64, 64)),
    ],
)
def test_a_grid_is_chosen_for_the_size_of_the_images(
    shape: tuple[int, ...], largest: int | None, grid: tuple[int, ...]
) -> None:
    assert choose_grid(shape, largest) == grid


def test_the_help_names_every_protocol() -> None:
    assert sorted(re.findall(r"\w+(?=,|;|$)", PROTOCOLS)) == sorted(protocol_names())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "needs a protocol, or --images, --labels and --budget"),
        (["montgomry"], "nearest valid name is 'montgomery'"),
        (["montgomery", "--budget", "8;12"], "--budget must be whole numbers with commas"),
        (["montgomery", "--methods", "randm"], "The nearest valid name is 'random'"),
        (["montgomery", "--structures", "lung"], "--structures must look like"),
        (["montgomery", "--structures", "lung:1,lung:2"], "each name once"),
        (["montgomery", "--size", "100,100"], "multiple of 16"),
        (["--report-only", "nowhere"], "needs the folder of an earlier run"),
        (["--report-only"], "needs the folder of an earlier run"),
    ],
)
def test_a_bad_command_line_is_refused_with_a_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(ColdStartError, match=sentence):
        app(["bench", *arguments], standalone_mode=False)
