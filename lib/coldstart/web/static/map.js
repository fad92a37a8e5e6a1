// The map: every image a point, drawn by Plotly with WebGL; what lies on it (numbers, rings) are elements above it.
//
// Plotly draws, pans and zooms. Which point is meant is found here, the same way for a mouse, a finger and the arrow
// keys: a look at every point, which takes less than a millisecond for 50,000.

import { picture } from "./api.js";
import { $, announce, count, fill, h, number } from "./dom.js";
import { colourOf, MEDOID, phaseWord, STATES, theme } from "./marks.js";
import { known, show, shown } from "./state.js";

const NEAR_PX = 16;
const CARD_AFTER_MS = 60;
const ZOOM_STEP = 1.5;
const FEWEST_COLUMNS = 24;
const MARGIN = 0.06;

const stage = $("map"), plot = $("plot"), marks = $("marks"), card = $("card");
/** So many points SVG draws sooner, and moves as well: WebGL has to begin first, which takes seconds without a graphics
 * card. */
const FEW = 2500;
const config = { displayModeBar: false, scrollZoom: true, doubleClick: false, responsive: false, displaylogo: false };

let xs = [], ys = [];
let home = [-1, 1, -1, 1];
let cursor = null;
let drawn = false;

const plotly = new Promise((resolve, reject) => {
  const script = h("script", { src: new URL("plotly.min.js", import.meta.url).href, load: () => resolve(window.Plotly), error: reject });
  document.head.append(script);
});

let hasWebGl = null;

/** Plotly's kind of points. A browser that was told not to draw with WebGL draws many points slowly, but it draws. */
function kindOfPoints(n) {
  if (n <= FEW) return "scatter";
  hasWebGl ??= Boolean(document.createElement("canvas").getContext("webgl"));
  return hasWebGl ? "scattergl" : "scatter";
}

// --- Drawing ---------------------------------------------------------------------------------------------------------

/** Where each image is drawn: its point, or for those that have none a place in the rows below the map. */
function place() {
  const { x, y } = known.map, on = [...x.keys()].filter(row => x[row] !== null), off = [...x.keys()].filter(row => x[row] === null);
  const range = values => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  let [left, right] = on.length ? range(on.map(row => x[row])) : [0, 1];
  let [bottom, top] = on.length ? range(on.map(row => y[row])) : [0, 0];
  if (right - left < 1e-9) [left, right] = [left - 0.5, right + 0.5];
  if (top - bottom < 1e-9 && on.length) [bottom, top] = [bottom - 0.5, top + 0.5];
  const columns = Math.max(FEWEST_COLUMNS, Math.ceil(Math.sqrt(1.5 * off.length))), step = (right - left) / (columns - 1);
  xs = [...x];
  ys = [...y];
  off.forEach((row, at) => {
    xs[row] = left + step * (at % columns);
    ys[row] = bottom - step * (2 + Math.floor(at / columns));
  });
  const low = off.length ? bottom - step * (2 + Math.floor((off.length - 1) / columns)) : bottom;
  home = [left, right, low, top];
  return { on, off, stripAt: bottom - step };
}

const pointSize = () => Math.max(3.5, Math.min(11, 34 / xs.length ** 0.2));

function traces() {
  const { map } = known, look = theme(), size = pointSize(), type = kindOfPoints(xs.length);
  const rowsOf = Object.fromEntries(Object.keys(STATES).map(state => [state, []]));
  map.state.forEach((state, row) => rowsOf[state].push(row));
  const trace = (name, rows, marker) => ({
    type, mode: "markers", name, hoverinfo: "skip", visible: rows.length > 0, x: rows.map(row => xs[row]), y: rows.map(row => ys[row]), marker,
  });
  const medoids = [...map.medoid.keys()].filter(row => map.medoid[row]);
  const ring = { symbol: MEDOID.symbol, size: size + 12, color: look.ink, line: { width: 1.5, color: look.ink } };
  return [
    ...Object.entries(STATES).map(([state, mark]) => trace(mark.word, rowsOf[state], {
      symbol: mark.symbol, size: size + mark.grow, color: rowsOf[state].map(colourOf), opacity: 1,
      line: { width: state === "pool" ? 0.5 : 1.2, color: state === "pool" ? look.line : look.ink },
    })),
    trace(MEDOID.word, medoids, ring),
  ];
}

function layout([left, right, bottom, top]) {
  const axis = range => ({ visible: false, range, fixedrange: false, autorange: false });
  return {
    width: stage.clientWidth, height: stage.clientHeight, margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, hovermode: false, dragmode: "pan",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis([left, right]), yaxis: axis([bottom, top]),
  };
}

/** Draw what is known; the part of the map that is looked at stays. */
export async function draw() {
  const Plotly = await plotly;
  if (!known.map) return;
  const before = drawn ? currentView() : null, { on, off } = place();
  const asked = before ?? shown.view?.split(",").map(Number);
  const inside = asked?.length === 4 && asked.every(Number.isFinite) && xs.some((x, row) => x >= asked[0] && x <= asked[1] && ys[row] >= asked[2] && ys[row] <= asked[3]);
  await Plotly.react(plot, traces(), layout(fitted(inside && (shown.view || drawn) ? asked : padded(home))), config);
  if (!drawn) {
    drawn = true;
    plot.on("plotly_relayouting", () => { hideCard(); placeMarks(); });
    plot.on("plotly_relayout", () => { hideCard(); placeMarks(); rememberView(); });
    new ResizeObserver(resized).observe(stage);
  }
  if (cursor !== null && cursor >= xs.length) cursor = null;
  notice(on.length, off.length);
  drawMarks();
  stage.dataset.drawn = String(xs.length);
}

const padded = ([left, right, bottom, top]) => {
  const x = (right - left) * MARGIN + 1e-9, y = (top - bottom) * MARGIN + 1e-9;
  return [left - x, right + x, bottom - y, top + y];
};

/** The smallest part of the plane around another one that has the shape of the window: a distance is a distance. */
function fitted([left, right, bottom, top]) {
  const { clientWidth: width, clientHeight: height } = stage;
  const scale = Math.max((right - left) / width, (top - bottom) / height);
  const x = (left + right) / 2, y = (bottom + top) / 2;
  return [x - scale * width / 2, x + scale * width / 2, y - scale * height / 2, y + scale * height / 2];
}

/** Plotly keeps what a drag is changing in its full layout alone. */
const currentView = () => [...plot._fullLayout.xaxis.range, ...plot._fullLayout.yaxis.range];

async function look(view) {
  const [left, right, bottom, top] = view;
  await (await plotly).relayout(plot, { "xaxis.range": [left, right], "yaxis.range": [bottom, top] });
}

async function resized() {
  if (!stage.clientWidth || !stage.clientHeight) return;
  const [left, right, bottom, top] = fitted(shown.view ? currentView() : padded(home));
  await (await plotly).relayout(plot, {
    width: stage.clientWidth, height: stage.clientHeight, "xaxis.range": [left, right], "yaxis.range": [bottom, top],
  });
}

function rememberView() {
  const view = currentView(), whole = fitted(padded(home));
  const same = view.every((value, i) => Math.abs(value - whole[i]) < 1e-6 * (whole[1] - whole[0]));
  show({ view: same ? null : view.map(value => Number(value.toPrecision(5))).join() });
}

// --- What lies on the map --------------------------------------------------------------------------------------------

const toPixels = (x, y) => {
  const [left, right, bottom, top] = currentView();
  return [(x - left) / (right - left) * stage.clientWidth, (top - y) / (top - bottom) * stage.clientHeight];
};

/** Numbers of the clusters, of the next images, and rings: {x, y, text, kind}. */
export function labels() {
  const { map, picks, row } = known, found = [];
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
  if (!drawn) return;
  marks.replaceChildren(...labels().map(({ x, y, text, kind }) => {
    const mark = h("span", { class: `mark ${kind}` }, text);
    Object.assign(mark, { x, y });
    return mark;
  }));
  placeMarks();
}

function placeMarks() {
  for (const mark of marks.children) {
    const [x, y] = toPixels(mark.x, mark.y);
    mark.style.transform = `translate(${x}px, ${y}px)`;
  }
}

function notice(n_on, n_off) {
  const n = n_on + n_off, reading = known.campaign?.tasks.find(task => task.name === "embedding" && task.state === "running");
  const box = $("notice");
  box.hidden = n_on > 0;
  if (n_on) return;
  fill(box, n === 0
    ? [h("h2", {}, "No images yet"), h("p", {}, "Put image files into the folder of the studies, or series into the archive. They show up here by themselves.")]
    : [h("h2", {}, "The map is being made"), h("p", {}, `The server compares ${count(n, "image")} with each other; similar ones will lie close together here. `
      + "Annotators can begin already: until then they get a random choice."), reading && h("progress", { max: reading.total, value: reading.done, "aria-label": "Images read" })]);
}

// --- The card beside the pointer ---------------------------------------------------------------------------------------

let cardFor = null, cardTimer = 0;

function showCard(row) {
  if (row === cardFor) return;
  hideCard();
  cardFor = row;
  stage.classList.add("pointing");
  cardTimer = setTimeout(() => {
    const image_id = known.map.image_id[row], photo = h("img", { alt: "", width: 176, height: 176 });
    picture("thumbnail", { id: image_id, size: 192 }).then(address => { photo.src = address; }, () => photo.classList.add("missing"));
    fill(card, photo, h("strong", {}, image_id), ...describe(row).map(line => h("span", {}, line)));
    card.hidden = false;
    const [x, y] = toPixels(xs[row], ys[row]), right = x + 18 + card.offsetWidth < stage.clientWidth;
    card.style.left = `${Math.max(4, right ? x + 18 : x - 18 - card.offsetWidth)}px`;
    card.style.top = `${Math.max(4, Math.min(y - 40, stage.clientHeight - card.offsetHeight - 4))}px`;
  }, CARD_AFTER_MS);
}

function hideCard() {
  clearTimeout(cardTimer);
  cardFor = null;
  card.hidden = true;
  stage.classList.remove("pointing");
}

/** What is known of an image, in a few lines. */
function describe(row) {
  const { map } = known, lines = [];
  const rank = map.rank[row] === null ? "" : `, number ${map.rank[row]} of the plan`;
  lines.push(`${STATES[map.state[row]].word}${map.medoid[row] ? ", centre of its cluster" : ""}${rank}`);
  if (map.cluster[row] !== null) lines.push(`cluster ${map.cluster[row]}`);
  if (map.phase[row] !== null) lines.push(`served: ${phaseWord(map.phase[row])}${map.annotator[row] ? `, to ${map.annotator[row]}` : ""}`);
  if (map.entropy[row] !== null) lines.push(`uncertainty ${number(map.entropy[row])}`);
  if (map.distance[row] !== null) lines.push(`distance ${number(map.distance[row])}`);
  if (map.reason[row]) lines.push(map.reason[row]);
  return lines;
}

// --- Pointer and keys --------------------------------------------------------------------------------------------------

/** The row nearest to a place on the screen, or null where nothing is near. */
function nearest(px, py, within) {
  const [left, right, bottom, top] = currentView();
  const unit = (right - left) / stage.clientWidth, x = left + px * unit, y = top - py * unit;
  let best = (within * unit) ** 2, found = null;
  for (let row = 0; row < xs.length; row++) {
    const distance = (xs[row] - x) ** 2 + (ys[row] - y) ** 2;
    if (distance < best) [best, found] = [distance, row];
  }
  return found;
}

const place_of = event => { const box = stage.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
const onPlot = event => drawn && plot.contains(event.target);
let pressed = null;

stage.addEventListener("pointermove", event => {
  if (event.pointerType !== "mouse" || event.buttons || !onPlot(event)) return;
  const row = nearest(...place_of(event), NEAR_PX);
  if (row === null) hideCard(); else showCard(row);
});
stage.addEventListener("pointerleave", hideCard);
stage.addEventListener("pointerdown", event => { pressed = onPlot(event) ? [event.clientX, event.clientY] : null; }, true);
// On the window: Plotly covers the page while a button is down.
addEventListener("pointerup", event => {
  if (!pressed || Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) > 5) return;
  pressed = null;
  const row = nearest(...place_of(event), event.pointerType === "mouse" ? NEAR_PX : 2 * NEAR_PX);
  if (row !== null) open(row);
}, true);

function open(row) {
  show({ image: known.map.image_id[row], tab: "image" });
}

function moveCursor(row) {
  cursor = row;
  const [left, right, bottom, top] = currentView(), x = xs[row], y = ys[row];
  if (x < left || x > right || y < bottom || y > top) {
    const dx = x - (left + right) / 2, dy = y - (bottom + top) / 2;
    look([left + dx, right + dx, bottom + dy, top + dy]).then(() => showCard(row));
  } else showCard(row);
  drawMarks();
  announce(`${known.map.image_id[row]}: ${describe(row).join(", ")}`);
}

/** The image that lies next in a direction: near, and not far to the side. */
function step(dx, dy) {
  if (cursor === null) return nearest(stage.clientWidth / 2, stage.clientHeight / 2, Infinity);
  let best = Infinity, found = cursor;
  for (let row = 0; row < xs.length; row++) {
    const x = xs[row] - xs[cursor], y = ys[row] - ys[cursor], along = x * dx + y * dy, aside = Math.abs(x * dy) + Math.abs(y * dx);
    if (along > 1e-9 && along >= aside && along + 2 * aside < best) [best, found] = [along + 2 * aside, row];
  }
  return found;
}

/** The image before or after the cursor in the plan. */
function inPlan(by) {
  const ranks = known.map.rank, planned = [...ranks.keys()].filter(row => ranks[row] !== null).sort((a, b) => ranks[a] - ranks[b]);
  if (!planned.length) return cursor;
  const at = planned.indexOf(cursor);
  return planned[at < 0 ? 0 : (at + by + planned.length) % planned.length];
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

stage.addEventListener("keydown", event => {
  if (event.target !== stage || !drawn || event.ctrlKey || event.metaKey || event.altKey) return;
  const { key } = event;
  if (key === "+" || key === "=") zoom(1 / ZOOM_STEP);
  else if (key === "-") zoom(ZOOM_STEP);
  else if (key === "0") whole();
  else if (!xs.length) return;
  else if (ARROWS[key]) moveCursor(step(...ARROWS[key]));
  else if (key === "PageDown") moveCursor(inPlan(1) ?? 0);
  else if (key === "PageUp") moveCursor(inPlan(-1) ?? 0);
  else if (key === "Enter" && cursor !== null) open(cursor);
  else return;
  event.preventDefault();
});
stage.addEventListener("blur", hideCard);

/** Put away the card and the cursor; true where there was one. */
export function dismiss() {
  const had = cursor !== null || !card.hidden;
  cursor = null;
  hideCard();
  drawMarks();
  return had;
}

export function zoom(factor) {
  const [left, right, bottom, top] = currentView(), x = (left + right) / 2, y = (bottom + top) / 2;
  return look([x + (left - x) * factor, x + (right - x) * factor, y + (bottom - y) * factor, y + (top - y) * factor]);
}

export const whole = () => look(fitted(padded(home)));

/** Bring an image to the middle of the map, as near as the map is looked at now. */
export function centre(image_id) {
  const row = known.row.get(image_id);
  if (row === undefined || !drawn) return;
  cursor = row;
  const [left, right, bottom, top] = currentView(), dx = xs[row] - (left + right) / 2, dy = ys[row] - (bottom + top) / 2;
  look([left + dx, right + dx, bottom + dy, top + dy]).then(drawMarks);
}

// --- Two fingers ---------------------------------------------------------------------------------------------------------

let fingers = null;

stage.addEventListener("touchstart", event => {
  if (event.touches.length !== 2 || !drawn) return;
  event.stopPropagation();
  fingers = { apart: apart(event.touches), view: currentView() };
}, { capture: true, passive: true });
stage.addEventListener("touchmove", event => {
  if (!fingers || event.touches.length !== 2) return;
  event.preventDefault();
  event.stopPropagation();
  const factor = fingers.apart / apart(event.touches), [left, right, bottom, top] = fingers.view, x = (left + right) / 2, y = (bottom + top) / 2;
  look([x + (left - x) * factor, x + (right - x) * factor, y + (bottom - y) * factor, y + (top - y) * factor]);
}, { capture: true, passive: false });
stage.addEventListener("touchend", event => { if (event.touches.length < 2) fingers = null; }, true);

const apart = ([one, two]) => Math.max(1, Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY));

// --- Export --------------------------------------------------------------------------------------------------------------

/** The map as it is looked at, with its legend, as the address of a PNG file. */
export async function asPng(title, entries) {
  const Plotly = await plotly, look = theme(), [left, right, bottom, top] = currentView();
  const dummy = (name, marker) => ({ type: "scatter", mode: "markers", x: [null], y: [null], name, marker, hoverinfo: "skip", showlegend: true });
  const data = [
    ...traces().map(trace => ({ ...trace, showlegend: false })),
    ...entries.shapes.map(one => dummy(`${one.word} (${one.n})`, { symbol: one.symbol, size: 10, color: look.ink })),
    ...entries.colours.map(one => dummy(`${one.heading ?? ""}${one.word} (${one.n})`, { symbol: "circle", size: 10, color: one.colour })),
  ];
  const annotations = labels().filter(({ kind }) => kind !== "cursor").map(({ x, y, text, kind }) => ({
    x, y, text: kind === "selected" ? "◯" : `<b>${text}</b>`, showarrow: false, font: { size: kind === "selected" ? 30 : 15, color: kind === "cluster" ? look.ink : look.accent },
    bgcolor: kind === "pick" ? look.surface : "rgba(0,0,0,0)",
  }));
  const { clientWidth: width, clientHeight: height } = stage;
  const figure = {
    ...layout([left, right, bottom, top]), annotations, showlegend: true, paper_bgcolor: look.surface, font: { color: look.ink, size: 13 },
    title: { text: title, x: 0.02, font: { size: 15 } }, margin: { l: 10, r: 220, t: 50, b: 10 }, legend: { x: 1.02, y: 1 },
  };
  return Plotly.toImage({ data, layout: figure, config }, { format: "png", width: width + 230, height: height + 60, scale: 2 });
}
