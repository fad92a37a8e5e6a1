"""The whole campaign over HTTP, with the clients that people use."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from monailabel.client import MONAILabelClient
from PIL import Image

from coldstart.adapters.server import Server
from coldstart.adapters.simulation import SilentObserver, SimulatedAnnotator, connect
from coldstart.campaign.figure import draw_map, map_points
from coldstart.images import describe_mismatch, read_image, read_label
from coldstart.store import Store

KEYS = {"reason", "phase", "rank", "cluster", "distance", "entropy", "score", "alpha", "encoder", "model_version"}
N_ACTIVE = 3


@pytest.fixture(params=["monailabel", "slicer"])
def connect_client(
    request: pytest.FixtureRequest, slicer_client: ModuleType, tmp_path: Path
) -> Callable[[str], MONAILabelClient]:
    """MONAI Label's own client, and the plugin's; by default both keep results where a local server removes them."""
    kind = MONAILabelClient if request.param == "monailabel" else slicer_client.MONAILabelClient
    (tmp_path / "client").mkdir()
    return lambda url: kind(url, tmpdir=str(tmp_path / "client"), client_id="annotator")


def test_whole_campaign_follows_plan_then_model(
    make_studies: Callable[[], tuple[Path, Path, Path]],
    start: Callable[..., Server],
    connect_client: Callable[[str], MONAILabelClient],
    tmp_path: Path,
) -> None:
    studies, truth, held_out = make_studies()
    server = start(studies, heldout=str(held_out))
    client = connect_client(server.url)

    log = SimulatedAnnotator(client, truth, SilentObserver()).play(N_ACTIVE)

    served = [sample["id"] for sample in log.served]
    assert len(served) == len(set(served)) == 4 + N_ACTIVE
    assert not set(served) & set(held_out.read_text().split())
    assert [sample["phase"] for sample in log.served] == ["cold_start"] * 4 + ["active"] * N_ACTIVE
    assert [sample["rank"] for sample in log.served] == [1, 2, 3, 4, 1, 2, 3]
    assert all(sample.keys() >= KEYS and sample["encoder"].startswith("descriptor") for sample in log.served)
    assert [len(training["heldout"]["class_dice"]) for training in log.trainings] == [2, 2]
    assert all(training["heldout"]["n_images"] == 3 for training in log.trainings)
    assert log.trainings[0]["model_version"] == log.served[4]["model_version"] != log.trainings[1]["model_version"]
    assert log.served[4]["entropy"] == pytest.approx(1.0, abs=1e-6), "the first active pick has the highest entropy"
    for sample in log.served[4:]:
        mixed = 0.3 * sample["distance"] + 0.7 * sample["entropy"]
        assert sample["score"] == pytest.approx(mixed)
    assert log.campaign["labelled"] == 4 + N_ACTIVE

    info = client.info()
    assert next(iter(info["strategies"])) == "coldstart_al"
    assert info["models"]["attention_unet"]["labels"] == {"disk": 1, "square": 2}
    image_id = next(iter(set(path.stem for path in studies.glob("*.png")) - set(served)))
    result, parameters = client.infer("attention_unet", image_id, {})
    image, label = read_image(studies / f"{image_id}.png"), read_label(Path(result))
    assert describe_mismatch(image.geometry, label.geometry) is None
    assert set(np.unique(label.values)) <= {0, 1, 2}
    assert parameters["label_names"] == {"disk": 1, "square": 2}

    points = map_points(Store(Path(log.campaign["state_dir"])))
    draw_map(points, tmp_path / "map.png", "a map")
    assert sorted(p.served for p in points if p.served is not None) == list(range(1, 5 + N_ACTIVE))
    assert Image.open(tmp_path / "map.png").size == (1200, 1050)


def test_montgomery_cold_start_with_imagenet_encoder_passes_the_contract(
    shared_data: Path, start: Callable[..., Server], tmp_path: Path
) -> None:
    studies = tmp_path / "montgomery"
    studies.mkdir()
    files = sorted((shared_data / "montgomery" / "images").glob("*.png"))[::3]
    for file in files:
        (studies / file.name).write_bytes(file.read_bytes())
    held_out = tmp_path / "heldout.txt"
    held_out.write_text("\n".join(file.stem for file in files[:6]))
    encoder = f"hf:{shared_data / 'encoders' / 'mobilenet_v2_imagenet_hf'}"
    server = start(studies, encoder=encoder, heldout=str(held_out), labels="right_lung:1,left_lung:2", budget="6")
    client = connect(server.url)
    annotator = SimulatedAnnotator(client, shared_data / "montgomery" / "labels", SilentObserver())
    annotator.wait_until("embedded", "embedding", lambda state: state["planned"] == 6)
    annotator.label(6)
    served = annotator.log.served
    assert len({s["id"] for s in served}) == 6
    assert not {s["id"] for s in served} & set(held_out.read_text().split())
    assert all(s["phase"] == "cold_start" and "mobilenet" in s["encoder"] for s in served)
    state = client.info()["coldstart"]
    medoids = [s["cluster"] for s in served if "medoid" in s["reason"]]
    assert sorted(medoids) == list(range(state["n_clusters"])) and 2 <= state["n_clusters"] <= 6
    assert state["images"] == len(files) - 6 and state["label_problems"] == []
