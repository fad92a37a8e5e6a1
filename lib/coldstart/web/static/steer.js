// What comes next: under the values in force, and under others that somebody tries out here.

import { get, picture, post } from "./api.js";
import { drawMarks } from "./map.js";
import { $, announce, fill, h, number, term, when } from "./dom.js";
import { fileVersion, known, show, shown } from "./state.js";

const ASK_AFTER_MS = 150;
const N_NEXT = 10;

const panel = $("tab-next");
let asked = null,
  timer = 0;
let parts = null;

function build() {
  const alpha = h("input", {
    id: "alpha",
    type: "range",
    min: 0,
    max: 1,
    step: 0.05,
    input: event => tryOut({ alpha: event.target.value }),
  });
  const budget = h("input", {
    id: "budget",
    type: "number",
    min: 1,
    step: 1,
    inputmode: "numeric",
    input: event => tryOut({ budget: event.target.value || null }),
  });
  parts = {
    alpha,
    budget,
    value: h("output", { for: "alpha" }),
    chosen: h("p", { class: "quiet" }),
    use: h("button", { type: "button", class: "primary", click: use }, "Use this"),
    back: h("button", { type: "button", click: () => tryOut({ alpha: null, budget: null }) }, "Back"),
    said: h("p", { role: "status", class: "said" }),
    sentence: h("p", { class: "quiet" }),
    list: h("ol", { class: "next", "aria-label": "Next images" }),
  };
  panel.replaceChildren(
    h("h2", {}, "Which images come next"),
    h(
      "div",
      { class: "control" },
      h("label", { for: "alpha" }, "Balance"),
      term(
        "alpha",
        "0: what the model is most unsure about. 1: what is least like the images taken already. Between: a mix.",
      ),
      parts.value,
      alpha,
      h(
        "div",
        { class: "ends", "aria-hidden": "true" },
        h("span", {}, "what the model is unsure about"),
        h("span", {}, "what is unlike the rest"),
      ),
    ),
    h(
      "div",
      { class: "control row" },
      h("label", { for: "budget" }, "First batch"),
      term("budget", "How many images are chosen by looks alone and labelled before the first model decides."),
      budget,
      h("span", {}, "images"),
    ),
    h("div", { class: "actions" }, parts.use, parts.back),
    parts.said,
    parts.chosen,
    parts.sentence,
    parts.list,
  );
}

function tryOut(change) {
  show(change);
  parts.said.textContent = "";
}

/** Write the values into the controls, and ask which images come next under them. */
export function drawSteer() {
  if (shown.tab !== "next") return;
  const { campaign } = known;
  if (!campaign) return;
  if (!parts) build();
  const alpha = shown.alpha ?? campaign.alpha,
    budget = shown.budget ?? campaign.budget;
  parts.alpha.value = alpha;
  parts.value.textContent = number(Number(alpha));
  parts.alpha.setAttribute("aria-valuetext", `alpha ${number(Number(alpha))}`);
  if (document.activeElement !== parts.budget) parts.budget.value = budget;
  const changed = Number(alpha) !== campaign.alpha || String(budget) !== String(campaign.budget);
  const may = campaign.user.may_steer;
  parts.use.disabled = !changed || !may;
  parts.use.title = may
    ? "Make these the campaign's values"
    : "Reviewers and administrators may change the campaign's values; you can look at what they would do.";
  parts.back.disabled = !changed;
  const said = Object.entries(campaign.chosen ?? {}).map(([name, one]) => {
    const before = one.value === one.configured ? "" : `, in place of ${one.configured}`;
    return `${name} ${one.value} was chosen${one.who ? ` by ${one.who}` : ""}, ${when(one.at)}${before}.`;
  });
  parts.chosen.replaceChildren(
    [
      changed
        ? `Tried out here; the campaign uses alpha ${campaign.alpha} and a first batch of ${campaign.budget}.`
        : "These are the campaign's values.",
      changed && !may ? "Reviewers and administrators may make others the campaign's." : "",
      ...said,
    ]
      .filter(Boolean)
      .join(" "),
  );
  clearTimeout(timer);
  timer = setTimeout(ask, ASK_AFTER_MS, alpha, budget);
}

async function ask(alpha, budget) {
  asked?.abort();
  asked = new AbortController();
  try {
    const next = await get("next", { alpha, budget, n: N_NEXT }, asked.signal);
    parts.sentence.textContent = next.sentence;
    parts.sentence.classList.remove("problem");
    const picks = next.picks.map(pick => ({ ...pick, version: fileVersion(pick.image_id) }));
    if (JSON.stringify(picks) !== JSON.stringify(known.picks)) {
      fill(parts.list, picks.map(item));
      const first = picks.slice(0, 3).map(pick => pick.image_id);
      announce(`Next: ${first.join(", ")}`);
    }
    known.picks = picks;
  } catch (error) {
    if (error.name === "AbortError") return;
    known.picks = [];
    parts.sentence.textContent = error.message;
    parts.sentence.classList.add("problem");
    fill(parts.list);
  }
  drawMarks();
}

function item(pick) {
  const photo = h("img", { alt: "", width: 56, height: 56 });
  picture("thumbnail", { id: pick.image_id, size: 128, version: pick.version }).then(
    address => {
      photo.src = address;
    },
    () => photo.classList.add("missing"),
  );
  return h(
    "li",
    {},
    h(
      "button",
      {
        type: "button",
        "data-key": `pick-${pick.image_id}`,
        click: () => show({ image: pick.image_id, tab: "image" }),
      },
      photo,
      h("span", {}, h("b", {}, h("i", { class: "rank" }, pick.rank), pick.image_id), h("small", {}, pick.reason)),
    ),
  );
}

async function use() {
  const { campaign } = known,
    body = {};
  if (shown.alpha !== null && Number(shown.alpha) !== campaign.alpha) body.alpha = Number(shown.alpha);
  if (shown.budget !== null && shown.budget !== String(campaign.budget)) body.budget = Number(shown.budget);
  parts.use.disabled = true;
  try {
    Object.assign(campaign, await post("settings", body));
    show({ alpha: null, budget: null });
    parts.said.textContent = "The campaign uses these values now, for every annotator's next click.";
  } catch (error) {
    parts.said.textContent = error.message;
  }
  drawSteer();
}
