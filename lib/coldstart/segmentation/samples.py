"""Reading labelled images: files to arrays whose label speaks in class indices, checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from coldstart.exceptions import LabelError
from coldstart.images import Image, describe_mismatch, read_image, read_label
from coldstart.segmentation.config import Sample

N_THREADS = 4
"""Files decoded at the same time; more gains nothing, and every volume being decoded lies in memory."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_sample(sample: Sample) -> tuple[Image, NDArray[np.int16]]:
    """Read an image and its label as class indices.

    Parameters
    ----------
    sample : Sample
        The two files and the meaning of the label's values.

    Returns
    -------
    image : Image
    classes : ndarray of shape (*spatial), int
        0 is the background.

    Raises
    ------
    ImageError, LabelError
        If a file cannot be used, the two do not lie on one grid, or the label holds a value without a meaning.
    """
    image = read_image(sample.image)
    label = read_label(sample.label)
    mismatch = describe_mismatch(image.geometry, label.geometry)
    if mismatch is not None:
        raise LabelError(mismatch)
    return image, to_classes(label.values, sample.class_of_value, sample.label.name)


def to_classes(values: NDArray[Any], class_of_value: Mapping[int, int], name: str) -> NDArray[np.int16]:
    """Replace the values of a label file by class indices.

    Parameters
    ----------
    values : ndarray of int
        As read from the file.
    class_of_value : Mapping of int to int
        Class of every value that may occur; 0 is the background in any case.
    name : str
        The file, for the error's sentence.

    Returns
    -------
    classes : ndarray of the same shape, int16

    Raises
    ------
    LabelError
        If a value has no class.
    """
    present, inverse = np.unique(values, return_inverse=True)
    unknown = [int(value) for value in present if value != 0 and int(value) not in class_of_value]
    if unknown:
        raise LabelError(
            f"The label {name} holds the value{'s' if len(unknown) > 1 else ''} {', '.join(map(str, unknown))}, whose "
            f"meaning is not known (known: {', '.join(map(str, sorted(class_of_value))) or 'none'}). "
            "Save the label again with its segment names."
        )
    table = np.array([0 if value == 0 else class_of_value[int(value)] for value in present], dtype=np.int16)
    return table[inverse].reshape(values.shape)


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], n_threads: int = N_THREADS
) -> Iterator[Result]:
    """Apply a function in threads; results in order, and never more than twice `n_threads` of them waiting."""
    with ThreadPoolExecutor(n_threads) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * n_threads:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
