// Shapes and colours. The shape says what became of an image; the colour is switched.
//
// The colours are made for people who see colours differently: Okabe and Ito's for kinds, Paul Tol's 'muted' (on white)
// and 'light' (on black) for clusters, cividis for amounts. None of them is the only sign: kinds have shapes, clusters
// have their numbers on the map, amounts are in the card and in the record.

import { count, h, number, spaced, term } from "./dom.js";
import { known, shown } from "./state.js";

/** What can become of an image, in the order in which it is drawn, from below: shape, word, explanation. */
export const STATES = {
  pool: { symbol: "circle", grow: 0, word: "not labelled", about: "Waits until its turn comes." },
  skipped: {
    symbol: "triangle-down",
    grow: 3,
    word: "skipped",
    about: "Served, and left without a label; it comes again at the end.",
  },
  held_out: {
    symbol: "x",
    grow: 2,
    word: "held out",
    about: "Kept apart to measure the model: never served and never trained on.",
  },
  labelled: { symbol: "diamond", grow: 5, word: "labelled", about: "Somebody saved its label." },
  planned: {
    symbol: "square",
    grow: 3,
    word: "planned",
    about: "In the first batch, which is chosen from the looks of the images before there is a model.",
  },
  set_aside: {
    symbol: "cross",
    grow: 4,
    word: "set aside",
    about: "Could not be read or used; the reason is in its record.",
  },
  served: {
    symbol: "triangle-up",
    grow: 7,
    word: "served now",
    about: "An annotator has it open right now; nobody else gets it.",
  },
};
const LEGEND_ORDER = ["pool", "planned", "served", "labelled", "skipped", "held_out", "set_aside"];
export const MEDOID = {
  symbol: "circle-open",
  word: "centre of its cluster",
  about: "The most typical image of its cluster (its medoid): the one closest to all the others.",
};

const PHASES = {
  before_embedding: ["before the map", "Served before the images had been compared; a random choice."],
  cold_start: ["first batch", "Served from the plan: chosen by looks alone, before there was a model."],
  plan_complete: ["between", "Served when the first batch was used up and no model was ready yet."],
  active: ["by the model", "Served because the model was unsure about it, or because it is unlike the others."],
  uniform_random: ["random", "Served by chance, as was asked for."],
  skipped_before: ["skipped before", "Served again after it had been skipped."],
  shared: ["shared", "Also with another annotator: nothing else was left."],
};
export const phaseWord = phase => (phase === null ? "not served yet" : (PHASES[phase]?.[0] ?? spaced(phase)));

export const COLOURS = {
  cluster: { word: "Cluster", about: "Groups of images that look alike. The number of a group stands on the map." },
  phase: { word: "Phase", about: "Why an image was served: from the first batch, by the model, or in between." },
  entropy: {
    word: "Uncertainty",
    about:
      "How unsure the newest model is about the image (its entropy): 0 is sure of every pixel, 1 is pure guessing.",
  },
  state: { word: "Label state", about: "What became of an image; the same that its shape says." },
};

export const CIVIDIS = [
  "#00224e",
  "#123570",
  "#3b496c",
  "#575d6d",
  "#707173",
  "#8a8678",
  "#a59c74",
  "#c3b369",
  "#e1cc55",
  "#fee838",
];
const LIGHT = {
  cluster: ["#332288", "#88ccee", "#117733", "#cc6677", "#ddcc77", "#aa4499", "#44aa99", "#882255", "#999933"],
  kinds: ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a6d00"],
  none: "#b4bac1",
  line: "rgba(20, 26, 32, 0.45)",
  ink: "#1b2127",
  surface: "#ffffff",
  accent: "#0b5cab",
  grid: "#e4e7ea",
};
const DARK = {
  cluster: ["#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#aaaa00"],
  kinds: ["#56b4e9", "#e69f00", "#00c08b", "#cc79a7", "#3d8fd1", "#f0763b", "#d6c04d"],
  none: "#69737e",
  line: "rgba(230, 236, 242, 0.4)",
  ink: "#e8ecf0",
  surface: "#15191d",
  accent: "#7cb8f5",
  grid: "#2a3138",
};

const dark = matchMedia("(prefers-color-scheme: dark)");
export const theme = () => (dark.matches ? DARK : LIGHT);
export const whenThemeChanges = callback => dark.addEventListener("change", callback);

const KIND_OF = {
  state: ["planned", "served", "labelled", "held_out", "skipped", "set_aside"],
  phase: ["cold_start", "active", "plan_complete", "before_embedding", "uniform_random", "skipped_before", "shared"],
};

/** Colours by the order of a name among the known ones; other methods' phases share what is left. */
function kindColour(kind, name) {
  if (name === null || name === "pool") return theme().none;
  const { kinds } = theme(),
    at = KIND_OF[kind].indexOf(name);
  return kinds[(at < 0 ? KIND_OF[kind].length : at) % kinds.length];
}

/** Colour of a row of the map by what the switch says. */
export function colourOf(row) {
  const { map } = known,
    look = theme();
  if (shown.colour === "entropy")
    return map.entropy[row] === null ? look.none : amountColour(map.entropy[row], amountRange());
  if (shown.colour === "cluster") return clusterColour(map.cluster[row]);
  return kindColour(shown.colour, map[shown.colour][row]);
}

export const clusterColour = cluster =>
  cluster === null ? theme().none : theme().cluster[(cluster - 1) % theme().cluster.length];

const steps = Array.from({ length: 65 }, (_, step) => mixed(step / 64));

/** 65 steps are more than anybody tells apart, and the same text for the same colour is drawn faster. */
const amountColour = (amount, [low, high]) => steps[Math.round((64 * (amount - low)) / Math.max(high - low, 1e-9))];

/** From the surest image to the least sure one: models that have learned something differ little between 0 and 1. */
let range = { of: null, is: [0, 1] };
function amountRange() {
  const { entropy } = known.map;
  if (range.of !== entropy) {
    const amounts = entropy.filter(amount => amount !== null);
    const widen = ([low, high], amount) => [Math.min(low, amount), Math.max(high, amount)];
    range = { of: entropy, is: amounts.length ? amounts.reduce(widen, [1, 0]) : [0, 1] };
  }
  return range.is;
}

function mixed(share) {
  const at = Math.min(share * (CIVIDIS.length - 1), CIVIDIS.length - 1.001),
    below = Math.floor(at);
  const parts = hex => [1, 3, 5].map(start => parseInt(hex.slice(start, start + 2), 16));
  const low = parts(CIVIDIS[below]),
    high = parts(CIVIDIS[below + 1]);
  return `rgb(${low.map((value, i) => Math.round(value + (high[i] - value) * (at - below))).join()})`;
}

/** Entries of the legend for what is on the map: of the shapes, and of the colours, which may be a scale of amounts. */
export function legendEntries() {
  const { map } = known,
    rows = map.image_id.keys();
  const states = LEGEND_ORDER.map(state => ({
    state,
    ...STATES[state],
    colour: shown.colour === "state" ? kindColour("state", state) : undefined,
    n: map.state.filter(one => one === state).length,
  }));
  const shapes = [...states, { ...MEDOID, n: map.medoid.filter(Boolean).length }].filter(one => one.n);
  if (shown.colour === "state") return { shapes, colours: [] };
  if (shown.colour === "entropy") {
    const [low, high] = amountRange();
    return { shapes, colours: [], scale: { low, high, ends: [`${number(low)}, sure`, `${number(high)}, unsure`] } };
  }
  const colours = new Map();
  for (const row of rows) {
    const value = map[shown.colour][row];
    const entry = colours.get(value) ?? { colour: colourOf(row), n: 0, value };
    entry.n += 1;
    colours.set(value, entry);
  }
  const word = shown.colour === "phase" ? phaseWord : value => (value === null ? "none" : String(value));
  const about = value => (shown.colour === "phase" ? PHASES[value]?.[1] : null);
  const sorted = [...colours.values()].sort(
    (a, b) => (a.value === null) - (b.value === null) || (a.value > b.value ? 1 : -1),
  );
  return { shapes, colours: sorted.map(entry => ({ ...entry, word: word(entry.value), about: about(entry.value) })) };
}

export const PATHS = {
  circle: "M8 3a5 5 0 1 0 .01 0z",
  "circle-open": "M8 2a6 6 0 1 0 .01 0z",
  square: "M3.5 3.5h9v9h-9z",
  diamond: "M8 1.5L14.5 8 8 14.5 1.5 8z",
  "triangle-up": "M8 2l6.5 11.5h-13z",
  "triangle-down": "M8 14L1.5 2.5h13z",
  x: "M4 2l4 4 4-4 2 2-4 4 4 4-2 2-4-4-4 4-2-2 4-4-4-4z",
  cross: "M6.2 1.5h3.6v4.7h4.7v3.6H9.8v4.7H6.2V9.8H1.5V6.2h4.7z",
};

/** A small drawing of a mark. */
export function symbol(name, colour = "currentColor") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "symbol");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", PATHS[name]);
  path.setAttribute("fill", name.endsWith("open") ? "none" : colour);
  path.setAttribute("stroke", name.endsWith("open") ? colour : theme().line);
  path.setAttribute("stroke-width", name.endsWith("open") ? 2 : 0.75);
  svg.append(path);
  return svg;
}

/** The legend below the map. */
export function legend() {
  const { shapes, colours, scale } = legendEntries();
  const shape = one =>
    h(
      "li",
      {},
      symbol(one.symbol, one.colour),
      term(one.word, `${one.about} ${count(one.n, "image")}.`),
      h("b", {}, one.n.toLocaleString()),
    );
  const colour = one =>
    h(
      "li",
      {},
      symbol("circle", one.colour),
      one.about ? term(one.word, one.about) : h("span", {}, one.word),
      h("b", {}, one.n.toLocaleString()),
    );
  const ramp = ({ ends: [sure, unsure] }) =>
    h("li", { class: "ramp" }, sure, h("i", { style: `background: linear-gradient(90deg, ${CIVIDIS})` }), unsure);
  const heading = term(COLOURS[shown.colour].word, COLOURS[shown.colour].about);
  if (shown.colour === "state") return [h("ul", { "aria-label": "Shapes and colours" }, shapes.map(shape))];
  return [
    h("ul", { "aria-label": "Shapes" }, shapes.map(shape)),
    h(
      "ul",
      { "aria-label": "Colours" },
      h("li", { class: "heading" }, heading),
      scale ? ramp(scale) : colours.map(colour),
    ),
  ];
}
