"""How long tasks took, by the local times that MONAI Label notes of them."""

from __future__ import annotations

import pytest
from monailabel.utils.async_tasks.utils import background_tasks

from coldstart.adapters.monitor import _runs


@pytest.mark.parametrize(
    ("began", "ended", "seconds"),
    [
        ("2026-03-04 12:00:00", "2026-03-04 12:01:30", 90.0),
        ("2026-10-25 02:59:50", "2026-10-25 02:00:02", 12.0),  # the clocks go back at 03:00
        ("2026-10-25 01:30:00", "2026-10-25 03:30:00", 3 * 3600.0),
        ("2026-03-29 01:59:50", "2026-03-29 03:00:02", 12.0),  # they go forward at 02:00
        ("2026-03-04 12:00:00", "2026-03-04 11:00:00", 0.0),  # somebody put the clock right
        ("2026-03-04 12:00:00", None, None),
    ],
)
def test_task_takes_as_long_as_it_did_when_the_clocks_change(
    berlin: None, monkeypatch: pytest.MonkeyPatch, began: str, ended: str | None, seconds: float | None
) -> None:
    task = {"status": "RUNNING" if ended is None else "STOPPED", "start_ts": began}
    monkeypatch.setitem(background_tasks, "train", [task if ended is None else {**task, "end_ts": ended}])
    monkeypatch.setitem(background_tasks, "scoring", [])
    [run] = _runs()
    assert run.seconds == seconds
