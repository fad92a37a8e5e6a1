// The map before Plotly is here, which takes the browser half a second to run: the same points at the same places.

import { PATHS } from "./marks.js";

/** Of the drawings in the legend: what Plotly calls a mark's size is the diameter of its circle. */
const RADIUS = 5,
  RADIUS_OPEN = 6;
/** A trace with more points is drawn as dots: shapes would take as long as Plotly itself. */
const SHAPES_AT_MOST = 2500;

/** Draw Plotly's traces on a canvas, with the part of the plane that fills it: left, right, bottom, top. */
export function sketch(canvas, traces, [left, right, bottom, top]) {
  const { clientWidth: width, clientHeight: height } = canvas,
    dense = devicePixelRatio,
    pen = canvas.getContext("2d");
  canvas.width = width * dense;
  canvas.height = height * dense;
  for (const { x, y, marker, visible } of traces) {
    if (!visible) continue;
    const path = new Path2D(PATHS[marker.symbol]),
      open = marker.symbol.endsWith("open"),
      half = (dense * marker.size) / 2,
      size = half / (open ? RADIUS_OPEN : RADIUS);
    pen.strokeStyle = marker.line.color;
    for (let i = 0; i < x.length; i++) {
      const across = (dense * width * (x[i] - left)) / (right - left),
        down = (dense * height * (top - y[i])) / (top - bottom);
      pen.fillStyle = Array.isArray(marker.color) ? marker.color[i] : marker.color;
      if (x.length > SHAPES_AT_MOST) {
        pen.fillRect(across - half, down - half, 2 * half, 2 * half);
        continue;
      }
      pen.setTransform(size, 0, 0, size, across - 8 * size, down - 8 * size);
      pen.lineWidth = (dense * marker.line.width) / size;
      if (!open) pen.fill(path);
      pen.stroke(path);
    }
    pen.resetTransform();
  }
}
