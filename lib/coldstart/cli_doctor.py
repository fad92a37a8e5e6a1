"""The `coldstart doctor` command."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from coldstart.cli_output import AsJson, Conf, console, pairs, print_json, progress_console
from coldstart.doctor import DEFAULT_PORT, Finding, examine, summary

MARKS = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "problem": "[bold red]problem[/]"}


def doctor(
    studies: Annotated[
        str | None, typer.Option(help="Folder of images, or address of an archive, that would be served.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Name of a preset, or the path of a YAML file.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that the server would listen on.")] = DEFAULT_PORT,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    """Look whether the server could run on this machine: each line is ok, or says what to do.

    The exit code is 2 where it could not, and 0 where there are warnings at most.

    Examples: coldstart doctor; coldstart doctor --studies /data/chest --preset chest_xray --port 8001
    """
    findings: list[Finding] = []
    with progress_console.status("looking ..."):
        for finding in examine(studies, pairs(conf, preset), port):
            findings.append(finding)
            if not as_json:
                _show(finding)
    able = all(finding.state != "problem" for finding in findings)
    if as_json:
        print_json({"able": able, "summary": summary(findings), "checks": [asdict(finding) for finding in findings]})
    else:
        console.print(summary(findings), style="bold")
    if not able:
        raise typer.Exit(2)


def _show(finding: Finding) -> None:
    console.print(f"{MARKS[finding.state]}  {escape(finding.check)}: {escape(finding.found)}", soft_wrap=True)
    if finding.remedy is not None:
        console.print(f"         -> {escape(finding.remedy)}", soft_wrap=True)
