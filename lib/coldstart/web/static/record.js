// The record of one image: what it looks like, what became of it, and why.

import { get, picture } from "./api.js";
import { centre } from "./map.js";
import { $, fill, h, number, spaced, term, when, who } from "./dom.js";
import { clusterColour, phaseWord, STATES, symbol } from "./marks.js";
import { known, show, shown } from "./state.js";

const LAYERS = {
  prediction: ["Model's label", "What the newest model would draw on this image."],
  entropy: ["Uncertainty", "Where the newest model is unsure: the brighter, the less sure (its entropy)."],
};
const OUTCOMES = { labelled: "labelled", skipped: "skipped" };

const panel = $("tab-image");
let asked = null;
let drawn = null;

/** Have the record drawn anew even if it is the same as before: pictures of it may not have come. */
export function forgetRecord() {
  if (drawn) drawn = { image_id: drawn.image_id };
}

/** Ask for the record of the image that is shown, and draw it. */
export async function drawRecord() {
  const image_id = shown.image;
  asked?.abort();
  if (image_id === null) {
    drawn = null;
    fill(
      panel,
      h(
        "p",
        { class: "quiet" },
        "Choose an image: click on a point of the map, or go there with Tab and the arrow keys and press Enter.",
      ),
    );
    return;
  }
  if (drawn?.image_id !== image_id) {
    drawn = null;
    fill(panel, h("h2", {}, image_id), h("p", { class: "quiet" }, "Loading…"));
  }
  asked = new AbortController();
  try {
    const record = { ...(await get("image", { id: image_id }, asked.signal)), ...ofTheCampaign(image_id) };
    // Drawn anew only when it is another one than before: the page asks whenever anything in the campaign changes.
    if (JSON.stringify(record) !== JSON.stringify(drawn)) draw(record);
    drawn = record;
  } catch (error) {
    if (error.name === "AbortError") return;
    drawn = null;
    fill(panel, h("h2", {}, image_id), h("p", { class: "problem" }, error.message), closing());
  }
}

/** What the record shows of the campaign and of the map, which may come later than it. */
const ofTheCampaign = image_id => ({
  n_clusters: known.campaign?.n_clusters,
  classes: known.campaign?.labels,
  reason: known.map?.reason[known.row.get(image_id)],
});

const closing = () => h("button", { type: "button", "data-key": "close", click: () => show({ image: null }) }, "Close");

function draw(record) {
  const { state, cluster } = record,
    mark = STATES[state];
  fill(
    panel,
    h(
      "div",
      { class: "title" },
      h("h2", {}, record.image_id),
      h("span", { class: "chip" }, symbol(mark.symbol, clusterColour(cluster)), term(mark.word, mark.about)),
    ),
    record.problem && h("p", { class: "problem" }, record.problem),
    record.label?.problem && h("p", { class: "problem" }, record.label.problem),
    preview(record),
    h(
      "div",
      { class: "actions" },
      record.ohif_url &&
        h("a", { class: "button", href: record.ohif_url, target: "_blank", rel: "noopener" }, "Open in OHIF"),
      h("button", { type: "button", "data-key": "centre", click: () => centre(record.image_id) }, "Show on the map"),
      closing(),
    ),
    facts(record),
    history(record),
  );
}

function preview(record) {
  const alt = `Preview of ${record.image_id}`;
  const photo = layer(picture("preview", { id: record.image_id, version: record.file_version }), alt, "photo");
  const frame = h("div", { class: "frame" }, photo);
  const on = new Set(shown.overlays.split(",").filter(name => name in LAYERS));
  const toggle = ([name, [word, about]]) =>
    h(
      "label",
      { title: about },
      h("input", {
        type: "checkbox",
        "data-key": `layer-${name}`,
        checked: on.has(name),
        disabled: !record.has_prediction,
        change: event => {
          event.target.checked ? on.add(name) : on.delete(name);
          show({ overlays: [...on].join() });
          overlays();
        },
      }),
      ` ${word}`,
    );
  const said = h(
    "p",
    { class: "quiet", role: "status" },
    record.has_prediction ? "" : "There is no trained model yet whose view could be laid over the image.",
  );

  function overlays() {
    for (const old of frame.querySelectorAll(".overlay")) old.remove();
    if (!record.has_prediction) return;
    for (const name of on) {
      said.textContent = "The model looks at the image…";
      const query = { id: record.image_id, kind: name, version: `${record.model_version},${record.file_version}` };
      frame.append(
        layer(
          picture("overlay", query).then(
            address => {
              said.textContent = "";
              return address;
            },
            error => {
              said.textContent = error.message;
              throw error;
            },
          ),
          `${LAYERS[name][0]} on ${record.image_id}`,
          "overlay",
        ),
      );
    }
  }
  overlays();
  return h("figure", {}, frame, h("figcaption", {}, Object.entries(LAYERS).map(toggle)), said);
}

/** A picture that shows itself once it is here; without it, what it would have been is said. */
function layer(address, alt, kind) {
  const image = h("img", { class: kind, alt });
  address.then(
    found => {
      image.src = found;
      image.classList.add("here");
    },
    error => {
      kind === "photo" ? image.replaceWith(h("p", { class: "quiet" }, error.message)) : image.remove();
    },
  );
  return image;
}

function facts(record) {
  const { label, geometry, n_clusters } = record;
  const newest = record.servings.at(-1);
  const row = (name, value) =>
    value === null || value === undefined || value === "" ? null : [h("dt", {}, name), h("dd", {}, value)];
  return h(
    "dl",
    {},
    row("Why", newest?.reason ?? record.reason),
    row(
      term("Cluster", "Images that look alike are in one cluster."),
      record.cluster !== null && record.cluster !== undefined
        ? `${record.cluster}${n_clusters ? ` of ${n_clusters}` : ""}${record.role ? `, ${spaced(record.role)}` : ""}`
        : null,
    ),
    row(
      term("Rank in the plan", "Its place in the first batch, which is chosen before there is a model."),
      record.rank,
    ),
    row(
      term(
        "Uncertainty",
        "How unsure the newest model is (entropy divided by its largest value): 0 is sure, 1 is pure guessing.",
      ),
      record.entropy === null ? null : `${number(record.entropy)} (${number(record.entropy_nats, 3)} nat)`,
    ),
    row(
      term(
        "Distance",
        "How far on the map from the nearest image that was taken already; the larger, the more it adds.",
      ),
      record.distance === null ? null : number(record.distance),
    ),
    row(
      term("Score", "What decided: distance and uncertainty, mixed by alpha. The highest comes next."),
      record.score === null ? null : number(record.score),
    ),
    row("Annotator", label ? who(label.annotator) : newest?.annotator),
    row("Label saved", label && when(label.saved_at)),
    row("Structures", structures(record)),
    row(
      term(
        "Model's Dice before",
        "How well a model that had not learned from this label had drawn it: 1 is the same, 0 is no overlap.",
      ),
      label && label.dice !== null ? number(label.dice, 3) : null,
    ),
    row("Size", geometry && sizeOf(geometry)),
    row("File", record.path),
    row("Model", record.model_version),
  );
}

function sizeOf({ size, spacing, unit }) {
  const pixels = size.join(" × ");
  return unit === "mm"
    ? `${pixels}, each ${spacing.map(mm => Number(mm.toPrecision(3))).join(" × ")} mm`
    : `${pixels} pixels`;
}

/** Names of the structures in a label: its values stand for classes, which the campaign numbers in their order. */
function structures({ label, classes }) {
  const names = Object.entries(classes ?? {})
    .filter(([name, value]) => value !== 0 && name.toLowerCase() !== "background")
    .map(([name]) => name);
  const found = Object.values(label?.classes ?? {})
    .map(index => names[index - 1])
    .filter(Boolean);
  return found.length ? [...new Set(found)].map(spaced).join(", ") : null;
}

function history({ servings }) {
  if (!servings.length) return h("p", { class: "quiet" }, "Not served to anybody yet.");
  const line = one =>
    h(
      "li",
      {},
      h("time", {}, when(one.at)),
      ` ${who(one.annotator)}: ${phaseWord(one.phase)}`,
      one.outcome
        ? `, ${OUTCOMES[one.outcome] ?? one.outcome}${one.ended_at ? ` ${when(one.ended_at)}` : ""}`
        : ", open now",
      h(
        "small",
        {},
        [one.reason, one.alpha !== null && one.alpha !== undefined && `alpha ${one.alpha}`].filter(Boolean).join("; "),
      ),
    );
  return [h("h3", {}, "Served"), h("ol", { class: "history", reversed: true }, servings.toReversed().map(line))];
}
