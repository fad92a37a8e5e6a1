"""Which images to label next: points in, indices out.

Cold start plans the first batch before any label exists; acquisition mixes a trained model's uncertainty with
distance on the map. Both follow Levy et al. (2026), arXiv:2601.18532. Every index is a zero-based row position in
`points`; every tie goes to the lowest index. Nothing here knows images, files, networks or servers.
"""

from coldstart.selection.acquisition import Acquisition, CandidateScores, acquire, acquire_next, score_candidates
from coldstart.selection.apportionment import apportion
from coldstart.selection.clusters import Clustering, Clusterings, choose_n_clusters
from coldstart.selection.cold_start import ColdStartPlan, Pick, plan_cold_start
from coldstart.selection.diameters import diameter
from coldstart.selection.entropy import image_entropy
from coldstart.selection.farthest import farthest_points
from coldstart.selection.medoids import cluster_medoids
from coldstart.selection.method import Method, Selection
from coldstart.selection.methods import METHODS
from coldstart.selection.spread import Spread

__all__ = [
    "METHODS",
    "Acquisition",
    "CandidateScores",
    "Clustering",
    "Clusterings",
    "ColdStartPlan",
    "Method",
    "Pick",
    "Selection",
    "Spread",
    "acquire",
    "acquire_next",
    "apportion",
    "choose_n_clusters",
    "cluster_medoids",
    "diameter",
    "farthest_points",
    "image_entropy",
    "plan_cold_start",
    "score_candidates",
]
