"""Where the database of a studies folder lies, and what tells one version of a file from another."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import platformdirs
import psutil

from coldstart.exceptions import InvalidInputError

logger = logging.getLogger(__name__)

FOLDER_NAME = "coldstart"
NETWORK_FILE_SYSTEMS = (
    *("nfs", "cifs", "smb", "fuse", "9p", "afs", "ceph", "davfs", "glusterfs", "lustre", "gpfs", "beegfs"),
    *("virtiofs", "vboxsf", "prl_fs"),
)
"""Beginnings of file system names on which SQLite's locks and its shared memory cannot be relied on: network mounts and
folders that a virtual machine shares with its host."""
LOCAL_FUSE = "fuseblk"
"""A local disk with a foreign file system, such as NTFS."""


def state_folder(studies: Path | str, state_dir: Path | None = None) -> Path:
    """Folder of the app's database and models for one studies folder; the log says which and why.

    Parameters
    ----------
    studies : Path or str
        The datastore's folder; of an archive its address.
    state_dir : Path or None
        What `--conf state_dir` says; it wins.

    Returns
    -------
    Path
        `state_dir`; else `<studies>/coldstart` where that is a writable local file system; else a folder under
        the user's state folder, named by a hash of the studies' path or address.

    Raises
    ------
    InvalidInputError
        If `state_dir` is a file.
    """
    if state_dir is not None:
        if state_dir.expanduser().is_file():
            raise InvalidInputError(
                f"--conf state_dir must be a folder; {state_dir} is a file. Give another folder, or move the file."
            )
        folder, reason = state_dir.expanduser().resolve(), "as --conf state_dir says"
    elif isinstance(studies, str):
        folder, reason = _user_state(studies), "in the user's state folder, because the studies are in an archive"
    elif (hindrance := _hindrance(studies)) is None:
        folder, reason = studies / FOLDER_NAME, "beside the images"
    else:
        folder = _user_state(str(studies.resolve()))
        reason = f"in the user's state folder, because the studies folder {hindrance}"
    logger.info("The database and the models are in %s (%s).", folder, reason)
    return folder


def file_signature(path: Path) -> str:
    """Signature that changes when the file at `path` is replaced or rewritten: size and time of modification."""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _user_state(studies: str) -> Path:
    return platformdirs.user_state_path("coldstart_al") / hashlib.sha256(studies.encode()).hexdigest()[:16]


def _hindrance(studies: Path) -> str | None:
    file_system = _file_system(studies.resolve())
    if file_system.startswith(NETWORK_FILE_SYSTEMS) and file_system != LOCAL_FUSE:
        return f"is on a network file system ({file_system})"
    folder = studies / FOLDER_NAME
    if not os.access(folder if folder.exists() else studies, os.W_OK | os.X_OK):
        return "is not writable"
    return None


def _file_system(path: Path) -> str:
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounts[folder] for folder in (path, *path.parents) if folder in mounts), "")
