// The card beside the pointer: what an image looks like, and what is known of it in a few lines.

import { picture } from "./api.js";
import { $, fill, h, number } from "./dom.js";
import { stage, toPixels, xs, ys } from "./map.js";
import { phaseWord, STATES } from "./marks.js";
import { fileVersion, known } from "./state.js";

const CARD_AFTER_MS = 60;

const card = $("card");
let cardFor = null,
  cardTimer = 0,
  asked = null;

export function showCard(row) {
  if (row === cardFor) return;
  hideCard();
  cardFor = row;
  stage.classList.add("pointing");
  cardTimer = setTimeout(() => {
    const image_id = known.map.image_id[row],
      photo = h("img", { alt: "", width: 176, height: 176 });
    asked = new AbortController();
    picture("thumbnail", { id: image_id, size: 192, version: fileVersion(image_id) }, asked.signal).then(
      address => {
        photo.src = address;
      },
      () => photo.classList.add("missing"),
    );
    fill(card, photo, h("strong", {}, image_id), ...describe(row).map(line => h("span", {}, line)));
    card.hidden = false;
    const [x, y] = toPixels(xs[row], ys[row]),
      right = x + 18 + card.offsetWidth < stage.clientWidth;
    card.style.left = `${Math.max(4, right ? x + 18 : x - 18 - card.offsetWidth)}px`;
    card.style.top = `${Math.max(4, Math.min(y - 40, stage.clientHeight - card.offsetHeight - 4))}px`;
  }, CARD_AFTER_MS);
}

export function hideCard() {
  clearTimeout(cardTimer);
  asked?.abort(); // a picture on its way to nobody would hold up those that are looked at
  cardFor = null;
  card.hidden = true;
  stage.classList.remove("pointing");
}

/** What is known of an image, in a few lines. */
export function describe(row) {
  const { map } = known,
    lines = [];
  const rank = map.rank[row] === null ? "" : `, number ${map.rank[row]} of the plan`;
  lines.push(`${STATES[map.state[row]].word}${map.medoid[row] ? ", centre of its cluster" : ""}${rank}`);
  if (map.cluster[row] !== null) lines.push(`cluster ${map.cluster[row]}`);
  if (map.phase[row] !== null)
    lines.push(`served: ${phaseWord(map.phase[row])}${map.annotator[row] ? `, to ${map.annotator[row]}` : ""}`);
  if (map.entropy[row] !== null) lines.push(`uncertainty ${number(map.entropy[row])}`);
  if (map.distance[row] !== null) lines.push(`distance ${number(map.distance[row])}`);
  if (map.reason[row]) lines.push(map.reason[row]);
  return lines;
}

export const cardIsShown = () => !card.hidden;

stage.addEventListener("moved", hideCard);
