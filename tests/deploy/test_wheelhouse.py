"""`make wheelhouse` and `make install-offline` with the real pip, on a project of three small packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

OFFLINE = ["unshare", "--map-root-user", "--net"]
LOCK = "helper==1.0\ntorch==2.13.0\n"
PYPROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "small"
version = "1.0"
"""
BACKEND = """import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
from wheels import write_wheel

def build_editable(folder, config_settings=None, metadata_directory=None):
    return write_wheel(Path(folder), "small", "1.0").name
"""
WHEELS = '''import zipfile

def write_wheel(folder, name, version, requires=()):
    """A wheel of one module."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\\n" for one in requires)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n{needs}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path
'''


def run(checkout: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    dropped = ("VENV", "PYTHONPATH", "PYTHONHOME", "WHEELHOUSE", "WEIGHTS")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment |= {"INSTALL_NEED_MB": "1", **settings}
    return subprocess.run(list(words), cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def collected(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkout and the wheelhouse that was collected with it; torch needs a package that is not in the lock."""
    folder = tmp_path_factory.mktemp("wheels")
    checkout, index = folder / "checkout", folder / "index"
    (checkout / "tools").mkdir(parents=True)
    index.mkdir()
    for name in ("tools/install", "tools/install-offline", "tools/wheelhouse", "Makefile"):
        shutil.copy(repository / name, checkout / name)
    texts = {"requirements.txt": LOCK, "requirements-dev.txt": "", "pyproject.toml": PYPROJECT, "backend.py": BACKEND}
    for name, text in {**texts, "wheels.py": WHEELS}.items():
        (checkout / name).write_text(text)
    made: dict[str, object] = {}
    exec(WHEELS, made)  # the same function as in the project
    for name, version, requires in (("torch", "2.13.0", ["driver"]), ("driver", "13.0", []), ("helper", "1.0", [])):
        made["write_wheel"](index, name, version, requires)  # type: ignore[operator]
    (folder / "weights.pt").write_bytes(b"weights")
    (folder / "weights.pt").chmod(0o600)
    (checkout / "requirements.txt").chmod(0o660)  # as a careful user has files
    if os.geteuid() == 0:
        os.chown(checkout / "requirements.txt", 1234, 1234)
    wheelhouse = folder / "wheelhouse"
    ended = run(
        checkout,
        "tools/wheelhouse",
        VENV=sys.prefix,
        WHEELHOUSE=str(wheelhouse),
        WEIGHTS=str(folder / "weights.pt"),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(index),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return checkout, wheelhouse


def refusal(checkout: Path, wheelhouse: Path | str, **settings: str) -> str:
    ended = run(checkout, "make", "--no-print-directory", "install-offline", f"WHEELHOUSE={wheelhouse}", **settings)
    assert ended.returncode != 0
    assert not (checkout / ".venv").exists()
    return next(line for line in ended.stderr.splitlines() if line.startswith("make: cannot install offline: "))


def test_wheelhouse_holds_everything_with_checksums(collected: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, wheelhouse = collected
    names = {path.relative_to(wheelhouse).as_posix() for path in wheelhouse.rglob("*") if path.is_file()}
    wheels = {f"wheels/{name}-py3-none-any.whl" for name in ("torch-2.13.0", "driver-13.0", "helper-1.0")}
    rest = {"weights/weights.pt", "source.tar.gz", "requirements.txt", "made-for", "SHA256SUMS"}
    assert names == wheels | rest
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=wheelhouse, check=True)
    assert len((wheelhouse / "SHA256SUMS").read_text().splitlines()) == len(names) - 1
    subprocess.run(["tar", "xf", wheelhouse / "source.tar.gz", "-C", tmp_path], check=True)
    assert (tmp_path / "coldstart_al" / "tools" / "install-offline").read_bytes() == (
        checkout / "tools" / "install-offline"
    ).read_bytes()


def test_source_belongs_to_root_and_can_be_read_by_everybody(collected: tuple[Path, Path]) -> None:
    """Root unpacks it on the server, where the collector's number may be another user's, and the service reads it."""
    with tarfile.open(collected[1] / "source.tar.gz") as tar:
        found = {(one.uid, one.gid, one.mode & 0o066) for one in tar if one.isreg()}
    assert found == {(0, 0, 0o044)}
    assert (collected[1] / "weights" / "weights.pt").stat().st_mode & 0o044 == 0o044


def test_installs_with_the_network_out_of_reach(collected: tuple[Path, Path], tmp_path: Path) -> None:
    _, wheelhouse = collected
    if shutil.which("unshare") is None or subprocess.run([*OFFLINE, "true"], capture_output=True).returncode:
        pytest.skip("this user may not have a network of its own: unshare --map-root-user --net is refused")
    subprocess.run(["tar", "xf", wheelhouse / "source.tar.gz", "-C", tmp_path], check=True)
    checkout = tmp_path / "coldstart_al"
    command = [*OFFLINE, "make", "--no-print-directory", "install-offline", f"WHEELHOUSE={wheelhouse}"]
    ended = run(checkout, *command, PIP_INDEX_URL="http://127.0.0.1:9/", PYTHON=sys._base_executable)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    python = str(checkout / ".venv" / "bin" / "python")
    subprocess.run([python, "-c", "import torch, driver, helper, small"], check=True)
    assert (checkout / "weights" / "weights.pt").read_bytes() == b"weights"
    again = run(checkout, *command[len(OFFLINE) :], PYTHON=sys._base_executable)
    assert again.returncode == 0 and "PyTorch" not in again.stdout


def test_damaged_and_missing_files_are_named(collected: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, wheelhouse = collected
    copy = tmp_path / "copy"
    shutil.copytree(wheelhouse, copy)
    (copy / "wheels" / "helper-1.0-py3-none-any.whl").write_bytes(b"else")
    assert "wheels/helper-1.0-py3-none-any.whl in" in refusal(checkout, copy)
    (copy / "wheels" / "helper-1.0-py3-none-any.whl").unlink()
    assert "is damaged or missing" in refusal(checkout, copy)
    (copy / "SHA256SUMS").unlink()
    assert "no whole wheelhouse" in refusal(checkout, copy)


def test_wheelhouse_of_something_else_is_refused(collected: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, wheelhouse = collected
    assert "say which folder" in refusal(checkout, "")
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 3.9\n")
    fake.chmod(0o755)
    assert "collected for Python 3." in refusal(checkout, wheelhouse, PYTHON=str(fake))
    other = tmp_path / "checkout"
    shutil.copytree(checkout, other)
    (other / "requirements.txt").write_text(LOCK + "more==1\n")
    assert "another version of coldstart_al" in refusal(other, wheelhouse)


def test_folder_of_somebody_else_is_left_alone(collected: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, _ = collected
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    ended = run(checkout, "tools/wheelhouse", VENV=sys.prefix, WHEELHOUSE=str(tmp_path / "mine"), WEIGHTS="none")
    assert ended.returncode == 1 and "was not made by this script" in ended.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
