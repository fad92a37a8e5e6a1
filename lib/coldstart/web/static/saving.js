// The map as a picture, and the table behind it.

import { blob, Refused } from "./api.js";
import { $, announce, explain, h, hideTip } from "./dom.js";
import { config, currentView, labels, layout, plotly, stage, traces } from "./map.js";
import { CIVIDIS, COLOURS, legendEntries, theme } from "./marks.js";
import { known, shown } from "./state.js";

const ABOVE_PX = 22; // as in style.css: the number of a cluster stands above its centre

export async function savePng() {
  const { campaign } = known,
    by = COLOURS[shown.colour].word.toLowerCase();
  const title = `${campaign.preset}: ${campaign.labelled} of ${campaign.images} labelled, coloured by ${by}`;
  save(await asPng(title, legendEntries()), "map.png");
}

export async function saveCsv() {
  const address = URL.createObjectURL(await blob("table.csv"));
  save(address, "map.csv");
  setTimeout(URL.revokeObjectURL, 10000, address);
}

function save(address, name) {
  h("a", { href: address, download: name }).click();
  announce(`${name} saved`);
}

/** Say why there is no file. */
export function notSaved(name, error) {
  const why = error instanceof Refused ? error.message : "Try again once the map is drawn and the server answers.";
  explain($("tools"), `${name} was not saved. ${why}`);
  announce($("tip").textContent);
  addEventListener("pointerdown", hideTip, { once: true });
}

/** The map as it is looked at, with its legend, as the address of a PNG file. */
async function asPng(title, entries) {
  const Plotly = await plotly,
    look = theme(),
    [left, right, bottom, top] = currentView();
  const { word } = COLOURS[shown.colour];
  const dummy = (marker, more) => ({ type: "scatter", mode: "markers", x: [null], y: [null], marker, ...more });
  const entry = (one, symbol, colour) =>
    dummy(
      { symbol, size: 10, color: colour },
      { name: `${one.word} (${one.n})`, showlegend: true, legendgroup: "shapes" },
    );
  const heading = { legendgroup: "colours", legendgrouptitle: { text: word } };
  const data = [
    ...traces().map(trace => ({ ...trace, showlegend: false })),
    ...entries.shapes.map(one => entry(one, one.symbol, one.colour ?? look.ink)),
    ...entries.colours.map(one => ({ ...entry(one, "circle", one.colour), ...heading })),
    ...(entries.scale ? [dummy(amounts(word, entries.scale), { showlegend: false })] : []),
  ];
  const annotations = labels()
    .filter(({ kind }) => kind !== "cursor")
    .map(({ x, y, text, kind }) => ({
      x,
      y,
      text: kind === "selected" ? "◯" : `<b>${text}</b>`,
      showarrow: false,
      yshift: kind === "cluster" ? ABOVE_PX : 0,
      font: { size: kind === "selected" ? 30 : 15, color: kind === "cluster" ? look.ink : look.accent },
      bgcolor: { pick: look.surface, cluster: `${look.surface}b0` }[kind] ?? "rgba(0,0,0,0)",
    }));
  const { clientWidth: width, clientHeight: height } = stage;
  const figure = {
    ...layout([left, right, bottom, top]),
    annotations,
    showlegend: true,
    paper_bgcolor: look.surface,
    font: { color: look.ink, size: 13 },
    title: { text: title, x: 0.02, font: { size: 15 } },
    margin: { l: 10, r: 220, t: 50, b: 10 },
    legend: { x: 1.02, y: 1 },
  };
  return Plotly.toImage(
    { data, layout: figure, config },
    { format: "png", width: width + 230, height: height + 60, scale: 2 },
  );
}

/** A marker that brings the scale of the amounts below the legend. */
const amounts = (word, { low, high, ends }) => ({
  color: [low],
  cmin: low,
  cmax: Math.max(high, low + 1e-9),
  colorscale: CIVIDIS.map((colour, step) => [step / (CIVIDIS.length - 1), colour]),
  showscale: true,
  colorbar: {
    title: { text: word, side: "right", font: { size: 13 } },
    x: 1.02,
    y: 0,
    yanchor: "bottom",
    lenmode: "pixels",
    len: 150,
    thickness: 14,
    outlinewidth: 0,
    tickvals: [low, high],
    ticktext: ends,
  },
});
