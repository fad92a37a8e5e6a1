"""The units as systemd reads them: no mistake in them, and little that they may do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SERVICES = ["coldstart_al@.service", "coldstart_al-backup@.service"]


@pytest.fixture(scope="module")
def root(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system with the units installed, and what they name."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed, so its units cannot be verified")
    root = tmp_path_factory.mktemp("system")
    units = root / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    for path in (repository / "deploy" / "systemd").glob("*@.*"):
        shutil.copy(path, units)
        shutil.copy(path, units / path.name.replace("@.", "@chest."))
    for name in ("opt/coldstart_al/.venv/bin/coldstart", "bin/sh"):
        program = root / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for target in ("multi-user", "timers", "network-online", "sysinit", "basic", "shutdown", "time-set", "time-sync"):
        (units / f"{target}.target").write_text("[Unit]\nDescription=of the system\n")
    for target in ("-.slice", "system.slice", "-.mount", "tmp.mount"):
        if shutil.which("systemctl") and (path := Path("/lib/systemd/system") / target).exists():
            shutil.copy(path, units)
    return root


@pytest.mark.parametrize("unit", [*SERVICES, "coldstart_al-backup@.timer"])
def test_unit_is_valid(root: Path, unit: str) -> None:
    name = unit.replace("@.", "@chest.")
    command = ["systemd-analyze", f"--root={root}", "--man=no", "verify", name]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    about = [line for line in (ended.stdout + ended.stderr).splitlines() if "coldstart_al" in line]
    assert about == []
    assert ended.returncode == 0, ended.stderr


def test_mistake_in_a_unit_is_noticed(root: Path) -> None:
    units = root / "etc" / "systemd" / "system"
    text = (units / SERVICES[0]).read_text().replace("ProtectSystem=strict", "ProtectSytem=strict")
    (units / "coldstart_al-wrong.service").write_text(text)
    command = ["systemd-analyze", f"--root={root}", "--man=no", "verify", "coldstart_al-wrong.service"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "ProtectSytem" in ended.stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_exposure_is_below_4(root: Path, repository: Path, unit: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=40", "--no-pager"]
    path = repository / "deploy" / "systemd" / unit
    ended = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout[-300:]
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", ended.stdout)
    assert exposure and float(exposure[1]) < 4.0


def test_command_of_the_units_is_the_command_line(root: Path, repository: Path) -> None:
    """Every option that a unit gives is one of the command."""
    from typer.main import get_command

    from coldstart.cli import app

    commands = get_command(app).commands
    for unit in SERVICES:
        text = (repository / "deploy" / "systemd" / unit).read_text()
        name, rest = re.search(r"bin/coldstart (\w+)(.*)$", text, re.MULTILINE).groups()
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options
