// The campaign at a glance: how far it is, whether more labels still help, who labelled, what the server is doing.

import { post } from "./api.js";
import { curve } from "./curve.js";
import { $, announce, count, fill, h, number, spaced, term, when, who } from "./dom.js";
import { known, show } from "./state.js";
import { training } from "./training.js";

const DAYS_SHOWN = 7;
const TASK_STATES = { running: "running", done: "done", failed: "failed", waiting: "waiting", stopped: "stopped" };
const PHASES = {
  nothing_usable: "No usable images",
  before_embedding: "Getting ready",
  cold_start: "First batch",
  plan_complete: "First batch used up",
  active: "The model helps to choose",
  done: "Done",
};

/** The line at the top: how many labels, which phase, what is running. */
export function drawHeader() {
  const { campaign } = known;
  if (!campaign) return;
  const { labelled, images, phase, user } = campaign,
    batch = Math.min(campaign.budget, images),
    goal = phase === "cold_start" || labelled < batch ? batch : images;
  document.title = `${labelled} of ${goal} labelled · Campaign map`;
  fill(
    $("progress"),
    h("progress", { max: Math.max(goal, 1), value: labelled, "aria-label": "Images labelled" }),
    h(
      "span",
      {},
      h("b", {}, `${labelled.toLocaleString()} of ${goal.toLocaleString()}`),
      goal === batch && goal < images ? " of the first batch labelled" : " images labelled",
    ),
    h("span", { class: "chip" }, term(PHASES[phase] ?? spaced(phase), campaign.phase_sentence)),
  );
  const running = campaign.tasks.filter(task => task.state === "running");
  fill(
    $("busy"),
    running.map(task =>
      h(
        "span",
        { class: "chip busy", title: task.message },
        h("i", { "aria-hidden": "true" }),
        `${task.title} ${task.total ? `${Math.floor((100 * (task.done ?? 0)) / task.total)} %` : ""}`,
      ),
    ),
  );
  $("account").dataset.user = user.name;
}

/** The panel. */
export function drawCampaign() {
  const { campaign } = known;
  if (!campaign) return;
  fill(
    $("tab-campaign"),
    curve(campaign.curve),
    training(campaign),
    labels(campaign),
    tasks(campaign),
    setAside(campaign),
    facts(campaign),
  );
}

function labels({ annotators, days, label_problems, served_now }) {
  const shownDays = days
    .map(one => one.day)
    .sort()
    .slice(-DAYS_SHOWN);
  const most = Math.max(1, ...annotators.flatMap(one => Object.values(one.days)));
  const cell = n => h("td", { style: `--share: ${(n ?? 0) / most}` }, n || "·");
  const short = day => new Date(`${day}T12:00`).toLocaleDateString([], { day: "numeric", month: "numeric" });
  const open = one => h("li", {}, `${who(one.annotator)} has `, link(one.image_id), `, since ${when(one.since)}`);
  return h(
    "section",
    {},
    h("h3", {}, "Who labelled what"),
    annotators.length
      ? h(
          "table",
          { class: "days" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, "Annotator"),
              shownDays.map(day => h("th", { scope: "col", title: day }, short(day))),
              h("th", { scope: "col" }, "All"),
            ),
          ),
          h(
            "tbody",
            {},
            annotators.map(one =>
              h(
                "tr",
                {},
                h("th", { scope: "row", title: `last ${when(one.last_at)}` }, who(one.name)),
                shownDays.map(day => cell(one.days[day])),
                h("td", { class: "sum" }, one.labels),
              ),
            ),
          ),
          annotators.length > 1 &&
            h(
              "tfoot",
              {},
              h(
                "tr",
                {},
                h("th", { scope: "row" }, "All"),
                shownDays.map(day => h("td", {}, days.find(one => one.day === day).labels)),
                h(
                  "td",
                  { class: "sum" },
                  annotators.reduce((sum, one) => sum + one.labels, 0),
                ),
              ),
            ),
        )
      : h("p", { class: "quiet" }, "Nobody has saved a label yet."),
    served_now.length > 0 && h("ul", { class: "plain" }, served_now.map(open)),
    label_problems.length > 0 &&
      h(
        "details",
        { "data-key": "problems" },
        h("summary", {}, `${count(label_problems.length, "label")} to look at`),
        h(
          "ul",
          {},
          label_problems.map(sentence => h("li", {}, sentence)),
        ),
      ),
  );
}

const link = image_id =>
  h(
    "button",
    {
      type: "button",
      class: "link",
      "data-key": `open-${image_id}`,
      click: () => show({ image: image_id, tab: "image" }),
    },
    image_id,
  );

function tasks({ tasks }) {
  const one = task =>
    h(
      "li",
      {},
      h("div", { class: "task" }, h("b", {}, task.title), h("span", {}, TASK_STATES[task.state] ?? task.state)),
      task.state === "running" &&
        h("progress", {
          max: task.total || 1,
          value: task.total ? (task.done ?? 0) : null,
          "aria-label": `Progress of ${task.title}`,
        }),
      h(
        "p",
        { class: "quiet" },
        [
          task.total ? `${(task.done ?? 0).toLocaleString()} of ${task.total.toLocaleString()}` : "",
          task.message,
          task.state === "running" && task.started_at ? `since ${when(task.started_at)}` : "",
        ]
          .filter(Boolean)
          .join(" · "),
      ),
      task.error && h("p", { class: "problem" }, task.error),
      task.log.length > 0 &&
        h(
          "details",
          { "data-key": `log-${task.name}` },
          h("summary", {}, "Last lines of its log"),
          h("pre", { tabindex: "0", "data-key": `lines-${task.name}` }, task.log.join("\n")),
        ),
    );
  return h(
    "section",
    {},
    h("h3", {}, "What the server does"),
    tasks.length
      ? h("ul", { class: "plain tasks" }, tasks.map(one))
      : h("p", { class: "quiet" }, "Nothing at the moment."),
  );
}

/** What came of the last press of a button here; kept, since the panel is drawn anew whenever something changes. */
let said = null;

function setAside({ set_aside, n_set_aside, user }) {
  if (!n_set_aside) return (said = null);
  const retry = async image_ids => {
    try {
      const { tried } = await post("retry", { image_ids });
      said = h("p", { class: "said" }, `${count(tried, "image is", "images are")} tried again now.`);
    } catch (error) {
      said = h("p", { class: "problem" }, error.message);
    }
    announce(said.textContent);
    drawCampaign();
  };
  const button = (words, label, key, image_ids) =>
    h(
      "button",
      {
        type: "button",
        "data-key": key,
        "aria-label": label,
        disabled: !user.may_steer,
        title: user.may_steer ? null : "Reviewers and administrators may do this.",
        click: () => retry(image_ids),
      },
      words,
    );
  return h(
    "section",
    {},
    h(
      "h3",
      {},
      term(
        `Set aside: ${count(n_set_aside, "image")}`,
        "They could not be read or used, and are served to nobody. A file that changes is tried again by itself.",
      ),
    ),
    h(
      "ul",
      { class: "plain aside" },
      set_aside.map(one =>
        h(
          "li",
          {},
          h("div", {}, link(one.image_id), h("p", { class: "quiet" }, one.reason)),
          button("Try again", `Try ${one.image_id} again`, `retry-${one.image_id}`, [one.image_id]),
        ),
      ),
    ),
    n_set_aside > set_aside.length &&
      h("p", { class: "quiet" }, `and ${(n_set_aside - set_aside.length).toLocaleString()} more`),
    n_set_aside > 1 && button("Try all again", "Try all images that were set aside again", "retry-all", null),
    said,
  );
}

function facts(campaign) {
  const row = (name, value) => (value === null || value === undefined ? null : [h("dt", {}, name), h("dd", {}, value)]);
  const best = Object.entries(campaign.silhouettes ?? {}).sort((a, b) => b[1] - a[1])[0];
  return h(
    "section",
    {},
    h("h3", {}, "About this campaign"),
    h(
      "dl",
      {},
      row("Phase", campaign.phase_sentence),
      row(
        term("First batch", "The budget: how many images are chosen by looks alone."),
        `${campaign.budget} labels${campaign.planned ? `, ${campaign.planned} planned` : ""}`,
      ),
      row(
        "Images",
        `${campaign.images.toLocaleString()} to choose from, ${campaign.held_out.toLocaleString()} held out`,
      ),
      row(
        term(
          "Clusters",
          "Groups of images that look alike; their number is the one whose groups are clearest (silhouette).",
        ),
        best ? `${campaign.n_clusters} (silhouette ${number(best[1])})` : campaign.n_clusters,
      ),
      row(term("Encoder", "What turns an image into numbers, so that images can be compared."), campaign.encoder),
      row(term("Projection", "How these numbers become a flat map."), campaign.projection),
      row("Model", campaign.model_version ?? "none yet"),
      row(
        term(
          "Model behind the choice",
          "Its uncertainty decides; a newer one takes over when it has looked at every image.",
        ),
        campaign.scored_model_version !== campaign.model_version ? campaign.scored_model_version : null,
      ),
      row("Structures", Object.keys(campaign.labels).map(spaced).join(", ")),
      row("Preset", `${campaign.preset}, ${campaign.spatial_dims}D`),
      row("Version", campaign.app_version),
    ),
  );
}
