// Line charts by uPlot, with our colours; what they show is in a table too, so they are hidden from readers.

import { h } from "../dom.js";
import { ink, onTheme } from "../palette.js";

const HEIGHT = 190;
const LEAST = 1e-3; // upper end of the axis where every value is 0
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000, 1_000_000];

/** series: [{label, ink: "--blue", dash, points, scale, text: value => string}]; x: {label, text}. */
export class Lines {
  #plot = null;
  #data = null;

  constructor({ x, series, y, label }, signal) {
    this.spec = { x, series, y };
    this.place = h("div", { class: "plot", "aria-hidden": "true" });
    this.empty = h("p", { class: "muted", hidden: true }, "No values yet.");
    this.element = h("figure", { class: "chart" }, h("figcaption", {}, label), this.empty, this.place);
    const observer = new ResizeObserver(() => {
      if (!this.#plot) this.#make();
      else if (this.place.clientWidth) this.#plot.setSize({ width: this.place.clientWidth, height: HEIGHT });
    });
    observer.observe(this.place);
    onTheme(() => this.#make(), signal);
    signal.addEventListener("abort", () => {
      observer.disconnect();
      this.#plot?.destroy();
    });
  }

  show(data) {
    this.#data = data;
    // Without values there is no scale, and uPlot would label the axis with numbers that mean nothing.
    this.empty.hidden = data.slice(1).some((values) => values.some(Number.isFinite));
    this.place.hidden = !this.empty.hidden;
    if (this.#plot) this.#plot.setData(data);
    else this.#make();
  }

  #make() {
    this.#plot?.destroy();
    if (!this.#data || !this.place.clientWidth) return;
    const { x, series, y } = this.spec;
    const line = { stroke: ink("--line"), width: 1 };
    const axis = { stroke: ink("--muted"), grid: line, ticks: line, font: "12px system-ui", labelFont: "12px system-ui" };
    this.#plot = new window.uPlot(
      {
        width: this.place.clientWidth,
        height: HEIGHT,
        scales: { x: { time: false }, y: { range: y.range ?? ((_, low, high) => [0, high > 0 ? high * 1.08 : LEAST]) } },
        axes: [
          { ...axis, incrs: WHOLE, values: (_, values) => values.map(x.text), label: x.label, labelSize: 18, size: 32 },
          { ...axis, values: (_, values) => values.map(y.text), size: 64 },
        ],
        series: [
          { label: x.label, value: (_, value) => (value === null ? "–" : x.text(value)) },
          ...series.map((one) => ({
            label: one.label,
            stroke: ink(one.ink),
            width: 2,
            dash: one.dash,
            points: { show: true, size: one.points ?? 6, fill: one.hollow ? ink("--surface") : ink(one.ink) },
            spanGaps: true,
            value: (_, value) => (value === null ? "–" : y.text(value)),
          })),
        ],
        legend: { live: true },
        cursor: { drag: { x: false, y: false } },
      },
      this.#data,
      this.place,
    );
  }
}
