// What is said in the middle of a map on which there is nothing yet.

import { $, count, fill, h } from "./dom.js";
import { known } from "./state.js";

const EMPTY =
  "Put image files into the folder of the studies, or series into the archive. They show up here by themselves.";
const SOON =
  "Similar ones will lie close together here. Annotators can begin already: until then they get a random choice.";

let failed = false;

/** Say why the map is empty, where it is; a map that was `drawn` is no failure any more. */
export function drawNotice(drawn = false) {
  if (drawn) failed = false;
  if (!known.map || failed) return;
  const box = $("notice"),
    nOffMap = known.map.x.filter(x => x === null).length,
    nOnMap = known.map.x.length - nOffMap;
  box.hidden = nOnMap > 0;
  if (nOnMap + nOffMap === 0) fill(box, h("h2", {}, "No images yet"), h("p", {}, EMPTY));
  else if (known.campaign?.phase === "nothing_usable")
    fill(box, h("h2", {}, "No image can be used"), h("p", {}, known.campaign.phase_sentence));
  else if (!nOnMap) {
    const reading = known.campaign?.tasks.find(task => task.name === "embedding" && task.state === "running");
    fill(
      box,
      h("h2", {}, "The map is being made"),
      h("p", {}, `The server compares ${count(nOffMap, "image")} with each other. ${SOON}`),
      reading?.total && h("progress", { max: reading.total, value: reading.done ?? 0, "aria-label": "Images read" }),
    );
  }
}

export function drawFailure(sentence) {
  failed = true;
  const box = $("notice");
  fill(box, h("h2", {}, "The map could not be drawn"), h("p", {}, sentence));
  box.hidden = false;
}
