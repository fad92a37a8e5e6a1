from __future__ import annotations

import shutil
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import campaign_case as case
import pytest

from coldstart.campaign import Campaign, serving

MakeCampaign = Callable[..., Campaign]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images of the pool and 4 to be held out."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(case.N_POOL):
        case.draw_image(folder / f"p{number:02}.png", number)
    for number, image_id in enumerate(case.HELD_OUT, start=100):
        case.draw_image(folder / f"{image_id}.png", number)
    return folder


@pytest.fixture(scope="session")
def held_out_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lists") / "heldout.txt"
    path.write_text("# held out\n" + "\n".join(case.HELD_OUT) + "\n\n")
    return path


@pytest.fixture(scope="session")
def embedded_folder(pictures: Path, held_out_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Database of a campaign that has embedded, projected and planned; each test works on a copy."""
    campaign = Campaign(case.make_settings(heldout=held_out_file), tmp_path_factory.mktemp("embedded") / "state")
    campaign.sync(case.list_files(pictures), {})
    campaign.embed()
    campaign.store.close()
    return campaign.folder


@pytest.fixture
def opened() -> Iterator[list[Campaign]]:
    campaigns: list[Campaign] = []
    yield campaigns
    for campaign in campaigns:
        campaign.store.close()


@pytest.fixture
def make_campaign(embedded_folder: Path, held_out_file: Path, tmp_path: Path, opened: list[Campaign]) -> MakeCampaign:
    """Open the embedded campaign of this test, under other settings where some are given."""
    folder = tmp_path / "state"
    shutil.copytree(embedded_folder, folder)

    def make(**values: Any) -> Campaign:
        opened.append(Campaign(case.make_settings(**{"heldout": held_out_file, **values}), folder))
        return opened[-1]

    return make


@pytest.fixture
def campaign(make_campaign: MakeCampaign) -> Campaign:
    return make_campaign()


@pytest.fixture
def make_new(tmp_path: Path, opened: list[Campaign]) -> MakeCampaign:
    """A campaign without images, held-out or otherwise."""

    def make(**values: Any) -> Campaign:
        opened.append(Campaign(case.make_settings(**values), tmp_path / "new"))
        return opened[-1]

    return make


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(serving, "time", types.SimpleNamespace(time=clock.time))
    return clock
