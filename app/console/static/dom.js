// Elements, made by name; text always goes in as text.

/** h("p", {class: "note"}, "text", node, [more]): attributes by name, `on…` listeners, null and false left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in PROPERTIES) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const PROPERTIES = { value: 0, checked: 0, disabled: 0, selected: 0, hidden: 0 };

/** Put `text` there, and leave the page alone where it is there already. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function replace(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

/** A list of `items` as children of `parent`, kept from one call to the next by key: focus and hover stay. */
export function keyed(parent, items, keyOf, make, update) {
  const kept = (parent.keyedChildren ??= new Map());
  const wanted = new Set();
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    wanted.add(key);
    let child = kept.get(key);
    if (!child) kept.set(key, (child = make(item)));
    update(child, item);
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
  for (const [key, child] of kept) {
    if (!wanted.has(key)) {
      child.remove();
      kept.delete(key);
    }
  }
}

/** Say something to those who don't see the page. */
export function announce(text) {
  const place = document.getElementById("announcer");
  place.textContent = "";
  requestAnimationFrame(() => (place.textContent = text));
}

let serial = 0;
export const freshId = (stem) => `${stem}-${++serial}`;
