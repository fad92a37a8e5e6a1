// The map as a picture, and the table behind it.

import { blob, Refused } from "./api.js";
import { $, announce, explain, h, hideTip } from "./dom.js";
import { config, currentView, labels, layout, plotly, stage, traces } from "./map.js";
import { COLOURS, legendEntries, theme } from "./marks.js";
import { known, shown } from "./state.js";

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
  const dummy = (name, marker) => ({
    type: "scatter",
    mode: "markers",
    x: [null],
    y: [null],
    name,
    marker,
    hoverinfo: "skip",
    showlegend: true,
  });
  const data = [
    ...traces().map(trace => ({ ...trace, showlegend: false })),
    ...entries.shapes.map(one => dummy(`${one.word} (${one.n})`, { symbol: one.symbol, size: 10, color: look.ink })),
    ...entries.colours.map(one =>
      dummy(`${one.heading ?? ""}${one.word} (${one.n})`, { symbol: "circle", size: 10, color: one.colour }),
    ),
  ];
  const annotations = labels()
    .filter(({ kind }) => kind !== "cursor")
    .map(({ x, y, text, kind }) => ({
      x,
      y,
      text: kind === "selected" ? "◯" : `<b>${text}</b>`,
      showarrow: false,
      font: { size: kind === "selected" ? 30 : 15, color: kind === "cluster" ? look.ink : look.accent },
      bgcolor: kind === "pick" ? look.surface : "rgba(0,0,0,0)",
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
