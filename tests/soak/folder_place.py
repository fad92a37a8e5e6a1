"""A folder as the place of a week's images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from soak.places import SIDE, Place
from soak.records import hash_bytes


class FolderPlace(Place):
    """A folder of NRRD images; labels are files in it, byte by byte as they were sent."""

    name = "folder"
    image_suffix = ".nrrd"
    compared = "file"

    @property
    def _folder(self) -> Path:
        return self.disk / "studies"

    @property
    def studies(self) -> str:
        return str(self._folder)

    def add(self, n: int) -> list[str]:
        self._folder.mkdir(exist_ok=True)
        names = [f"image_{self._n_made + index:04d}" for index in range(n)]
        for name in names:
            self._write(name)
        self._n_made += n
        return names

    def replace(self, n: int, in_use: set[str]) -> list[str]:
        names = sorted(path.stem for path in self._folder.glob("*.nrrd"))
        chosen = [str(name) for name in self._rng.choice(names, n, replace=False)]
        for name in chosen:
            self._write(name)
        return chosen

    def go_away(self) -> None:
        self._folder.rename(self.disk / "away")

    def come_back(self) -> None:
        (self.disk / "away").rename(self._folder)

    def kept(self) -> Mapping[str, str]:
        files = sorted((self._folder / "labels" / "final").glob("*"))
        twice = {path.name.split(".")[0] for path in files}
        if len(twice) < len(files):
            raise RuntimeError(f"an image has two labels: {[path.name for path in files]}")
        return {path.name.split(".")[0]: hash_bytes(path.read_bytes()) for path in files}

    def _write(self, name: str) -> None:
        pixels = picture(self._rng)
        image = sitk.GetImageFromArray(pixels.astype(np.int16))
        path = self.other / f"{name}.nrrd"
        sitk.WriteImage(image, str(path))
        (self._folder / path.name).write_bytes(path.read_bytes())
        path.unlink()


def picture(rng: np.random.Generator) -> np.ndarray:
    """A bright disk in noise, of any place and size."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    row, column = rng.uniform(0.3 * SIDE, 0.7 * SIDE, 2)
    disk = (rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(0.1 * SIDE, 0.2 * SIDE) ** 2
    pixels: np.ndarray = 60 + 80 * disk + rng.normal(0, 10, disk.shape)
    return pixels
