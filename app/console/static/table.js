// Tables that keep their rows, can be sorted, and are read aloud well.

import { h, keyed, setText } from "./dom.js";

/**
 * columns: [{title, number: bool, sort: item => value, text: item => string, draw: (cell, item), head: bool}]
 * `text` is put into the cell; `draw` does it itself.
 */
export class Table {
  #sorted = null; // {column, falling}
  #items = [];

  constructor({ caption, columns, keyOf, hideCaption = false, onRow = null }) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.onRow = onRow;
    this.body = h("tbody");
    this.heads = columns.map((column, i) => {
      const label = column.sort
        ? h("button", { type: "button", class: "sort", onclick: () => this.sortBy(i) }, column.title, h("span", { class: "arrow", "aria-hidden": "true" }))
        : column.title;
      return h("th", { scope: "col", class: column.number ? "number" : null, title: column.hint ?? null }, label);
    });
    this.table = h("table", { class: "data" }, h("caption", { class: hideCaption ? "unseen" : null }, caption), h("thead", {}, h("tr", {}, this.heads)), this.body);
    this.element = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, this.table);
  }

  sortBy(index) {
    const falling = this.#sorted?.column === index ? !this.#sorted.falling : Boolean(this.columns[index].number);
    this.#sorted = { column: index, falling };
    this.heads.forEach((head, i) => {
      if (i === index) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    this.show(this.#items);
  }

  show(items) {
    this.#items = items;
    let ordered = items;
    if (this.#sorted) {
      const { sort } = this.columns[this.#sorted.column];
      const sign = this.#sorted.falling ? -1 : 1;
      ordered = [...items].sort((a, b) => sign * compare(sort(a), sort(b)));
    }
    keyed(
      this.body,
      ordered,
      this.keyOf,
      () => h("tr", {}, this.columns.map((column) => h(column.head ? "th" : "td", { scope: column.head ? "row" : null, class: column.number ? "number" : null }))),
      (row, item) => {
        this.columns.forEach((column, i) => {
          if (column.draw) column.draw(row.cells[i], item);
          else setText(row.cells[i], column.text(item));
        });
        this.onRow?.(row, item);
      },
    );
  }
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
}

/** A table within a fold, filled only while it is open. */
export function folded(summary, table, itemsOf) {
  const details = h("details", { class: "fold" }, h("summary", {}, summary), table.element);
  details.addEventListener("toggle", () => details.open && table.show(itemsOf()));
  return { element: details, update: () => details.open && table.show(itemsOf()) };
}
