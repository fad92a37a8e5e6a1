"""How alike are the images that an encoder calls neighbours? The descriptor beside an ImageNet network and chance.

    python benchmarks/descriptor_quality.py [MONTGOMERY] [--encoder NAME ...] [--output DIR]

MONTGOMERY is a folder with `images/X.png` and label maps `labels/X.png` (values above 0 are lung); the first digit
after the last underscore of a name is 1 for tuberculosis. For each image, its 5 nearest neighbours are taken by
Euclidean distance, once between the vectors and once on the 2D t-SNE map as the app uses it (mean over 5 seeds).
Compared over all pairs of an image and a neighbour:

- area: absolute difference of the share of the image that is lung (smaller is more alike);
- shape: Dice of the two lung masks, resized to 128 x 128 (larger is more alike);
- TB: share of neighbours with the same status.

Chance is the mean over 2,000 random permutations of the images among the vectors; p is the share of permutations that
are at least as good, one-sided. Writes descriptor_quality.md and .json.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.spatial.distance import cdist

from coldstart.embedding import create_encoder, embed_files
from coldstart.images import read_label
from coldstart.projection import fit_projection

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = REPOSITORY.parent / "shared" / "data"
N_NEIGHBOURS = 5
N_PERMUTATIONS = 2000
MAP_SEEDS = range(5)
MASK_SIZE = 128
HARDWARE = "2 CPU cores"

Matrix = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DATA / "montgomery")
    imagenet = f"hf:{DATA / 'encoders' / 'mobilenet_v2_imagenet_hf'}"
    parser.add_argument("--encoder", nargs="+", default=["descriptor", imagenet])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()

    paths = sorted((options.folder / "images").glob("*.png"))
    alike = likeness(paths)
    rows = []
    for name in options.encoder:
        encoder = create_encoder(name)
        results = embed_files(encoder, paths, spatial_dims=2)
        vectors = np.stack([vector for _, vector in track(results, encoder.name, len(paths))])
        maps = [fit_projection(vectors, "tsne", random_state=seed) for seed in MAP_SEEDS]
        for space, point_sets in (("vectors", [vectors]), ("t-SNE map", maps)):
            neighbours = [nearest(points) for points in point_sets]
            for measure, matrix in alike.items():
                rows.append(
                    {"encoder": encoder.name, "space": space, "measure": measure, **compare(neighbours, matrix)}
                )
    write(rows, len(paths), options.output)


def likeness(paths: list[Path]) -> dict[str, Matrix]:
    """Give, for each measure, a symmetric matrix over the images in which larger means more alike."""
    masks = np.stack([lung_mask(path.parents[1] / "labels" / path.name) for path in paths])
    area = masks.mean(axis=1)
    dice = 2 * masks @ masks.T / (masks.sum(axis=1)[:, None] + masks.sum(axis=1)[None])
    tuberculosis = np.array([path.stem.rsplit("_", 1)[-1][0] == "1" for path in paths])
    return {
        "area": -np.abs(area[:, None] - area[None]),
        "shape": dice,
        "TB": (tuberculosis[:, None] == tuberculosis[None]).astype(float),
    }


def lung_mask(path: Path) -> Matrix:
    lung = read_label(path).values > 0
    rows, columns = (np.arange(MASK_SIZE) * length // MASK_SIZE for length in lung.shape)
    return lung[np.ix_(rows, columns)].ravel().astype(float)


def nearest(points: NDArray[np.floating]) -> NDArray[np.intp]:
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :N_NEIGHBOURS]


def compare(neighbours: list[NDArray[np.intp]], alike: Matrix) -> dict[str, float]:
    rng = np.random.default_rng(0)
    images = np.arange(len(alike))[:, None]

    def mean(order: NDArray[np.intp]) -> float:
        return float(np.mean([alike[order[images], order[near]].mean() for near in neighbours]))

    observed = mean(np.arange(len(alike)))
    by_chance = np.array([mean(rng.permutation(len(alike))) for _ in range(N_PERMUTATIONS)])
    p = (1 + np.count_nonzero(by_chance >= observed)) / (1 + N_PERMUTATIONS)
    effect = (observed - by_chance.mean()) / by_chance.std()
    return {
        "neighbours": round(abs(observed), 4),
        "chance": round(abs(float(by_chance.mean())), 4),
        "standard_deviations": round(float(effect), 1),
        "p": round(p, 5),
    }


def write(rows: list[dict[str, object]], n_images: int, folder: Path) -> None:
    columns: dict[str, Callable[[dict[str, object]], str]] = {
        "encoder": lambda row: str(row["encoder"]),
        "neighbours in": lambda row: str(row["space"]),
        "measure": lambda row: str(row["measure"]),
        "neighbours": lambda row: f"{row['neighbours']:.3f}",
        "chance": lambda row: f"{row['chance']:.3f}",
        "apart by (sd)": lambda row: f"{row['standard_deviations']:.1f}",
        "p": lambda row: f"{row['p']:.4f}",
    }
    table = Table(*columns)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [give(row) for give in columns.values()]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    Console().print(table)
    folder.mkdir(parents=True, exist_ok=True)
    head = (
        "# Are neighbours alike?\n\n"
        f"{n_images} Montgomery radiographs, {N_NEIGHBOURS} nearest neighbours, {N_PERMUTATIONS} permutations; "
        f"{HARDWARE}. Command: `python benchmarks/descriptor_quality.py`.\n\n"
        "area: difference of the lungs' share of the image (smaller is better); shape: Dice of the lung masks, TB: "
        "share with the same status (larger is better). "
        f"p = {1 / (1 + N_PERMUTATIONS):.4f} is the smallest that so many permutations can give.\n\n"
    )
    (folder / "descriptor_quality.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    record = {
        "command": "python benchmarks/descriptor_quality.py",
        "hardware": HARDWARE,
        "n_images": n_images,
        "n_neighbours": N_NEIGHBOURS,
        "n_permutations": N_PERMUTATIONS,
        "rows": rows,
    }
    (folder / "descriptor_quality.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
