"""Embedding vectors to points on a map, and new vectors onto a map that is there already."""

from coldstart.projection.projection import PROJECTIONS, ProjectionMethod, fit_projection, place

__all__ = ["PROJECTIONS", "ProjectionMethod", "fit_projection", "place"]
