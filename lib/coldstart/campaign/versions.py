"""The trained models that are kept, each with what it learned from, its seed, its configuration and its metrics.

A model is two files: the weights, and the record as JSON beside them, which comes last. How far the model is on its way
into use is part of the record's name, so that it changes in one step and whoever goes on after a kill knows what is
left to do:

- `VERSION.unchecked.json`: trained, and not compared with the model in use yet;
- `VERSION.chosen.json`: to be used, and perhaps not in the place of the model in use yet;
- `VERSION.json`: nothing is left to do.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from coldstart.exceptions import InvalidInputError, ModelError
from coldstart.segmentation import Model, load_model, write_model

State = Literal["unchecked", "chosen", "done"]
_SUFFIX: dict[State, str] = {"unchecked": ".unchecked.json", "chosen": ".chosen.json", "done": ".json"}
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")
"""What names a file here: a model from elsewhere says its version itself."""
_FILE = re.compile(rf"\.?(?P<version>{_SAFE.pattern})(\.pt(\.tmp)?|(\.unchecked|\.chosen)?\.(json|tmp))")
_MADE_HERE = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]+")
"""Versions of trainings: weights without a record are what a kill left of one."""

logger = logging.getLogger(__name__)


class Versions:
    """The kept models of a campaign; used by any process.

    Parameters
    ----------
    folder : Path
        Where they lie; made when the first is kept.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def keep(self, model: Model, record: Mapping[str, Any], state: State) -> bool:
        """Keep a model; tell whether it was, which takes a version that can name a file.

        Raises
        ------
        ModelError
            If the files cannot be written.
        """
        if _SAFE.fullmatch(model.version) is None:
            logger.warning(
                "The model with the version %r is not kept: that cannot be the name of a file.", model.version
            )
            return False
        write_model(model, self.path(model.version))
        self.write(model.version, record, state)
        return True

    def write(self, version: str, record: Mapping[str, Any], state: State) -> None:
        """Write the record of a kept model, in the place of the one before.

        Raises
        ------
        ModelError
            If it cannot be written.
        """
        target = self._record_path(version, state)
        temporary = target.with_suffix(".tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(dict(record), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            for other in _SUFFIX.keys() - {state}:
                self._record_path(version, other).unlink(missing_ok=True)
        except OSError as error:
            raise ModelError(f"What is known of the model could not be written to {target}: {error}.") from error

    def read(self, version: str) -> dict[str, Any]:
        """Return the record of a kept model; where that is damaged, what the weights' file says.

        Raises
        ------
        InvalidInputError
            If there is no such model.
        """
        states = self.states()
        if version not in states:
            known = ", ".join(states) or "none"
            raise InvalidInputError(f"`version` must be one of the models that are kept: {known}; got '{version}'.")
        return self._record(version, states[version])

    def load(self, version: str, device: str) -> Model:
        """Return a kept model; ModelError where its file is damaged, or holds another one."""
        path = self.path(version)
        model = load_model(path, device)
        if model.version != version:
            raise ModelError(f"The model file {path} must hold {version}; it holds {model.version}.")
        return model

    def path(self, version: str) -> Path:
        """Where the weights of a model lie."""
        return self._folder / f"{version}.pt"

    def states(self) -> dict[str, State]:
        """How far each kept model is, by its version, the oldest first."""
        found: dict[str, State] = {}
        names = sorted(self._names())
        for state in ("done", "unchecked", "chosen"):  # the last counts, where a kill left two
            for name in names:
                version = name.removesuffix(_SUFFIX[state])
                if version != name and "." not in version:
                    found[version] = state
        return dict(sorted(found.items()))

    def records(self) -> list[dict[str, Any]]:
        """Records of the kept models, the oldest first."""
        return [self._record(version, state) for version, state in self.states().items()]

    def prune(self, keep: int, in_use: str | None) -> None:
        """Remove all but the newest `keep` models, the one in use, and those on their way; no file of others."""
        states = self.states()
        others = [version for version, state in states.items() if state == "done" and version != in_use]
        old = others[: max(0, len(others) - keep)]
        for name in self._names():
            found = _FILE.fullmatch(name)
            version = found["version"] if found is not None else ""
            if version in old or (version not in states and _MADE_HERE.fullmatch(version)):
                try:
                    (self._folder / name).unlink(missing_ok=True)
                except OSError as error:
                    logger.warning("An old model could not be removed: %s", error)

    def _record(self, version: str, state: State) -> dict[str, Any]:
        """The record in a file; without it nothing would go on that waits for this model, or asks for all of them."""
        path = self._record_path(version, state)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict) and record.get("version") == version:
                return record
            logger.warning("The record %s is not that of its model.", path)
        except (OSError, ValueError) as error:
            logger.warning("The record %s of a kept model cannot be read: %s", path, error)
        try:
            return dict(self.load(version, "cpu").metadata)
        except ModelError:
            return {"version": version}

    def _record_path(self, version: str, state: State) -> Path:
        return self._folder / f"{version}{_SUFFIX[state]}"

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:
            return []
