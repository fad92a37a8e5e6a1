"""Open the campaign of a studies folder for a command, without a server or beside one.

Beside a server only the database is used, which both share: what is in the folder is the server's to notice. Without
one the folder is looked at as a server would, by the same datastore.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coldstart.adapters.archive import ArchiveDatastore
from coldstart.adapters.archive_client import require_archive_address
from coldstart.adapters.datastore import CampaignDatastore, FolderDatastore
from coldstart.adapters.errors import AppError
from coldstart.adapters.server import APP_FOLDER, is_archive
from coldstart.campaign import Campaign
from coldstart.campaign.configured import has_server, recall, remember
from coldstart.exceptions import ArchiveError, ImageError, InvalidInputError, SettingsError
from coldstart.images import image_suffix
from coldstart.segmentation import resolve_device
from coldstart.settings import Settings, load_settings
from coldstart.store import FILE_NAME, require_whole, state_folder

SETTLES_WITHIN_S = 15.0
"""How long files that were copied a moment ago are waited for."""
LOOK_EVERY_S = 0.5

_OF_THE_SERVER = (
    *("labels", "spatial_dims", "budget", "k_max", "encoder", "encoder_weights", "projection", "heldout"),
    *("random_state", "reserve_minutes", "modalities"),
)
"""Settings that a command and a server on one folder must share, or each would undo what the other did."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedCampaign:
    """A campaign, and whether a server is running it."""

    campaign: Campaign
    has_server: bool


def open_campaign(studies: str, conf: Mapping[str, str], *, begin: bool) -> OpenedCampaign:
    """Open the campaign of a studies folder or an archive, with what is there now.

    Parameters
    ----------
    studies : str
        Folder of images, or address of an archive; where no campaign is begun, also the folder of its database.
    conf : mapping of str to str
        The pairs of `--conf`, which win over those that the campaign was configured with.
    begin : bool
        Whether to begin a campaign where there is none, and to note its settings.

    Raises
    ------
    ColdStartError
        If there is no such folder, no image in it, or no campaign and none is to be begun, or that is damaged; if the
        settings are not valid, or are others than those of the server that runs the campaign.
    """
    where = require_studies(studies)
    folder = find_state(where, conf, begin=begin)
    begun = (folder / FILE_NAME).is_file()
    settings, served = _settings(folder, conf, begun=begun)
    resolve_device(settings.device)
    if not begun:
        _require_images(where)
    if not begin:
        require_whole(folder / FILE_NAME)
    campaign = Campaign(settings, folder)
    if where != folder:
        with in_sentences():
            _look(where, campaign, served=served, begin=begin)
    if begin and not served:
        remember(folder, {**(recall(folder) or {}), **conf})
    return OpenedCampaign(campaign, served)


def require_studies(studies: str) -> Path | str:
    """Take the address of an archive as it is, and the absolute path of a folder.

    Raises
    ------
    InvalidInputError
        If there is no such folder.
    """
    if is_archive(studies):
        return require_archive_address(studies)
    if any("\ud800" <= character <= "\udfff" for character in studies):
        raise InvalidInputError(f"STUDIES must be a path in UTF-8, as a database holds it; got {studies!a}.")
    folder = Path(studies).expanduser()
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise InvalidInputError(
            f"STUDIES must be a folder of images, or the address of a DICOMweb archive; got '{studies}', which {found}."
        )
    return folder.resolve()


def find_state(where: Path | str, conf: Mapping[str, str], *, begin: bool = False) -> Path:
    """Folder of the campaign's database; where none is begun it may be named in the place of the studies.

    Raises
    ------
    InvalidInputError
        If there is no campaign, and none is to be begun.
    """
    named = conf.get("state_dir")
    if isinstance(where, Path) and named is None and (where / FILE_NAME).is_file():
        if begin:
            raise InvalidInputError(
                f"STUDIES must be the folder of the images; {where} is that of a campaign's database. Name the other, "
                "with --conf state_dir if the database is not beneath it."
            )
        return where
    folder = state_folder(where, None if named is None else Path(named))
    if not begin and not (folder / FILE_NAME).is_file():
        raise InvalidInputError(
            f"No campaign has begun for {where}: there is no {folder / FILE_NAME}. Begin one with `coldstart plan "
            f"{where}`, or start the server; if its server has --conf state_dir, give that too."
        )
    return folder


def _settings(folder: Path, conf: Mapping[str, str], *, begun: bool) -> tuple[Settings, bool]:
    """The settings for this command, and whether a server runs the campaign."""
    configs = APP_FOLDER / "configs"
    noted, served = recall(folder), has_server(folder)
    if begun and noted is None and "preset" not in conf:
        raise SettingsError(
            f"{folder} does not say what its campaign is configured with. Give the settings of its server with "
            "--preset and --conf; they are noted with the next `coldstart plan`, and at the server's next start."
        )
    settings = load_settings({**(noted or {}), **conf}, configs)
    if served and noted is not None:
        theirs = load_settings(noted, configs)
        for name in _OF_THE_SERVER:
            if getattr(settings, name) != getattr(theirs, name):
                raise SettingsError(
                    f"`{name}` must be what the server that runs this campaign has, '{getattr(theirs, name)}'; got "
                    f"'{getattr(settings, name)}'. Leave it out, or end the server first."
                )
    return settings, served


def _require_images(where: Path | str) -> None:
    """Leave a folder alone that holds no image, before anything is written into it."""
    if isinstance(where, Path) and not any(image_suffix(name) and name[0] != "." for name in os.listdir(where)):
        raise ImageError(
            f"{where} holds no images. Name the folder that has the files in it, not in a folder below: NIfTI, NRRD, "
            "PNG, JPEG, TIFF or single-file DICOM."
        )


def _look(where: Path | str, campaign: Campaign, *, served: bool, begin: bool) -> None:
    """Let the campaign know what is there, unless a server does."""
    if isinstance(where, str):
        datastore: CampaignDatastore = ArchiveDatastore(where, campaign)  # images may have to be fetched in any case
    elif not served:
        datastore = FolderDatastore(str(where), campaign)
    if served:
        return
    until = time.monotonic() + SETTLES_WITHIN_S
    try:
        datastore.sync()
        while not datastore.is_settled and time.monotonic() < until:
            time.sleep(LOOK_EVERY_S)
            datastore.sync()
    except ArchiveError as error:
        if begin:
            raise
        logger.warning("%s", error)
    if not datastore.is_settled:
        logger.warning("Some files are still being written; they are left out for now.")
    datastore.flush()


@contextmanager
def in_sentences() -> Iterator[None]:
    """Make errors of this package of those that are meant for viewers, and of those of the file system."""
    try:
        yield
    except AppError as error:
        raise InvalidInputError(str(error.detail)) from error
    except OSError as error:
        raise ImageError(f"{error.filename} cannot be read or written: {error.strerror or error}.") from error
