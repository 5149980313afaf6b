// A grid of cells on canvas with a cursor that mouse and keys move: what heat maps are made of.
//
// Two canvases: cells below, the cursor above, so that looking around draws one rectangle instead of all cells.

import { h } from "../dom.js";
import { ink, onTheme } from "../palette.js";

const LABELS = 104;
const LONGEST = 14;
const POINTED_AT = 64;

/**
 * `draw(context, cell)` paints cell {row, column, x, y, width, height} of the whole grid; `describe(row, column)` says it
 * in words. `onLook(row, column)` is called when the cursor moves, `onLook(null)` when it leaves.
 */
export class Grid {
  rows = [];
  columns = [];
  cursor = null;
  #frame = null;

  constructor({ label, draw, describe, onLook, signal, height = [12, 24], width = [4, 30], head = 0, foot = 18, right = 0, drawHead = null, drawRight = null, columnLabels = true, slanted = false }) {
    Object.assign(this, { draw, describe, onLook, heights: height, widths: width, head, foot, right, drawHead, drawRight, columnLabels, slanted });
    this.below = h("canvas", { "aria-hidden": "true" });
    this.above = h("canvas", { tabindex: "0", role: "application", "aria-roledescription": "heat map", "aria-label": label });
    this.words = h("p", { class: "unseen", "aria-live": "polite" });
    this.scroller = h("div", { class: "grid" }, h("div", { class: "layers" }, this.below, this.above));
    this.element = h("div", {}, this.scroller, this.words);
    this.above.addEventListener("pointermove", (event) => this.#point(event));
    this.above.addEventListener("pointerdown", (event) => this.#point(event));
    this.above.addEventListener("pointerleave", () => document.activeElement !== this.above && this.look(null));
    this.above.addEventListener("keydown", (event) => this.#press(event));
    this.above.addEventListener("focus", () => this.cursor ?? this.look(0, 0, true));
    this.above.addEventListener("blur", () => this.look(null));
    const observer = new ResizeObserver(() => this.redraw());
    observer.observe(this.element);
    signal.addEventListener("abort", () => {
      observer.disconnect();
      cancelAnimationFrame(this.#frame);
    });
    onTheme(() => this.redraw(), signal);
  }

  /** Other rows or columns: [{label, mark}] and [{label}]. */
  shape(rows, columns) {
    this.rows = rows;
    this.columns = columns;
    if (this.cursor && (this.cursor.row >= rows.length || this.cursor.column >= columns.length)) this.look(null);
  }

  redraw() {
    if (this.#frame !== null) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = null;
      this.paint();
    });
  }

  paint() {
    const available = this.element.clientWidth;
    if (!available || !this.rows.length || !this.columns.length) return;
    const clamp = (value, [least, most]) => Math.min(Math.max(Math.floor(value), least), most);
    // Few columns stay wide enough to be pointed at, and scroll where there is no room; many are a picture.
    const least = this.columns.length <= POINTED_AT ? Math.max(this.widths[0], 11) : this.widths[0];
    this.cellWidth = clamp((available - LABELS - this.right) / this.columns.length, [least, this.widths[1]]);
    this.cellHeight = clamp(360 / this.rows.length, this.heights);
    const wide = LABELS + this.cellWidth * this.columns.length + this.right;
    const high = this.head + this.cellHeight * this.rows.length + this.foot;
    const density = window.devicePixelRatio || 1;
    for (const canvas of [this.below, this.above]) {
      const [w, t] = [Math.round(wide * density), Math.round(high * density)];
      if (canvas.width !== w || canvas.height !== t) {
        canvas.width = w;
        canvas.height = t;
        canvas.style.setProperty("inline-size", `${wide}px`);
        canvas.style.setProperty("block-size", `${high}px`);
      }
    }
    this.context = this.below.getContext("2d");
    this.context.setTransform(density, 0, 0, density, 0, 0);
    this.context.clearRect(0, 0, wide, high);
    this.#labels();
    const cell = { row: 0, column: 0, x: 0, y: 0, width: this.cellWidth, height: this.cellHeight };
    for (let row = 0; row < this.rows.length; row++)
      for (let column = 0; column < this.columns.length; column++) {
        cell.row = row;
        cell.column = column;
        cell.x = LABELS + column * this.cellWidth;
        cell.y = this.head + row * this.cellHeight;
        this.draw(this.context, cell);
      }
    if (this.drawHead)
      for (let column = 0; column < this.columns.length; column++)
        this.drawHead(this.context, { column, x: LABELS + column * this.cellWidth, y: 0, width: this.cellWidth, height: this.head - 4 });
    if (this.drawRight)
      for (let row = 0; row < this.rows.length; row++)
        this.drawRight(this.context, { row, x: LABELS + this.columns.length * this.cellWidth + 8, y: this.head + row * this.cellHeight, width: this.right - 8, height: this.cellHeight });
    this.#mark(density);
  }

  #labels() {
    const { context } = this;
    context.font = `${Math.min(12, this.cellHeight - 1)}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const [plain, muted] = [ink("--text"), ink("--muted")];
    this.rows.forEach(({ label, dim }, row) => {
      context.fillStyle = dim ? muted : plain;
      const text = label.length > LONGEST ? `…${label.slice(1 - LONGEST)}` : label;
      context.fillText(text, LABELS - 8, this.head + (row + 0.5) * this.cellHeight);
    });
    if (!this.columnLabels) return;
    context.fillStyle = ink("--muted");
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    const foot = this.head + this.rows.length * this.cellHeight + 10;
    const widest = Math.max(...this.columns.map(({ label }) => label.length)) * 6.5 + 8;
    const every = niceStep(Math.ceil(widest / this.cellWidth));
    for (let column = 0; column < this.columns.length; column += every)
      context.fillText(this.columns[column].label, LABELS + (column + 0.5) * this.cellWidth, foot);
  }

  #mark(density = window.devicePixelRatio || 1) {
    const context = this.above.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, this.above.width, this.above.height);
    if (!this.cursor || !this.cellWidth) return;
    const { row, column } = this.cursor;
    const x = LABELS + column * this.cellWidth;
    const y = this.head + row * this.cellHeight;
    const wide = this.cellWidth * this.columns.length;
    const high = this.cellHeight * this.rows.length;
    context.fillStyle = ink("--cross");
    context.fillRect(LABELS, y, wide, this.cellHeight);
    context.fillRect(x, this.head, this.cellWidth, high);
    context.clearRect(x, y, this.cellWidth, this.cellHeight);
    context.lineWidth = 2;
    context.strokeStyle = ink("--surface");
    context.strokeRect(x - 2, y - 2, this.cellWidth + 4, this.cellHeight + 4);
    context.strokeStyle = ink("--text");
    context.strokeRect(x - 0.5, y - 0.5, this.cellWidth + 1, this.cellHeight + 1);
  }

  /** Move the cursor; `aloud`: say what is there. */
  look(row, column, aloud = false) {
    this.cursor = row === null || !this.rows.length || !this.columns.length ? null : { row, column };
    this.#mark();
    this.onLook(this.cursor ? row : null, column);
    if (this.cursor && aloud) this.words.textContent = this.describe(row, column);
  }

  #point(event) {
    const box = this.above.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - LABELS) / this.cellWidth);
    const row = Math.floor((event.clientY - box.top - this.head) / this.cellHeight);
    if (row < 0 || column < 0 || row >= this.rows.length || column >= this.columns.length) return;
    if (this.cursor?.row !== row || this.cursor?.column !== column) this.look(row, column);
  }

  #press(event) {
    if (!this.cursor || event.ctrlKey || event.altKey || event.metaKey) return;
    const { row, column } = this.cursor;
    const [lastRow, lastColumn] = [this.rows.length - 1, this.columns.length - 1];
    const to = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      Home: [row, 0], End: [row, lastColumn], PageUp: [row - 10, column], PageDown: [row + 10, column],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    const within = (value, last) => Math.min(Math.max(value, 0), last);
    this.look(within(to[0], lastRow), within(to[1], lastColumn), true);
    const x = LABELS + this.cursor.column * this.cellWidth;
    if (x < this.scroller.scrollLeft + LABELS || x > this.scroller.scrollLeft + this.scroller.clientWidth - 20)
      this.scroller.scrollLeft = x - this.scroller.clientWidth / 2;
  }
}

function niceStep(least) {
  for (const step of [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]) if (step >= least) return step;
  return least;
}
