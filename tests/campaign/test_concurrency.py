"""Many at once: threads of one server, and processes on one database."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor

import campaign_case as case
import pytest
from campaign_case import N_POOL, click, label

import large_pool
from coldstart.campaign import Campaign
from coldstart.store import database, engine

CLICKS_OF_A_PROCESS = 8
N_PROCESSES, N_THREADS = 4, 8  # 32 clients
N_CLICKS = 1000


def click_in_a_process(settings, folder, start, answers):
    campaign = Campaign(settings, folder)
    start.wait(timeout=60)
    answers.put(case.clicks(campaign, CLICKS_OF_A_PROCESS))


def test_threads_clicking_at_once_get_different_images(campaign):
    with ThreadPoolExecutor(20) as pool:
        samples = list(pool.map(lambda index: click(campaign, annotator=f"a{index}"), range(N_POOL)))
    assert len({sample.image_id for sample in samples}) == N_POOL
    ranks = sorted(sample.why["rank"] for sample in samples if sample.why["phase"] == "cold_start")
    assert ranks == list(range(1, case.BUDGET + 1))


def test_threads_clicking_at_once_get_the_active_picks_of_clicks_in_turn(campaign, make_campaign):
    for image_id in case.clicks(campaign, case.BUDGET):
        label(campaign, image_id)
    case.score(campaign, case.random_entropies())
    with ThreadPoolExecutor(8) as pool:
        at_once = {sample.why["rank"]: sample.image_id for sample in pool.map(lambda _: click(campaign), range(8))}
    with campaign.store.writing() as session:
        session.query(case.Serving).filter_by(phase="active").delete()
    assert [at_once[rank] for rank in range(1, 9)] == case.clicks(campaign, 8)


def test_processes_clicking_at_once_get_different_images(campaign):
    context = multiprocessing.get_context("fork")  # a spawned one imports torch first, for many seconds
    start, answers = context.Barrier(3), context.Queue()
    arguments = (campaign.settings, campaign.folder, start, answers)
    processes = [context.Process(target=click_in_a_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    served = [image_id for _ in processes for image_id in answers.get(timeout=60)]
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(served) == 3 * CLICKS_OF_A_PROCESS == len(set(served))
    assert len(case.servings(campaign)) == len(served)


def test_labels_saved_at_once_with_clicks_are_all_there(campaign):
    def work(index):
        sample = click(campaign, annotator=f"a{index}")
        return sample.image_id, label(campaign, sample.image_id, annotator=f"a{index}")

    with ThreadPoolExecutor(8) as pool:
        done = dict(pool.map(work, range(12)))
    assert len(done) == 12
    assert set(done.values()) == {None}
    assert {key: row.annotator is not None for key, row in case.labels(campaign).items()} == dict.fromkeys(done, True)
    assert {outcome for _, outcome in case.servings(campaign)} == {"labelled"}


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A click that waits too long is answered from memory, without the other processes: here none is to."""
    for module in (engine, database):
        monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 100.0)


@pytest.fixture(scope="module")
def large_folders(tmp_path_factory):
    """Databases of 300 and of 2,000 images; each test works on copies."""
    folders = {}
    for n_images in (300, 2000):
        folder = tmp_path_factory.mktemp(f"pool{n_images}")
        campaign = large_pool.prepare(folder / "state", large_pool.write_images(folder / "images", n_images))
        campaign.store.close()
        folders[n_images] = campaign.folder
    return folders


@pytest.fixture
def open_copy(large_folders, tmp_path, opened):
    def open_one(n_images, name):
        shutil.copytree(large_folders[n_images], tmp_path / name)
        opened.append(Campaign(large_pool.SETTINGS, tmp_path / name))
        return opened[-1]

    return open_one


def click_in_threads(settings, folder, number, n_clicks, named, start, answers):
    campaign = Campaign(settings, folder)
    start.wait(timeout=60)

    def one(index):
        # A named annotator who asks twice would skip; so each name asks once.
        return click(campaign, annotator=f"a{number}-{index}" if named and index % 2 else None).image_id

    with ThreadPoolExecutor(N_THREADS) as pool:
        answers.put(list(pool.map(one, range(n_clicks))))


def click_at_once(campaign, n_clicks, *, named):
    """Click from 32 threads of 4 processes; return what each got, and fail where one of them did."""
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(N_PROCESSES), context.Queue()
    processes = [
        context.Process(
            target=click_in_threads,
            args=(campaign.settings, campaign.folder, number, n_clicks // N_PROCESSES, named, start, answers),
        )
        for number in range(N_PROCESSES)
    ]
    for process in processes:
        process.start()
    answered = [image_id for _ in processes for image_id in answers.get(timeout=120)]
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * N_PROCESSES
    return answered


def test_32_clients_get_from_2000_images_what_one_would_have_got(open_copy):
    campaign, alone = open_copy(2000, "many"), open_copy(2000, "one")
    answered = click_at_once(campaign, N_CLICKS, named=False)
    assert len(set(answered)) == N_CLICKS
    served = [image_id for image_id, _ in case.servings(campaign)]
    assert sorted(served) == sorted(answered)
    assert served == case.clicks(alone, N_CLICKS)  # the plan, then the farthest points of the whole map


def test_32_clients_get_the_active_picks_of_one(open_copy):
    campaign, alone = open_copy(2000, "many"), open_copy(2000, "one")
    for one in (campaign, alone):
        large_pool.add_scoring(one)
    answered = click_at_once(campaign, 400, named=True)
    assert len(set(answered)) == 400
    assert [image_id for image_id, _ in case.servings(campaign)] == case.clicks(alone, 400)


def test_32_clients_share_300_images_only_when_all_are_reserved(open_copy):
    campaign, alone = open_copy(300, "many"), open_copy(300, "one")
    answered = click_at_once(campaign, N_CLICKS, named=True)
    served = [image_id for image_id, _ in case.servings(campaign)]
    assert sorted(served) == sorted(answered)
    assert len(set(served[:300])) == 300
    assert served[:300] == case.clicks(alone, 300)
    # From then on always the least recently served: the same order again.
    assert served[300:] == (served[:300] * 3)[: N_CLICKS - 300]
