"""Probability maps to one number for each image."""

from coldstart.scoring.entropy import batch_entropy, score_entropy

__all__ = ["batch_entropy", "score_entropy"]
