"""100,000 points in 2D within 4 GB: the limit is on the address space of a process of its own."""

import subprocess
import sys

import pytest

PREPARE = """
import resource
import numpy as np
from coldstart.selection import acquire, cluster_medoids, diameter, farthest_points
from scipy.spatial.distance import cdist

# What is mapped already (libraries, thread stacks) is not ours to count; an n x n matrix would take 80 GB.
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**30, mapped + 2**30))
generator = np.random.default_rng(0)
points = generator.normal(size=(100_000, 2)) * [30, 10]
points[60_000:] += [200, 50]
labels = (np.arange(100_000) >= 60_000).astype(int)
"""

CASES = {
    "medoids": """
medoids = cluster_medoids(points, labels)
for cluster, medoid in enumerate(medoids):
    members = points[labels == cluster]
    sums = lambda rows: cdist(rows, members).sum(axis=1)
    near = members[cdist(members, points[[medoid]])[:, 0] < 0.5]
    assert len(near) > 10 and sums(points[[medoid]]) <= sums(near).min() * (1 + 1e-12)
""",
    "medoid of coincident points": """
points = np.repeat(points[:10], 10_000, axis=0)
first = cluster_medoids(points[::10_000], np.zeros(10, dtype=int))
assert cluster_medoids(points, np.zeros(100_000, dtype=int)) == 10_000 * first
""",
    "farthest points": """
start = generator.choice(100_000, size=500, replace=False)
picks, gaps = farthest_points(points, start, 50)
taken = np.concatenate([start, picks])
for step in (500, 525, 549):
    nearest = np.min([cdist(points, points[part]).min(axis=1) for part in np.array_split(taken[:step], 10)], axis=0)
    assert nearest.argmax() == taken[step] and nearest.max() == gaps[step - 500]
""",
    "diameter": """
angles = np.linspace(0, np.pi, 720, endpoint=False)
directions = np.stack([np.cos(angles), np.sin(angles)])
width = max((points @ direction).max() - (points @ direction).min() for direction in directions.T)
assert width <= diameter(points) <= width / np.cos(np.pi / 1440)  # a direction is at most half a step away
""",
    "acquisition": """
result = acquire(points, generator.uniform(size=100_000), np.arange(0, 100_000, 200), 20, alpha=1)
assert len(set(result.indices.tolist())) == 20
assert (np.diff(result.distance[1:] * 1.0) <= 0.05).all()
""",
}


@pytest.mark.parametrize("case", CASES)
def test_selection_of_100000_points_needs_no_matrix_of_all_pairs(case):
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + CASES[case]], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
