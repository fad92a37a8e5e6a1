"""A studies folder as it comes from a hospital: whatever cannot be used stands aside, and the rest is served.

What happens to each file is in `GOOD`, `SET_ASIDE` and `LEFT_OUT` below.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from coldstart.adapters.datastore import FolderDatastore
from coldstart.adapters.server import APP_FOLDER, Server
from coldstart.campaign import Campaign
from coldstart.images import image_suffix, read_image, read_label, write_label
from coldstart.settings import load_settings

GOOD = (
    "plain.png",
    "with space.png",
    'quote\'s "both".png',
    "Röntgen 肺 😀.png",
    "a..b.png",
    "percent%20and+plus&semi;#1.png",
    "n" * 196 + ".png",
    "upper.PNG",
    "rgb.png",
    "jpeg inside.png",
    "link out.png",
    "one slice.nii.gz",
    "tiny.png",
)
"""Served: names of every kind, colour among grey, JPEG named .png, a link out of the folder, one slice, 2 x 2."""

COPIED = "being copied.png"
"""Grows while the server runs: not there until it has not changed for a while, then served."""

SET_ASIDE = {
    "zero.png": "the file has 0 bytes",
    "cut.png": "damaged, incomplete or not PNG",
    "cut gzip.nii.gz": "damaged, incomplete or not NIfTI",
    "no gzip.nii.gz": "damaged, incomplete or not NIfTI",
    "text.nii": "damaged, incomplete or not NIfTI",
    "nifti.nrrd": "its content is NIfTI, but its name says .nrrd",
    "nan.nii.gz": "values are NaN, infinite",
    "infinite.nii.gz": "values are NaN, infinite",
    "constant.png": "it is empty, every pixel has the value 7",
    "one pixel.png": "its 1 x 1 pixels are no picture",
    "five dimensions.nii.gz": "5 dimensions (6 x 7 x 8 x 2 x 3)",
    "bomb.png": "its 30000 x 30000 pixels are too many",
    "no pixels.dcm": "holds no pixels (modality SR)",
    "volume.nii.gz": "must be a 2D image, as `spatial_dims` 2 says; got a volume of 6 x 7 x 8",
}
"""Named under `set_aside` of `GET /info/`, each with its reason."""

LEFT_OUT = ("._plain.png", "lost link.png", "folder.png", "line\nbreak.png", "notes.txt")
"""No images: AppleDouble and other formats without a word, the others with a warning in the log."""


def picture(seed: int) -> np.ndarray:
    rows, columns = np.mgrid[:48, :40]
    disc = np.hypot(rows - 14 - seed % 9, columns - 12 - seed % 13) < 5 + seed % 4
    noise = np.random.default_rng(seed).normal(0, 4, disc.shape)
    return np.clip(90 + 80 * disc + (seed % 3) * columns + noise, 0, 255).astype(np.uint8)


def png(seed: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture(seed)).save(content, "PNG")
    return content.getvalue()


def nifti(values: np.ndarray) -> bytes:
    packed: bytes = nib.Nifti1Image(values.astype(np.float32), np.eye(4)).to_bytes()
    return packed


def packed(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(content) + packer.flush()


def bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(30001 * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def write_report(path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = "1.2.840.10008.5.1.4.1.1.88.11", ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    report = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    report.is_little_endian, report.is_implicit_VR = True, False
    report.SOPClassUID, report.Modality = meta.MediaStorageSOPClassUID, "SR"
    report.save_as(path, write_like_original=False)


def write_folder(studies: Path) -> None:
    for number, name in enumerate(GOOD):
        (studies / name).write_bytes(png(number))
    Image.fromarray(np.dstack([picture(1), picture(2), picture(3)])).save(studies / "rgb.png")
    Image.fromarray(picture(4)).save(studies / "jpeg inside.png", "JPEG")
    Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8)).save(studies / "tiny.png")
    (studies / "one slice.nii.gz").write_bytes(packed(nifti(picture(5)[..., None])))
    (studies / "link out.png").unlink()
    (studies.parent / "elsewhere.png").write_bytes(png(6))
    (studies / "link out.png").symlink_to(studies.parent / "elsewhere.png")

    volume = np.random.default_rng(7).normal(size=(6, 7, 8))
    flat = volume[..., :1].copy()
    bad = {
        "zero.png": b"",
        "cut.png": png(8)[:500],
        "cut gzip.nii.gz": packed(nifti(volume))[:700],
        "no gzip.nii.gz": b"\x1f\x8b" + bytes(500),
        "text.nii": b"not an image " * 99,
        "nifti.nrrd": nifti(volume),
        "nan.nii.gz": packed(nifti(np.where(flat > 1, np.nan, flat))),
        "infinite.nii.gz": packed(nifti(np.where(flat > 1, np.inf, flat))),
        "five dimensions.nii.gz": packed(nifti(np.random.default_rng(9).normal(size=(6, 7, 8, 2, 3)))),
        "bomb.png": bomb(),
        "volume.nii.gz": packed(nifti(volume)),
        "._plain.png": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(99),
        "line\nbreak.png": png(10),
        "notes.txt": b"notes",
    }
    for name, content in bad.items():
        (studies / name).write_bytes(content)
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(studies / "constant.png")
    Image.fromarray(picture(11)[:1, :1]).save(studies / "one pixel.png")
    write_report(studies / "no pixels.dcm")
    (studies / "lost link.png").symlink_to(studies.parent / "nowhere.png")
    (studies / "folder.png").mkdir()


def id_of(name: str) -> str:
    return name.removesuffix(name[len(name) - len(image_suffix(name)) :])


def copy_slowly(path: Path, content: bytes, seconds: float) -> None:
    n_parts = 40
    with path.open("wb") as file:
        for part in range(n_parts):
            file.write(content[len(content) * part // n_parts : len(content) * (part + 1) // n_parts])
            file.flush()
            time.sleep(seconds / n_parts)


def click(server: Server) -> dict[str, Any]:
    answer = requests.post(f"{server.url}/activelearning/coldstart_al", json={}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait_for(server: Server, condition: Callable[[dict[str, Any]], bool], limit_s: float = 90) -> dict[str, Any]:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        state: dict[str, Any] = requests.get(f"{server.url}/info/", timeout=30).json()["coldstart"]
        if condition(state):
            return state
        time.sleep(0.3)
    raise AssertionError(f"{state}\n{server.log.read_text()[-3000:]}")


def embedded(n_images: int) -> Callable[[dict[str, Any]], bool]:
    return lambda state: state["images"] == n_images and state["tasks"].get("embedding") == "DONE" and state["planned"]


def save_label(server: Server, image_id: str, file: Path) -> requests.Response:
    with file.open("rb") as label:
        return requests.put(
            f"{server.url}/datastore/label",
            params={"image": image_id, "tag": "final"},
            files={"label": (file.name, label)},
            timeout=60,
        )


@pytest.mark.timeout(240)
def test_bad_images_stand_aside_and_all_others_are_served_once(start: Callable[..., Server], tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    write_folder(studies)
    server = start(studies, budget="6", labels="disk:1")
    writer = threading.Thread(target=copy_slowly, args=(studies / COPIED, png(20), 6.0))
    writer.start()
    while writer.is_alive():
        state = requests.get(f"{server.url}/info/", timeout=30).json()["coldstart"]
        assert id_of(COPIED) not in state["set_aside"], "a file that is still being copied was judged"
        time.sleep(0.3)
    state = wait_for(server, embedded(len(GOOD) + 1))

    assert set(state["set_aside"]) == {id_of(name) for name in SET_ASIDE}
    for name, sentence in SET_ASIDE.items():
        assert sentence in state["set_aside"][id_of(name)], name
    log = server.log.read_text()
    assert "'lost link.png'" in log and "leads nowhere" in log
    assert "'folder.png'" in log and "is not a file" in log
    assert r"'line\nbreak.png'" in log and "control characters" in log

    good = {id_of(name): studies / name for name in (*GOOD, COPIED)}
    served = [click(server)["id"] for _ in good]
    assert sorted(served) == sorted(good), "every good image once, no other"
    again = click(server)
    assert again["id"] in good and "also with another annotator" in again["coldstart"]["reason"]

    for image_id, path in good.items():
        label = tmp_path / f"label{'.nii.gz' if path.name.endswith('.nii.gz') else '.png'}"
        geometry = read_image(path).geometry
        values = np.zeros(geometry.shape, np.uint8)
        values[0, 0] = 1
        write_label(values, geometry, label)
        answer = save_label(server, image_id, label)
        assert answer.status_code == 200 and "warning" not in answer.text, answer.text
        stored = requests.get(f"{server.url}/datastore/label", params={"label": image_id, "tag": "final"}, timeout=30)
        assert stored.status_code == 200, stored.text
        label.write_bytes(stored.content)
        np.testing.assert_array_equal(read_label(label).values, values)
    state = wait_for(server, lambda state: state["labelled"] == len(good))
    assert state["label_problems"] == []

    # Put right, a file joins the pool; it is all that is left.
    (studies / "zero.png").write_bytes(png(21))
    state = wait_for(server, embedded(len(good) + 1))
    assert "zero" not in state["set_aside"] and len(state["set_aside"]) == len(SET_ASIDE) - 1
    assert click(server)["id"] == "zero"


def test_folder_of_10000_files_is_taken_over_and_served(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    (tmp_path / "one.png").write_bytes(png(0))
    os.utime(tmp_path / "one.png", (time.time() - 60,) * 2)
    for number in range(10_000):
        os.link(tmp_path / "one.png", studies / f"{number:05}.png")
    settings = load_settings({"encoder": "descriptor", "preset": "chest_xray"}, APP_FOLDER / "configs")
    campaign = Campaign(settings, tmp_path / "state")
    datastore = FolderDatastore(str(studies), campaign)
    started = time.monotonic()
    datastore.sync()
    served = [campaign.next_sample("coldstart_al") for _ in range(20)]
    datastore.sync()
    assert time.monotonic() - started < 60
    assert campaign.status()["images"] == 10_000
    assert len({sample.image_id for sample in served if sample is not None}) == 20
