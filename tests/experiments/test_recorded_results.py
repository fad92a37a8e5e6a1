"""What lies in `benchmarks/results` with its rows: one command makes the report of it again."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from coldstart.cli import app
from coldstart.experiments.protocol_files import load_protocol

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/rows.jsonl"))


def without_map(report: str) -> str:
    """The map needs the images."""
    return re.sub(r"^## Map$.*?(?=^## )", "", report, flags=re.MULTILINE | re.DOTALL)


def test_there_are_recorded_results() -> None:
    assert len(FOLDERS) >= 3


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_report_is_made_again_from_the_recorded_rows(folder: Path, tmp_path: Path) -> None:
    for name in ("rows.jsonl", "protocol.yaml"):
        shutil.copy(folder / name, tmp_path)
    app(["bench", "--report-only", str(tmp_path)], standalone_mode=False)
    made = (tmp_path / "report.md").read_text(encoding="utf-8")
    recorded = (folder / "report.md").read_text(encoding="utf-8")
    assert without_map(made) == without_map(recorded) != recorded
    protocol = load_protocol(folder / "protocol.yaml")
    for path in (protocol.images, protocol.labels, protocol.manifest):
        assert path is None or not path.is_absolute()
