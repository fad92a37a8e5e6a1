// The page: asks the server whether something changed, and draws what did.

import { get, isLoggedIn, logIn, logOut, Refused, whenLoginNeeded, whenUnanswered } from "./api.js";
import { drawCampaign, drawHeader } from "./campaign.js";
import { $, announce, fill, h, hideTip } from "./dom.js";
import { find } from "./find.js";
import { draw, drawMarks, lookAsSaid, whole, zoom } from "./map.js";
import { COLOURS, legend, whenThemeChanges } from "./marks.js";
import { drawFailure, drawNotice } from "./notice.js";
import { dismiss } from "./pointing.js";
import { drawRecord, forgetRecord } from "./record.js";
import { notSaved, saveCsv, savePng } from "./saving.js";
import { known, listen, show, shown, tell } from "./state.js";
import { drawSteer } from "./steer.js";
import { announceTraining } from "./training.js";

const POLL_MS = 2000,
  POLL_HIDDEN_MS = 10000;
const TABS = { image: "Image", next: "What comes next", campaign: "Campaign" };

// Asking

let revision = null,
  mapRevision = null,
  heardAt = null,
  timer = 0;

async function poll() {
  clearTimeout(timer);
  try {
    // The first time nothing is known, so that the answer to "what changed" need not be waited for.
    const state = revision === null ? { revision: "", map_revision: "" } : await get("state");
    await Promise.all([
      state.map_revision !== mapRevision && get("map").then(takeMap),
      state.revision !== revision && get("campaign").then(takeCampaign),
    ]);
    heard();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return; // until somebody has logged in
    away(error);
  }
  timer = setTimeout(poll, document.hidden ? POLL_HIDDEN_MS : POLL_MS);
}

function takeMap(map) {
  known.map = map;
  known.row = new Map(map.image_id.map((image_id, row) => [image_id, row]));
  mapRevision = map.map_revision;
  tell("map");
}

function takeCampaign(campaign) {
  const before = known.campaign;
  known.campaign = campaign;
  revision = campaign.revision;
  if (before && before.labelled !== campaign.labelled) announce(`${campaign.labelled} labelled now`);
  for (const task of campaign.tasks) {
    if (task.name !== "train" && before?.tasks.some(one => one.name === task.name && one.state === "running") && task.state !== "running")
      announce(`${task.title}: ${task.state}`);
  }
  announceTraining(before?.training, campaign.training);
  tell("campaign");
}

function heard() {
  heardAt = new Date();
  if ($("away").hidden) return;
  $("away").hidden = true;
  tell("back");
}

function away(error) {
  const since = heardAt ? ` What you see is from ${heardAt.toLocaleTimeString()}.` : "";
  $("away").textContent =
    error instanceof Refused
      ? `${error.message}${since}`
      : `The server does not answer.${since} The page tries again by itself.`;
  $("away").hidden = false;
}

whenUnanswered(away);

addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});

// Drawing

listen(changed => {
  if (changed.has("asked")) poll();
  const any = (...names) => names.some(name => changed.has(name));
  const opened = name => changed.has("address") && changed.has(name);
  if (any("back") || opened("overlays")) forgetRecord();
  if (any("back")) known.picks = [];
  if (opened("view")) lookAsSaid();
  if (any("map", "colour")) draw().then(() => fill($("legend"), ...legend()), unable);
  else if (any("image", "tab")) drawMarks();
  if (any("campaign")) drawHeader();
  if (any("campaign", "map")) drawNotice();
  if (any("tab")) drawTabs();
  if (shown.tab === "campaign" && any("campaign", "tab")) drawCampaign();
  if (shown.tab === "image" && any("campaign", "map", "tab", "image", "back", "address")) drawRecord();
  if (shown.tab === "next" && any("campaign", "map", "tab", "alpha", "budget", "back")) drawSteer();
  if (any("campaign")) drawAccount();
  if (any("colour")) document.querySelector(`#colour input[value=${shown.colour}]`).checked = true;
});

function unable(error) {
  drawFailure(error?.message ?? "Its drawing library did not arrive from the server. Load the page again.");
}

whenThemeChanges(() => tell("colour", "campaign"));

// Controls

function buildColours() {
  fill(
    $("colour"),
    h("legend", {}, "Colour"),
    Object.entries(COLOURS).map(([name, { word, about }]) =>
      h(
        "label",
        { title: about },
        h("input", {
          type: "radio",
          name: "colour",
          value: name,
          checked: shown.colour === name,
          change: () => show({ colour: name }),
        }),
        h("span", {}, word),
      ),
    ),
  );
}

function buildTools() {
  const button = (sign, label, click) =>
    h("button", { type: "button", "aria-label": label, title: label, click }, sign);
  fill(
    $("tools"),
    button("+", "Zoom in", () => zoom(1)),
    button("−", "Zoom out", () => zoom(-1)),
    button("⤢", "Show the whole map", whole),
    button("PNG", "Save the map as a picture (PNG)", () => savePng().catch(error => notSaved("map.png", error))),
    button("CSV", "Save the table behind the map (CSV)", () => saveCsv().catch(error => notSaved("map.csv", error))),
  );
}

function buildTabs() {
  const names = Object.keys(TABS);
  fill(
    $("tabs"),
    names.map((name, at) =>
      h(
        "button",
        {
          type: "button",
          role: "tab",
          id: `tab-button-${name}`,
          "aria-controls": `tab-${name}`,
          click: () => show({ tab: name }),
          keydown: event => {
            const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
            if (!by) return;
            show({ tab: names[(at + by + names.length) % names.length] });
            $(`tab-button-${shown.tab}`).focus();
          },
        },
        TABS[name],
      ),
    ),
  );
  drawTabs();
}

function drawTabs() {
  for (const name of Object.keys(TABS)) {
    const chosen = name === shown.tab,
      button = $(`tab-button-${name}`);
    button.setAttribute("aria-selected", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
    $(`tab-${name}`).hidden = !chosen;
  }
}

function drawAccount() {
  const { user, authentication } = known.campaign;
  fill(
    $("account"),
    authentication && [
      h("span", {}, user.name),
      isLoggedIn() && h("button", { type: "button", class: "link", "data-key": "logout", click: logOut }, "Log out"),
    ],
  );
}

addEventListener("keydown", event => {
  if (event.key !== "Escape" || $("login").open) return;
  if (!$("tip").hidden) hideTip();
  else if (!dismiss() && shown.image !== null) {
    show({ image: null });
    $("map").focus();
  }
});

// Logging in

const dialog = $("login");
whenLoginNeeded(() => {
  if (!dialog.open) dialog.showModal();
});
dialog.addEventListener("cancel", event => event.preventDefault());
dialog.querySelector("form").addEventListener("submit", async event => {
  event.preventDefault();
  const form = event.target,
    problem = form.querySelector(".problem");
  problem.textContent = "";
  try {
    await logIn(form.username.value, form.password.value);
    dialog.close();
    form.reset();
    await poll();
    tell("back");
  } catch (error) {
    problem.textContent = error instanceof Refused ? error.message : "The server does not answer. Try again.";
  }
});

// Beginning

const first = poll();
buildColours();
buildTools();
buildTabs();
find();
drawRecord();
fill($("tab-campaign"), h("p", { class: "quiet" }, "Loading…"));
await first;
