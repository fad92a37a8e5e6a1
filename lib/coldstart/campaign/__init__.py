"""What to serve next and why, and what a saved label changes; knows no server."""

from coldstart.campaign.baselines import BASELINES
from coldstart.campaign.campaign import Campaign
from coldstart.campaign.choosing import BEFORE_EMBEDDING, STRATEGIES, StrategyName
from coldstart.campaign.held_out import read_held_out
from coldstart.campaign.inventory import ImageFile, LabelFile
from coldstart.campaign.serving import Sample

__all__ = [
    "BASELINES",
    "BEFORE_EMBEDDING",
    "STRATEGIES",
    "Campaign",
    "ImageFile",
    "LabelFile",
    "Sample",
    "StrategyName",
    "read_held_out",
]
