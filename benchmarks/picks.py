"""What the methods pick, before any training: the clusters found, how unusual the picks are, how well they cover.

    python benchmarks/picks.py benchmarks/montgomery_two_cores.yaml --images IMAGES --labels LABELS --encoder hf:FOLDER

For each seed of the protocol: the map of its pool, the number of clusters with the best silhouette, and for each method

- unusual: the mean rank, from 0 (the densest image of the pool) to 1, of the picks by their mean distance to their ten
  nearest neighbours among the embeddings; images drawn at random have 0.5
- cover: the mean distance, among the embeddings, of the pool's images to the nearest pick, divided by what random picks
  of that seed have: below 1 they cover better
- small: the share of picks whose structures together are smaller than in nine of ten images of the pool; images drawn
  at random have 0.1
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from coldstart.experiments.bench import read_images
from coldstart.experiments.datasets import split
from coldstart.experiments.features import embed_dataset, project_pool
from coldstart.experiments.protocol_files import load_protocol
from coldstart.segmentation.samples import read_sample
from coldstart.selection import METHODS, plan_cold_start

N_NEIGHBOURS = 10
N_DRAWS = 20
"""Random picks of a seed: one draw says little."""
ARMS = {
    "random": ("random", {}),
    "cold start (ours)": ("cold_start", {}),
    "the same, farthest over all picks": ("cold_start", {"fill": "farthest_of_all"}),
    "the same, neighbours of the medoids": ("cold_start", {"fill": "neighbours"}),
    "k-means to budget": ("k_means", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--group-by")
    parser.add_argument("--seeds", default=",".join(map(str, range(43, 54))))
    arguments = parser.parse_args()
    named = {key: getattr(arguments, key) for key in ("images", "labels", "manifest", "group_by")}
    protocol = load_protocol(arguments.protocol, {key: value for key, value in named.items() if value is not None})
    dataset = read_images(protocol)
    areas = np.array([np.count_nonzero(read_sample(one)[1]) for one in dataset.samples])
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        embeddings = embed_dataset(dataset, arguments.encoder, folder, device="cpu")
        for seed in seeds:
            pool = split(dataset, seed, protocol.test_fraction).pool
            points = project_pool(dataset, embeddings, pool, protocol.projection, 30.0, seed, folder)
            for budget in protocol.budgets:
                for arm, row in describe(embeddings.vectors[pool], points, areas[pool], budget, seed).items():
                    found.setdefault((budget, arm), []).append(row)
    print(table(f"{len(dataset.samples)} images, seeds {arguments.seeds}, encoder {embeddings.encoder}", found))


def describe(
    vectors: np.ndarray, points: np.ndarray, areas: np.ndarray, budget: int, seed: int
) -> dict[str, dict[str, float]]:
    between = cdist(vectors, vectors)
    sparse = np.sort(between, axis=1)[:, 1 : N_NEIGHBOURS + 1].mean(axis=1)
    unusual = (rankdata(sparse) - 1) / (len(sparse) - 1)
    small = areas < np.quantile(areas, 0.1)
    n_clusters = plan_cold_start(points, budget, random_state=seed).n_clusters
    rows = {}
    for arm, (method, options) in ARMS.items():
        draws = range(seed, seed + N_DRAWS) if method == "random" else [seed]
        select = METHODS[method].select
        picks = [select(vectors, points, budget, random_state=draw, **options).indices for draw in draws]
        rows[arm] = {
            "clusters": n_clusters,
            "unusual": float(np.mean([unusual[list(one)].mean() for one in picks])),
            "cover": float(np.mean([between[:, list(one)].min(axis=1).mean() for one in picks])),
            "small": float(np.mean([small[list(one)].mean() for one in picks])),
        }
    random_cover = rows["random"]["cover"]
    for row in rows.values():
        row["cover"] /= random_cover
    return rows


def table(title: str, found: dict[tuple[int, str], list[dict[str, float]]]) -> str:
    lines = [
        title,
        "",
        "| labels | method | clusters, by seed | unusual | cover | small |",
        "|---|---|---|---|---|---|",
    ]
    for (budget, arm), rows in found.items():
        clusters = " ".join(str(int(row["clusters"])) for row in rows) if arm.startswith("cold start") else ""
        means = [statistics.mean(row[key] for row in rows) for key in ("unusual", "cover", "small")]
        lines.append(f"| {budget} | {arm} | {clusters} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
