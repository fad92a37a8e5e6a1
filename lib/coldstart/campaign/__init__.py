"""What to serve next and why, and what a saved label changes; knows no server."""

from coldstart.campaign.campaign import Campaign, TaskName, read_held_out
from coldstart.campaign.inventory import LabelFile
from coldstart.campaign.serving import BEFORE_EMBEDDING, STRATEGIES, Sample, StrategyName

__all__ = [
    "BEFORE_EMBEDDING",
    "STRATEGIES",
    "Campaign",
    "LabelFile",
    "Sample",
    "StrategyName",
    "TaskName",
    "read_held_out",
]
