"""Probability maps to one number for each image."""

from coldstart.scoring.entropy import batch_entropy, decoding_threads, score_entropy
from coldstart.scoring.uncertainty import (
    UNCERTAINTY_KINDS,
    UncertaintyKind,
    batch_bald,
    batch_least_confidence,
    batch_margin,
    score_uncertainty,
)

__all__ = [
    "UNCERTAINTY_KINDS",
    "UncertaintyKind",
    "batch_bald",
    "batch_entropy",
    "batch_least_confidence",
    "batch_margin",
    "decoding_threads",
    "score_entropy",
    "score_uncertainty",
]
