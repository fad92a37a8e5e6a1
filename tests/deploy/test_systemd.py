"""The units as systemd reads them: no mistake in them, and little that they may do."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from monailabel import main

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


def test_upgrade_to_a_new_tree_makes_the_folders_that_the_server_may_not(repository: Path, tmp_path: Path) -> None:
    """The page's own commands, on a system whose new tree has none of the folders that MONAI Label wants in the app."""
    if shutil.which("systemd-tmpfiles") is None or os.geteuid():
        pytest.skip("systemd-tmpfiles is not installed, or may not give folders to others")
    (folders,) = re.findall(r"dirs = \[(.*)\]", inspect.getsource(main))
    block = (repository / "docs" / "deploy.md").read_text().partition("\n## Upgrade\n")[2].split("```")[1]
    before_start = block.partition("systemctl start")[0].replace("sudo ", "").replace("/etc/", f"{tmp_path}/etc/")
    for program in ("systemd-sysusers", "systemd-tmpfiles"):
        before_start = before_start.replace(program, f"{program} --root={tmp_path}")
    for name in ("sysusers.d", "tmpfiles.d"):
        (tmp_path / "etc" / name).mkdir(parents=True)
    for line in before_start.splitlines():
        if "sysusers" in line or "tmpfiles" in line:
            subprocess.run(line, shell=True, check=True, cwd=repository, timeout=60)
    made = {path.name for path in (tmp_path / "opt" / "coldstart_al" / "apps" / "coldstart_al").glob("*")}
    assert made == set(re.findall(r"\w+", folders))


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


def test_only_old_backups_of_the_campaign_itself_are_removed(repository: Path, tmp_path: Path) -> None:
    """The unit's own command, on a folder where another campaign's name begins with this one's."""
    text = (repository / "deploy" / "systemd" / SERVICES[1]).read_text()
    (command,) = re.findall(r"^ExecStartPost=(.*)$", text, re.MULTILINE)
    assert "%%" not in command
    program, option, script = shlex.split(command.replace("%i", "chest"))
    old = ["chest-20260101T033000.tar", "chest-2-20260101T033000.tar", "chest-pilot.tar", "chest.tar"]
    new = "chest-20260301T033000.tar"
    for name in [*old, new]:
        (tmp_path / name).touch()
    for name in old:
        os.utime(tmp_path / name, (time.time() - 40 * 86_400,) * 2)
    script = script.replace("/var/backups/coldstart_al", str(tmp_path))
    subprocess.run([program, option, script], env={**os.environ, "KEEP_DAYS": "30"}, check=True, timeout=60)
    assert {path.name for path in tmp_path.iterdir()} == {*old[1:], new}


@pytest.mark.parametrize("unit", SERVICES)
def test_campaign_on_an_archive_needs_no_folder_of_studies(repository: Path, unit: str) -> None:
    """systemd ends a unit at once (226/NAMESPACE) that names a path which is not there, unless a dash is before it."""
    text = (repository / "deploy" / "systemd" / unit).read_text()
    paths = [
        path for line in re.findall(r"^(?:ReadWrite|Bind)Paths=(.*)$", text, re.MULTILINE) for path in line.split()
    ]
    made = ("/var/backups/coldstart_al", "/var/log/coldstart_al/%i:")  # by tmpfiles.d, and by LogsDirectory=
    assert [path for path in paths if not path.startswith(("-", *made))] == []
