"""What a campaign was configured with, noted beside its database, and whether a server is running it.

A command on the studies folder works with the settings of the server, without being told them again: with others it
would hold out other images, or have all of them embedded anew.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from coldstart.exceptions import SettingsError

SETTINGS_FILE = "settings.json"
SERVER_LOCK = "server.lock"

_FILES = ("preset", "heldout", "encoder_weights")

logger = logging.getLogger(__name__)


def remember(folder: Path, conf: Mapping[str, str]) -> None:
    """Note the pairs of `--conf`, with paths that hold in every working directory.

    Where the note cannot be written the log says so: commands have to be told the settings then.
    """
    path = folder / SETTINGS_FILE
    noted = {key: _lasting(key, value) for key, value in conf.items() if key != "state_dir"}
    staged = path.with_name(f"{SETTINGS_FILE}.{os.getpid()}")
    try:
        staged.write_text(json.dumps(noted, indent=2) + "\n", encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        logger.warning("The settings cannot be noted in %s: %s.", path, error.strerror or error)


def recall(folder: Path) -> dict[str, str] | None:
    """Return the pairs that were noted, or None where none were.

    Raises
    ------
    SettingsError
        If the note is damaged.
    """
    path = folder / SETTINGS_FILE
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(noted, dict) and all(isinstance(value, str) for value in noted.values()):
            return noted
        found = "something else"
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        found = str(error)
    raise SettingsError(
        f"{path} must hold the settings of the campaign as a JSON object of texts; got {found}. Remove it, and give "
        "the settings with --preset and --conf."
    )


class ServerMark:
    """Says, for as long as this process lives or until `close`, that a server runs the campaign of a folder.

    The mark is a lock that several servers share, so it goes with the last of them, however that ends. On a full disk
    there may be none: a server has more important things to do then.
    """

    def __init__(self, folder: Path):
        self._files = ExitStack()
        try:
            file = self._files.enter_context((folder / SERVER_LOCK).open("ab"))
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError as error:
            logger.warning("Commands will not know that this server is running: %s.", error)

    def close(self) -> None:
        """Take the mark away."""
        self._files.close()


def has_server(folder: Path) -> bool:
    """Whether a server runs the campaign of a folder."""
    try:
        with (folder / SERVER_LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def _lasting(key: str, value: str) -> str:
    if key == "encoder":
        kind, colon, rest = value.partition(":")
        return kind + colon + _absolute(rest) if colon else value
    is_name = key == "preset" and os.sep not in value and not Path(value).suffix
    return _absolute(value) if key in _FILES and not is_name else value


def _absolute(value: str) -> str:
    path = Path(value).expanduser()
    return str(path.absolute()) if path.exists() else value
