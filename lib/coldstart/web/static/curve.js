// The learning curve: Dice against the number of labels, with what can be said about it.

import { fill, h, number, term, when } from "./dom.js";
import { theme } from "./marks.js";

const WIDTH = 400,
  HEIGHT = 210;
const VERDICTS = new Map([
  [true, "helping"],
  [false, "enough"],
  [null, "unknown"],
]);
const LEFT = 34,
  RIGHT = 10,
  TOP = 10,
  BOTTOM = 28;

/** The section with the verdict, the chart and its numbers. */
export function curve({ prequential, rounds, heldout, verdict }) {
  return h(
    "section",
    {},
    h("h3", {}, term("Do more labels still help?", verdict.rule)),
    h("p", { class: `verdict ${VERDICTS.get(verdict.helping)}` }, verdict.sentence),
    prequential.length + heldout.length > 0 && [
      chart(prequential, rounds, heldout),
      key(prequential, heldout),
      numbers(rounds, heldout),
    ],
  );
}

function chart(judged, rounds, heldout) {
  const look = theme(),
    [blue, orange] = look.kinds;
  const all = [
    ...judged.map(one => one.dice),
    ...rounds.flatMap(one => [one.low, one.mean]),
    ...heldout.flatMap(one => [one.low, one.dice]),
  ].filter(Number.isFinite);
  const ns = [...judged, ...rounds, ...heldout].map(one => one.n_labels);
  const bottom = Math.max(0, Math.floor(10 * Math.min(...all, 0.95)) / 10);
  const left = Math.min(...ns),
    right = Math.max(...ns);
  const x = n => LEFT + 8 + (left === right ? 0.5 : (n - left) / (right - left)) * (WIDTH - LEFT - RIGHT - 16);
  const y = dice => TOP + ((1 - dice) / (1 - bottom)) * (HEIGHT - TOP - BOTTOM);
  const svg = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const path = (points, attributes) =>
    svg("path", {
      d: points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join(""),
      fill: "none",
      ...attributes,
    });
  const line = (rows, of, colour, dash) => {
    const sure = rows.filter(one => Number.isFinite(one.low) && Number.isFinite(one.high)),
      parts = [];
    if (sure.length > 1) {
      const edge = [
        ...sure.map(one => [x(one.n_labels), y(Math.min(1, one.high))]),
        ...sure.toReversed().map(one => [x(one.n_labels), y(Math.max(bottom, one.low))]),
      ];
      parts.push(path(edge, { fill: colour, opacity: 0.16 }));
    }
    for (const one of sure)
      parts.push(
        path(
          [
            [x(one.n_labels), y(Math.max(bottom, one.low))],
            [x(one.n_labels), y(Math.min(1, one.high))],
          ],
          { stroke: colour, opacity: 0.6 },
        ),
      );
    parts.push(
      path(
        rows.map(one => [x(one.n_labels), y(of(one))]),
        { stroke: colour, "stroke-width": 2, "stroke-dasharray": dash },
      ),
    );
    return parts;
  };
  const middle = one => `${number(one.dice ?? one.mean, 3)} after ${one.n_labels} labels`;
  const root = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    class: "curve",
    role: "img",
    "aria-label": `Learning curve. ${[...heldout.slice(-1), ...rounds.slice(-1)].map(middle).join("; ")}`,
  });
  const ticks = Array.from({ length: Math.round((1 - bottom) * 10) + 1 }, (_, i) => bottom + i / 10).filter(
    (_, i, list) => list.length < 7 || i % 2 === 0,
  );
  for (const dice of ticks)
    root.append(
      path(
        [
          [LEFT, y(dice)],
          [WIDTH - RIGHT, y(dice)],
        ],
        { stroke: look.grid },
      ),
      svg("text", { x: LEFT - 6, y: y(dice) + 4, "text-anchor": "end" }, dice.toFixed(1)),
    );
  for (const n of spread([...new Set(ns)].sort((a, b) => a - b)))
    root.append(svg("text", { x: x(n), y: HEIGHT - 12, "text-anchor": "middle" }, n));
  root.append(svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 1, "text-anchor": "end" }, "labels the model learned from"));
  const about = one => `${one.image_id}: Dice ${number(one.dice, 3)}, ${when(one.at)}`;
  for (const one of judged) {
    const dot = svg("circle", {
      cx: x(one.n_labels),
      cy: y(Math.max(bottom, one.dice)),
      r: 2.6,
      fill: orange,
      opacity: 0.55,
    });
    dot.append(svg("title", {}, about(one)));
    root.append(dot);
  }
  root.append(...line(rounds, one => one.mean, orange, "5 3"), ...line(heldout, one => one.dice, blue, "none"));
  for (const one of heldout)
    root.append(svg("rect", { x: x(one.n_labels) - 3.5, y: y(one.dice) - 3.5, width: 7, height: 7, fill: blue }));
  return root;
}

/** At most eight of the numbers of labels, the first and the last among them. */
const spread = ns => ns.filter((_, i) => i % Math.ceil(ns.length / 8) === 0 || i === ns.length - 1);

function key(prequential, heldout) {
  const [blue, orange] = theme().kinds;
  const sign = (colour, dash) => h("i", { style: `border-top: 2px ${dash} ${colour}` });
  return h(
    "ul",
    { class: "key" },
    heldout.length > 0 &&
      h(
        "li",
        {},
        sign(blue, "solid"),
        term(
          "held-out images",
          "Dice of each model on images that are kept apart to measure it; the band is the 95 % interval.",
        ),
      ),
    prequential.length > 0 &&
      h(
        "li",
        {},
        sign(orange, "dashed"),
        term(
          "before learning from it",
          "Each new label against what the model had drawn there before (prequential Dice): dots and their mean.",
        ),
      ),
  );
}

function numbers(rounds, heldout) {
  const interval = one => (Number.isFinite(one.low) ? `${number(one.low, 3)} to ${number(one.high, 3)}` : "–");
  const row = (what, dice) => one =>
    h(
      "tr",
      {},
      h("td", {}, one.n_labels),
      h("td", {}, what),
      h("td", {}, number(dice(one), 3)),
      h("td", {}, interval(one)),
      h("td", {}, one.n_images ?? one.n),
    );
  return h(
    "details",
    { "data-key": "numbers" },
    h("summary", {}, "The numbers"),
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Labels", "Measured on", "Dice", "95 % interval", "Images"].map(word => h("th", { scope: "col" }, word)),
        ),
      ),
      h("tbody", {}, heldout.map(row("held out", one => one.dice)), rounds.map(row("new labels", one => one.mean))),
    ),
  );
}
