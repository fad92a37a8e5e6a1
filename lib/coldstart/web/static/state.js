// What the page shows (kept in its address, so that it can be bookmarked and sent) and what it knows of the campaign.

const DEFAULTS = {
  colour: "cluster",
  tab: "campaign",
  image: null,
  alpha: null,
  budget: null,
  overlays: "",
  view: null,
};

const CHOICES = { colour: ["cluster", "phase", "entropy", "state"], tab: ["image", "next", "campaign"] };

/** Behind the '#', which browsers keep to themselves: the names of images reach no log on the way. */
function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const isSaid = name => given.has(name) && (CHOICES[name]?.includes(given.get(name)) ?? true);
  return Object.fromEntries(
    Object.entries(DEFAULTS).map(([name, usual]) => [name, isSaid(name) ? given.get(name) : usual]),
  );
}

export const shown = read();

/** What the server said last; `map` has columns, `row` finds an image in them. */
export const known = { campaign: null, map: null, row: new Map(), picks: [] };

/** What of a thumbnail's address is another one when the file is: a replaced image lies elsewhere on the map. */
export function fileVersion(image_id) {
  const row = known.row.get(image_id);
  return row === undefined ? null : `${known.map.x[row]},${known.map.y[row]}`;
}

const listeners = [];

/** Be told of changes: with the set of names of what changed, and "address" where it was the address that changed. */
export const listen = listener => listeners.push(listener);
export const tell = (...names) => {
  for (const listener of listeners) listener(new Set(names));
};

/** Show something else, and say so in the address. */
export function show(change) {
  const names = Object.keys(change).filter(name => shown[name] !== change[name]);
  if (!names.length) return;
  Object.assign(shown, change);
  const said = Object.entries(shown).filter(([name, value]) => value !== DEFAULTS[name] && value !== null);
  history.replaceState(null, "", said.length ? `#${new URLSearchParams(said)}` : location.pathname + location.search);
  tell(...names);
}

addEventListener("hashchange", () => {
  const now = read(),
    names = Object.keys(now).filter(name => shown[name] !== now[name]);
  Object.assign(shown, now);
  tell(...names, "address");
});
