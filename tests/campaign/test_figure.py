"""The picture of the map."""

from __future__ import annotations

import campaign_case as case
import numpy as np
import pytest
from campaign_case import click, clicks, label
from PIL import Image as Picture

from coldstart.campaign.figure import draw_map, map_points


def test_points_are_those_of_the_map_with_the_order_of_first_serving(campaign):
    served = [click(campaign, annotator="anna").image_id for _ in range(3)]
    points = {point.image_id: point for point in map_points(campaign.store)}
    found = case.rows(campaign)
    assert list(points) == sorted(found)
    for key, point in points.items():
        assert (point.x, point.y) == pytest.approx(tuple(case.point(found[key])))
        assert (point.cluster, point.held_out) == (found[key].cluster, key in case.HELD_OUT)
    assert [points[key].served for key in served] == [1, 2, 3]
    assert {point.served for key, point in points.items() if key not in served} == {None}
    assert {points[key].phase for key in served} == {"cold_start"}


def test_image_served_twice_keeps_its_first_number(campaign):
    order = clicks(campaign, case.N_POOL)
    assert clicks(campaign, 1) == order[:1]
    points = {point.image_id: point for point in map_points(campaign.store)}
    assert [points[key].served for key in order] == list(range(1, case.N_POOL + 1))
    assert points[order[0]].phase == "cold_start"


def test_map_is_drawn_with_every_kind_of_image(campaign, tmp_path):
    for image_id in clicks(campaign, case.BUDGET):
        label(campaign, image_id)
    case.score(campaign, case.random_entropies())
    clicks(campaign, 3)
    draw_map(map_points(campaign.store), tmp_path / "map.png", "A map")
    pixels = np.asarray(Picture.open(tmp_path / "map.png").convert("RGB")).reshape(-1, 3)
    assert len(pixels) > 500 * 500
    colours = {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}
    blue, orange, green, grey = (0, 0x72, 0xB2), (0xE6, 0x9F, 0), (0, 0x9E, 0x73), (0xC8, 0xC8, 0xC8)
    assert {blue, orange, green, grey} <= colours


@pytest.mark.filterwarnings("ignore:No artists")
def test_empty_map_has_no_points_and_is_drawn(make_new, tmp_path):
    assert map_points(make_new().store) == []
    draw_map([], tmp_path / "map.png", "Nothing yet")
    assert (tmp_path / "map.png").stat().st_size > 0
