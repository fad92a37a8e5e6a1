"""Embed image files: decoding in threads beside encoding in batches, with a bounded number of images in memory."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coldstart.embedding.encoder import Array, Encoder
from coldstart.embedding.preprocessing import SLICES_PER_AXIS, intensity_range, scale_intensities, take_slices
from coldstart.exceptions import EncoderError, ImageError, InvalidInputError
from coldstart.images import Image, read_image

logger = logging.getLogger(__name__)


def embed_files(
    encoder: Encoder,
    paths: Sequence[Path],
    *,
    spatial_dims: int,
    batch_size: int = 16,
    n_threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, NDArray[np.float32] | ImageError]]:
    """Embed images one after the other, in the order of `paths`.

    Parameters
    ----------
    encoder : Encoder
        From `create_encoder`.
    paths : sequence of Path
        Image files.
    spatial_dims : {2, 3}
        What the files hold; one of the other dimension cannot be used.
    batch_size : int, default 16
        Images (for volumes: slices) that the encoder gets at a time. It changes the vectors by rounding at most.
    n_threads : int, default 2
        Threads that decode and prepare files while others are encoded.
    progress : callable, optional
        Called with the numbers of files done and of all files, after each.

    Yields
    ------
    index : int
        Position in `paths`.
    result : ndarray of shape (n_features,), float32, or ImageError
        The vector; for a volume seen by an encoder of 2D images (3 * n_features,): along each of the three axes the
        mean over 8 slices. An image that cannot be used gives the reason, and the others go on.

    Raises
    ------
    EncoderError
        If the encoder takes volumes and `spatial_dims` is 2.
    InvalidInputError
        If `spatial_dims`, `batch_size` or `n_threads` is out of range.
    """
    if spatial_dims not in (2, 3):
        raise InvalidInputError(f"`spatial_dims` must be 2 or 3; got {spatial_dims!r}.")
    for name, value in (("batch_size", batch_size), ("n_threads", n_threads)):
        if value < 1:
            raise InvalidInputError(f"`{name}` must be at least 1; got {value}.")
    if encoder.spatial_dims > spatial_dims:
        raise EncoderError(
            f"`--conf encoder` {encoder.name} takes volumes, but the images here are two-dimensional. "
            "Use `--conf encoder auto`."
        )
    return _embed(encoder, list(paths), spatial_dims, batch_size, n_threads, progress)


def _embed(
    encoder: Encoder,
    paths: list[Path],
    spatial_dims: int,
    batch_size: int,
    n_threads: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, NDArray[np.float32] | ImageError]]:
    slices = spatial_dims > encoder.spatial_dims
    inputs_per_image = 3 * SLICES_PER_AXIS if slices else 1
    images_per_batch = max(1, batch_size // inputs_per_image)
    pending: deque[Future[list[Array] | ImageError]] = deque()
    waiting = iter(paths)
    done = 0
    executor = ThreadPoolExecutor(n_threads, thread_name_prefix="decode")
    try:
        while done < len(paths):
            # One batch is encoded while the next is decoded; nothing beyond that is held.
            for path in islice(waiting, images_per_batch + n_threads - len(pending)):
                pending.append(executor.submit(_load, encoder, path, spatial_dims))
            loaded = [pending.popleft().result() for _ in range(min(images_per_batch, len(pending)))]
            for result in _encode(encoder, loaded, batch_size, slices):
                done += 1
                if not isinstance(result, ImageError) and not np.isfinite(result).all():
                    result = ImageError(
                        f"Image {paths[done - 1]} cannot be used: its vector is not finite. Rescale its values."
                    )
                if progress is not None:
                    progress(done, len(paths))
                yield done - 1, result
    finally:
        executor.shutdown(cancel_futures=True)


def _load(encoder: Encoder, path: Path, spatial_dims: int) -> list[Array] | ImageError:
    """Read and prepare one file; give the encoder's inputs."""
    try:
        image = read_image(path)
        if image.spatial_dims != spatial_dims:
            raise ImageError(
                f"{path.name} must be {_kind(spatial_dims)}, as `spatial_dims` {spatial_dims} says; got "
                f"{_kind(image.spatial_dims)} of {' x '.join(map(str, image.pixels.shape[1:]))}. Move it out of the "
                f"studies folder, or choose a `--conf preset` for {'volumes' if image.spatial_dims == 3 else '2D'}."
            )
        return [encoder.prepare(view) for view in _views(encoder, image)]
    except ImageError as error:
        return error
    except Exception as error:
        # One odd image must not end the run of thousands: whatever fails here fails for this image alone.
        logger.exception("Preparing %s failed.", path)
        return ImageError(
            f"Image {path} cannot be used: preparing it for the encoder failed ({type(error).__name__}: {error}). "
            "Export it again or remove it."
        )


def _views(encoder: Encoder, image: Image) -> list[Array]:
    if image.spatial_dims == encoder.spatial_dims:
        return [scale_intensities(image.pixels)]
    limits = intensity_range(image.pixels)
    return [scale_intensities(plane, limits) for plane in take_slices(image.pixels, image.spacing_mm)]


def _encode(
    encoder: Encoder, loaded: list[list[Array] | ImageError], batch_size: int, slices: bool
) -> Iterator[NDArray[np.float32] | ImageError]:
    inputs = (view for item in loaded if not isinstance(item, ImageError) for view in item)
    vectors: list[Array] = []
    # Some models take images of any size: a batch holds inputs of one size.
    for _, same in groupby(inputs, key=np.shape):
        while batch := list(islice(same, batch_size)):
            vectors.extend(encoder.encode(np.stack(batch)))
    remaining = iter(vectors)
    for item in loaded:
        if isinstance(item, ImageError):
            yield item
            continue
        views = np.stack(list(islice(remaining, len(item))))
        if slices:
            views = views.reshape(3, SLICES_PER_AXIS, -1).mean(axis=1, dtype=np.float64)
        yield views.reshape(-1).astype(np.float32)


def _kind(spatial_dims: int) -> str:
    return "a 2D image" if spatial_dims == 2 else "a volume"
