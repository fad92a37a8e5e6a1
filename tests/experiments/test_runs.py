"""One training of a benchmark: the images that its method picks, the network that they give, and the row."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_case import bench_of, tiny_protocol, write_dataset

from coldstart.exceptions import ImageError, ModelError
from coldstart.experiments.datasets import split
from coldstart.experiments.features import project_pool, read_arrays, write_arrays
from coldstart.experiments.jobs import Job
from coldstart.experiments.rows import Row
from coldstart.experiments.runs import Bench, Labelled, has_scores, run_job, scores_path, training_config
from coldstart.segmentation import TrainingConfig, evaluate, fitting, train, training_memory
from coldstart.segmentation.network import build_network
from coldstart.selection.methods import METHODS


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("bench") / "data")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def find(jobs: list[Job], method: str, budget: int, seed: int = 43) -> Job:
    return next(job for job in jobs if (job.cell.method, job.cell.budget, job.cell.seed) == (method, budget, seed))


def pool_of(bench: Bench, seed: int = 43) -> list[str]:
    return [bench.dataset.samples[row].image_id for row in split(bench.dataset, seed, 0.2).pool]


def stripped(row: Row) -> Row:
    return replace(row, select_s=0, train_s=0, evaluate_s=0)


def test_a_row_is_what_the_images_of_the_method_give(studies: Path, tmp_path: Path) -> None:
    bench, jobs = bench_of(tiny_protocol(studies), tmp_path)
    job = find(jobs, "cold_start", 4)
    row = run_job(bench, job, Labelled(), "cpu")

    parts = split(bench.dataset, 43, 0.2)
    embeddings = bench.embeddings["descriptor"]
    points = project_pool(bench.dataset, embeddings, parts.pool, "tsne", 30, 43, tmp_path / "features")
    picked = METHODS["cold_start"].select(embeddings.vectors[parts.pool], points, 4, random_state=43)
    assert row.picks == [pool_of(bench)[index] for index in picked.indices]
    assert row.reasons == list(picked.reasons)

    samples = {sample.image_id: sample for sample in bench.dataset.samples}
    model = train(
        [samples[name] for name in sorted(row.picks)], training_config(bench.protocol, bench.dataset, 43, "cpu")
    )
    expected = evaluate(model, [bench.dataset.samples[index] for index in parts.test])
    assert (row.dice, row.hd95, row.image_dice) == (expected.dice, expected.hd95, expected.image_dice)
    assert (row.class_dice, row.class_hd95) == (expected.class_dice, expected.class_hd95)
    assert (row.n_empty_in_one, row.n_empty_in_both) == (expected.n_empty_in_one, expected.n_empty_in_both)
    assert (row.hd95_unit, row.n_test, row.n_pool) == ("px", 3, 12)
    assert row.cell == job.cell


def test_the_same_job_gives_the_same_row(studies: Path, tmp_path: Path) -> None:
    bench, jobs = bench_of(tiny_protocol(studies), tmp_path)
    job = find(jobs, "random", 2)
    assert stripped(run_job(bench, job, Labelled(), "cpu")) == stripped(run_job(bench, job, Labelled(), "cpu"))


def test_networks_of_a_run_start_alike_and_those_of_other_seeds_do_not(studies: Path, tmp_path: Path) -> None:
    bench, _ = bench_of(tiny_protocol(studies), tmp_path)
    assert training_config(bench.protocol, bench.dataset, 43, "cpu").random_state == 43
    assert training_config(bench.protocol, bench.dataset, 44, "cpu").random_state == 44


def test_the_start_keeps_the_scores_that_others_need(studies: Path, tmp_path: Path) -> None:
    bench, jobs = bench_of(tiny_protocol(studies, active_arms=["entropy", "bald"]), tmp_path)
    start = find(jobs, "cold_start", 3)
    assert not has_scores(tmp_path, start)
    run_job(bench, start, Labelled(), "cpu")
    assert has_scores(tmp_path, start)
    scores = read_arrays(scores_path(tmp_path, start.cell), start.cell.key)
    assert scores is not None
    assert set(scores) == {"entropy", "margin", "least_confidence", "bald"}
    assert all(values.shape == (12,) and np.ptp(values) > 0 for values in scores.values())


def test_a_start_without_bald_lacks_what_bald_needs(studies: Path, tmp_path: Path) -> None:
    bench, jobs = bench_of(tiny_protocol(studies), tmp_path)
    start = find(jobs, "cold_start", 3)
    run_job(bench, start, Labelled(), "cpu")
    assert has_scores(tmp_path, replace(start, scores=frozenset({"margin"})))
    assert not has_scores(tmp_path, replace(start, scores=frozenset({"bald"})))


def test_an_active_round_adds_the_most_uncertain_image_to_those_of_its_start(studies: Path, tmp_path: Path) -> None:
    bench, jobs = bench_of(tiny_protocol(studies), tmp_path)
    job = find(jobs, "entropy", 4)
    assert job.parent is not None
    pool = pool_of(bench)
    labelled = Labelled(pool[:3], ["a", "b", "c"])
    entropy = np.linspace(1, 0.5, len(pool))
    entropy[7] = 0.95
    write_arrays(scores_path(tmp_path, job.parent), job.parent.key, {"entropy": entropy})
    row = run_job(bench, job, labelled, "cpu")
    assert row.picks == [*pool[:3], pool[7]]
    assert row.reasons[:3] == ["a", "b", "c"]
    assert "entropy" in row.reasons[3]


def test_an_active_round_without_scores_is_refused(studies: Path, tmp_path: Path) -> None:
    bench, jobs = bench_of(tiny_protocol(studies), tmp_path)
    with pytest.raises(ModelError, match=r"scores .* are gone"):
        run_job(bench, find(jobs, "entropy", 4), Labelled(pool_of(bench)[:3], ["", "", ""]), "cpu")


def test_a_round_takes_its_own_alpha(studies: Path, tmp_path: Path) -> None:
    arm = {"method": "combined", "rounds": 2, "options": {"alpha": [0.0, 1.0]}}
    protocol = tiny_protocol(studies, active=[{"start": 2, "additional": 4}], active_arms=[arm])
    bench, jobs = bench_of(protocol, tmp_path)
    first, second = (find(jobs, "combined", budget) for budget in (4, 6))
    assert first.parent is not None
    write_arrays(scores_path(tmp_path, first.parent), first.parent.key, {"entropy": np.linspace(0, 1, 12)})
    row = run_job(bench, first, Labelled(pool_of(bench)[:2], ["", ""]), "cpu")
    assert "alpha 0 " in row.reasons[3]
    row = run_job(bench, second, Labelled(row.picks, row.reasons), "cpu")
    assert "alpha 1 " in row.reasons[5]


def test_the_largest_number_of_clusters_reaches_our_cold_start(studies: Path, tmp_path: Path) -> None:
    bench, jobs = bench_of(tiny_protocol(studies, k_max=1), tmp_path)
    row = run_job(bench, find(jobs, "cold_start", 4), Labelled(), "cpu")
    assert "of 1 " in row.reasons[0]


def test_an_image_that_goes_away_during_a_run_fails_its_cell(tmp_path: Path) -> None:
    bench, jobs = bench_of(tiny_protocol(write_dataset(tmp_path / "data")), tmp_path)
    for path in (tmp_path / "data" / "images").iterdir():
        path.unlink()
    with pytest.raises((ModelError, ImageError)):
        run_job(bench, find(jobs, "random", 2), Labelled(), "cpu")


def test_every_method_gives_a_row(studies: Path, tmp_path: Path) -> None:
    every = {
        stage: [name for name, method in METHODS.items() if stage in method.stages]
        for stage in ("cold_start", "active")
    }
    arms = {"arms": every["cold_start"], "active_arms": every["active"]}
    bench, jobs = bench_of(tiny_protocol(studies, seeds=[43], budgets=[3], epochs=1, **arms), tmp_path)
    rows: dict[str, Row] = {}
    for job in jobs:
        parent = rows[job.parent.key] if job.parent is not None else None
        labelled = Labelled() if parent is None else Labelled(parent.picks, parent.reasons)
        row = rows[job.cell.key] = run_job(bench, job, labelled, "cpu")
        assert len(set(row.picks)) == len(row.reasons) == job.cell.budget
        assert set(row.picks) <= set(pool_of(bench))
        assert parent is None or row.picks[:3] == parent.picks
    assert {row.cell.method for row in rows.values()} == set(METHODS)


def test_volumes_are_benched_like_images(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", 6, (32, 32, 32), ".nii.gz")
    protocol = tiny_protocol(folder, spatial_size=[32, 32, 32], epochs=1, budgets=[2], active=[], active_arms=[])
    bench, jobs = bench_of(protocol, tmp_path)
    row = run_job(bench, find(jobs, "cold_start", 2), Labelled(), "cpu")
    assert (row.hd95_unit, len(row.picks), row.n_test) == ("mm", 2, 1)
    assert 0 <= row.dice <= 1


def test_patches_for_want_of_memory_give_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_dataset(tmp_path / "data", 6, (32, 32, 64), ".nii.gz")
    protocol = tiny_protocol(folder, spatial_size=[32, 32, 64], epochs=1, budgets=[2], active=[], active_arms=[])
    bench, jobs = bench_of(protocol, tmp_path)
    monkeypatch.setattr(training_memory, "free_bytes", lambda device: 0)
    with pytest.raises(ModelError, match=r"as the protocol says: batches of 2 on 32 x 32 x 32 fitted.*--workers"):
        run_job(bench, find(jobs, "random", 2), Labelled(), "cpu")


def test_half_the_batch_for_want_of_memory_gives_no_row(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(config: TrainingConfig) -> torch.nn.Module:
        def fail(*_: object) -> None:
            if config.batch_size > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        network = build_network(config)
        network.register_forward_hook(fail)
        return network

    bench, jobs = bench_of(tiny_protocol(studies), tmp_path)
    monkeypatch.setattr(fitting, "build_network", build)
    with pytest.raises(ModelError, match="as the protocol says: batches of 1 on 32 x 32 fitted"):
        run_job(bench, find(jobs, "random", 2), Labelled(), "cpu")
