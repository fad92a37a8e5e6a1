"""A campaign under way on a real server, for the page to show: two models, labels, a skip, an image set aside."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from monailabel.client import MONAILabelClient

from coldstart.adapters.server import Server
from coldstart.adapters.simulation import SilentObserver, SimulatedAnnotator, connect

N_POOL, BUDGET = 22, 6
CONF = {
    "preset": "chest_xray",
    "labels": "right_lung:1,left_lung:2,heart:3",
    "encoder": "descriptor",
    "spatial_size": "48,48",
    "epochs": "8",
    "budget": str(BUDGET),
    "prelabel": "0",
    "retrain_at_budget": "false",
    "publish_margin": "1",
    "device": "cpu",
}
BROKEN = "chest_broken"


def write_studies(sample_data: Path, folder: Path, n_pool: int = N_POOL) -> dict[str, str]:
    """Copy a part of the sample data, its held-out images with their labels, and a file without its end.

    Returns the pairs of `--conf`; images are in `folder / "studies"`.
    """
    chest, studies = sample_data / "chest", folder / "studies"
    final = studies / "labels" / "final"
    final.mkdir(parents=True)
    held_out = (chest / "heldout.txt").read_text().split()[: n_pool // 6]
    pool = [path.stem for path in sorted(chest.glob("chest_*.nrrd")) if path.stem not in held_out][:n_pool]
    for image_id in [*held_out, *pool]:
        shutil.copy(chest / f"{image_id}.nrrd", studies)
    for image_id in held_out:
        shutil.copy(chest / "groundtruth" / f"{image_id}.nrrd", final)
    whole = (chest / f"{pool[0]}.nrrd").read_bytes()
    (studies / f"{BROKEN}.nrrd").write_bytes(whole[: len(whole) // 2])
    listing = folder / "heldout.txt"
    listing.write_text("\n".join(held_out))
    return {**CONF, "heldout": str(listing)}


class Annotators:
    """Two annotators of a server; the label of each image is its ground truth."""

    def __init__(self, server: Server, truth: Path):
        self._truth = truth
        self.anna = self._client(server.url, "anna")
        self.berg = self._client(server.url, "Dr. Berg")

    @staticmethod
    def _client(url: str, name: str) -> MONAILabelClient:
        return connect(url, name)

    def serve(self, client: MONAILabelClient) -> str:
        """Click Next Sample; the id of the image."""
        return str(client.next_sample("coldstart_al", {})["id"])

    def save(self, client: MONAILabelClient, image_id: str) -> None:
        """Save the label of an image."""
        client.save_label(image_id, str(self._truth / f"{image_id}.nrrd"))

    def label(self, client: MONAILabelClient, n: int) -> list[str]:
        """Label the next `n` images."""
        found = []
        for _ in range(n):
            found.append(self.serve(client))
            self.save(client, found[-1])
        return found

    def train(self) -> None:
        """Train a model, and wait until every image was looked at by it."""
        SimulatedAnnotator(self.anna, self._truth, SilentObserver()).train()
        self.wait_until_scored()

    def wait_until_scored(self) -> None:
        """Wait until every image was looked at by the model in use."""
        player = SimulatedAnnotator(self.anna, self._truth, SilentObserver())
        player.wait_until("scored", "entropy", lambda state: state["scored_model_version"] == state["model_version"])

    def wait_for_plan(self) -> None:
        """Wait until the first batch is planned."""
        player = SimulatedAnnotator(self.anna, self._truth, SilentObserver())
        player.wait_until("embedded", "embedding", lambda state: state["planned"] is not None)

    def state(self) -> dict[str, Any]:
        """What the server says of the campaign."""
        return dict(self.anna.info()["coldstart"])


def play(server: Server, truth: Path) -> Annotators:
    """Label the first batch and some after it, train twice, skip an image, and leave one served."""
    people = Annotators(server, truth)
    people.wait_for_plan()
    people.label(people.anna, 4)
    people.label(people.berg, 2)
    people.train()
    people.label(people.anna, 3)
    people.label(people.berg, 1)
    people.train()
    people.serve(people.anna)  # skipped by asking again
    people.serve(people.anna)
    return people
