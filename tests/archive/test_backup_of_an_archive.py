"""A campaign on an archive, backed up while that is away, goes on on another machine."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from archive_case import RADIOGRAPHS, Site, label_of_ball
from monailabel.config import settings as monailabel_settings

from coldstart import cli
from coldstart.campaign.configured import remember
from dicom_series import radiograph

CONF = {**RADIOGRAPHS, "budget": "4"}
COMPUTED = "SELECT image_id, vector, hex(point), cluster FROM images ORDER BY image_id"


def rows(state: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(state / "coldstart.sqlite")) as connection:
        return connection.execute(COMPUTED).fetchall()


def test_campaign_on_an_archive_goes_on_on_the_copy(
    own_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, series = own_site.orthanc.url, {one.series: one for one in (radiograph(seed=seed) for seed in range(6))}
    for one in series.values():
        own_site.orthanc.store(one.instances)

    def run(machine: str, *arguments: object) -> dict[str, Any]:
        cache = str(own_site.folder / machine / "cache")
        monkeypatch.setattr(monailabel_settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", cache)
        state = ("--conf", "state_dir", str(own_site.folder / machine / "state"))
        monkeypatch.setattr(sys, "argv", ["coldstart", *map(str, arguments), *state, "--json"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert not end.value.code, found
        return found

    first = own_site.open("first", **CONF)
    remember(own_site.folder / "first" / "state", CONF)
    first._campaign.embed()
    labelled = []
    for is_away in (False, True):
        if is_away:
            own_site.orthanc.stop()
        served = first._campaign.next_sample("coldstart_al", annotator="ann")
        assert served is not None
        labelled.append(served.image_id)
        label_of_ball(first, series[served.image_id], tmp_path / "label.nii.gz")
        first.save_label(served.image_id, str(tmp_path / "label.nii.gz"), "final", {})
    ahead = [pick["image_id"] for pick in run("first", "next", url, "--peek", 2)["picks"]]
    assert len(ahead) == 2 and not {*ahead} & {*labelled}
    backed_up = run("first", "backup", url, tmp_path / "campaign.tar")
    assert backed_up["labels"] >= 1  # the one that waits to be sent is nowhere else

    restored = run("second", "restore", tmp_path / "campaign.tar", url)
    assert (restored["images"], restored["images_absent"]) == (6, 0)
    own_site.orthanc.start()
    second = own_site.open("second", **CONF)
    second.sync()
    assert second._campaign.status()["labelled"] == 2
    assert len(own_site.orthanc.segmentations()) == 2
    states = [own_site.folder / machine / "state" for machine in ("first", "second")]
    assert rows(states[0]) == rows(states[1])
    for image_id in labelled:
        paths = [Path(machine.get_label_uri(image_id, "final")) for machine in (first, second)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    taken = second._campaign.next_sample("coldstart_al", annotator="ben")
    assert taken is not None and taken.image_id == ahead[0]
    label_of_ball(second, series[ahead[0]], tmp_path / "label.nii.gz")
    second.save_label(ahead[0], str(tmp_path / "label.nii.gz"), "final", {})
    assert second._campaign.status()["labelled"] == 3 and len(own_site.orthanc.segmentations()) == 3
    assert run("second", "status", url)["labelled"] == 3
