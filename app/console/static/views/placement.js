// Who holds what: experts by node, one layer at a time, over what each node's tokens activate.

import { h, replace, setText } from "../dom.js";
import { age, count, perSecond, plural, ratio, share } from "../format.js";
import { missing } from "../lessons.js";
import { gradient, ink, onTheme, tone } from "../palette.js";
import { Table, folded } from "../table.js";
import { Pager } from "../pager.js";
import { Grid } from "../charts/grid.js";

export const name = "placement";
export const title = "Placement";

const HEAD = 46;
const RIGHT = 118;
const KEPT_LAYERS = 8;

export function show(place, { feed, signal }) {
  const lesson = h("div");
  const model = h("select", { id: "model" });
  const layer = h("select", { id: "layer" });
  const slider = h("input", { id: "layer-slider", type: "range", min: "0", step: "1", "aria-label": "Layer" });
  const order = h("select", { id: "order" }, h("option", { value: "id" }, "number"), h("option", { value: "share" }, "share of activations"), h("option", { value: "replicas" }, "replicas"));
  const marked = h("input", { id: "changes", type: "checkbox" });
  const pager = new Pager(() => data && arrange());
  const step = (by) => h("button", { type: "button", "aria-label": by < 0 ? "Previous layer" : "Next layer", onclick: () => move(by) }, by < 0 ? "‹" : "›");
  const controls = h("div", { class: "controls" },
    h("div", { class: "field", id: "model-field" }, h("label", { for: "model" }, "Model"), model),
    h("div", { class: "field" }, h("label", { for: "layer" }, "Layer"), step(-1), layer, slider, step(1)),
    h("div", { class: "field" }, h("label", { for: "order" }, "Sort experts by"), order),
    h("div", { class: "field" }, marked, h("label", { for: "changes" }, "only what changed")),
    pager.element);
  const summary = h("p", { class: "summary" });
  const grid = new Grid({
    label: "Experts by node. Arrow keys go from cell to cell.",
    head: HEAD,
    right: RIGHT,
    height: [13, 38],
    width: [4, 38],
    signal,
    draw: (context, cell) => drawCell(context, cell),
    drawHead: (context, cell) => drawHead(context, cell),
    drawRight: (context, cell) => drawRight(context, cell),
    describe: (row, column) => describe(row, column),
    onLook: (row, column) => inspect(row, column),
  });
  const inspector = h("div", { class: "inspector" });
  const scale = legend();
  onTheme(() => scale.update(), signal);
  const table = new Table({ caption: "Experts of the layer", columns: expertColumns(), keyOf: (row) => row.expert });
  const fold = folded("The layer as a table", table, () => experts());
  const body = h("div", { hidden: true }, h("section", { class: "panel" }, controls, summary, grid.element, h("div", { class: "under" }, scale.element, inspector)), h("section", { class: "panel" }, fold.element));
  place.append(lesson, body);

  let looking = null; // the watch on the layer shown
  let data = null; // the layer as answered
  let view = null; // what is drawn, made of it
  let before = null; // Map node -> Set of experts of the generation before, in this layer
  let switched = null; // when another layer was asked for
  const kept = new Map(); // layers looked at lately: shown at once, and then looked at anew

  const layersOf = (id) => (feed.overview?.layers ?? []).filter((one) => one.model_id === id);
  const key = () => `${model.value}/${layer.value}`;

  function options(select, values) {
    const same = select.options.length === values.length && values.every((value, i) => select.options[i].value === String(value));
    if (same) return;
    const chosen = select.value;
    replace(select, values.map((value) => h("option", { value: String(value) }, String(value))));
    if (values.some((value) => String(value) === chosen)) select.value = chosen;
  }

  function offer() {
    replace(lesson, missing(feed));
    body.hidden = !feed.overview;
    if (!feed.overview) return;
    options(model, [...new Set(feed.overview.layers.map((one) => one.model_id))]);
    document.getElementById("model-field").hidden = model.options.length < 2;
    options(layer, layersOf(model.value).map((one) => one.layer));
    slider.max = String(layer.options.length - 1);
    slider.value = String(layer.selectedIndex);
    if (model.value && looking === null) choose();
  }

  function choose(ahead = 0) {
    looking?.stop();
    slider.value = String(layer.selectedIndex);
    slider.setAttribute("aria-valuetext", `layer ${layer.value}`);
    switched = performance.now();
    const asked = key();
    if (kept.has(asked)) {
      ({ data, before } = kept.get(asked));
      arrange();
    }
    looking = feed.watch(pathOf(layer.value), {
      every: 3000,
      async onValue(found) {
        const previous = await previousOf(found, asked);
        keep(asked, found, previous);
        if (asked !== key()) return;
        data = found;
        before = previous;
        arrange();
        if (ahead) fetchAhead(ahead);
        ahead = 0;
      },
      onProblem: (error) => setText(summary, error.message),
    });
  }

  const pathOf = (number) => `/analysis/layers/${encodeURIComponent(model.value)}/${number}`;

  function keep(asked, found, previous) {
    kept.delete(asked);
    kept.set(asked, { data: found, before: previous });
    if (kept.size > KEPT_LAYERS) kept.delete(kept.keys().next().value);
  }

  /** Who goes from layer to layer goes on. */
  async function fetchAhead(by) {
    const next = layer.options[layer.selectedIndex + by]?.value;
    const asked = `${model.value}/${next}`;
    if (next === undefined || kept.has(asked)) return;
    const answer = await feed.ask(pathOf(next), { signal }).catch(() => null);
    if (answer) keep(asked, answer.body, await previousOf(answer.body, asked));
  }

  async function previousOf(found, asked) {
    if (found.generation === null) return null;
    const now = await feed.placement(found.generation).catch(() => null);
    const earlier = now?.metadata.supersedes;
    const then = earlier === null || earlier === undefined ? null : await feed.placement(earlier).catch(() => null);
    return then && new Map([...then.layer(asked)].map(([node, list]) => [node, new Set(list)]));
  }

  function arrange() {
    const began = performance.now();
    const { nodes, experts: width } = data;
    const total = new Float64Array(width);
    const replicas = new Int32Array(width);
    let traffic = 0;
    let top = 0;
    const rows = nodes.map((node) => {
      const wanted = new Set(node.desired);
      const held = new Set(node.held);
      const had = before?.get(node.node_id) ?? new Set();
      const state = new Uint8Array(width);
      for (let expert = 0; expert < width; expert++) {
        const s = node.shares[expert] ?? 0;
        total[expert] += s * node.activations_per_second;
        if (s > top) top = s;
        state[expert] =
          (held.has(expert) ? HELD : 0) | (wanted.has(expert) ? WANTED : 0) |
          (before && wanted.has(expert) && !had.has(expert) ? ADDED : 0) | (before && !wanted.has(expert) && had.has(expert) ? REMOVED : 0);
        if (wanted.has(expert)) replicas[expert] += 1;
      }
      traffic += node.activations_per_second;
      let local = 0;
      for (const expert of node.held) local += node.shares[expert] ?? 0;
      return { ...node, state, local: node.shares.length ? local : null };
    });
    for (let expert = 0; expert < width; expert++) total[expert] = traffic ? total[expert] / traffic : 0;
    const ids = Array.from({ length: width }, (_, expert) => expert);
    if (order.value === "share") ids.sort((a, b) => total[b] - total[a] || a - b);
    if (order.value === "replicas") ids.sort((a, b) => replicas[b] - replicas[a] || total[b] - total[a] || a - b);
    view = { rows: pager.part(rows), all: rows, ids, total, replicas, top: top || 1, most: Math.max(...total, 1e-12), mostReplicas: Math.max(...replicas, 1), only: marked.checked };
    grid.shape(view.rows.map((row) => ({ label: row.node_id, dim: !row.live })), ids.map((expert) => ({ label: String(expert) })));
    grid.paint();
    scale.update(view.top);
    summarize();
    if (grid.cursor) inspect(grid.cursor.row, grid.cursor.column);
    fold.update();
    performance.measure("layer drawing", { start: began, end: performance.now() });
    if (switched !== null) {
      performance.measure("layer switch", { start: switched, end: performance.now() });
      switched = null;
    }
  }

  function summarize() {
    const counts = new Int32Array(16);
    for (const row of view.all) for (const state of row.state) counts[state] += 1;
    const number = (mask, value) => counts.reduce((sum, many, state) => ((state & mask) === value ? sum + many : sum), 0);
    const [wanted, added, removed] = [number(WANTED, WANTED), number(ADDED, ADDED), number(REMOVED, REMOVED)];
    const [coming, going] = [number(HELD | WANTED, WANTED), number(HELD | WANTED, HELD)];
    const changes = before ? (added || removed ? `since the generation before, ${plural(added, "copy", "copies")} more and ${count(removed)} fewer here` : "nothing changed here since the generation before") : "no generation before to compare with";
    const way = coming || going ? ` ${count(coming)} on the way, ${count(going)} to be dropped.` : "";
    setText(summary, `Generation ${data.generation ?? "–"}: ${plural(wanted, "copy", "copies")} of ${data.experts} experts in layer ${data.layer} of ${data.model_id}; ${changes}.${way} Looked at ${age(data.created_at)}.`);
  }

  function drawCell(context, { row, column, x, y, width, height }) {
    const one = view.rows[row];
    const expert = view.ids[column];
    const state = one.state[expert];
    const part = Math.sqrt((one.shares[expert] ?? 0) / view.top);
    const gap = width > 6 ? 1 : 0;
    const [w, t] = [width - gap, height - 1];
    if (view.only && !(state & (ADDED | REMOVED))) {
      context.fillStyle = ink_.sunken;
      context.fillRect(x, y + t / 2 - 1, w, 2);
      return;
    }
    const held = state & HELD;
    const wanted = state & WANTED;
    if (held && wanted) {
      context.fillStyle = tone("colour", part).css;
      context.fillRect(x, y, w, t);
    } else {
      // Called elsewhere: a thin bar, whatever its shade.
      const thin = Math.max(2, Math.round(t * 0.34));
      context.fillStyle = tone("grey", part).css;
      context.fillRect(x, y + (t - thin) / 2, w, thin);
      if (held || wanted) {
        context.fillStyle = tone("colour", part).css;
        context.beginPath();
        if (wanted) context.moveTo(x, y), context.lineTo(x, y + t), context.lineTo(x + w, y + t);
        else context.moveTo(x, y), context.lineTo(x + w, y), context.lineTo(x + w, y + t);
        context.fill();
      }
    }
    if (state & ADDED) {
      context.fillStyle = held && wanted && tone("colour", part).bright ? "#000" : "#fff";
      if (!(held && wanted)) context.fillStyle = ink_.text;
      const arm = Math.max(1, Math.min(3, Math.floor(width / 5)));
      context.fillRect(x + w / 2 - arm / 2, y + t * 0.2, arm, t * 0.6);
      if (width >= 7) context.fillRect(x + w / 2 - t * 0.3, y + t / 2 - arm / 2, t * 0.6, arm);
    } else if (state & REMOVED) {
      context.strokeStyle = ink_.bad;
      context.lineWidth = width > 6 ? 1.5 : 1;
      context.strokeRect(x + 0.75, y + 0.75, w - 1.5, t - 1.5);
    }
  }

  function drawHead(context, { column, x, width, height }) {
    const expert = view.ids[column];
    const w = Math.max(1, width - (width > 6 ? 1 : 0));
    const bars = height - 14;
    const tall = Math.max(1, bars * (view.total[expert] / view.most));
    context.fillStyle = ink_.bar;
    context.fillRect(x, bars - tall, w, tall);
    const replicas = view.replicas[expert];
    if (width >= 9) {
      context.fillStyle = replicas > 1 ? ink_.text : ink_.muted;
      context.font = `${replicas > 1 ? "600 " : ""}10px system-ui, sans-serif`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(String(replicas), x + w / 2, bars + 8);
    } else {
      const deep = 12 * (replicas / view.mostReplicas);
      context.fillStyle = replicas > 1 ? ink_.muted : ink_.line;
      context.fillRect(x, bars + 2, w, Math.max(1, deep));
    }
  }

  function drawRight(context, { row, x, y, height }) {
    const one = view.rows[row];
    context.font = `${Math.min(12, height)}px system-ui, sans-serif`;
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillStyle = ink_.text;
    context.fillText(one.local === null ? "idle" : ratio(one.local), x + 50, y + height / 2);
    context.fillStyle = ink_.muted;
    context.fillText(count(one.desired.length), x + 100, y + height / 2);
  }

  const holders = (expert) => view.all.filter((row) => row.state[expert] & WANTED).map((row) => row.node_id);

  function words(state) {
    const said = { 0: "not held: called elsewhere", [HELD]: "held, to be dropped", [WANTED]: "on its way", [HELD | WANTED]: "held" }[state & 3];
    return said + (state & ADDED ? ", new in this generation" : state & REMOVED ? ", not given any more in this generation" : "");
  }

  function describe(row, column) {
    const one = view.rows[row];
    const expert = view.ids[column];
    const at = holders(expert);
    return `${one.node_id}, expert ${expert}: ${words(one.state[expert])}. ${share(one.shares[expert] ?? null)} of the node's activations. ${plural(at.length, "replica")}${at.length ? `: ${at.slice(0, 8).join(", ")}` : ""}`;
  }

  function inspect(row, column) {
    if (row === null || !view) {
      replace(inspector, h("p", { class: "muted" }, "Point at a cell, or enter the map with Tab and use the arrow keys."));
      return;
    }
    const one = view.rows[row];
    const expert = view.ids[column];
    const at = holders(expert);
    replace(
      inspector,
      h("h2", {}, `Expert ${expert} at ${one.node_id}`),
      h("dl", { class: "facts" },
        fact("State", words(one.state[expert])),
        fact("Share", one.shares.length ? `${share(one.shares[expert])} of the node's activations, ${perSecond(one.shares[expert] * one.activations_per_second)}` : "the node has no traffic here"),
        fact("In the fleet", `${share(view.total[expert])} of all`),
        fact(plural(at.length, "Replica"), at.length ? at.slice(0, 12).join(", ") + (at.length > 12 ? ` and ${at.length - 12} more` : "") : "none: the origin serves it")),
    );
  }

  function experts() {
    if (!view) return [];
    return view.ids.map((expert) => ({
      expert,
      total: view.total[expert],
      holders: holders(expert),
      added: view.all.filter((row) => row.state[expert] & ADDED).map((row) => row.node_id),
      removed: view.all.filter((row) => row.state[expert] & REMOVED).map((row) => row.node_id),
    }));
  }

  function move(by) {
    const to = layer.selectedIndex + by;
    if (to < 0 || to >= layer.options.length) return;
    layer.selectedIndex = to;
    choose(by);
  }

  // Read once a theme, not once a cell.
  const ink_ = {};
  const dip = () => Object.assign(ink_, { text: ink("--text"), muted: ink("--muted"), bad: ink("--bad"), sunken: ink("--sunken"), bar: ink("--bar"), line: ink("--line") });
  dip();
  onTheme(dip, signal);

  model.addEventListener("change", () => {
    layer.replaceChildren();
    looking?.stop();
    looking = null;
    offer();
  });
  layer.addEventListener("change", () => choose());
  slider.addEventListener("input", () => {
    layer.selectedIndex = Number(slider.value);
    choose();
  });
  order.addEventListener("change", () => data && arrange());
  marked.addEventListener("change", () => data && arrange());
  document.addEventListener("layer", (event) => move(event.detail), { signal });
  for (const part of ["overview", "cluster"]) feed.addEventListener(part, offer, { signal });
  feed.addEventListener("status", () => feed.status.generation !== data?.generation && looking?.now(), { signal });
  inspect(null);
  offer();
  return () => looking?.stop();
}

const HELD = 1;
const WANTED = 2;
const ADDED = 4;
const REMOVED = 8;

const fact = (term, text) => h("div", {}, h("dt", {}, term), h("dd", {}, text));

function legend() {
  const held = h("span", { class: "ramp", "aria-hidden": "true" });
  const called = h("span", { class: "ramp thin", "aria-hidden": "true" });
  const most = h("span");
  const key = (kind, words) => h("li", {}, h("span", { class: `key ${kind}`, "aria-hidden": "true" }), words);
  const element = h("div", { class: "scale" },
    h("p", {}, "Share of the node's activations in this layer, 0 to ", most),
    h("ul", { class: "legend" },
      h("li", {}, held, "held"), h("li", {}, called, "called elsewhere"),
      key("coming", "on its way"), key("going", "to be dropped"), key("added", "new since the generation before"), key("removed", "gone since")),
    h("p", { class: "muted" }, "Above: share of the fleet's activations, and replicas. Right: share served locally, and experts of the node."));
  return {
    element,
    update(top) {
      held.style.setProperty("background", gradient("colour"));
      called.style.setProperty("background", gradient("grey"));
      for (const [name, value] of [["--ramp-mid", tone("colour", 0.6).css], ["--ramp-grey", tone("grey", 0.3).css]]) element.style.setProperty(name, value);
      if (top !== undefined) setText(most, share(top));
    },
  };
}

const expertColumns = () => [
  { title: "Expert", head: true, number: true, sort: (row) => row.expert, text: (row) => String(row.expert) },
  { title: "Share in the fleet", number: true, sort: (row) => row.total, text: (row) => share(row.total) },
  { title: "Replicas", number: true, sort: (row) => row.holders.length, text: (row) => count(row.holders.length) },
  { title: "Held by", text: (row) => row.holders.join(", ") || "origin only" },
  { title: "New at", text: (row) => row.added.join(", ") },
  { title: "Removed from", text: (row) => row.removed.join(", ") },
];
