"""Many at once: threads of one server, and processes on one database."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import campaign_case as case
from campaign_case import N_POOL, click, label

from coldstart.campaign import Campaign

CLICKS_OF_A_PROCESS = 8


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
