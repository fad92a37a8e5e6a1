"""Imports point one way: apps, adapters, web, campaign, then packages that do not know each other, then the leaves."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LEAVES = {"exceptions", "settings", "images", "memory"}
MIDDLE = {"store", "embedding", "projection", "segmentation", "scoring", "selection"}
UP_TO_CAMPAIGN = LEAVES | MIDDLE | {"campaign"}
COMMANDS = {"cli_backup", "cli_campaign", "cli_doctor", "cli_export", "cli_models", "cli_next", "cli_status"}

# What each module or package directly under coldstart may import of the others; "" is coldstart/__init__.py itself.
ALLOWED: dict[str, set[str]] = {
    "": {"exceptions"},
    "exceptions": set(),
    "settings": {"exceptions"},
    "memory": {"exceptions"},
    "images": {"exceptions"},
    "selection": {"exceptions"},
    **{name: LEAVES for name in MIDDLE - {"selection"}},
    "campaign": LEAVES | MIDDLE,
    "web": UP_TO_CAMPAIGN,
    "adapters": UP_TO_CAMPAIGN | {"web"},
    "experiments": UP_TO_CAMPAIGN,
    "cli": UP_TO_CAMPAIGN | {"adapters", "experiments", "cli_bench", "cli_output", *COMMANDS},
    "cli_bench": UP_TO_CAMPAIGN | {"experiments"},
    "cli_output": {"exceptions"},
    **{name: UP_TO_CAMPAIGN | {"adapters", "cli_output", "cli_campaign", "cli_status", "doctor"} for name in COMMANDS},
    "doctor": UP_TO_CAMPAIGN | {"adapters"},
    "__main__": {"cli", "doctor"},
}
SELECTION_LIBRARIES = {"numpy", "scipy", "sklearn"}
ONLY_IN = {
    "monailabel": {"adapters"},
    "fastapi": {"adapters", "web"},
    "starlette": {"adapters", "web"},
    "uvicorn": {"adapters", "web", "cli"},
    "torchvision": set(),
}


def imported_names(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Every dotted name that a file imports, absolute, with its line; relative imports start from `package`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def violations(root: Path) -> list[str]:
    """What breaks the rules in a checkout, one sentence each."""
    found = []
    source = root / "lib" / "coldstart"
    components = {p.stem for p in source.glob("*.py")} | {p.parent.name for p in source.glob("*/__init__.py")}
    for path in sorted(source.rglob("*.py")):
        inside = path.relative_to(source)
        own = inside.parts[0].removesuffix(".py").replace("__init__", "")
        package = ".".join(["coldstart", *inside.parts[:-1]])
        if own not in ALLOWED:
            found.append(
                f"{inside}: '{own}' has no place in the import direction yet; give it one in {Path(__file__).name}"
            )
            continue
        for line, name in imported_names(path, package):
            top, _, rest = name.partition(".")
            where = f"{inside}:{line}"
            if top == "coldstart":
                target = rest.partition(".")[0]
                if target in components and target != own and target not in ALLOWED[own]:
                    found.append(f"{where}: '{own or 'coldstart'}' must not import 'coldstart.{target}'")
            elif top in ONLY_IN and own not in ONLY_IN[top]:
                found.append(f"{where}: '{own or 'coldstart'}' must not import '{top}'")
            elif own == "selection" and top not in SELECTION_LIBRARIES and top not in sys.stdlib_module_names:
                found.append(f"{where}: 'selection' must not import '{top}'")
    for path in sorted((root / "apps").glob("*/*.py")):
        for line, name in imported_names(path, ""):
            if not name.startswith("coldstart.adapters"):
                found.append(f"{path.relative_to(root)}:{line}: an app imports 'coldstart.adapters' only, not '{name}'")
    for folder in ("tests", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            for line, name in imported_names(path, ""):
                if name.partition(".")[0] == "torchvision":
                    found.append(f"{path.relative_to(root)}:{line}: nothing must import 'torchvision'")
    return found


def test_imports_point_one_way(repository: Path) -> None:
    assert violations(repository) == []


def tree(root: Path, files: dict[str, str]) -> Path:
    """A small checkout in which nothing is wrong, and then what `files` puts there."""
    innocent = {
        "lib/coldstart/__init__.py": '__version__ = "0"\n',
        "lib/coldstart/exceptions.py": "",
        "lib/coldstart/images.py": "from coldstart.exceptions import ImageError\n",
        "lib/coldstart/selection/__init__.py": "from .cold_start import plan_cold_start\n",
        "lib/coldstart/selection/cold_start.py": "import math\nimport numpy as np\nfrom scipy import spatial\n",
        "lib/coldstart/scoring/__init__.py": "from coldstart.images import read_image\n",
        "lib/coldstart/store/__init__.py": "",
        "lib/coldstart/campaign/__init__.py": "from coldstart import __version__, selection, store\n",
        "lib/coldstart/adapters/__init__.py": "import monailabel.interfaces\nfrom coldstart.campaign import Campaign\n",
        "lib/coldstart/experiments/__init__.py": "from ..campaign import Campaign\n",
        "lib/coldstart/cli.py": "from coldstart import adapters, experiments\n",
        "apps/coldstart_al/main.py": "from coldstart.adapters import App\n",
        "tests/test_x.py": "import monailabel.client\n",
    }
    for name, text in (innocent | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_an_innocent_tree_passes(tmp_path: Path) -> None:
    assert violations(tree(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("lib/coldstart/selection/a.py", "import torch.nn\n", "'selection' must not import 'torch'"),
        ("lib/coldstart/selection/a.py", "from coldstart.images import x\n", "must not import 'coldstart.images'"),
        ("lib/coldstart/selection/a.py", "def f():\n    from ..store import x\n", "must not import 'coldstart.store'"),
        ("lib/coldstart/scoring/a.py", "from .. import selection\n", "'scoring' must not import 'coldstart.selection'"),
        ("lib/coldstart/store/a.py", "import coldstart.campaign\n", "'store' must not import 'coldstart.campaign'"),
        ("lib/coldstart/images.py", "from coldstart import store\n", "'images' must not import 'coldstart.store'"),
        ("lib/coldstart/campaign/b/c.py", "from ...adapters import x\n", "must not import 'coldstart.adapters'"),
        ("lib/coldstart/campaign/a.py", "import fastapi\n", "'campaign' must not import 'fastapi'"),
        ("lib/coldstart/cli.py", "import monailabel\n", "'cli' must not import 'monailabel'"),
        ("lib/coldstart/experiments/a.py", "from coldstart import adapters\n", "must not import 'coldstart.adapters'"),
        (
            "lib/coldstart/adapters/a.py",
            "from coldstart import experiments\n",
            "must not import 'coldstart.experiments'",
        ),
        ("lib/coldstart/adapters/a.py", "import torchvision\n", "'adapters' must not import 'torchvision'"),
        ("lib/coldstart/__init__.py", "from . import store\n", "'coldstart' must not import 'coldstart.store'"),
        (
            "lib/coldstart/web/a.py",
            "import importlib\nimportlib.import_module('monailabel.x')\n",
            "import 'monailabel'",
        ),
        ("lib/coldstart/sideways.py", "", "'sideways' has no place"),
        ("apps/coldstart_al/main.py", "import coldstart.campaign\n", "not 'coldstart.campaign'"),
        ("tests/deep/test_y.py", "from torchvision import ops\n", "nothing must import 'torchvision'"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    found = violations(tree(tmp_path, {name: text}))
    assert len(found) == 1
    assert complaint in found[0]
