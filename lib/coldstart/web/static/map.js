// The map: every image a point, drawn by Plotly; what lies on it (numbers, rings) are elements above it.

import { $, h } from "./dom.js";
import { colourOf, MEDOID, STATES, theme } from "./marks.js";
import { drawNotice } from "./notice.js";
import { sketch } from "./sketch.js";
import { known, show, shown } from "./state.js";

/** So many points SVG draws sooner, and moves as well. WebGL has to begin first, which takes long without a graphics
 * card. */
const FEW = 2500;
const FEWEST_COLUMNS = 24;
const SKETCH_WITHIN_MS = 400;
const ZOOM_STEP = 1.5;
const MARGIN = 0.06;

export const stage = $("map"),
  plot = $("plot"),
  config = {
    displayModeBar: false,
    scrollZoom: true,
    doubleClick: false,
    responsive: false,
    displaylogo: false,
  };
const marks = $("marks");

/** Where each row of the table is drawn. */
export let xs = [],
  ys = [];
/** Row that the keyboard is at; rows move when images come, so the image is remembered. */
export let cursor = null;
let cursorAt = null;
export let isDrawn = false;
let home = [-1, 1, -1, 1];
let hasWebGl = null;

/** Begins to run Plotly: once the sketch of the map is on the screen, which would have to wait for it, or soon. */
let begin;
export const plotly = new Promise(resolve => {
  begin = resolve;
  setTimeout(resolve, SKETCH_WITHIN_MS);
}).then(
  () =>
    new Promise((resolve, reject) => {
      const script = h("script", {
        src: new URL("plotly.min.js", import.meta.url).href,
        load: () => resolve(window.Plotly),
        error: reject,
      });
      document.head.append(script);
    }),
);

/** Plotly's kind of points. A browser that was told not to draw with WebGL draws many points slowly, but it draws. */
function kindOfPoints(n) {
  if (n <= FEW) return "scatter";
  hasWebGl ??= Boolean(document.createElement("canvas").getContext("webgl"));
  return hasWebGl ? "scattergl" : "scatter";
}

// Drawing

/** Where each image is drawn: its point, or for those that have none a place in the rows below the map. */
function place() {
  const { x, y } = known.map,
    on = [...x.keys()].filter(row => x[row] !== null),
    off = [...x.keys()].filter(row => x[row] === null);
  const range = values =>
    values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  let [left, right] = on.length ? range(on.map(row => x[row])) : [0, 1];
  let [bottom, top] = on.length ? range(on.map(row => y[row])) : [0, 0];
  if (right - left < 1e-9) [left, right] = [left - 0.5, right + 0.5];
  if (top - bottom < 1e-9 && on.length) [bottom, top] = [bottom - 0.5, top + 0.5];
  const columns = Math.max(FEWEST_COLUMNS, Math.ceil(Math.sqrt(1.5 * off.length))),
    step = (right - left) / (columns - 1);
  xs = [...x];
  ys = [...y];
  off.forEach((row, at) => {
    xs[row] = left + step * (at % columns);
    ys[row] = bottom - step * (2 + Math.floor(at / columns));
  });
  const low = off.length ? bottom - step * (2 + Math.floor((off.length - 1) / columns)) : bottom;
  home = [left, right, low, top];
}

const pointSize = () => Math.max(3.5, Math.min(11, 34 / xs.length ** 0.2));

export function traces() {
  const { map } = known,
    look = theme(),
    size = pointSize(),
    type = kindOfPoints(xs.length);
  const rowsOf = Object.fromEntries(Object.keys(STATES).map(state => [state, []]));
  map.state.forEach((state, row) => rowsOf[state].push(row));
  const trace = (name, rows, marker) => ({
    type,
    mode: "markers",
    name,
    hoverinfo: "skip",
    visible: rows.length > 0,
    x: rows.map(row => xs[row]),
    y: rows.map(row => ys[row]),
    marker,
  });
  const medoids = [...map.medoid.keys()].filter(row => map.medoid[row]);
  const ring = { symbol: MEDOID.symbol, size: size + 12, color: look.ink, line: { width: 1.5, color: look.ink } };
  return [
    ...Object.entries(STATES).map(([state, mark]) =>
      trace(mark.word, rowsOf[state], {
        symbol: mark.symbol,
        size: size + mark.grow,
        color: rowsOf[state].map(colourOf),
        opacity: 1,
        line: { width: state === "pool" ? 0.5 : 1.2, color: state === "pool" ? look.line : look.ink },
      }),
    ),
    trace(MEDOID.word, medoids, ring),
  ];
}

export function layout([left, right, bottom, top]) {
  const axis = range => ({ visible: false, range, fixedrange: false, autorange: false });
  return {
    width: stage.clientWidth,
    height: stage.clientHeight,
    margin: { l: 0, r: 0, t: 0, b: 0 },
    showlegend: false,
    hovermode: false,
    dragmode: "pan",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    xaxis: axis([left, right]),
    yaxis: axis([bottom, top]),
  };
}

/** Draw what is known; the part of the map that is looked at stays. */
export async function draw() {
  if (!known.map) return;
  if (!window.Plotly) {
    place();
    sketch($("sketch"), traces(), viewToShow());
    stage.dataset.sketched = String(xs.length);
    requestAnimationFrame(() => setTimeout(begin));
  }
  const Plotly = await plotly;
  place();
  await Plotly.react(plot, traces(), layout(viewToShow()), config);
  if (!isDrawn) {
    isDrawn = true;
    $("sketch").remove();
    plot.on("plotly_relayouting", moved);
    plot.on("plotly_relayout", () => {
      moved();
      rememberView();
    });
    new ResizeObserver(resized).observe(stage);
  }
  cursor = known.row.get(cursorAt) ?? null;
  drawNotice(true);
  drawMarks();
  stage.dispatchEvent(new Event("moved"));
  stage.dataset.drawn = String(xs.length);
}

/** The part that is looked at, or was when the address was kept; the whole map where there is none. */
function viewToShow(chosen = isDrawn ? shown.view && currentView() : viewOfAddress()) {
  return fitted(chosen && holdsSome(chosen) ? chosen : padded(home));
}

const viewOfAddress = () => shown.view && shown.view.split(",").map(Number);

/** Look at the part that the address says. */
export const lookAsSaid = () => isDrawn && look(viewToShow(viewOfAddress()));

/** Whether any image is in a part of the map: it may be another map than the one that somebody looked at. */
const holdsSome = ([left, right, bottom, top]) =>
  xs.some((x, row) => x >= left && x <= right && ys[row] >= bottom && ys[row] <= top);

const padded = ([left, right, bottom, top]) => {
  const x = (right - left) * MARGIN + 1e-9,
    y = (top - bottom) * MARGIN + 1e-9;
  return [left - x, right + x, bottom - y, top + y];
};

/** The smallest part of the plane around another one that has the shape of the window: a distance is a distance. */
function fitted([left, right, bottom, top]) {
  const { clientWidth: width, clientHeight: height } = stage;
  const scale = Math.max((right - left) / width, (top - bottom) / height);
  const x = (left + right) / 2,
    y = (bottom + top) / 2;
  return [x - (scale * width) / 2, x + (scale * width) / 2, y - (scale * height) / 2, y + (scale * height) / 2];
}

/** Plotly keeps what a drag is changing in its full layout alone. */
export const currentView = () => [...plot._fullLayout.xaxis.range, ...plot._fullLayout.yaxis.range];

export async function look([left, right, bottom, top]) {
  await (await plotly).relayout(plot, { "xaxis.range": [left, right], "yaxis.range": [bottom, top] });
}

async function resized() {
  if (!stage.clientWidth || !stage.clientHeight) return;
  const [left, right, bottom, top] = fitted(shown.view ? currentView() : padded(home)),
    Plotly = await plotly;
  await Plotly.relayout(plot, {
    width: stage.clientWidth,
    height: stage.clientHeight,
    "xaxis.range": [left, right],
    "yaxis.range": [bottom, top],
  });
}

function rememberView() {
  const view = currentView(),
    whole = fitted(padded(home));
  const same = view.every((value, i) => Math.abs(value - whole[i]) < 1e-6 * (whole[1] - whole[0]));
  show({ view: same ? null : view.map(value => Number(value.toPrecision(5))).join() });
}

/** Go nearer by so many steps, or further away. */
export function zoom(steps) {
  const factor = ZOOM_STEP ** -steps;
  const [left, right, bottom, top] = currentView(),
    x = (left + right) / 2,
    y = (bottom + top) / 2;
  return look([x + (left - x) * factor, x + (right - x) * factor, y + (bottom - y) * factor, y + (top - y) * factor]);
}

export const whole = () => look(fitted(padded(home)));

/** Bring an image to the middle of the map, as near as the map is looked at now. */
export function centre(image_id) {
  const row = known.row.get(image_id);
  if (row === undefined || !isDrawn) return;
  setCursor(row);
  const [left, right, bottom, top] = currentView(),
    dx = xs[row] - (left + right) / 2,
    dy = ys[row] - (bottom + top) / 2;
  look([left + dx, right + dx, bottom + dy, top + dy]);
}

/** Move the keyboard's place. */
export function setCursor(row) {
  cursor = row;
  cursorAt = row === null ? null : known.map.image_id[row];
  drawMarks();
}

// What lies on the map

export const toPixels = (x, y) => {
  const [left, right, bottom, top] = currentView();
  return [((x - left) / (right - left)) * stage.clientWidth, ((top - y) / (top - bottom)) * stage.clientHeight];
};

/** Numbers of the clusters, of the next images, and rings: {x, y, text, kind}. */
export function labels() {
  const { map, picks, row } = known,
    found = [];
  if (!map) return found;
  if (shown.colour === "cluster") {
    const tops = new Map();
    map.cluster.forEach((cluster, at) => {
      if (cluster === null || map.x[at] === null) return;
      const top = tops.get(cluster);
      if (top === undefined || (map.medoid[at] && !map.medoid[top])) tops.set(cluster, at);
    });
    for (const [cluster, at] of tops) found.push({ x: xs[at], y: ys[at], text: String(cluster), kind: "cluster" });
  }
  const at = (index, text, kind) => index !== undefined && found.push({ x: xs[index], y: ys[index], text, kind });
  if (shown.tab === "next") for (const pick of picks) at(row.get(pick.image_id), String(pick.rank), "pick");
  if (shown.image !== null) at(row.get(shown.image), "", "selected");
  if (cursor !== null) at(cursor, "", "cursor");
  return found;
}

export function drawMarks() {
  if (!isDrawn) return;
  marks.replaceChildren(
    ...labels().map(({ x, y, text, kind }) => Object.assign(h("span", { class: `mark ${kind}` }, text), { x, y })),
  );
  placeMarks();
}

/** The part that is looked at has changed. */
function moved() {
  placeMarks();
  stage.dispatchEvent(new Event("moved"));
}

function placeMarks() {
  for (const mark of marks.children) {
    const [x, y] = toPixels(mark.x, mark.y);
    mark.style.transform = `translate(${x}px, ${y}px)`;
  }
}
