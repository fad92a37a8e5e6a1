"""Looks that import what may be broken; each runs in a process of its own (`coldstart.doctor.finding.ask`).

A look is given JSON and says JSON, one line after the other. Nothing outside the standard library is imported before a
look begins, so that whatever is broken is met in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Answer = Any


def imports(modules: list[str]) -> Iterator[Answer]:
    """Import modules one after the other: where each is from, and the error if there was one."""
    for name in modules:
        origin, error = None, None
        try:
            spec = importlib.util.find_spec(name)
            origin = spec.origin if spec is not None else None
            yield {"module": name, "origin": origin}  # which the import may be the end of
            importlib.import_module(name)
        except BaseException as caught:  # a broken package raises anything, also SystemExit
            error = f"{type(caught).__name__}: {caught}"
        yield {"module": name, "origin": origin, "error": error}


def cuda() -> Iterator[Answer]:
    """What torch says of itself and of the cards, each tried with a small product."""
    import torch

    build = torch.version.cuda
    yield {"torch": torch.__version__, "build": build, "architectures": torch.cuda.get_arch_list() if build else []}
    for index in range(torch.cuda.device_count() if build and torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        answer = {"name": card.name, "total": card.total_memory, "capability": f"{card.major}.{card.minor}"}
        try:
            answer["free"] = torch.cuda.mem_get_info(index)[0]
            square = torch.ones(64, 64, device=f"cuda:{index}")
            answer["error"] = None if float((square @ square).sum()) == 64**3 else "it calculates wrongly"
        except RuntimeError as error:
            answer["error"] = str(error).splitlines()[0]
        yield answer


def settings(conf: Mapping[str, str], configs: str) -> Iterator[Answer]:
    """The settings, or the sentence that says what is wrong with them."""
    from coldstart.exceptions import ColdStartError
    from coldstart.settings import load_settings

    try:
        yield {"settings": load_settings(conf, Path(configs)).model_dump(mode="json")}
    except ColdStartError as error:
        yield {"error": str(error)}


def state(studies: str | None, archive: bool, state_dir: str | None) -> Iterator[Answer]:
    """Where the database is or will be, what was configured there, and whether it can be read."""
    from coldstart.campaign.configured import has_server, recall
    from coldstart.exceptions import ColdStartError
    from coldstart.store import FILE_NAME, SCHEMA_HEAD, state_folder
    from coldstart.store.engine import Damage, examine

    where = "" if studies is None else studies if archive else Path(studies).resolve()
    folder = state_folder(where, None if state_dir is None else Path(state_dir))
    yield {"folder": str(folder)}
    try:
        conf, served = recall(folder), has_server(folder)
    except ColdStartError as error:
        yield {"conf": None, "served": False, "conf_error": str(error)}
    else:
        yield {"conf": conf, "served": served, "conf_error": None}
    if not (folder / FILE_NAME).is_file():
        yield {"database": None}
        return
    try:
        version = examine(folder / FILE_NAME)
        yield {"database": version, "newest": SCHEMA_HEAD, "error": None}
    except (Damage, ColdStartError, OSError) as error:
        yield {"database": None, "newest": SCHEMA_HEAD, "error": str(error)}


def images(studies: str) -> Iterator[Answer]:
    """How many images a folder holds, of what kind, and whether there are some only in folders below."""
    from coldstart.images import image_suffix

    kinds: dict[str, int] = {}
    below = ""
    for path in Path(studies).iterdir():
        suffix = "" if path.name.startswith(".") else image_suffix(path)
        if suffix and path.is_file():
            kinds[suffix] = kinds.get(suffix, 0) + 1
        elif not below and path.is_dir() and path.name not in ("labels", "coldstart"):
            below = path.name if any(image_suffix(file) for file in os.listdir(path)) else ""
    yield {"kinds": kinds, "below": below}


def encoder(name: str, weights: str | None) -> Iterator[Answer]:
    """Load an encoder from what is on this machine; where there is nothing, say where it can be had.

    The process has to be told HF_HUB_OFFLINE: nothing is downloaded by looking.
    """
    from coldstart.embedding import create_encoder
    from coldstart.exceptions import ColdStartError

    try:
        made = create_encoder(name, weights=weights, device="cpu")
        yield {"name": made.name, "version": made.version, "error": None}
    except ColdStartError as error:
        yield {"name": None, "version": None, "error": str(error)}
    yield _on_the_hub(name)


def _on_the_hub(name: str) -> Answer:
    from huggingface_hub import hf_hub_url

    from coldstart.embedding import medicalnet, resnet
    from coldstart.embedding.weights import HUB_ANSWER_S

    module = medicalnet if name == "medicalnet" else resnet
    repository, file = module.HUB_REPOSITORY, module.HUB_FILE
    if name.startswith("hf:"):
        repository, file = name.removeprefix("hf:"), "config.json"
    url = hf_hub_url(repository, file)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_ANSWER_S):  # noqa: S310
            answers = True
    except (OSError, ValueError):
        answers = False
    return {"repository": repository, "file": file, "url": url, "answers": answers}


def archive(url: str, modalities: list[str]) -> Iterator[Answer]:
    """Number of series of each modality, asked as the server asks."""
    from coldstart.adapters.archive_client import ArchiveClient, require_archive_address
    from coldstart.exceptions import ColdStartError

    try:
        client = ArchiveClient(require_archive_address(url))
        yield {"series": {modality: len(client.search(modality)) for modality in modalities}, "error": None}
    except ColdStartError as error:
        yield {"series": {}, "error": str(error)}


PROBES: dict[str, Callable[..., Iterator[Answer]]] = {
    probe.__name__: probe for probe in (imports, cuda, settings, state, images, encoder, archive)
}


def main() -> None:
    """Run the look that the command line names; what libraries print meanwhile goes to the standard error."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for answer in PROBES[sys.argv[1]](**json.loads(sys.argv[2])):
        said.write(json.dumps(answer) + "\n")
        said.flush()


if __name__ == "__main__":
    main()
