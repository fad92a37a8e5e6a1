"""`coldstart doctor` on machines that lack something: each thing is really broken, closed or full."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from coldstart.adapters.server import free_port
from coldstart.doctor import Finding, cards, machine, packages, studies
from coldstart.doctor.finding import ProbeError, ask
from coldstart.doctor.studies import Asked
from dicom_series import volume_series
from orthanc import Orthanc, require_orthanc

COMMAND = str(Path(sys.executable).with_name("coldstart"))


def one(findings: Iterable[Finding], check: str) -> Finding:
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, found
    return found[0]


def states(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def shadow(folder: Path, **modules: str) -> Path:
    """A folder whose packages come before the environment's when it is in PYTHONPATH."""
    for name, content in modules.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(content)
    return folder


# The whole command


def test_working_machine_is_told_so_as_json(tmp_path: Path, repository: Path) -> None:
    chest = repository / "sample-data" / "chest"
    arguments = ["--studies", str(chest), "--preset", "sample", "--port", str(free_port()), "--json"]
    arguments += ["--conf", "state_dir", str(tmp_path / "state"), "--conf", "encoder", "descriptor"]
    ended = subprocess.run([COMMAND, "doctor", *arguments], capture_output=True, text=True, timeout=900)
    said = json.loads(ended.stdout)
    problems = [check for check in said["checks"] if check["state"] == "problem"]
    assert problems == [] and said["able"] is True and ended.returncode == 0, ended.stderr
    found = {check["check"]: check for check in said["checks"]}
    assert found["imports"]["state"] == "ok" and found["port"]["state"] == "ok"
    assert "60 .nrrd" in found["studies"]["found"]
    assert found["encoder"]["found"].startswith("descriptor")
    assert all(check["remedy"] for check in said["checks"] if check["state"] != "ok")
    assert not (tmp_path / "state").exists()


def test_broken_packages_are_named_and_nothing_crashes(tmp_path: Path) -> None:
    """Not even the packages that the command itself is made with."""
    broken = shadow(
        tmp_path / "broken",
        rich="raise ImportError('rich is half installed')",
        torch="import os; os._exit(3)",
        pydicom="1 / 0",
        tifffile="import os; os._exit(0)",
    )
    environment = {**os.environ, "PYTHONPATH": str(broken)}
    command = [sys.executable, "-m", "coldstart", "doctor", "--port", str(free_port())]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    reasons = {"rich": "half installed", "torch": "code 3", "pydicom": "ZeroDivision", "tifffile": "without a word"}
    for name, reason in reasons.items():
        (line,) = (line for line in lines if line.startswith(f"problem  {name}: {name} cannot be imported"))
        assert reason in line and str(broken) in line
        assert "PYTHONPATH" in lines[lines.index(line) + 1]
    assert lines[-1].startswith("The server cannot run")
    other = subprocess.run(
        [sys.executable, "-m", "coldstart", "bench"], capture_output=True, text=True, timeout=300, env=environment
    )
    assert other.returncode == 2 and "`coldstart doctor` says what to do" in other.stderr


def test_environment_with_nothing_in_it_is_told_so(tmp_path: Path, repository: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(repository / "lib"), "PATH": "/usr/bin:/bin"}
    command = [str(tmp_path / "venv" / "bin" / "python"), "-m", "coldstart", "doctor", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    found = [Finding(**check) for check in json.loads(ended.stdout)["checks"]]
    assert "packages are missing" in one(found, "imports").found
    assert one(found, "torch").state == "problem" and one(found, "dcmqi").state == "warning"


# Packages


def test_every_requirement_is_imported(repository: Path) -> None:
    required = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [text.split("=")[0].split(">")[0].lower() for text in required]
    modules = [packages.MODULES.get(name, name.replace("-", "_")) for name in names]
    answers = [answer for answer in ask("imports", modules=[name for name in modules if name]) if "error" in answer]
    assert len(answers) == len([name for name in modules if name])
    assert {answer["module"]: answer["error"] for answer in answers if answer["error"]} == {}


@pytest.mark.parametrize(
    ("name", "version", "state", "sentence"),
    [
        ("monai", "1.6.0", "problem", "monai 1.6.0 is too new: MONAI Label 0.8.5 cannot segment with it"),
        ("numpy", "2.1.3", "problem", "numpy 2.1.3 is too new"),
        ("pydicom", "3.0.1", "problem", "pydicom 3.0.1 is too new"),
        ("torchvision", "0.28.0", "warning", "torchvision 0.28.0 is installed. Nothing here needs it"),
    ],
)
def test_known_trap_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, state: str, sentence: str
) -> None:
    installed = tmp_path / f"{name}-{version}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    findings = list(packages.check_versions())
    assert one(findings, name).state == state and sentence in one(findings, name).found
    pins = one(findings, "pins")
    if name != "torchvision":
        assert pins.state == "warning" and f"{name} {version} (pinned: " in pins.found


def test_package_without_metadata_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    findings = list(packages.check_versions())
    assert "pinned packages are missing" in one(findings, "pins").found
    assert one(findings, "setuptools").state == ("warning" if sys.version_info < (3, 12) else "problem")


def test_look_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(shadow(tmp_path, sleepy="import time; time.sleep(600)")))
    with pytest.raises(ProbeError, match="did not end within 10 s") as raised:
        ask("imports", limit_s=10, modules=["json", "sleepy"])
    assert [answer["module"] for answer in raised.value.answers] in (["json", "json", "sleepy"], [])


# The machine


def test_port_is_free_ours_or_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = one(machine.check_port(port), "port")
        assert finding.state == "problem" and "taken by another program" in finding.found
    assert one(machine.check_port(port), "port").state == "ok"


def test_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = one(machine.check_writable("state", tmp_path / "file" / "coldstart", "Name another."), "write to state")
    assert (finding.state, finding.remedy) == ("problem", "Name another.")
    assert one(machine.check_writable("state", Path("/proc/1/x"), "Name another."), "write to state").state == "problem"
    new = one(machine.check_writable("state", tmp_path / "a" / "b", "Name another."), "write to state")
    assert new.state == "ok" and "will be made" in new.found and not (tmp_path / "a").exists()


def test_memory_and_disk_are_told_in_numbers(tmp_path: Path) -> None:
    assert "GiB of memory are free" in one(machine.check_memory(), "memory").found
    findings = list(machine.check_disk({"state": tmp_path / "new", "studies": tmp_path}))
    assert [finding.check for finding in findings] == ["disk of state"]  # one disk, one line
    assert "GiB are free on the disk of" in findings[0].found


def test_card_that_this_torch_cannot_use_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ask("cuda")[0]["build"] is not None:
        pytest.skip("this torch is a build with CUDA")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA T4, 535.104.05'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    finding = one(cards.check_cards("cuda"), "cuda")
    assert finding.state == "problem" and "NVIDIA T4 is there, but this torch cannot use it" in finding.found


@pytest.mark.parametrize(
    ("driver", "build", "sentence", "remedy"),
    [
        ("535.104.05", "13.0", "too old for this torch, built for CUDA 13.0", "to 580 or newer"),
        ("580.65.06", "13.0", "but torch finds no card", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_driver_is_compared_with_the_build(driver: str, build: str, sentence: str, remedy: str) -> None:
    finding = cards.unusable({"card": "NVIDIA T4", "driver": driver}, build, wanted=False)
    assert finding.state == "warning" and sentence in finding.found and remedy in (finding.remedy or "")


def test_card_without_code_in_this_torch_is_told() -> None:
    card = {"name": "Tesla P4", "total": 8 << 30, "free": 8 << 30, "capability": "6.1", "error": "no kernel image"}
    finding = cards.describe(0, card, ["sm_75", "sm_90"], {"card": "Tesla P4", "driver": "580.1"})
    assert finding.state == "problem" and "compute capability 6.1" in (finding.remedy or "")
    assert cards.describe(0, {**card, "error": None}, ["sm_75"], None).state == "ok"
    assert cards.describe(0, {**card, "error": None, "free": 1 << 30}, ["sm_75"], None).state == "warning"


# Settings, studies, encoder, archive


def test_wrong_setting_is_the_servers_own_sentence() -> None:
    settings, findings = studies.read_settings({"budgets": "3"})
    assert settings == {} and one(findings, "settings").state == "problem"
    assert "The nearest valid name is 'budget'" in one(findings, "settings").found


def test_folder_without_images_says_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "patient1").mkdir()
    (tmp_path / "patient1" / "scan.nii.gz").touch()
    finding = one(studies.check_folder(Asked(str(tmp_path), {}, {})), "studies")
    assert finding.state == "warning" and "some in the folder patient1" in finding.found
    gone = one(studies.check_folder(Asked(str(tmp_path / "gone"), {}, {})), "studies")
    assert gone.state == "problem" and "is not there" in gone.found


def test_database_of_a_newer_version_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "coldstart").mkdir()
    with sqlite3.connect(tmp_path / "coldstart" / "coldstart.sqlite") as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
    database.close()
    asked = Asked(str(tmp_path), {}, {})
    folder, known, lost = studies.find_state(asked)
    assert lost == [] and folder is not None
    finding = one(studies.check_state(folder, known, asked), "database")
    assert finding.state == "problem" and "newer version" in finding.found


def test_missing_weights_come_with_the_way_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    finding = one(studies.check_encoder(Asked(None, {}, {"encoder": "medicalnet"})), "encoder")
    assert finding.state == "problem" and "does not answer from this machine" in finding.found
    for part in ("resnet_50_23dataset.pth", "on a machine with internet", "--conf encoder_weights /path/to/"):
        assert part in (finding.remedy or "")


def test_damaged_weights_are_a_problem(tmp_path: Path) -> None:
    weights = tmp_path / "ResNet50.pt"
    weights.write_bytes(b"cut off")
    settings = {"encoder": "radimagenet", "encoder_weights": str(weights)}
    finding = one(studies.check_encoder(Asked(None, {}, settings)), "encoder")
    assert finding.state == "problem" and "it is damaged" in finding.found


def test_archive_is_asked_with_the_servers_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_orthanc()
    with Orthanc(tmp_path / "orthanc", {"lab": "secret"}) as archive:
        archive.store(volume_series("CT").instances)
        asked = Asked(archive.url, {}, {"modalities": ["CT", "MR"]})
        refused = one(studies.check_archive(asked), "archive")
        assert refused.state == "problem" and "MONAI_LABEL_DICOMWEB_USERNAME" in refused.found
        monkeypatch.setenv("MONAI_LABEL_DICOMWEB_USERNAME", "lab")
        monkeypatch.setenv("MONAI_LABEL_DICOMWEB_PASSWORD", "secret")
        let_in = one(studies.check_archive(asked), "archive")
        assert let_in.state == "ok" and "1 CT, 0 MR" in let_in.found
    away = one(studies.check_archive(asked), "archive")
    assert away.state == "problem" and "cannot be reached" in away.found
