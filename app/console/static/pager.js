// Which nodes of a large fleet a chart shows: canvases of thousands of rows are neither fast nor legible.

import { freshId, h, replace } from "./dom.js";

const ROWS = 128;

export class Pager {
  #total = -1;

  constructor(onChange) {
    const id = freshId("page");
    this.select = h("select", { id, onchange: onChange });
    this.element = h("div", { class: "field", hidden: true }, h("label", { for: id }, "Nodes"), this.select);
  }

  /** The part of `rows` to show. */
  part(rows) {
    if (rows.length !== this.#total) {
      this.#total = rows.length;
      const pages = Math.ceil(rows.length / ROWS);
      this.element.hidden = pages < 2;
      const chosen = Math.min(this.select.selectedIndex, pages - 1);
      replace(
        this.select,
        Array.from({ length: pages }, (_, page) => h("option", { value: String(page * ROWS) }, `${page * ROWS + 1} to ${Math.min(rows.length, (page + 1) * ROWS)} of ${rows.length}`)),
      );
      this.select.selectedIndex = Math.max(0, chosen);
    }
    return rows.slice(this.from, this.from + ROWS);
  }

  get from() {
    return Number(this.select.value) || 0;
  }
}
