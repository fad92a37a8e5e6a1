"""Which archives may be unpacked: whole ones of files and folders, up to a size that is known beforehand."""

import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from coldstart.adapters import unpacking
from coldstart.adapters.errors import AppError
from coldstart.adapters.unpacking import SUFFIXES, check_archive

TAR_MODES = {
    ".tar": "w",
    **dict.fromkeys((".tar.gz", ".tgz"), "w:gz"),
    **dict.fromkeys((".tar.bz2", ".tbz2"), "w:bz2"),
    **dict.fromkeys((".tar.xz", ".txz"), "w:xz"),
}


class Zeros(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def packed(suffix: str, members: dict[str, int]) -> io.BytesIO:
    """An archive of files of zeros, of these sizes; a name that ends in / is a folder."""
    content = io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, size in members.items():
                archive.writestr(name, bytes(size))
    else:
        with tarfile.open(fileobj=content, mode=TAR_MODES[suffix]) as tar:
            for name, size in members.items():
                info = tarfile.TarInfo(name.rstrip("/"))
                info.size = size
                info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                tar.addfile(info, Zeros())
    content.seek(0)
    return content


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_of_images_is_accepted_and_left_at_its_beginning(suffix: str, tmp_path: Path) -> None:
    content = packed(suffix, {"series/": 0, "series/a.dcm": 5000, "series/b.dcm": 0, "c.png": 7})
    check_archive(f"a{suffix}", content)
    assert content.tell() == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_unpacks_to_too_much_is_413(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_BYTES", 2**20)
    check_archive(f"a{suffix}", packed(suffix, {"a": 2**19, "b": 2**19}))
    with pytest.raises(AppError, match="1 MiB") as refused:
        check_archive(f"a{suffix}", packed(suffix, {"a": 2**19, "b": 2**19 + 1}))
    assert refused.value.status_code == 413

    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 20)
    check_archive(f"a{suffix}", packed(suffix, {f"{index}": 1 for index in range(20)}))
    with pytest.raises(AppError, match="20 files") as refused:
        check_archive(f"a{suffix}", packed(suffix, {f"{index}": 1 for index in range(21)}))
    assert refused.value.status_code == 413


def test_a_tar_file_is_refused_before_what_is_too_large_is_read() -> None:
    header = tarfile.TarInfo("a")
    header.size = 2**45
    with pytest.raises(AppError) as refused:
        check_archive("a.tar", io.BytesIO(header.tobuf() + bytes(1024)))
    assert refused.value.status_code == 413
    # The name of a member, which is read into memory.
    header.type = tarfile.GNUTYPE_LONGNAME
    with pytest.raises(AppError, match="cannot be unpacked"):
        check_archive("a.tar", io.BytesIO(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))


def link(name: str) -> io.BytesIO:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
    return content


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_what_cannot_be_unpacked_is_400(suffix: str) -> None:
    whole = packed(suffix, {"a": 1, "b": 100_000}).getvalue()
    damaged = [b"", b"no archive", whole[:20], whole[: len(whole) // 2]]
    damaged += [packed(suffix, members).getvalue() for members in ({"a": 1, "a/b": 1}, {"n" * 300: 1}, {"a/" * 600: 0})]
    damaged.append(link("link").getvalue())
    for content in damaged:
        with pytest.raises(AppError, match="cannot be unpacked") as refused:
            check_archive(f"a{suffix}", io.BytesIO(content))
        assert refused.value.status_code == 400
    with pytest.raises(AppError, match=r"\.tar\.gz"):
        check_archive("a.rar", io.BytesIO(whole))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_archive_is_accepted_or_400(suffix: str) -> None:
    rng = random.Random(0)
    whole = packed(suffix, {"a": 3000, "b/": 0, "b/c": 5}).getvalue()
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            check_archive(f"a{suffix}", io.BytesIO(bytes(content)))
        except AppError as refused:
            assert refused.status_code in (400, 413)
