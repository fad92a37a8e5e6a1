"""Held-out images: never planned, served or trained on; they do not fit the map, and are placed on it."""

from __future__ import annotations

import campaign_case as case
import numpy as np
import pytest
from campaign_case import HELD_OUT, N_POOL, click, clicks, label, planned, rows

from coldstart.campaign import learning, read_held_out
from coldstart.exceptions import ModelError, SettingsError
from coldstart.projection import fit_projection, place
from coldstart.store import Image, bytes_to_vector


def vectors(campaign):
    with campaign.store.reading() as session:
        found = session.query(Image.image_id, Image.vector).order_by(Image.image_id).all()
    return {image_id: bytes_to_vector(vector) for image_id, vector in found}


@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_held_out_images_do_not_fit_the_map_and_are_placed_on_it(campaign, make_campaign, projection):
    if projection != "pca":
        campaign = make_campaign(projection=projection)
        campaign.embed()
    found, by_id = rows(campaign), vectors(campaign)
    fitted = [key for key in found if key not in HELD_OUT]
    assert [key for key, row in found.items() if row.fitted] == fitted
    basis = np.stack([by_id[key] for key in fitted])
    points = fit_projection(basis, projection)
    assert np.array_equal(points, np.stack([case.point(found[key]) for key in fitted]))
    placed = place(np.stack([by_id[key] for key in HELD_OUT]), basis, points, projection)
    assert np.allclose(placed, np.stack([case.point(found[key]) for key in HELD_OUT]))


def test_held_out_images_are_never_planned_or_served(make_campaign):
    campaign = make_campaign(budget=100)
    campaign.embed()
    assert len(planned(campaign)) == N_POOL
    assert not set(planned(campaign)) & set(HELD_OUT)
    for strategy in ("coldstart_al", "uniform_random", "entropy_diversity", "cold_start"):
        assert not set(clicks(campaign, N_POOL, strategy)) & set(HELD_OUT)


def test_held_out_images_are_not_served_before_the_embedding(make_new, held_out_file, pictures):
    campaign = make_new(heldout=held_out_file)
    campaign.sync(case.list_files(pictures), {})
    assert not set(clicks(campaign, N_POOL + 3)) & set(HELD_OUT)


def test_nothing_is_served_when_only_held_out_images_are_left(campaign):
    for image_id in case.pool(campaign)[0]:
        label(campaign, image_id)
    assert campaign.next_sample("coldstart_al") is None


def test_held_out_labels_are_judged_on_and_never_trained_on(campaign):
    for image_id in ("h1", "p03", "h0"):
        label(campaign, image_id)
    found = learning.labelled_images(campaign.store)
    assert [sample.image_id for sample in found.training] == ["p03"]
    assert [sample.image_id for sample in found.held_out] == ["h0", "h1"]


def test_training_on_held_out_labels_alone_is_refused(campaign):
    label(campaign, "h0")
    with pytest.raises(ModelError, match="at least 1 labelled image outside the held-out ones; got 0"):
        campaign.trainings.require_images()


def test_held_out_labels_do_not_count_for_the_budget(campaign):
    for image_id in HELD_OUT:
        label(campaign, image_id)
    case.score(campaign, case.random_entropies())
    assert [click(campaign).why["phase"] for _ in range(8)] == ["cold_start"] * 8


def test_held_out_images_are_not_scored(campaign):
    assert case.score(campaign, case.random_entropies()) == N_POOL
    assert all(rows(campaign)[key].entropy is None for key in HELD_OUT)


def test_held_out_images_do_not_widen_the_diameter(campaign):
    """A held-out image very far away: the normalised distances stay those of the pool alone."""
    served = clicks(campaign, 8)
    for image_id in served:
        label(campaign, image_id)
    case.score(campaign, case.random_entropies())
    with campaign.store.writing() as session:
        far = session.query(Image).filter_by(image_id="h0").one()
        far.point = np.array([1e6, 1e6]).tobytes()
    assert click(campaign, alpha=1.0).why["distance"] > 1e-3


def test_list_of_held_out_images_may_change(campaign, make_campaign, pictures, tmp_path):
    shorter = tmp_path / "shorter.txt"
    shorter.write_text("h0\n")
    changed = make_campaign(heldout=shorter)
    changed.sync(case.list_files(pictures), {})
    assert [key for key, row in rows(changed).items() if row.held_out] == ["h0"]
    assert {"h1", "h2", "h3"} <= set(clicks(changed, N_POOL + 3))


def test_list_of_held_out_images_leaves_out_comments_and_empty_lines(held_out_file):
    assert read_held_out(held_out_file) == set(HELD_OUT)
    assert read_held_out(None) == set()


def test_list_that_is_not_text_is_named_in_a_sentence(tmp_path):
    path = tmp_path / "heldout.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=f"--conf heldout must name a text file .* got '{path}'"):
        read_held_out(path)


def test_image_held_out_later_leaves_the_map_that_it_made(make_campaign, held_out_file, pictures, tmp_path):
    longer = tmp_path / "longer.txt"
    longer.write_text(held_out_file.read_text() + "\np07\n")
    campaign = make_campaign(heldout=longer)
    campaign.sync(case.list_files(pictures), {})
    assert "embedding" in campaign.tasks_to_do()
    campaign.embed()
    found, by_id = rows(campaign), vectors(campaign)
    fitted = [key for key in found if key not in (*HELD_OUT, "p07")]
    assert [key for key, row in found.items() if row.fitted] == fitted
    points = fit_projection(np.stack([by_id[key] for key in fitted]), "pca")
    assert np.array_equal(points, np.stack([case.point(found[key]) for key in fitted]))
    assert "p07" not in planned(campaign) and "embedding" not in campaign.tasks_to_do()


def test_held_out_id_that_no_image_has_is_said_once(make_campaign, pictures, tmp_path, caplog):
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("h0\nh1.png\n")
    campaign = make_campaign(heldout=wrong)
    for _ in range(2):
        campaign.sync(case.list_files(pictures), {})
    sentences = [record.getMessage() for record in caplog.records if "that no image has" in record.getMessage()]
    assert len(sentences) == 1 and "'h1.png'" in sentences[0]
    assert campaign.status()["held_out_unknown"] == ["h1.png"]
