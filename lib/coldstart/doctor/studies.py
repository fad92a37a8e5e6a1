"""The settings, the studies, the campaign's database, the encoder and the archive."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldstart.doctor.finding import APP_FOLDER, Finding, ProbeError, ask, short
from coldstart.doctor.machine import check_writable

ARCHIVE_LIMIT_S = 90.0
ORTHANC_PORT = 8042

_BROKEN = "See the packages above: once they can be imported this can be looked at."
_STATE = "Let the user that runs the server write there, or name another folder with --conf state_dir."


@dataclass(frozen=True)
class Asked:
    """What the doctor is asked about; `settings` are empty where they cannot be read."""

    studies: str | None
    conf: Mapping[str, str]
    settings: Mapping[str, Any]

    @property
    def is_archive(self) -> bool:
        """Whether the studies are in an archive."""
        return self.studies is not None and self.studies.strip().lower().startswith(("http://", "https://"))

    @property
    def folder(self) -> Path | None:
        """Folder of the studies."""
        return Path(self.studies).expanduser() if self.studies is not None and not self.is_archive else None


def read_settings(conf: Mapping[str, str]) -> tuple[Mapping[str, Any], list[Finding]]:
    """Read the settings as the server would."""
    given = ", ".join(f"{key} {value}" for key, value in conf.items()) or "nothing but defaults"
    try:
        answer = ask("settings", conf=conf, configs=str(APP_FOLDER / "configs"))[0]
    except (ProbeError, LookupError) as error:
        return {}, [Finding("settings", "problem", f"The settings cannot be read: {short(error)}.", _BROKEN)]
    if "error" in answer:
        return {}, [Finding("settings", "problem", f"{short(answer['error'])}.", "Correct --preset or --conf.")]
    return answer["settings"], [Finding("settings", "ok", f"The settings can be used ({given}).")]


def find_state(asked: Asked) -> tuple[Path | None, list[Any], list[Finding]]:
    """Folder of the database, what is known of it, and what is wrong where nothing is."""
    studies = None if asked.studies is None else str(asked.folder or asked.studies.strip().rstrip("/"))
    state_dir = asked.conf.get("state_dir")
    try:
        answers = ask("state", studies=studies, archive=asked.is_archive, state_dir=state_dir)
    except ProbeError as error:
        return None, [], [Finding("database", "problem", f"It cannot be looked for: {short(error)}.", _BROKEN)]
    return Path(answers[0]["folder"]), answers[1:], []


def check_state(folder: Path, known: list[Any], asked: Asked) -> Iterator[Finding]:
    """The folder of the database and the models, and the database in it."""
    if asked.studies is None:
        folder = folder.parent  # of the databases of all archives and read-only folders
    yield from check_writable("state", folder, _STATE)
    if asked.studies is None:
        return
    campaign, database = known
    if campaign["conf_error"]:
        yield Finding(
            "campaign", "problem", f"{short(campaign['conf_error'])}.", "Remove that file, and give --preset."
        )
    if database["database"] is None and "error" not in database:
        yield Finding("database", "ok", "No campaign has begun here; the server makes its database.")
    elif database["error"]:
        yield Finding(
            "database",
            "problem" if "permission" in database["error"] else "warning",
            f"The database in {folder} is damaged or cannot be read: {short(database['error'])}.",
            "The server keeps a damaged one aside and makes a new one from images and labels; check the disk first.",
        )
    elif database["database"] is not None and database["database"] > database["newest"]:
        yield Finding(
            "database",
            "problem",
            f"The database in {folder} was written by a newer version of this app ({database['database']}).",
            "Install that version again, or name another folder with --conf state_dir.",
        )
    else:
        running = ", and a server is running it" if campaign["served"] else ""
        yield Finding("database", "ok", f"The campaign's database in {folder} is whole{running}.")


def check_folder(asked: Asked) -> Iterator[Finding]:
    """The studies folder: images in it, and room for labels."""
    folder = asked.folder
    if folder is None:
        return
    if not folder.is_dir():
        state = "is a file" if folder.is_file() else "is not there"
        yield Finding("studies", "problem", f"{folder} {state}.", "Name the folder of the images; mount the share.")
        return
    try:
        answer = ask("images", studies=str(folder))[0]
    except (ProbeError, LookupError) as error:
        yield Finding("studies", "problem", f"{folder} cannot be read: {short(error)}.", "Check its permissions.")
        return
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in sorted(answer["kinds"].items()))
    if kinds:
        yield Finding("studies", "ok", f"{folder} holds images: {kinds}.")
    else:
        below = f" There are some in the folder {answer['below']} below it." if answer["below"] else ""
        yield Finding(
            "studies",
            "warning",
            f"{folder} holds no images itself.{below}",
            "Put NIfTI, NRRD, PNG, JPEG, TIFF or single-file DICOM into it; send series of many files to an archive.",
        )
    remedy = "Let the user that runs the server write there, or mount it writable: labels are saved there."
    yield from check_writable("studies", folder, remedy)


def check_encoder(asked: Asked) -> Iterator[Finding]:
    """The weights of the encoder, or how to get them."""
    name = str(asked.settings.get("encoder", "auto"))
    weights = asked.settings.get("encoder_weights")
    try:
        found, hub = ask("encoder", environment={"HF_HUB_OFFLINE": "1"}, name=name, weights=weights)
    except (ProbeError, ValueError) as error:
        yield Finding("encoder", "problem", f"The encoder {name} cannot be loaded: {short(error)}.", _BROKEN)
        return
    missing = found["error"] is not None or (name == "auto" and found["name"] == "descriptor")
    if not missing:
        yield Finding("encoder", "ok", f"{found['name']}, version {found['version']}, is here and can be loaded.")
        return
    if weights is not None or name.startswith("resnet50:") or not _from_hub(name):
        yield Finding("encoder", "problem", f"{short(found['error'])}.", "Name a whole file of the right kind.")
        return
    yield _missing(name, hub)


def _from_hub(name: str) -> bool:
    is_hub_name = name.startswith("hf:") and name.count("/") == 1 and name[3] not in "/.~"
    return name in ("auto", "radimagenet", "medicalnet") or is_hub_name


def _missing(name: str, hub: Mapping[str, Any]) -> Finding:
    """Say how to get the weights, also for a machine without internet."""
    if name.startswith("hf:"):
        by_hand = (
            f"download the model {hub['repository']} ({hub['url'].rpartition('/resolve/')[0]}) on a machine with "
            "internet, copy its folder here, and name it: --conf encoder hf:/path/to/folder"
        )
    else:
        kind = "radimagenet" if name == "auto" else name
        by_hand = (
            f"download {hub['url']} on a machine with internet, copy the file here, and name it: --conf encoder {kind} "
            f"--conf encoder_weights /path/to/{hub['file']}"
        )
    if name == "auto":
        found = "RadImageNet's weights are not here"
        instead = "; until then the descriptor is used, which needs none"
    else:
        found, instead = f"The weights of {name} are not here", ""
    if hub["answers"]:
        return Finding(
            "encoder",
            "warning",
            f"{found}; the Hugging Face hub answers, so the first embedding downloads them.",
            f"Nothing, or {by_hand}.",
        )
    return Finding(
        "encoder",
        "warning" if name == "auto" else "problem",
        f"{found}, and the Hugging Face hub does not answer from this machine{instead}.",
        f"{by_hand[0].upper()}{by_hand[1:]}. --conf encoder descriptor needs no weights.",
    )


def check_archive(asked: Asked) -> Iterator[Finding]:
    """The DICOM archive, asked as the server asks, with the credentials that the server reads."""
    if not asked.is_archive:
        yield _nearby_archive()
        return
    modalities = list(asked.settings.get("modalities") or ("CT", "MR", "CR", "DX"))
    try:
        answer = ask("archive", limit_s=ARCHIVE_LIMIT_S, url=asked.studies, modalities=modalities)[0]
    except (ProbeError, LookupError) as error:
        remedy = "If it does not end: the archive is slow or silent. Else see the packages above."
        yield Finding("archive", "problem", f"{asked.studies} cannot be asked: {short(error)}.", remedy)
        return
    if answer["error"]:
        remedy = "Start the archive and its DICOMweb plugin, and check the address: http://host:8042/dicom-web."
        if "MONAI_LABEL_DICOMWEB" in answer["error"]:
            remedy = "Set these two variables where the server is started, or in a file .env there."
        yield Finding("archive", "problem", f"{short(answer['error'])}.", remedy)
        return
    counted = ", ".join(f"{number} {modality}" for modality, number in answer["series"].items())
    if any(answer["series"].values()):
        yield Finding("archive", "ok", f"{asked.studies} answers; series: {counted}.")
    else:
        yield Finding(
            "archive",
            "warning",
            f"{asked.studies} answers, but has no series of {', '.join(modalities)}.",
            "Send images there, or name their modality: --conf modalities MG.",
        )


def _nearby_archive() -> Finding:
    try:
        socket.create_connection(("127.0.0.1", ORTHANC_PORT), timeout=2).close()
    except OSError:
        return Finding("archive", "ok", "None is named, and a folder of images needs none.")
    address = f"http://127.0.0.1:{ORTHANC_PORT}/dicom-web"
    return Finding("archive", "ok", f"None is named; on port {ORTHANC_PORT} one listens: --studies {address} asks it.")
