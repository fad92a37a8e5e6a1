"""What the commands have in common: where they write, one JSON document for scripts, and errors that are sentences."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

JSON = "--json"
PIPE_CLOSED = 141
"""What a shell says of a program whose reader went away."""

Document = dict[str, Any]

AsJson = Annotated[bool, typer.Option(JSON, help="Print one JSON document, and nothing else, for scripts.")]
Conf = Annotated[
    list[str] | None, typer.Option("--conf", metavar="KEY VALUE", help="A setting; repeat it for more settings.")
]


class Terminal(Console):
    """Rich's console with the exit code of a closed pipe, which is no error."""

    def on_broken_pipe(self) -> None:
        """End quietly: whoever read the output has seen enough."""
        self.quiet = True
        end_without_reader()


console = Terminal(highlight=False, width=None if sys.stdout.isatty() else 110)
progress_console = Console(stderr=True, highlight=False)
"""For what is only of interest while it lasts: a command's output is its result."""


def answer(work: Callable[[], Document], show: Callable[[Document], None], *, as_json: bool) -> None:
    """Print what `work` returns: as one JSON document, or by `show`.

    What a library prints meanwhile goes where it cannot get between: to the standard error.
    """
    with redirect_stdout(sys.stderr):
        document = work()
    if as_json:
        print_json(document)
    else:
        show(document)


def print_json(document: Document) -> None:
    """Print one document; a number that is not finite would be no JSON, and is an error of ours."""
    try:
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        end_without_reader()


def print_error(sentence: str) -> None:
    """Say what is wrong, to people and, where JSON was asked for, to the script as well."""
    Console(stderr=True, highlight=False).print(f"[bold red]Error:[/] {escape(sentence)}", soft_wrap=True)
    if JSON in sys.argv[1:]:
        print_json({"error": sentence})


def end_without_reader() -> NoReturn:
    """End where nobody reads the output any more; nothing is left to be written at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(PIPE_CLOSED)


def pairs(conf: list[str] | None, preset: str | None = None) -> dict[str, str]:
    """Read `--conf` pairs as `join_conf` left them; `--preset NAME` is the pair `preset NAME`."""
    given = {key: value for key, _, value in (pair.partition("=") for pair in conf or [])}
    return given if preset is None else {**given, "preset": preset}
