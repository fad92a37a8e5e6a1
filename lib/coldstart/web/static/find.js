// Find an image by a part of its name.

import { centre } from "./map.js";
import { $, fill, h } from "./dom.js";
import { known, show } from "./state.js";

const SHOWN = 8;

export function find() {
  const list = h("ul", { id: "found", role: "listbox", "aria-label": "Images found", hidden: true });
  let found = [],
    at = 0;
  const input = h("input", {
    type: "search",
    placeholder: "Find an image",
    "aria-label": "Find an image by its name",
    autocomplete: "off",
    spellcheck: "false",
    role: "combobox",
    "aria-expanded": "false",
    "aria-controls": "found",
    "aria-autocomplete": "list",
    input: () => {
      at = 0;
      look();
    },
    focus: () => look(),
    blur: () => close(),
    keydown: event => key(event),
  });

  function look() {
    const part = input.value.trim().toLowerCase(),
      names = known.map?.image_id ?? [];
    found = [];
    for (const name of part ? names : []) if (name.toLowerCase().includes(part) && found.push(name) === SHOWN) break;
    draw(part !== "");
  }

  function draw(open) {
    const option = (name, i) =>
      h(
        "li",
        {
          id: `found-${i}`,
          role: "option",
          "aria-selected": String(i === at),
          pointerdown: event => {
            event.preventDefault();
            choose(name);
          },
        },
        name,
      );
    fill(list, found.length ? found.map(option) : h("li", { class: "quiet" }, "No image has this name"));
    list.hidden = !open;
    input.setAttribute("aria-expanded", String(open));
    if (open && found.length) input.setAttribute("aria-activedescendant", `found-${at}`);
    else input.removeAttribute("aria-activedescendant");
  }

  function close() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
  }

  function choose(name) {
    input.value = "";
    close();
    show({ image: name, tab: "image" });
    centre(name);
  }

  function key(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      input.value = "";
      close();
      event.stopPropagation();
    } else if (event.key === "Enter" && found.length && !list.hidden) choose(found[at]);
    else if (by && found.length) {
      at = (at + by + found.length) % found.length;
      draw(true);
      event.preventDefault();
    }
  }

  fill($("find"), input, list);
}
