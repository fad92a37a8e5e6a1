"""The 2D map as a picture: the pool, the initial picks, the active picks and the held-out images.

After Figure 6 of Levy et al. (2026), arXiv:2601.18532. Colours are Okabe and Ito's, which the colour-blind can tell
apart; every kind has a shape of its own as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sqlalchemy import select

from coldstart.campaign.choosing import ACTIVE
from coldstart.campaign.planning import current_map
from coldstart.store import Image, Serving, Store, bytes_to_vector
from coldstart.store.schema import POINT_DTYPE

BLACK, ORANGE, BLUE, GREEN = "#000000", "#E69F00", "#0072B2", "#009E73"


@dataclass(frozen=True)
class MapPoint:
    """One image on the map. `served` counts from 1 in the order of serving; None was not served.

    `phase` is that of the image's first serving.
    """

    image_id: str
    x: float
    y: float
    cluster: int | None
    held_out: bool
    served: int | None
    phase: str | None


def map_points(store: Store) -> list[MapPoint]:
    """Images on the current map, by id; from a projection of more than two dimensions the first two are taken."""
    with store.reading() as session:
        current = current_map(session)
        if current is None:
            return []
        rows = session.scalars(select(Image).where(Image.map_id == current.id, Image.present).order_by(Image.image_id))
        served: dict[int, tuple[int, str]] = {}
        for row, phase in session.execute(select(Serving.image_row, Serving.phase).order_by(Serving.id)).tuples():
            served.setdefault(row, (len(served) + 1, phase))
        return [_map_point(row, *served.get(row.id, (None, None))) for row in rows]


def _map_point(row: Image, served: int | None, phase: str | None) -> MapPoint:
    point = np.resize(bytes_to_vector(row.point or b"", POINT_DTYPE), 2)
    return MapPoint(row.image_id, float(point[0]), float(point[1]), row.cluster, row.held_out, served, phase)


def draw_map(points: list[MapPoint], path: Path, title: str) -> None:
    """Draw the map as a PNG file; picks carry their number in the order of serving."""
    figure = Figure(figsize=(8, 7), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    kinds = [
        ("pool", [p for p in points if p.served is None and not p.held_out], "o", 26, "#C8C8C8", "#8A8A8A"),
        ("held out", [p for p in points if p.held_out], "X", 52, "white", GREEN),
        ("initial picks", [p for p in points if p.served is not None and p.phase != ACTIVE], "s", 150, BLUE, BLACK),
        ("active picks", [p for p in points if p.served is not None and p.phase == ACTIVE], "D", 150, ORANGE, BLACK),
    ]
    for name, members, marker, size, face, edge in kinds:
        if members:
            xs, ys = [p.x for p in members], [p.y for p in members]
            label = f"{name} ({len(members)})"
            axes.scatter(xs, ys, s=size, marker=marker, facecolor=face, edgecolor=edge, linewidth=0.9, label=label)
        for p in members:
            if p.served is not None:
                colour = "white" if face == BLUE else "black"
                axes.annotate(str(p.served), (p.x, p.y), ha="center", va="center", fontsize=6.5, color=colour)
    axes.set_title(title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4, frameon=False)
    FigureCanvasAgg(figure).print_png(path)
