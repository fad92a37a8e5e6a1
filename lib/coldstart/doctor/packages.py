"""Are the packages there, in the versions that were tested together, and can they be imported?"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from coldstart.doctor.finding import REPOSITORY, Finding, ProbeError, ask, short

LOCK, PROJECT = REPOSITORY / "requirements.txt", REPOSITORY / "pyproject.toml"
MODULES = {
    "dicomweb-client": "dicomweb_client",
    "itk-core": "itk",
    "itk-io": "itk",
    "opentsne": "openTSNE",
    "pillow": "PIL",
    "pyjwt": "jwt",
    "pynrrd": "nrrd",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "simpleitk": "SimpleITK",
    "dcmqi": None,
}
"""What is imported under another name than it is installed by, and what is a program."""
OF_THE_SERVER = ("monailabel.main", "monailabel.app", "coldstart.adapters.app")
"""What the server imports; with them everything that these need."""

_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)")
_REINSTALL = "pip install --no-deps -r requirements.txt"
_TOO_NEW = {
    "monai": (1, 6, "MONAI Label 0.8.5 cannot segment with it"),
    "numpy": (2, 0, "pydicom-seg, which MONAI Label needs, works with numpy 1.26 only"),
    "pydicom": (3, 0, "MONAI Label 0.8.5 cannot be imported with it"),
}


def check_versions() -> Iterator[Finding]:
    """Look at the installed versions, and at what is known to go wrong."""
    pins = _pins()
    installed = {name: _version(name) for name in {*pins, *_direct(), *_TOO_NEW, "torchvision", "setuptools"}}
    yield from _compare(pins, installed)
    yield from _traps(installed)


def _pins() -> dict[str, str]:
    """Name and version of each package of the lock; nothing where it is not beside the package."""
    try:
        lines = LOCK.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {match[1].lower(): match[2] for line in lines if (match := _PIN.fullmatch(line.strip()))}


def _direct() -> list[str]:
    """Names of the packages that this one needs: by the checkout, whose metadata may be of an older one."""
    try:
        import tomllib  # Python 3.11 brought it, and the doctor tells an older one so

        requirements = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    except (ImportError, OSError, ValueError, LookupError):
        try:
            requirements = metadata.requires("coldstart-al") or []
        except metadata.PackageNotFoundError:
            requirements = []
    names = (re.match(r"[A-Za-z0-9._-]+", text) for text in requirements)
    return [match[0].lower().replace("_", "-") for match in names if match]


def _version(name: str) -> str | None:
    try:
        found: str | None = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    return found or "of unknown version"


def _compare(pins: dict[str, str], installed: dict[str, str | None]) -> Iterator[Finding]:
    if not pins:
        yield Finding(
            "pins",
            "warning",
            f"{LOCK} is not there, so the installed versions cannot be compared with those tested.",
            "Install from a checkout of the repository: make install.",
        )
        return
    missing = sorted(name for name in pins if installed[name] is None)
    other = sorted(
        f"{name} {version} (pinned: {pins[name]})"
        for name in pins
        if (version := installed[name]) is not None and version.partition("+")[0] != pins[name]
    )
    if missing:
        yield Finding(
            "pins", "warning", f"{len(missing)} pinned packages are missing: {_few(missing)}.", f"{_REINSTALL}."
        )
    if other:
        yield Finding(
            "pins",
            "warning",
            f"{len(other)} of {len(pins)} packages have another version than the tested one: {_few(other)}.",
            f"{_REINSTALL}.",
        )
    if not missing and not other:
        yield Finding("pins", "ok", f"All {len(pins)} packages are there as requirements.txt pins them.")


def _traps(installed: dict[str, str | None]) -> Iterator[Finding]:
    for name, (major, minor, why) in _TOO_NEW.items():
        version = installed[name]
        numbers = tuple(int(number) for number in re.findall(r"\d+", version or "")[:2])
        if numbers >= (major, minor):
            yield Finding(name, "problem", f"{name} {version} is too new: {why}.", f"{_REINSTALL}.")
    if installed["torchvision"] is not None:
        yield Finding(
            "torchvision",
            "warning",
            f"torchvision {installed['torchvision']} is installed. Nothing here needs it, and beside a torch of "
            "another build it breaks what finds it, such as transformers.",
            "pip uninstall torchvision.",
        )
    if installed["setuptools"] is None:
        yield Finding(
            "setuptools",
            "warning" if sys.version_info < (3, 12) else "problem",
            "setuptools is missing. It holds `distutils`, which Python 3.12 has no longer and packages still import.",
            f"{_REINSTALL}.",
        )


def check_imports() -> Iterator[Finding]:
    """Import every package that this one needs, and then the server's own parts, which need all the others."""
    names = {MODULES.get(name, name.replace("-", "_")): name for name in sorted(_direct())}
    modules = [module for module in names if module is not None] + [*OF_THE_SERVER]
    broken = n_imported = 0
    origins: dict[str, str] = {}
    missing: list[str] = []
    while modules:
        reason = "without a word"
        try:
            answers = ask("imports", modules=modules)
        except ProbeError as error:
            answers, reason = error.answers, str(error)
        if not answers:
            yield Finding("imports", "problem", f"Python cannot be started for a look: {reason}.", "make install.")
            return
        if "error" not in answers[-1]:  # it was being imported
            answers[-1]["error"] = f"the process that imported it ended: {reason}"
        ended = [answer for answer in answers if "error" in answer]
        for answer in ended:
            if answer["error"] == f"ModuleNotFoundError: No module named '{answer['module']}'":
                missing.append(answer["module"])
            elif answer["error"] is not None:
                broken += 1
                yield _not_imported(answer["module"], answer["origin"], answer["error"])
            else:
                n_imported += 1
                if answer["origin"]:
                    origins[answer["module"]] = answer["origin"]
        modules = modules[len(ended) :]
    if missing:
        yield Finding("imports", "problem", f"{len(missing)} packages are missing: {_few(missing)}.", "make install.")
    yield from _strangers(names, origins)
    if not broken and not missing:
        yield Finding("imports", "ok", f"All {n_imported} packages and parts of the server can be imported.")


def _not_imported(module: str, origin: str | None, error: str) -> Finding:
    what = "the server's part " if module in OF_THE_SERVER else ""
    where = f" (it lies in {Path(origin).parent})" if origin and origin != "built-in" else ""
    home = Path(sys.prefix).resolve()
    foreign = bool(origin) and not Path(origin or "").resolve().is_relative_to(home) and module not in OF_THE_SERVER
    remedy = (
        "Another folder than the environment's comes first: see PYTHONPATH and the working directory."
        if foreign
        else f"{_REINSTALL}, and read the first of these errors first: the others may follow from it."
    )
    return Finding(module, "problem", f"{what}{module} cannot be imported{where}: {short(error)}.", remedy)


def _strangers(names: dict[str | None, str], origins: dict[str, str]) -> Iterator[Finding]:
    """Packages that come from elsewhere than where they are installed."""
    for module, name in names.items():
        origin = origins.get(module) if module is not None else None
        if origin is None:
            continue
        try:
            home = Path(str(metadata.distribution(name).locate_file(""))).resolve()
        except metadata.PackageNotFoundError:
            continue
        if not Path(origin).resolve().is_relative_to(home):
            yield Finding(
                str(module),
                "warning",
                f"{module} is imported from {Path(origin).parent}, while it is installed in {home}.",
                "Another folder comes first: see PYTHONPATH and the working directory.",
            )


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
