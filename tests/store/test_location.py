"""Where the database lies, and what the log says of it."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace

import psutil
import pytest

from coldstart.store import file_signature, location, state_folder


@pytest.fixture(autouse=True)
def user_state(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="coldstart")
    monkeypatch.setattr(location.platformdirs, "user_state_path", lambda name: tmp_path / "user" / name)
    return tmp_path / "user" / "coldstart_al"


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


@pytest.fixture
def mount(monkeypatch):
    def simulate(*pairs):
        mounts = [SimpleNamespace(mountpoint=str(point), fstype=kind) for point, kind in pairs]
        monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts if all else [])

    return simulate


def test_writable_local_folder_holds_the_database_beside_the_images(studies, caplog):
    assert state_folder(studies) == studies / "coldstart"
    assert f"The database and the models are in {studies / 'coldstart'} (beside the images)." in caplog.text


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "lustre"])
def test_network_mount_takes_the_users_state_folder(studies, user_state, mount, caplog, kind):
    mount(("/", "ext4"), (studies.parent, kind))
    folder = state_folder(studies)
    assert folder.parent == user_state
    assert (
        f"{folder} (in the user's state folder, because the studies folder is on a network file system ({kind}))"
        in (caplog.text)
    )


def test_nearest_mount_decides(studies, mount):
    mount(("/", "nfs"), (studies, "ext4"))
    assert state_folder(studies) == studies / "coldstart"
    mount(("/", "ext4"), (studies / "elsewhere", "nfs"))
    assert state_folder(studies) == studies / "coldstart"


def test_link_to_a_network_mount_is_followed(studies, mount, tmp_path, user_state):
    link = tmp_path / "link"
    link.symlink_to(studies)
    mount(("/", "ext4"), (studies, "nfs"))
    assert state_folder(link).parent == user_state
    assert state_folder(link) == state_folder(studies)


@pytest.mark.parametrize("made_before", [False, True])
def test_read_only_folder_takes_the_users_state_folder(studies, user_state, monkeypatch, caplog, made_before):
    if made_before:
        (studies / "coldstart").mkdir()
    asked = studies / "coldstart" if made_before else studies
    monkeypatch.setattr(os, "access", lambda path, mode: path != asked)
    folder = state_folder(studies)
    assert folder.parent == user_state
    assert f"{folder} (in the user's state folder, because the studies folder is not writable)" in caplog.text


def test_every_studies_folder_has_a_state_folder_of_its_own(tmp_path, mount, user_state):
    mount(("/", "nfs"))
    folders = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        folders.append(state_folder(tmp_path / name))
    assert len(set(folders)) == 2
    assert state_folder(tmp_path / "a") == folders[0]


def test_state_dir_wins(studies, tmp_path, mount, caplog):
    mount(("/", "nfs"))
    assert state_folder(studies, tmp_path / "mine") == tmp_path / "mine"
    assert f"{tmp_path / 'mine'} (as --conf state_dir says)" in caplog.text


def test_state_dir_may_begin_with_a_tilde(studies, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder(studies, location.Path("~/mine")) == tmp_path / "mine"


def test_signature_changes_with_size_and_with_time(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    first = file_signature(path)
    assert file_signature(path) == first
    os.utime(path, ns=(1, 2))
    assert file_signature(path) != first
    path.write_bytes(b"four")
    os.utime(path, ns=(1, 1))
    assert file_signature(path) != first
