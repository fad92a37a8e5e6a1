"""The kept models for people and scripts: one line for each, and two of them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coldstart.campaign.campaign import Campaign
from coldstart.campaign.curve import learning_curve
from coldstart.campaign.held_out import corrected_labels
from coldstart.campaign.retraining import compare


def model_lines(campaign: Campaign) -> list[dict[str, Any]]:
    """Return the kept models, the oldest first, in plain JSON types.

    `heldout_dice` is each model's on the held-out images that had labels when it was trained; `prequential_dice` the
    mean over the labels that were saved while it was in use. `validation` is how its training went: the Dice on
    `validation_images` held-out images by epoch.
    """
    rounds = {one.model_version: one for one in learning_curve(campaign.store).rounds}
    in_use, versions = campaign.publisher.in_use(), campaign.publisher.versions
    states = versions.states()
    lines = []
    for record in versions.records():
        version, heldout = str(record["version"]), record.get("heldout")
        judged, validation = rounds.get(version), record.get("validation") or {}
        lines.append(
            {
                "version": version,
                "in_use": version == in_use,
                "state": states.get(version, "done"),
                "refused": "refused" in record,
                "created": record.get("created"),
                "trigger": record.get("trigger"),
                "n_images": record.get("n_images"),
                "epochs": record.get("epochs"),
                "random_state": _config(record).get("random_state"),
                "training_s": record.get("training_s"),
                "heldout_dice": heldout["dice"] if heldout else None,
                "heldout_images": len(heldout["images"]) if heldout else 0,
                "validation": dict(validation.get("dice", {})),
                "validation_images": len(validation.get("images", ())),
                "prequential_dice": judged.mean if judged is not None else None,
                "prequential_labels": judged.n if judged is not None else 0,
                "sentence": record.get("refused") or (record.get("comparison") or {}).get("sentence"),
                "file": str(versions.path(version)),
            }
        )
    return lines


def side_by_side(campaign: Campaign, first: str, second: str) -> dict[str, Any]:
    """Compare two kept models by what is known of them: no image is segmented.

    An image whose label was changed between the two trainings is left out.

    Raises
    ------
    InvalidInputError
        If one of them is not kept.
    """
    one, other = (campaign.publisher.versions.read(version) for version in (first, second))
    images = [frozenset(record.get("training_images") or ()) for record in (one, other)]
    configs = _config(one), _config(other)
    dice = _dice(one, other), _dice(other, one)
    found = compare(first, *dice, basis="heldout", n_learned=0, margin=campaign.settings.publish_margin)
    lines = {line["version"]: line for line in model_lines(campaign)}
    return {
        "models": [lines[first], lines[second]],
        "only_in_first": sorted(images[0] - images[1]),
        "only_in_second": sorted(images[1] - images[0]),
        "in_both": len(images[0] & images[1]),
        "settings": {
            name: [configs[0].get(name), configs[1].get(name)]
            for name in sorted(configs[0].keys() | configs[1].keys())
            if configs[0].get(name) != configs[1].get(name)
        },
        "heldout": {
            "n": found.n,
            "first": found.old,
            "second": found.new,
            "gain": None if found.old is None or found.new is None else found.new - found.old,
            "low": found.low,
            "high": found.high,
        },
    }


def before_the_one_in_use(campaign: Campaign) -> str | None:
    """Return the kept model that came into use before the one in use was trained; None where there is none."""
    in_use = campaign.publisher.in_use()
    used = [line["version"] for line in model_lines(campaign) if line["in_use"] or not line["refused"]]
    if in_use not in used or used.index(in_use) == 0:
        return None
    return str(used[used.index(in_use) - 1])


def _config(record: Mapping[str, Any]) -> dict[str, Any]:
    return dict(record.get("config") or {})


def _dice(record: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """Dice by held-out image of one model; without those whose label was another one when the other was judged."""
    heldout = record.get("heldout")
    if not heldout:
        return {}
    labels, others = (one.get("heldout_labels") or {} for one in (record, other))
    changed = corrected_labels(labels, others)
    return {image["image_id"]: image["dice"] for image in heldout["images"] if image["image_id"] not in changed}
