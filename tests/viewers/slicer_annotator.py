"""An annotator in 3D Slicer's own libraries, which have a Python of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PLUGIN = Path(sys.prefix) / "monailabel" / "plugins" / "slicer" / "MONAILabel"
LIMIT_S = 120


def annotate(python: str, url: str, scratch: Path, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Have each step taken, see `slicer_libraries_session`; return what was seen."""
    scratch.mkdir()
    script = Path(__file__).with_name("slicer_libraries_session.py")
    command = [python, str(script), str(PLUGIN), url, str(scratch), json.dumps(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    seen: list[dict[str, Any]] = json.loads((scratch / "seen.json").read_text())
    return seen
