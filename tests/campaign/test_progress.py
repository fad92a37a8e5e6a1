"""How far a long task is: in the log and in the store, with the time that is left."""

from __future__ import annotations

import logging
import re
import time

import pytest

from coldstart.campaign import progress
from coldstart.campaign.progress import duration, reporter


def test_time_left_follows_from_the_speed_so_far(make_campaign, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO, logger=progress.__name__)
    campaign = make_campaign()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    report = reporter(campaign.store, "entropy", "model m1")

    def said() -> dict[str, object]:
        return campaign.status()["progress"]["entropy"]

    now += 30
    report(3, 12)
    assert said() == {"done": 3, "total": 12, "message": "model m1, 0:01:30 left"}
    now += 0.5
    report(4, 12)
    assert said()["done"] == 3, "once a second is enough"
    now += 29.5
    report(8, 12)
    assert said()["message"] == "model m1, 0:00:30 left"
    report(12, 12)
    assert said() == {"done": 12, "total": 12, "message": "model m1"}
    lines = [record.message for record in caplog.records]
    assert len(lines) == 3 and re.fullmatch(r"entropy \[#+\.+\] 3 of 12 images, model m1, 0:01:30 left", lines[0])


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (59.9, "0:00:59"), (90061, "1 day, 1:01:01")])
def test_duration_is_written_as_monai_label_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text
