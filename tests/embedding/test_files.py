"""Embedding files: order, batches, threads, bounded memory, images that cannot be used."""

import threading
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from coldstart.embedding import create_encoder, embed_files
from coldstart.embedding.encoder import BaseEncoder
from coldstart.embedding.preprocessing import scale_intensities, take_slices
from coldstart.exceptions import EncoderError, ImageError, InvalidInputError


class Mean(BaseEncoder):
    """One number an image; counts what is prepared and not yet encoded."""

    name, version, n_features, spatial_dims = "mean", "1", 1, 2

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held = self.most_held = 0
        self.batches: list[int] = []

    def prepare(self, image: np.ndarray) -> np.ndarray:
        with self.lock:
            self.held += 1
            self.most_held = max(self.most_held, self.held)
        return image.mean(keepdims=True).reshape(1)

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        with self.lock:
            self.held -= len(inputs)
        self.batches.append(len(inputs))
        return inputs


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for index in range(11):
        path = tmp_path / f"{index:02}.png"
        Image.fromarray(rng.integers(0, 256, (20 + index, 30), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=np.float32)[None]


def save_volume(path: Path, voxels: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


def collect(*arguments: Any, **keywords: Any) -> list[Any]:
    results = list(embed_files(*arguments, **keywords))
    assert [index for index, _ in results] == list(range(len(results)))
    return [result for _, result in results]


def test_files_come_in_order_with_their_own_vectors(pictures: list[Path]) -> None:
    vectors = collect(Mean(), pictures, spatial_dims=2, batch_size=4, n_threads=3)

    assert [vector.shape for vector in vectors] == [(1,)] * 11 and vectors[0].dtype == np.float32
    assert np.concatenate(vectors) == pytest.approx([scale_intensities(pixels_of(path)).mean() for path in pictures])


@pytest.mark.parametrize(("batch_size", "n_threads"), [(1, 1), (3, 2), (100, 4)])
def test_batches_and_threads_change_nothing(pictures: list[Path], batch_size: int, n_threads: int) -> None:
    encoder = create_encoder("descriptor")
    expected = encoder.embed([scale_intensities(pixels_of(path)) for path in pictures])

    vectors = collect(encoder, pictures, spatial_dims=2, batch_size=batch_size, n_threads=n_threads)

    assert np.array_equal(np.stack(vectors), expected)


def test_batches_of_a_network_change_rounding_at_most(pictures: list[Path], shared_data: Path) -> None:
    encoder = create_encoder(f"hf:{shared_data / 'encoders' / 'mobilenet_v2_imagenet_hf'}", device="cpu")

    alone = np.stack(collect(encoder, pictures, spatial_dims=2, batch_size=1))
    together = np.stack(collect(encoder, pictures, spatial_dims=2, batch_size=8))

    assert np.abs(alone - together).max() < 1e-4 * np.abs(alone).max()


def test_never_more_images_are_held_than_a_batch_and_what_the_threads_prepare(pictures: list[Path]) -> None:
    encoder = Mean()

    collect(encoder, pictures * 5, spatial_dims=2, batch_size=4, n_threads=2)

    assert encoder.most_held <= 4 + 2
    assert encoder.batches == [4] * 13 + [3]


def test_files_are_read_while_others_are_encoded(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, prepared, encoding = Mean(), threading.Event(), threading.Event()
    overlapped = []

    def prepare(image: np.ndarray) -> np.ndarray:
        if image.shape[1] == 24 and encoding.wait(10):  # the fifth file, after the first batch of four
            prepared.set()
        return np.zeros(1, dtype=np.float32)

    def encode(inputs: np.ndarray) -> np.ndarray:
        encoding.set()
        overlapped.append(prepared.wait(10))
        return inputs

    monkeypatch.setattr(encoder, "prepare", prepare)
    monkeypatch.setattr(encoder, "encode", encode)

    collect(encoder, pictures, spatial_dims=2, batch_size=4, n_threads=1)

    assert overlapped == [True] * 3


def test_an_unusable_image_gives_its_reason_and_the_others_go_on(pictures: list[Path], tmp_path: Path) -> None:
    pictures[4].write_bytes(b"no picture")
    volume = save_volume(tmp_path / "volume.nii.gz", np.random.default_rng(0).random((4, 5, 6)))
    paths = [tmp_path / "absent.png", *pictures, volume]

    results = collect(Mean(), paths, spatial_dims=2, batch_size=4)

    faulty = [index for index, result in enumerate(results) if isinstance(result, ImageError)]
    assert faulty == [0, 5, 12]
    assert "absent.png" in str(results[0]) and "04.png" in str(results[5])
    assert str(results[12]).startswith(
        "volume.nii.gz must be a 2D image, as `spatial_dims` 2 says; got a volume of 4 x 5 x 6."
    )
    assert results[6] == pytest.approx(scale_intensities(pixels_of(pictures[5])).mean())


def test_a_picture_among_volumes_gives_its_reason(pictures: list[Path]) -> None:
    (result,) = collect(Mean(), pictures[:1], spatial_dims=3)

    assert "00.png must be a volume, as `spatial_dims` 3 says; got a 2D image of 20 x 30." in str(result)


def test_volume_gives_the_mean_over_slices_for_each_axis(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volumes = [rng.random((12, 10, 9)).astype(np.float32) + ramp for ramp in (0, np.arange(9), 3)]
    paths = [save_volume(tmp_path / f"{index}.nii.gz", volume) for index, volume in enumerate(volumes)]

    vectors = collect(Mean(), paths, spatial_dims=3, batch_size=5)

    for volume, vector in zip(volumes, vectors, strict=True):
        slices = take_slices(scale_intensities(volume[None]), (1, 1, 1))
        means = [float(plane.mean()) for plane in slices]
        assert vector.shape == (3,)
        assert vector == pytest.approx([np.mean(means[:8]), np.mean(means[8:16]), np.mean(means[16:])], abs=1e-6)


def test_volume_encoder_gets_the_volume_whole(tmp_path: Path) -> None:
    encoder = Mean()
    encoder.spatial_dims = 3
    voxels = np.random.default_rng(0).random((6, 5, 4)).astype(np.float32)

    (vector,) = collect(encoder, [save_volume(tmp_path / "a.nii.gz", voxels)], spatial_dims=3)

    assert vector == pytest.approx([scale_intensities(voxels[None]).mean()])


def test_real_volumes_give_three_times_the_features(shared_data: Path) -> None:
    paths = sorted((shared_data / "hippocampus" / "images").glob("*.nii.gz"))[:2]
    encoder = create_encoder("descriptor")

    first, second = collect(encoder, paths, spatial_dims=3)

    assert first.shape == second.shape == (3 * encoder.n_features,)
    assert not np.allclose(first, second)


def test_progress_counts_every_file(pictures: list[Path]) -> None:
    calls: list[tuple[int, int]] = []
    pictures[2].write_bytes(b"")

    collect(Mean(), pictures, spatial_dims=2, batch_size=4, progress=lambda done, total: calls.append((done, total)))

    assert calls == [(number, 11) for number in range(1, 12)]


def test_no_files_give_nothing() -> None:
    assert collect(Mean(), [], spatial_dims=2) == []


def test_stopping_early_ends_the_threads(pictures: list[Path]) -> None:
    results = embed_files(Mean(), pictures, spatial_dims=2, batch_size=2)
    next(results)
    results.close()  # type: ignore[attr-defined]

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"spatial_dims": 4}, "`spatial_dims` must be 2 or 3; got 4"),
        ({"spatial_dims": 2, "batch_size": 0}, "`batch_size` must be at least 1; got 0"),
        ({"spatial_dims": 2, "n_threads": 0}, "`n_threads` must be at least 1; got 0"),
    ],
)
def test_bad_numbers_are_named_at_once(keywords: dict[str, int], sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        embed_files(Mean(), [], **keywords)


def test_volume_encoder_for_pictures_is_refused_at_once() -> None:
    encoder = Mean()
    encoder.spatial_dims = 3

    with pytest.raises(EncoderError, match=r"`--conf encoder` mean takes volumes, but the images here are two-dimens"):
        embed_files(encoder, [], spatial_dims=2)
