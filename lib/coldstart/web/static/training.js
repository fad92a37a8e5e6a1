// Training: how far the one is that runs, how the last one ended, when the next one begins, and the models it made.

import { post } from "./api.js";
import { announce, count, h, number, term, when } from "./dom.js";
import { tell } from "./state.js";

const RESTING = ["idle", "waiting"];
const ONLY = "Reviewers and administrators may do this.";

/** What came of the last press of a button; kept here, since the panel is drawn anew whenever something changes. */
const said = { train: null, model: null };
/** A press that the server has not answered yet: another one would ask for the same again. */
let asking = false;

/** The state of the training in a few words. */
function inWords({ state, done, total, loss, validation_dice, remaining, waits }) {
  const of = total ? ` ${done.toLocaleString()} of ${total.toLocaleString()}` : "";
  return {
    idle: "No training runs.",
    waiting: "A training begins in a moment.",
    starting: "A training begins: the images are read.",
    paused: `The training waits. ${waits}`,
    training: [
      `Epoch${of}`,
      loss !== null && `loss ${number(loss, 3)}`,
      validation_dice !== null && `validation Dice ${number(validation_dice, 3)}`,
      remaining && `${remaining} left`,
    ]
      .filter(Boolean)
      .join(" · "),
    checking: `The new model is checked${of && `: image${of}`}.`,
  }[state];
}

/** Say to whoever hears the page what became of the training since the page last asked. */
export function announceTraining(before, { now, last }) {
  if (before?.now.state === now.state) return;
  if (!RESTING.includes(now.state)) Object.assign(said, { train: null, model: null });
  if (now.state === "training") announce("Training has begun");
  else if (now.state === "checking") announce(inWords({ ...now, total: null }));
  else if (now.state === "idle" && before && before.now.state !== "waiting")
    announce(`The training has ended. ${now.problem ?? last?.sentence ?? ""}`);
}

/** The section of the panel. */
export function training({ training: { now, last, n_new, hindrance, due, triggers }, models, user }) {
  const hint = !user.may_steer ? ONLY : (hindrance ?? (now.on_its_way ? "It learns from every label there is." : null));
  const running = !RESTING.includes(now.state);
  return h(
    "section",
    {},
    h("h3", {}, term("Training", "The model is made anew from all labels; a worse one than before is not used.")),
    h("p", { class: "state" }, inWords(now), now.state === "waiting" && due && ` Why: ${due}.`),
    running &&
      h("progress", {
        max: now.total || 1,
        value: now.total ? now.done : null,
        "aria-label": "Progress of the training",
      }),
    !running && now.problem && h("p", { class: "problem" }, now.problem),
    !running && !now.problem && last && ending(last),
    !running && h("p", { class: "quiet" }, next(last ? n_new : 0, triggers)),
    h(
      "div",
      { class: "actions" },
      h(
        "button",
        {
          type: "button",
          class: "primary",
          "data-key": "train",
          "aria-disabled": String(hint !== null || asking),
          "aria-describedby": hint ? "train-hint" : null,
          click: () => hint === null && train(),
        },
        running && !now.on_its_way ? "Train again after this" : "Train",
      ),
      hint && h("span", { class: "quiet", id: "train-hint" }, hint),
    ),
    said.train,
    models.length > 0 && kept(models, user),
  );
}

function ending({ at, used, sentence }) {
  const what = used ? "Its model is used." : "It gave no model for use.";
  return h("p", { class: used ? null : "problem" }, `The last one began ${when(at)}. ${sentence ?? what}`);
}

function next(n_new, triggers) {
  const labels = n_new ? `${count(n_new, "label is new", "labels are new")} since the last one. ` : "";
  return triggers.length ? `${labels}The next one begins ${list(triggers)}.` : `${labels}None begins by itself.`;
}

const list = parts => (parts.length < 2 ? parts.join() : `${parts.slice(0, -1).join(", ")}, or ${parts.at(-1)}`);

async function ask(about, path, body, answered) {
  if (asking) return;
  asking = true;
  tell("campaign");
  let sentence,
    kind = "said";
  try {
    sentence = answered(await post(path, body));
  } catch (error) {
    [sentence, kind] = [error.message, "problem"];
  }
  asking = false;
  said[about] = h("p", { class: kind }, sentence);
  announce(sentence);
  tell("campaign", "asked");
}

const train = () =>
  ask("train", "train", {}, ({ asked }) =>
    asked ? "A training was asked for." : "A training that learns from every label was on its way already.",
  );

const use = version =>
  ask("model", "model", { version }, () => `${version} is used now; the server looks at every image with it.`);

/** The models that are kept, the newest first. */
function kept(models, user) {
  const dice = (value, n) => (value === null ? "–" : h("span", { title: count(n, "image") }, number(value, 3)));
  const row = one =>
    h(
      "tr",
      {},
      h(
        "th",
        { scope: "row", title: `${one.version}: ${one.sentence ?? ""}` },
        one.created ? when(Date.parse(one.created) / 1000) : one.version,
        one.refused && h("small", {}, "not used: ", one.sentence),
      ),
      h("td", {}, one.n_images ?? "–"),
      h("td", {}, dice(one.heldout_dice, one.heldout_images)),
      h("td", {}, dice(one.prequential_dice, one.prequential_labels)),
      h(
        "td",
        {},
        one.in_use
          ? h("b", {}, "in use")
          : h(
              "button",
              {
                type: "button",
                "data-key": `model-${one.version}`,
                "aria-label": `Use the model ${one.version}`,
                disabled: !user.may_steer || asking,
                title: user.may_steer ? "Until the next training makes a better one" : ONLY,
                click: () => use(one.version),
              },
              "Use",
            ),
      ),
    );
  const column = (word, about) => h("th", { scope: "col" }, about ? term(word, about) : word);
  return h(
    "details",
    { "data-key": "models" },
    h("summary", {}, count(models.length, "kept model")),
    h(
      "table",
      { class: "models" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          column("Trained"),
          column("Labels", "How many labels it learned from."),
          column("Held out", "Dice on the held-out images that had labels when it was trained."),
          column("New labels", "Dice on the labels that were saved while it was in use, before it learned from them."),
          h("th", {}),
        ),
      ),
      h("tbody", {}, models.toReversed().map(row)),
    ),
    said.model,
  );
}
