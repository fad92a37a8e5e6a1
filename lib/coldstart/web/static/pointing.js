// Which image is meant: the same search for a mouse, a finger and the arrow keys, a look at every point, which is done
// within a millisecond for 50,000.

import { cardIsShown, describe, hideCard, showCard } from "./card.js";
import { announce } from "./dom.js";
import { currentView, cursor, isDrawn, look, plot, setCursor, stage, whole, xs, ys, zoom } from "./map.js";
import { known, show } from "./state.js";

const NEAR_PX = 16;
const CLICK_PX = 5;

/** The row nearest to a place on the screen, or null where nothing is near. */
function nearest(px, py, within) {
  const [left, right, bottom, top] = currentView();
  const unit = (right - left) / stage.clientWidth,
    x = left + px * unit,
    y = top - py * unit;
  let best = (within * unit) ** 2,
    found = null;
  for (let row = 0; row < xs.length; row++) {
    const distance = (xs[row] - x) ** 2 + (ys[row] - y) ** 2;
    if (distance < best) [best, found] = [distance, row];
  }
  return found;
}

const placeOf = event => {
  const box = stage.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
const onPlot = event => isDrawn && plot.contains(event.target);
let pressed = null;

stage.addEventListener("pointermove", event => {
  if (event.pointerType !== "mouse" || event.buttons || !onPlot(event)) return;
  const row = nearest(...placeOf(event), NEAR_PX);
  if (row === null) hideCard();
  else showCard(row);
});
stage.addEventListener("pointerleave", hideCard);
stage.addEventListener(
  "pointerdown",
  event => {
    pressed = onPlot(event) ? [event.clientX, event.clientY] : null;
  },
  true,
);
// On the window: Plotly covers the page while a button is down.
addEventListener(
  "pointerup",
  event => {
    if (!pressed || Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) > CLICK_PX) return;
    pressed = null;
    const row = nearest(...placeOf(event), event.pointerType === "mouse" ? NEAR_PX : 2 * NEAR_PX);
    if (row !== null) open(row);
  },
  true,
);

function open(row) {
  show({ image: known.map.image_id[row], tab: "image" });
}

function moveCursor(row) {
  const [left, right, bottom, top] = currentView(),
    x = xs[row],
    y = ys[row];
  if (x < left || x > right || y < bottom || y > top) {
    const dx = x - (left + right) / 2,
      dy = y - (bottom + top) / 2;
    look([left + dx, right + dx, bottom + dy, top + dy]).then(() => showCard(row));
  } else showCard(row);
  setCursor(row);
  announce(`${known.map.image_id[row]}: ${describe(row).join(", ")}`);
}

/** The image that lies next in a direction: near, and not far to the side. */
function step(dx, dy) {
  if (cursor === null) return nearest(stage.clientWidth / 2, stage.clientHeight / 2, Infinity);
  let best = Infinity,
    found = cursor;
  for (let row = 0; row < xs.length; row++) {
    const x = xs[row] - xs[cursor],
      y = ys[row] - ys[cursor],
      along = x * dx + y * dy,
      aside = Math.abs(x * dy) + Math.abs(y * dx);
    if (along > 1e-9 && along >= aside && along + 2 * aside < best) [best, found] = [along + 2 * aside, row];
  }
  return found;
}

/** The image before or after the cursor in the plan. */
function inPlan(by) {
  const ranks = known.map.rank,
    planned = [...ranks.keys()].filter(row => ranks[row] !== null).sort((a, b) => ranks[a] - ranks[b]);
  if (!planned.length) return cursor;
  const at = planned.indexOf(cursor);
  return planned[at < 0 ? 0 : (at + by + planned.length) % planned.length];
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

stage.addEventListener("keydown", event => {
  if (event.target !== stage || !isDrawn || event.ctrlKey || event.metaKey || event.altKey) return;
  const { key } = event;
  if (key === "+" || key === "=") zoom(1);
  else if (key === "-") zoom(-1);
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
  const had = cursor !== null || cardIsShown();
  hideCard();
  setCursor(null);
  return had;
}

// Two fingers

let fingers = null;

stage.addEventListener(
  "touchstart",
  event => {
    if (event.touches.length !== 2 || !isDrawn) return;
    event.stopPropagation();
    fingers = { apart: apart(event.touches), view: currentView() };
  },
  { capture: true, passive: true },
);
stage.addEventListener(
  "touchmove",
  event => {
    if (!fingers || event.touches.length !== 2) return;
    event.preventDefault();
    event.stopPropagation();
    const factor = fingers.apart / apart(event.touches),
      [left, right, bottom, top] = fingers.view,
      x = (left + right) / 2,
      y = (bottom + top) / 2;
    look([x + (left - x) * factor, x + (right - x) * factor, y + (bottom - y) * factor, y + (top - y) * factor]);
  },
  { capture: true, passive: false },
);
stage.addEventListener(
  "touchend",
  event => {
    if (event.touches.length < 2) fingers = null;
  },
  true,
);

const apart = ([one, two]) => Math.max(1, Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY));
