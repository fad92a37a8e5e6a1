"""The lock, the environment made from it, and what `make` says when it cannot make one."""

import ast
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

# --- The lock ------------------------------------------------------------------------------------


def locked(path: Path) -> dict[str, str]:
    """Name and version of each requirement of a lock; any other form of line fails."""
    pins = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            match = re.fullmatch(r"([a-z0-9-]+)==([0-9][^\s;]*)", line)
            assert match, f"{path.name}: '{line}' is not a plain name==version"
            pins[match[1]] = match[2]
    return pins


@pytest.fixture(scope="module")
def lock(repository: Path) -> dict[str, str]:
    return locked(repository / "requirements.txt")


@pytest.fixture(scope="module")
def tools_lock(repository: Path) -> dict[str, str]:
    return locked(repository / "requirements-dev.txt")


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def unsatisfied(requirements: list[str], pins: dict[str, str]) -> list[str]:
    parsed = [Requirement(text) for text in requirements]
    return [str(r) for r in parsed if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]


def test_lock_satisfies_every_direct_requirement(pyproject: dict, lock: dict[str, str]) -> None:
    assert unsatisfied(pyproject["project"]["dependencies"], lock) == []


def test_tools_lock_satisfies_every_tool_and_agrees_with_the_lock(
    pyproject: dict, lock: dict[str, str], tools_lock: dict[str, str]
) -> None:
    assert unsatisfied(pyproject["dependency-groups"]["dev"], tools_lock) == []
    assert {name: version for name, version in tools_lock.items() if lock.get(name, version) != version} == {}


def test_lock_holds_what_serves_both_kinds_of_machine(lock: dict[str, str]) -> None:
    assert lock["torch"] == "2.13.0"
    assert [n for n in lock if n.startswith(("nvidia-", "cuda-", "triton", "torchvision", "torchaudio"))] == []
    assert [n for n, version in lock.items() if Version(version).local] == []
    assert not {"sam2", "mlflow", "lmdb", "openslide-python", "gdown", "itk"} & set(lock)


def test_lock_is_closed_but_for_what_was_left_out(repository: Path, lock: dict[str, str]) -> None:
    """Every requirement of every locked package is locked too, in a version that satisfies it."""
    overrides = (repository / "requirements-overrides.txt").read_text()
    left_out = {Requirement(line).name for line in overrides.splitlines() if line and not line.startswith("#")}
    missing = []
    for name in lock:
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            wanted = canonicalize_name(requirement.name)
            if wanted in left_out or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                continue
            if not requirement.specifier.contains(lock.get(wanted, "0"), prereleases=True):
                missing.append(f"{name} needs {requirement}, locked is {lock.get(wanted)}")
    assert missing == []


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_lock_names_its_command_and_no_host(repository: Path, name: str) -> None:
    text = (repository / name).read_text()
    command = re.search(r"^#    uv (pip compile .*)$", text, re.MULTILINE)
    assert command
    dry = subprocess.run(["make", "-n", "lock", "UV=true"], cwd=repository, capture_output=True, text=True)
    assert command[1] in re.sub(r" +", " ", dry.stdout.replace(" --quiet", ""))
    for path in [
        name,
        "requirements-overrides.txt",
        "pyproject.toml",
        "Makefile",
        "tools/install",
        "tools/viewers",
        ".ci/run",
    ]:
        assert not re.search(r"https?://|index-url|find-links|trusted-host", (repository / path).read_text()), path


@pytest.mark.parametrize("folder", ["lib", "tests"])
def test_everything_imported_is_a_direct_requirement(repository: Path, pyproject: dict, folder: str) -> None:
    requirements = pyproject["project"]["dependencies"]
    own = {"coldstart"}
    if folder == "tests":
        requirements = requirements + pyproject["dependency-groups"]["dev"]
        own |= {"soak", *(path.stem for path in (repository / "tests").rglob("*.py"))}
        own |= {"slicer", "vtk"}  # of the environment that tests/viewers/requirements-slicer.txt makes
    direct = {canonicalize_name(Requirement(text).name) for text in requirements}
    distributions = importlib.metadata.packages_distributions()
    found = set()
    for path in (repository / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - own - set(sys.stdlib_module_names):
                owners = {canonicalize_name(owner) for owner in distributions.get(top, [top])}
                if not owners & direct:
                    found.add(f"{path.relative_to(repository)} imports {top}; add {sorted(owners)} to pyproject.toml")
    assert sorted(found) == []


# --- The environment that runs these tests -------------------------------------------------------


def test_environment_is_the_lock(lock: dict[str, str], tools_lock: dict[str, str]) -> None:
    installed = {name: importlib.metadata.version(name) for name in lock | tools_lock}
    assert Version(installed.pop("torch")).public == lock["torch"]
    assert {n: v for n, v in (lock | tools_lock).items() if n != "torch" and Version(v) != Version(installed[n])} == {}
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("torchvision")


def test_environment_has_the_commands_and_the_plugins() -> None:
    prefix = Path(sys.prefix)
    for command in ["monailabel", "coldstart", "itkimage2segimage"]:
        assert os.access(prefix / "bin" / command, os.X_OK), command
    assert (prefix / "monailabel/plugins/slicer/MONAILabel/MONAILabelLib/client.py").is_file()


def test_environment_is_byte_compiled() -> None:
    """Else each server and each of its child processes starts 12 seconds later."""
    for name in ["monailabel", "torch", "monai", "sklearn"]:
        package = Path(importlib.metadata.distribution({"sklearn": "scikit-learn"}.get(name, name)).locate_file(name))
        assert list((package / "__pycache__").glob("__init__.*.pyc")), name


# --- tools/install, with a Python whose pip only takes notes ---------------------------------------

FAKE_PYTHON = """#!{bash}
# Creates "environments" whose python appends its arguments to calls.txt, and can be told to fail or to linger.
if [[ $1 == -m && $2 == venv ]]; then
    echo "venv" >> {notes}/calls.txt
    mkdir -p "$3/bin" && cp {notes}/pip "$3/bin/python"
else
    exec {python} "$@"
fi
"""
FAKE_PIP = """#!{bash}
shift 2
while [[ $1 == --quiet || $1 == --compile || $1 == install ]]; do shift; done
echo "pip ${{*:3}}" >> {notes}/calls.txt
if [[ -f {notes}/linger ]]; then sleep 60; fi
if [[ -f {notes}/fail ]]; then cat {notes}/fail >> "$2"; cat {notes}/fail >&2; exit 1; fi
exit 0
"""


class Checkout:
    """A copy of what installs, and a fake Python for it."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.root = folder / "checkout"
        self.notes = folder / "notes"
        self.notes.mkdir()
        (self.root / "tools").mkdir(parents=True)
        for name in ["tools/install", "Makefile", "requirements.txt", "requirements-dev.txt", "pyproject.toml"]:
            shutil.copy(repository / name, self.root / name)
        self.bash = shutil.which("bash")
        self.python = self.script("python", FAKE_PYTHON)
        self.script("pip", FAKE_PIP)

    def script(self, name: str, text: str) -> Path:
        path = self.notes / name
        path.write_text(text.format(bash=self.bash, notes=self.notes, python=sys.executable))
        path.chmod(0o755)
        return path

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHON": str(self.python), **settings}
        environment.pop("VENV", None)
        environment |= {"VENV": settings["VENV"]} if "VENV" in settings else {}
        return subprocess.Popen(
            [str(self.root / "tools/install"), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A test run in the background of a shell ignores Ctrl-C, and what it starts inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def install(self, *arguments: str, **settings: str) -> tuple[int, str]:
        process = self.start(*arguments, **settings)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def refusal(self, *arguments: str, **settings: str) -> str:
        """The last line of a run that has to fail; it has to be one sentence."""
        status, output = self.install(*arguments, **settings)
        assert status == 1, output
        sentence = output.strip().splitlines()[-1]
        assert re.fullmatch(r"make: cannot install: .*[^.]\.", sentence), output
        return sentence

    def n_calls(self) -> int:
        path = self.notes / "calls.txt"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def calls(self) -> list[str]:
        """What was called since this was asked last."""
        path = self.notes / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def checkout(tmp_path: Path, repository: Path) -> Checkout:
    return Checkout(tmp_path, repository)


THREE_STEPS = [
    "venv",
    "pip torch==2.13.0 --constraint requirements.txt",
    "pip --no-deps --no-build-isolation --requirement requirements.txt",
    "pip --no-deps --no-build-isolation --editable .",
]


def test_install_takes_three_steps_and_then_none(checkout: Checkout) -> None:
    assert checkout.install()[0] == 0
    assert checkout.calls() == THREE_STEPS
    assert checkout.install() == (0, "")
    assert checkout.calls() == []


def test_tools_come_with_the_tests_only(checkout: Checkout, lock: dict[str, str], tools_lock: dict[str, str]) -> None:
    checkout.install()
    checkout.calls()
    assert checkout.install("--dev")[0] == 0
    only_tools = checkout.root / ".venv/dev-only.txt"
    assert checkout.calls() == [f"pip --no-deps --force-reinstall --requirement {only_tools}"]
    assert locked(only_tools) == {name: version for name, version in tools_lock.items() if name not in lock}
    assert checkout.install("--dev") == (0, "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("requirements.txt", THREE_STEPS), ("pyproject.toml", THREE_STEPS[-1:]), ("requirements-dev.txt", [])],
)
def test_install_happens_again_when_its_file_changed(checkout: Checkout, name: str, expected: list[str]) -> None:
    checkout.install()
    checkout.calls()
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")
    assert checkout.install()[0] == 0
    assert checkout.calls() == expected


def test_moved_checkout_is_installed_again(checkout: Checkout, tmp_path: Path) -> None:
    settings = {"VENV": str(tmp_path / "shared-venv")}
    checkout.install(**settings)
    checkout.calls()
    checkout.root = checkout.root.rename(tmp_path / "elsewhere")
    assert checkout.install(**settings)[0] == 0
    assert checkout.calls() == THREE_STEPS[-1:]


@pytest.mark.parametrize("step", range(3))
def test_killed_install_starts_again_from_nothing(checkout: Checkout, step: int) -> None:
    counted = checkout.notes / "pip"
    condition = f"if (( $(grep -c ^pip {checkout.notes}/calls.txt) > {step} )) && [[ -f"
    counted.write_text(counted.read_text().replace("if [[ -f", condition, 1))
    (checkout.notes / "linger").touch()
    process = checkout.start()
    checkout.wait_for(lambda: checkout.n_calls() == step + 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (checkout.notes / "linger").unlink()
    checkout.calls()
    (checkout.root / ".venv/leftover").touch()
    assert checkout.install()[0] == 0
    # The last step is the only one after which everything before it is known to be complete.
    assert checkout.calls() == (THREE_STEPS if step < 2 else THREE_STEPS[-1:])
    assert (checkout.root / ".venv/leftover").exists() == (step == 2)


def test_interrupted_install_ends_its_pip_and_says_so(checkout: Checkout) -> None:
    (checkout.notes / "linger").touch()
    process = checkout.start()
    checkout.wait_for(lambda: checkout.n_calls() == 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert output.endswith("make: the installation was interrupted; the next make starts it again.\n")


def test_two_at_once_wait_for_each_other(checkout: Checkout) -> None:
    (checkout.notes / "linger").touch()
    pip = checkout.notes / "pip"
    pip.write_text(pip.read_text().replace("sleep 60", f"while [[ -f {checkout.notes}/linger ]]; do sleep 0.05; done"))
    first = checkout.start()
    checkout.wait_for(lambda: checkout.n_calls() == 2)
    second = checkout.start()
    assert second.stdout is not None
    waiting = second.stdout.readline()
    (checkout.notes / "linger").unlink()
    first.communicate(timeout=20)
    second.communicate(timeout=20)
    assert waiting == f"Another make is installing into {checkout.root}/.venv; waiting for it to end.\n"
    assert (first.returncode, second.returncode) == (0, 0)
    assert checkout.calls() == THREE_STEPS


# --- What is missing, in one sentence --------------------------------------------------------------


def test_says_that_python_is_missing(checkout: Checkout) -> None:
    needed = "Python 3.11 (3.11.4 or newer) or 3.12 is needed, and"
    for version in ("3.9.18", "3.11.2", "3.11.3", "3.13.5"):
        old = checkout.script(f"python{version}", f"#!{{bash}}\necho {version}\n")
        assert f"{needed} {old} offers none ({old} is {version})" in checkout.refusal(PYTHON=str(old))
    assert "and /nowhere/python offers none;" in checkout.refusal(PYTHON="/nowhere/python")


def test_says_that_venv_is_missing(checkout: Checkout) -> None:
    bare = checkout.script("bare", '#!{bash}\n[[ $2 == *ensurepip* ]] && exit 1\nexec {python} "$@"\n')
    assert re.search(r"bare \(Python 3\.1[12]\.\d+\) has no venv module with pip", checkout.refusal(PYTHON=str(bare)))
    assert checkout.calls() == []


def test_says_that_the_disk_is_too_small(checkout: Checkout) -> None:
    sentence = checkout.refusal(INSTALL_NEED_MB="99999999")
    assert re.search(r"the disk of \S+ has \d+ MB free, and the environment needs 99999999 MB", sentence)
    assert checkout.calls() == []


def test_says_that_writing_is_not_permitted(checkout: Checkout) -> None:
    assert "no permission to write in /proc/1/coldstart;" in checkout.refusal(VENV="/proc/1/coldstart/venv")


def test_says_that_a_space_in_the_path_cannot_work(checkout: Checkout, tmp_path: Path) -> None:
    assert "contains a space" in checkout.refusal(VENV=str(tmp_path / "my venv"))
    checkout.root = checkout.root.rename(tmp_path / "my checkout")
    assert "contains a space" in checkout.refusal()


def test_leaves_a_folder_alone_that_it_did_not_make(checkout: Checkout) -> None:
    theirs = checkout.root / ".venv/pyvenv.cfg"
    theirs.parent.mkdir()
    theirs.touch()
    assert f"{checkout.root}/.venv exists and was not made by this script" in checkout.refusal()
    assert theirs.exists()


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk filled up"),
        ("ERROR: Could not install: [Errno 13] Permission denied: 'lib'", "no permission to write"),
        ("ERROR: No matching distribution found for x", "pip failed during 1/3 PyTorch"),
    ],
)
def test_says_why_pip_gave_up(checkout: Checkout, log: str, sentence: str) -> None:
    (checkout.notes / "fail").write_text(log + "\n")
    assert sentence in checkout.refusal()
    (checkout.notes / "fail").unlink()
    checkout.calls()
    assert checkout.install()[0] == 0
    assert checkout.calls() == THREE_STEPS


def test_says_that_the_network_is_missing(checkout: Checkout) -> None:
    """With the real pip, and an index at a port where nobody listens."""
    settings = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    unset = {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_NO_INDEX": "", "PYTHON": sys.executable}
    sentence = checkout.refusal(**settings, **unset)
    assert "pip could not reach its package index during 1/3 PyTorch" in sentence
    assert "connect this machine to the network" in sentence


# --- make ----------------------------------------------------------------------------------------


def make(repository: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    ours = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VENV", "PYTHON", "ARGS", "PORT", "HOST", "PRESET"}
    environment = {key: value for key, value in os.environ.items() if key not in ours} | settings
    return subprocess.run(["make", *arguments], cwd=repository, env=environment, capture_output=True, text=True)


def test_make_alone_lists_the_targets(repository: Path) -> None:
    listed = make(repository).stdout.splitlines()
    targets = ["help", "install", "wheelhouse", "install-offline", "demo", "test", "soak", "viewers", "serve", "lock"]
    assert [line.split()[1] for line in listed] == targets
    assert all(len(line.split()) > 3 for line in listed)


def test_make_serve_needs_a_folder(repository: Path) -> None:
    done = make(repository, "serve")
    assert done.returncode == 2
    assert done.stderr.startswith("make: say which folder holds the images: make serve STUDIES=/path/to/images\n")


def test_make_serve_passes_its_variables_on(repository: Path) -> None:
    plain = make(repository, "-n", "serve", "STUDIES=/data/x", HOST="this-machine").stdout
    assert f'"{repository}/.venv/bin/coldstart" serve --studies "/data/x"' in plain
    assert '--port "8000"' in plain
    assert "--host" not in plain
    assert "--preset" not in plain
    variables = ["STUDIES=/x", "PRESET=volume_ct", "PORT=9000", "HOST=0.0.0.0", "ARGS=--conf budget 5"]
    full = make(repository, "-n", "serve", *variables).stdout
    assert re.search(r'--preset "volume_ct" +--port "9000" --host "0\.0\.0\.0" --conf budget 5', full)


def test_make_demo_runs_the_command_of_its_environment(repository: Path, tmp_path: Path) -> None:
    done = make(repository, "-n", "demo", f"VENV={tmp_path}/venv").stdout
    assert f'"{tmp_path}/venv/bin/coldstart" demo' in done


# --- make viewers --------------------------------------------------------------------------------

ALL_VIEWERS = ("orthanc", "orthanc-dicomweb", "chromium", "nginx")


class Debian:
    """A checkout, and a system whose package manager only takes notes."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.root, self.programs, self.calls = folder / "checkout", folder / "programs", folder / "calls.txt"
        (self.root / "tools").mkdir(parents=True)
        self.programs.mkdir()
        shutil.copy(repository / "tools/viewers", self.root / "tools/viewers")
        for name in ["bash", "env", "timeout", "tail", "mktemp", "rm", "dirname"]:
            (self.programs / name).symlink_to(shutil.which(name))
        self.program("sudo", "exit 1")

    def program(self, name: str, script: str) -> None:
        (self.programs / name).write_text(f"#!{shutil.which('bash')}\n{script}\n")
        (self.programs / name).chmod(0o755)

    def knows_packages(self, *installed: str) -> None:
        self.program(
            "dpkg-query", f'for last; do :; done; [[ " {" ".join(installed)} " != *" $last "* ]] || printf installed'
        )
        self.program("apt-get", f'echo "${{@: -1}} of: $*" >> {self.calls}; [[ ! -f {self.programs}/broken ]]')

    def viewers(self) -> subprocess.CompletedProcess[str]:
        command = [str(self.root / "tools/viewers")]
        return subprocess.run(command, env={"PATH": str(self.programs)}, capture_output=True, text=True, timeout=60)


@pytest.fixture
def debian(tmp_path: Path, repository: Path) -> Debian:
    return Debian(tmp_path, repository)


def test_viewers_that_are_there_are_left_alone(debian: Debian) -> None:
    debian.knows_packages(*ALL_VIEWERS)
    done = debian.viewers()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not debian.calls.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="installing packages takes root")
def test_viewers_that_are_missing_are_installed(debian: Debian) -> None:
    debian.knows_packages("chromium")
    done = debian.viewers()
    assert done.returncode == 0, done.stderr
    update, install = debian.calls.read_text().splitlines()
    assert update.startswith("update of:")
    assert install.endswith("install orthanc orthanc-dicomweb nginx")
    (debian.programs / "broken").touch()
    done = debian.viewers()
    assert done.returncode == 1
    assert "apt-get could not install orthanc orthanc-dicomweb nginx" in done.stderr


def test_viewers_say_that_there_is_no_apt(debian: Debian) -> None:
    done = debian.viewers()
    assert done.returncode == 1
    assert done.stderr == (
        "make: this system has no apt-get, so the viewers' tests will skip; "
        "install orthanc orthanc-dicomweb chromium nginx by hand.\n"
    )


def test_viewers_say_when_slicers_libraries_cannot_be_had(debian: Debian) -> None:
    debian.knows_packages(*ALL_VIEWERS)
    script = debian.root / "tools/slicer-environment"
    script.write_text(f"#!{shutil.which('bash')}\necho no index >&2; exit 1\n")
    script.chmod(0o755)
    done = debian.viewers()
    assert done.returncode == 1
    assert done.stderr.startswith("no index\nmake: the environment of 3D Slicer's libraries could not be made")


def test_ci_runs_the_tests_whether_or_not_the_viewers_could_be_installed(repository: Path, tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(repository / ".ci/run", tmp_path / ".ci/run")
    for name in ["requirements.txt", "requirements-dev.txt"]:
        (tmp_path / name).touch()
    (tmp_path / "Makefile").write_text("viewers:\n\t@echo no viewers; exit 1\ntest:\n\t@echo tested\n")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([tmp_path / ".ci/run"], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "no viewers\ntested\n")


def test_license_is_apache_2(repository: Path, pyproject: dict) -> None:
    text = (repository / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert pyproject["project"]["license"] == "Apache-2.0"
