"""The commands with the address of an archive in the place of a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from monailabel.config import settings as monailabel_settings

from coldstart import cli
from dicom_series import radiograph
from orthanc import Orthanc


def test_plan_next_and_status_of_an_archive(
    own_orthanc: Orthanc,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(monailabel_settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    series = [radiograph(seed=seed) for seed in range(6)]
    for one in series:
        own_orthanc.store(one.instances)

    def run(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["coldstart", *arguments, "--json"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(end.value.code) == ("error" in found)
        return found

    url = own_orthanc.url
    assert "No campaign has begun" in run("status", url)["error"]
    conf = ("--preset", "chest_xray", "--conf", "labels", "ball:1", "--conf", "encoder", "descriptor")
    picks = run("plan", url, "--budget", "3", *conf)["picks"]
    ids = [pick["image_id"] for pick in picks]
    assert len(set(ids)) == 3 and set(ids) <= {one.series for one in series}
    assert run("next", url)["id"] == ids[0]
    own_orthanc.stop()
    found = run("status", url)
    assert (found["images"], found["planned"], found["budget"]) == (6, 3, 3)
    assert "cannot be reached" in caplog.text
    assert run("replay", url)["different"] == 0
    assert "error" in run("embed", url)
