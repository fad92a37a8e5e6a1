from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def slicer_python(repository: Path) -> str:
    """The Python that has 3D Slicer's libraries."""
    found = subprocess.run([repository / "tools" / "slicer-environment", "--find"], capture_output=True, text=True)
    if found.returncode != 0:
        pytest.skip("3D Slicer's libraries are not installed: `tools/slicer-environment` makes their environment")
    return found.stdout.strip()
