"""The scoring methods: what MONAI Label runs in a child process of the server."""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from coldstart.campaign import Campaign


class EmbeddingScoring(ScoringMethod):  # type: ignore[misc]
    """Embed what is new or changed, keep the map and the cold-start plan."""

    def __init__(self, campaign: Campaign):
        super().__init__("Embeds new images, puts them on the map, and keeps the cold-start plan")
        self._campaign = campaign

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Run; `embedded` counts the images that were embedded or set aside."""
        return {"embedded": self._campaign.embed()}


class EntropyScoring(ScoringMethod):  # type: ignore[misc]
    """Score all unlabelled images with the current model, by equations 5 and 6 of Levy et al. (2026)."""

    def __init__(self, campaign: Campaign):
        super().__init__("Entropy of the current model's prediction for every unlabelled image")
        self._campaign = campaign

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Run; `scored` counts the images."""
        return {"scored": self._campaign.score()}
