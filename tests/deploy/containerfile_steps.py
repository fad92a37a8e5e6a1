"""Run the steps of the Containerfile without a container engine, as root: each stage is a folder, RUN is a chroot.

    python tests/deploy/containerfile_steps.py BASE OUTPUT [--wheelhouse FOLDER] [--target app]

BASE is a folder of Ubuntu 24.04 (`debootstrap --variant=minbase --components=main,universe noble BASE`); OUTPUT gets a
folder for each stage. It ends with a process of the target's entry point, as its user, on a root that is read-only but
for the volumes, until that is healthy. It takes minutes, and 8 GB with the CUDA build of PyTorch, so it is no part of
the test suite.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HEALTHY_WITHIN_S = 300.0


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not re.match(r"\s*#", line)]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def inside(root: Path, environment: dict[str, str], command: str, *, prepare: str = "", user: str = "") -> list[str]:
    """Command line that runs a shell command in a folder as root, with what the kernel gives a container."""
    mounts = (
        f"mount --rbind /dev {root}/dev; mount -t proc proc {root}/proc; mount --bind /etc/resolv.conf "
        f"{root}/etc/resolv.conf; {prepare}"
    )
    settings = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
    drop = f"--userspec={user} " if user else ""
    run = f"exec chroot {drop}{root} /usr/bin/env -i {settings} /bin/sh -c {shlex.quote(command)}"
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", f"{mounts}\n{run}"]


class Stage:
    """One stage: its folder, and what its instructions have set."""

    def __init__(self, root: Path):
        self.root = root
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.folder = "/"
        self.kept: dict[str, str] = {}


def stages_for(target: str) -> set[str]:
    """The stages that a target is made of; an engine builds no others."""
    made_from: dict[str, set[str]] = {}
    for name, rest in instructions(REPOSITORY / "deploy" / "Containerfile"):
        if name == "FROM":
            source, _, alias = rest.split()
            made_from[alias] = {source}
        elif named := re.search(r"--from=(\w+)|,?from=(\w+),", rest):
            made_from[alias].add(named[1] or named[2])
    needed, waiting = set(), [target]
    while waiting:
        needed.add(waiting[-1])
        waiting.extend(made_from.get(waiting.pop(), set()) - needed)
    return needed


def build(base: Path, output: Path, wheelhouse: Path | None, target: str) -> Stage:
    """Build stages up to the target."""
    output.mkdir(parents=True, exist_ok=True)
    needed = stages_for(target)
    stages: dict[str, Stage] = {}
    stage, wanted = Stage(base), False
    for name, rest in instructions(REPOSITORY / "deploy" / "Containerfile"):
        if name == "FROM":
            source, _, alias = rest.split()
            wanted = alias in needed
            if not wanted:
                continue
            stage = stages[alias] = Stage(output / alias)
            shutil.rmtree(stage.root, ignore_errors=True)
            if source == "scratch":
                stage.root.mkdir(parents=True)
                continue
            before = stages.get(source)
            subprocess.run(["cp", "-a", str(before.root if before else base), str(stage.root)], check=True)
            stage.environment |= before.environment if before else {}
            (stage.root / "etc" / "resolv.conf").touch()
            for path in Path("/etc/apt/apt.conf.d").glob("*proxy*"):
                shutil.copy(path, stage.root / "etc/apt/apt.conf.d")
            say(f"--- {alias}")
        elif not wanted:
            continue
        elif name == "ENV":
            stage.environment |= dict(word.split("=", 1) for word in shlex.split(rest))
        elif name == "WORKDIR":
            stage.folder = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            words = rest.split()
            copy, context = ["cp", "-a"], REPOSITORY
            if words[0].startswith("--from"):  # the stage before is not changed any more, so its files can be linked
                copy, context = ["cp", "-al"], stages[words.pop(0).partition("=")[2]].root
            *sources, place = words
            goal = stage.root / os.path.join(stage.folder, place).lstrip("/")
            goal.parent.mkdir(parents=True, exist_ok=True)
            for source in sources:
                one = context / source.lstrip("/")
                into = goal / one.name if place.endswith("/") and not one.is_dir() else goal
                into.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run([*copy, f"{one}/." if one.is_dir() else str(one), str(into)], check=True)
        elif name == "RUN":
            say(f"RUN {rest[:100]}")
            prepare = ""
            if rest.startswith("--mount="):
                _, rest = rest.split(maxsplit=1)
                (stage.root / "wheelhouse").mkdir(exist_ok=True)
                if wheelhouse is not None:
                    prepare = f"mount --bind {wheelhouse} {stage.root}/wheelhouse"
            command = inside(stage.root, stage.environment, f"cd {stage.folder} && {rest}", prepare=prepare)
            began = time.monotonic()
            if (code := subprocess.run(command).returncode) != 0:
                sys.exit(f"RUN ended with {code}")
            say(f"    took {time.monotonic() - began:.0f} s")
        else:
            stage.kept[name] = rest
    return stages[target]


def start(stage: Stage) -> int:
    """Run the entry point without a network, on a read-only root, until it is healthy; end it as an engine would."""
    user = stage.kept["USER"]
    mounts = [f"mount --rbind {stage.root} {stage.root}"]
    volumes = json.loads(stage.kept["VOLUME"])
    mounts += [f"mount --bind {stage.root}{place} {stage.root}{place}" for place in volumes]
    passing = {"/tmp", "/run"} - set(volumes)
    mounts += [f"mount -t tmpfs -o mode=1777 tmpfs {stage.root}{place}" for place in passing]
    mounts += [f"mount -o remount,bind,ro {stage.root}"]
    # As in a container: a loopback interface, and ports that need no privilege.
    mounts += ["ip link set lo up", "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start"]
    words = json.loads(stage.kept["ENTRYPOINT"]) + json.loads(stage.kept.get("CMD", "[]"))
    check = shlex.join(json.loads(re.search(r"CMD (\[.*\])", stage.kept["HEALTHCHECK"])[1]))
    end = stage.kept.get("STOPSIGNAL", "SIGTERM")[3:]
    command = (
        f"cd {stage.folder}; {shlex.join(words)} & pid=$!; touch /usr/probe 2>/dev/null && echo THE ROOT IS WRITABLE; "
        f"for i in $(seq {HEALTHY_WITHIN_S:.0f}); do "
        f"kill -0 $pid || exit 9; {check} 2>/dev/null && break; sleep 1; done; "
        f"{check} && echo healthy as user $(id -u); kill -{end} $pid; wait $pid; echo ended with $?"
    )
    wrapped = inside(stage.root, stage.environment, command, prepare="; ".join(mounts), user=user)
    wrapped.insert(1, "--net")
    reading, writing = os.pipe()
    name = user.partition(":")[0]
    line = next(one for one in (stage.root / "etc/passwd").read_text().splitlines() if name in one.split(":")[:3])
    os.fchown(writing, int(line.split(":")[2]), -1)  # engines do: /dev/stdout is opened by the user
    process = subprocess.Popen(wrapped, stdout=writing, stderr=writing)
    os.close(writing)
    with open(reading) as output:
        for text in output:
            say(f"    {text.rstrip()}")
    return process.wait()


def write_secrets(stage: Stage) -> None:
    """What compose.yaml gives the proxy: a certificate, here one that signs itself, and the server's address."""
    with (stage.root / "etc" / "hosts").open("a") as hosts:
        hosts.write("127.0.0.1 app\n")
    folder = stage.root / "etc" / "coldstart_al" / "tls"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    os.chown(folder / "key.pem", 33, 33)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--wheelhouse", type=Path)
    parser.add_argument("--target", default="app")
    asked = parser.parse_args()
    stage = build(asked.base.resolve(), asked.output.resolve(), asked.wheelhouse, asked.target)
    if asked.target == "proxy":
        write_secrets(stage)
    sys.exit(start(stage))


if __name__ == "__main__":
    main()
