// Moves over time, a lane for each destination. In a lane from above: a narrow band of copies as planned, tracks of
// copies as they went, and drops.

import { h } from "../dom.js";
import { ink, isDark, onTheme } from "../palette.js";

const LABELS = 104;
const BAND = 7;
const TRACK = 11;
const GAP = 10;
const AXIS = 22;
const RIGHT = 26;
const MOST_TRACKS = 8;

/** moves: [{id, lane, plannedFrom, plannedTo, from, to, state, part, drop, origin, words}], seconds since the start. */
export class Gantt {
  #frame = null;
  moves = [];
  lanes = [];
  cursor = null;

  constructor({ label, onLook, signal }) {
    this.onLook = onLook;
    this.below = h("canvas", { "aria-hidden": "true" });
    this.above = h("canvas", { tabindex: "0", role: "application", "aria-roledescription": "Gantt chart", "aria-label": label });
    this.words = h("p", { class: "unseen", "aria-live": "polite" });
    this.layers = h("div", { class: "layers" }, this.below, this.above);
    this.element = h("div", { class: "gantt" }, this.layers, this.words);
    this.above.addEventListener("pointermove", (event) => this.#point(event));
    this.above.addEventListener("pointerdown", (event) => this.#point(event));
    this.above.addEventListener("pointerleave", () => document.activeElement !== this.above && this.look(null));
    this.above.addEventListener("focus", () => this.cursor === null && this.moves.length && this.look(0, true));
    this.above.addEventListener("blur", () => this.look(null));
    this.above.addEventListener("keydown", (event) => this.#press(event));
    const observer = new ResizeObserver(() => this.redraw());
    observer.observe(this.element);
    signal.addEventListener("abort", () => {
      observer.disconnect();
      cancelAnimationFrame(this.#frame);
    });
    onTheme(() => this.redraw(), signal);
  }

  /** `now`: seconds since the start while it goes on, else null. */
  show(moves, now) {
    this.now = now;
    this.moves = moves;
    this.#layOut();
    this.redraw();
    if (this.cursor !== null) this.look(this.cursor < moves.length ? this.cursor : null);
  }

  #layOut() {
    const lanes = new Map();
    for (const move of this.moves) {
      if (!lanes.has(move.lane)) lanes.set(move.lane, []);
      lanes.get(move.lane).push(move);
    }
    this.lanes = [...lanes.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true })).map((lane) => ({ lane, moves: lanes.get(lane) }));
    let top = 4;
    for (const lane of this.lanes) {
      // Copies that overlap lie below each other, as far as there is room.
      const ends = [];
      lane.moves.sort((a, b) => begin(a) - begin(b));
      for (const move of lane.moves) {
        if (move.drop || move.from === null) continue;
        let track = ends.findIndex((end) => end <= move.from + 1e-9);
        if (track < 0) track = ends.length < MOST_TRACKS ? ends.length : ends.indexOf(Math.min(...ends));
        ends[track] = Math.max(ends[track] ?? 0, finish(move, this.now));
        move.track = track;
      }
      lane.top = top;
      const drops = top + BAND + Math.max(1, ends.length) * TRACK;
      for (const move of lane.moves) {
        move.y = move.drop ? drops : move.from === null ? top : top + BAND + move.track * TRACK;
        move.high = !move.drop && move.from === null ? BAND : TRACK;
        move.planY = top;
      }
      lane.high = drops - top + (lane.moves.some((move) => move.drop) ? TRACK : 0);
      top += lane.high + GAP;
    }
    this.high = top + AXIS;
    const ends = this.moves.map((move) => finish(move, this.now));
    this.longest = ends.reduce((most, end) => Math.max(most, end), Math.max(1e-3, this.now ?? 0));
    // In the order in which the cursor goes through them: lane after lane.
    this.moves = this.lanes.flatMap((lane) => lane.moves);
  }

  redraw() {
    if (this.#frame !== null) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = null;
      this.#paint();
    });
  }

  #paint() {
    const wide = this.element.clientWidth;
    if (!wide) return;
    const density = window.devicePixelRatio || 1;
    for (const canvas of [this.below, this.above]) {
      const [w, t] = [Math.round(wide * density), Math.round(this.high * density)];
      if (canvas.width !== w || canvas.height !== t) {
        canvas.width = w;
        canvas.height = t;
        canvas.style.setProperty("inline-size", `${wide}px`);
        canvas.style.setProperty("block-size", `${this.high}px`);
      }
    }
    const context = this.below.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, wide, this.high);
    this.scale = (wide - LABELS - RIGHT) / this.longest;
    const at = (time) => LABELS + time * this.scale;
    const inks = Object.fromEntries(["text", "muted", "line", "blue", "green", "bad", "surface", "sunken", "orange"].map((name) => [name, ink(`--${name}`)]));
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.lineWidth = 1;
    context.textAlign = "center";
    const floor = this.high - AXIS;
    for (let time = 0, step = round(this.longest / Math.max(2, Math.floor(wide / 110))); time <= this.longest; time += step) {
      const x = Math.round(at(time)) + 0.5;
      context.strokeStyle = inks.line;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, floor);
      context.stroke();
      context.fillStyle = inks.muted;
      context.fillText(`${Number((step < 1 ? 1e3 * time : time).toPrecision(6))} ${step < 1 ? "ms" : "s"}`, x, floor + 12);
    }
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "right";
    this.lanes.forEach(({ lane, top, high }, i) => {
      if (i % 2) {
        context.fillStyle = inks.sunken;
        context.globalAlpha = 0.45;
        context.fillRect(LABELS, top - GAP / 2, wide - LABELS, high + GAP);
        context.globalAlpha = 1;
      }
      context.fillStyle = inks.text;
      context.fillText(lane.length > 14 ? `…${lane.slice(-13)}` : lane, LABELS - 8, top + high / 2);
    });
    for (const move of this.moves) this.#paintMove(context, inks, move, at);
    if (this.now !== null && this.now !== undefined) {
      context.strokeStyle = inks.text;
      context.setLineDash([4, 3]);
      context.beginPath();
      context.moveTo(at(this.now), 0), context.lineTo(at(this.now), floor);
      context.stroke();
      context.setLineDash([]);
    }
    this.#mark();
  }

  #paintMove(context, inks, move, at) {
    const colour = move.drop ? inks.muted : move.origin ? inks.orange : inks.blue;
    if (!move.drop) {
      context.globalAlpha = move.from === null ? 0.9 : 0.4;
      context.fillStyle = colour;
      context.fillRect(at(move.plannedFrom), move.planY, Math.max(1, (move.plannedTo - move.plannedFrom) * this.scale - 1), BAND - 3);
      context.globalAlpha = 1;
    }
    const high = TRACK - 3;
    const y = move.y;
    const from = move.from ?? (move.drop ? move.plannedFrom : null);
    if (from === null) return;
    const x = at(from);
    const length = Math.max(2, ((move.to ?? Math.max(this.now ?? from, from)) - from) * this.scale);
    if (move.state === "FAILED") {
      context.fillStyle = inks.bad;
      context.fillRect(x, y + high / 2 - 1, length, 2);
      context.strokeStyle = inks.bad;
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(x + length - 4, y), context.lineTo(x + length + 3, y + high);
      context.moveTo(x + length + 3, y), context.lineTo(x + length - 4, y + high);
      context.stroke();
      context.lineWidth = 1;
    } else if (move.drop) {
      context.beginPath();
      context.moveTo(x - 4, y + high / 2), context.lineTo(x, y), context.lineTo(x + 4, y + high / 2), context.lineTo(x, y + high), context.closePath();
      context.fillStyle = context.strokeStyle = colour;
      if (move.to === null) context.stroke();
      else context.fill();
    } else if (move.to === null) {
      context.fillStyle = colour;
      context.globalAlpha = isDark() ? 0.35 : 0.28;
      context.fillRect(x, y, length, high);
      context.globalAlpha = 1;
      context.fillRect(x, y + high - 3, length * move.part, 3);
    } else {
      context.fillStyle = colour;
      context.fillRect(x, y, Math.max(2, length - 1), high);
    }
  }

  #mark() {
    const density = window.devicePixelRatio || 1;
    const context = this.above.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, this.above.width, this.above.height);
    const move = this.cursor === null ? null : this.moves[this.cursor];
    if (!move || !this.scale) return;
    const [begun, ended] = span(move, this.now);
    const from = LABELS + begun * this.scale - (move.drop ? 5 : 0);
    const to = LABELS + ended * this.scale + (move.drop ? 5 : 0);
    context.strokeStyle = ink("--text");
    context.lineWidth = 2;
    context.strokeRect(from - 2, move.y - 2, Math.max(to - from, 2) + 4, move.high + 1);
    if (move.drop || move.from === null) return;
    context.lineWidth = 1;
    context.strokeRect(LABELS + move.plannedFrom * this.scale - 1.5, move.planY - 1.5, Math.max(2, (move.plannedTo - move.plannedFrom) * this.scale) + 3, BAND);
  }

  look(index, aloud = false) {
    this.cursor = index;
    this.#mark();
    const move = index === null ? null : this.moves[index];
    this.onLook(move ?? null);
    if (move && aloud) this.words.textContent = move.words;
  }

  #point(event) {
    const box = this.above.getBoundingClientRect();
    const time = (event.clientX - box.left - LABELS) / this.scale;
    const y = event.clientY - box.top;
    const slack = 5 / this.scale;
    const index = this.moves.findIndex((move) => {
      const [begun, ended] = span(move, this.now);
      return y >= move.y && y < move.y + move.high && time >= begun - slack && time <= ended + slack;
    });
    if (index >= 0 && index !== this.cursor) this.look(index);
  }

  #press(event) {
    if (this.cursor === null || event.ctrlKey || event.altKey || event.metaKey) return;
    const last = this.moves.length - 1;
    const lane = this.lanes.findIndex((one) => one.moves.includes(this.moves[this.cursor]));
    const first = (i) => this.moves.indexOf(this.lanes[Math.min(Math.max(i, 0), this.lanes.length - 1)].moves[0]);
    const to = { ArrowLeft: this.cursor - 1, ArrowRight: this.cursor + 1, ArrowUp: first(lane - 1), ArrowDown: first(lane + 1), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.look(Math.min(Math.max(to, 0), last), true);
  }
}

const begin = (move) => move.from ?? move.plannedFrom;
const finish = (move, now) => Math.max(move.plannedTo, move.to ?? (move.from === null ? 0 : now ?? move.from));

/** From when to when it is drawn. */
function span(move, now) {
  if (move.from === null) return [move.plannedFrom, move.drop ? move.plannedFrom : move.plannedTo];
  if (move.drop) return [move.from, move.from];
  return [move.from, move.to ?? now ?? move.from];
}

/** A step that is 1, 2 or 5 times a power of ten. */
function round(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= step);
}
