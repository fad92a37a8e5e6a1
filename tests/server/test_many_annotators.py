"""Many annotators at once on the real server, over HTTP."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

import large_pool
from coldstart.adapters.server import Server
from coldstart.campaign import Campaign
from coldstart.store import Serving

N_CLIENTS = 32


class Case:
    """A server on a pool of images, and another database like the one that it began with."""

    def __init__(self, server: Server, campaign: Campaign, alone: Campaign):
        self.server, self.campaign, self.alone = server, campaign, alone

    def served(self) -> list[str]:
        """Ids in the order of serving."""
        with self.campaign.store.reading() as session:
            found = session.query(Serving.id, large_pool.Image.image_id).join(large_pool.Image).order_by(Serving.id)
            return [image_id for _, image_id in found]

    def alone_served(self, n: int) -> list[str]:
        """What one client alone is served in `n` clicks."""
        samples = [self.alone.next_sample("coldstart_al") for _ in range(n)]
        return [sample.image_id for sample in samples if sample is not None]


@pytest.fixture
def make_case(tmp_path: Path):
    opened = []

    def make(n_images: int) -> Case:
        studies = tmp_path / "studies"
        files = large_pool.write_images(studies, n_images)
        campaign = large_pool.prepare(studies / "coldstart", files)
        campaign.store.close()
        shutil.copytree(studies / "coldstart", tmp_path / "alone")
        opened.append(Server(studies, large_pool.CONF, tmp_path / "server.log").__enter__())
        campaigns = [Campaign(large_pool.SETTINGS, folder) for folder in (studies / "coldstart", tmp_path / "alone")]
        opened.extend(campaigns)
        return Case(opened[0], *campaigns)

    yield make
    for one in opened:
        one.stop() if isinstance(one, Server) else one.store.close()


def click_at_once(server: Server, names: list[str | None]) -> list[str]:
    """One click for each name, None being anonymous, from `N_CLIENTS` clients at once; the ids in any order."""

    def work(mine: list[str | None]) -> list[str]:
        with requests.Session() as session:
            got = []
            for name in mine:
                body = {} if name is None else {"client_id": name}
                response = session.post(f"{server.url}/activelearning/coldstart_al", json=body, timeout=60)
                assert response.status_code == 200, response.text
                got.append(response.json()["id"])
            return got

    with ThreadPoolExecutor(N_CLIENTS) as pool:
        return [image_id for ids in pool.map(work, (names[n::N_CLIENTS] for n in range(N_CLIENTS))) for image_id in ids]


def test_1000_clicks_on_2000_images_get_what_one_client_would_have_got(make_case):
    case = make_case(2000)
    answered = click_at_once(case.server, [None] * 1000)
    assert len(set(answered)) == 1000
    assert sorted(case.served()) == sorted(answered)
    assert case.served() == case.alone_served(1000)


def test_300_images_are_shared_only_when_all_are_reserved_by_named_and_anonymous_clients(make_case):
    case = make_case(300)
    alone = case.alone_served(300)
    # Each name asks once: who asks again skips, which is what the second half is about.
    names = [f"annotator{index}" if index % 2 else None for index in range(300)]
    # The first image goes to nobody by name, so that no name lets go below what is shared by then.
    answered = click_at_once(case.server, names[:1]) + click_at_once(case.server, names[1:])
    assert sorted(answered) == sorted(alone)
    assert case.served() == alone

    again = requests.post(f"{case.server.url}/activelearning/coldstart_al", json={}, timeout=60).json()
    assert (again["id"], again["coldstart"]["phase"]) == (alone[0], "shared")
    assert "also with another annotator" in again["coldstart"]["reason"]
    # What a named annotator lets go is the only image that is not with somebody: it comes back to whoever asks.
    body = {"client_id": "annotator1"}
    mine = requests.post(f"{case.server.url}/activelearning/coldstart_al", json=body, timeout=60).json()
    assert mine["coldstart"]["phase"] == "skipped_before"
    answered = click_at_once(case.server, [None] * 64)
    assert len(set(answered)) == 64
    assert not {mine["id"], again["id"]} & set(answered)
