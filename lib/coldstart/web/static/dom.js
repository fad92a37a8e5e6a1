// Elements, and how numbers and times are written. Text always enters as text: names of images and people are data.

export const $ = id => document.getElementById(id);

/** An element with attributes (a function is a listener, true an empty attribute, null none) and children. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what is in an element, and leave focus, open details and what was scrolled where they were. */
export function fill(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : null,
    told = !tip.hidden;
  const keyed = [...element.querySelectorAll("[data-key]")],
    open = new Set(keyed.filter(one => one.open).map(one => one.dataset.key)),
    places = new Map(keyed.filter(one => one.scrollTop).map(one => [one.dataset.key, one.scrollTop]));
  element.replaceChildren(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  for (const one of element.querySelectorAll("details")) if (open.has(one.dataset.key)) one.open = true;
  for (const [key, top] of places) if (withKey(element, key)) withKey(element, key).scrollTop = top;
  if (!focused) return;
  withKey(element, focused)?.focus({ preventScroll: true });
  if (!told) hideTip(); // a word explains itself when it gets the focus, which it had
}

const withKey = (element, key) => element.querySelector(`[data-key="${CSS.escape(key)}"]`);

/** Say something to whoever hears the page. */
export const announce = text => {
  $("live").textContent = text;
};

export const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString()} ${n === 1 ? one : many}`;

/** A time in seconds since 1970, as short as it can be understood. */
export function when(seconds) {
  if (!seconds) return "–";
  const date = new Date(seconds * 1000);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (date.toDateString() === new Date().toDateString()) return `today ${time}`;
  return `${date.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" })}, ${time}`;
}

export const who = name => name ?? "no name given";

/** Names as the database has them, for people: cold_start, right_lung. */
export const spaced = name => name.replaceAll("_", " ");

// Words with an explanation

const tip = $("tip");

/** Say something beside an element. */
export function explain(element, text) {
  tip.textContent = text;
  tip.hidden = false;
  const at = element.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, innerWidth - tip.offsetWidth - 8));
  const below = at.bottom + 6 + tip.offsetHeight < innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${below ? at.bottom + 6 : at.top - tip.offsetHeight - 6}px`;
}

/** A word that explains itself: on hovering, on focus and on a tap. */
export function term(word, explanation) {
  const button = h(
    "button",
    { type: "button", class: "term", "data-key": `term-${word}`, "aria-label": `${word}: ${explanation}` },
    word,
  );
  const show = () => explain(button, explanation);
  for (const event of ["mouseenter", "focus", "click"]) button.addEventListener(event, show);
  for (const event of ["mouseleave", "blur"]) button.addEventListener(event, hideTip);
  return button;
}

export const hideTip = () => {
  tip.hidden = true;
};
addEventListener("scroll", hideTip, true);
