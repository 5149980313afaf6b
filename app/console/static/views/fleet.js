// The fleet: each node's health, memory, traffic and latency, and the latency of layers.

import { h, replace, setText } from "../dom.js";
import { age, bytes, count, milliseconds, perSecond, plural, ratio, seconds } from "../format.js";
import { missing } from "../lessons.js";
import { conditionWords, mark } from "../strip.js";
import { Table, folded } from "../table.js";
import { Lines } from "../charts/lines.js";

export const name = "fleet";
export const title = "Fleet";

const SERVED = [
  ["local_hit_ratio", "local", "served by the node itself"],
  ["peer_ratio", "peer", "by other nodes"],
  ["origin_ratio", "origin", "by the origin"],
  ["unserved_ratio", "unserved", "by nobody"],
];

export function show(place, { feed, signal }) {
  const lesson = h("div");
  const figures = h("dl", { class: "figures" });
  const reasons = h("ul", { class: "reasons" });
  const nodes = new Table({ caption: "Nodes", columns: columns(feed), keyOf: (row) => row.node_id });
  const legend = h("ul", { class: "legend" }, SERVED.map(([, kind, words]) => h("li", {}, h("span", { class: `swatch served ${kind}`, "aria-hidden": "true" }), kind === "local" ? `activations ${words}` : words)));
  const profile = new Lines(
    {
      label: "Mean latency of a token, layer by layer",
      x: { label: "layer", text: String },
      y: { text: milliseconds },
      series: [{ label: "latency", ink: "--blue", points: 5 }],
    },
    signal,
  );
  const hits = new Lines(
    {
      label: "Activations served locally, layer by layer",
      x: { label: "layer", text: String },
      y: { text: (value) => ratio(value, 0), range: [0, 1] },
      series: [{ label: "local", ink: "--green", points: 5 }],
    },
    signal,
  );
  const layers = new Table({ caption: "Layers", columns: LAYER_COLUMNS, keyOf: (row) => `${row.model_id}/${row.layer}` });
  const layerFold = folded("Layers as a table", layers, () => feed.overview?.layers ?? []);
  const modelChoice = h("select", { id: "profile-model", onchange: () => drawLayers() });
  const modelField = h("div", { class: "field" }, h("label", { for: "profile-model" }, "Model"), modelChoice);
  const body = h("div", { hidden: true },
    figures, reasons,
    h("section", { class: "panel" }, nodes.element, legend),
    h("section", { class: "panel", "aria-label": "Layers" }, modelField, h("div", { class: "pair" }, profile.element, hits.element), layerFold.element));
  place.append(lesson, body);

  let known = [];
  const looking = feed.watch("/nodes?limit=100", {
    every: 8000,
    async onValue(first) {
      const found = [...first.nodes];
      for (let next = first.next_after; next !== null; ) {
        const { body } = await feed.ask(`/nodes?limit=100&after=${encodeURIComponent(next)}`, { signal });
        found.push(...body.nodes);
        next = body.next_after;
      }
      known = found;
      draw();
    },
  });

  function drawLayers() {
    const { overview } = feed;
    const models = [...new Set(overview.layers.map((layer) => layer.model_id))];
    if (modelChoice.options.length !== models.length || models.some((model, i) => modelChoice.options[i].value !== model)) {
      const chosen = modelChoice.value;
      replace(modelChoice, models.map((model) => h("option", { value: model }, model)));
      if (models.includes(chosen)) modelChoice.value = chosen;
    }
    modelField.hidden = models.length < 2;
    const mine = overview.layers.filter((layer) => layer.model_id === modelChoice.value);
    const axis = mine.map((layer) => layer.layer);
    profile.show([axis, mine.map((layer) => layer.latency_seconds)]);
    hits.show([axis, mine.map((layer) => layer.local_hit_ratio)]);
    layerFold.update();
  }

  function draw() {
    const { overview, status } = feed;
    const lack = missing(feed);
    replace(lesson, lack);
    body.hidden = !overview;
    if (!overview) return;
    const progress = new Map((status?.nodes ?? []).map((node) => [node.node_id, node]));
    const records = new Map(known.map((node) => [node.node_id, node]));
    const rows = overview.nodes.map((node) => ({ ...node, progress: progress.get(node.node_id), record: records.get(node.node_id) }));
    nodes.show(rows);
    const live = overview.nodes.filter((node) => node.live);
    const used = live.reduce((sum, node) => sum + node.used_bytes, 0);
    const capacity = live.reduce((sum, node) => sum + node.capacity_bytes, 0);
    const tokens = live.reduce((sum, node) => sum + node.tokens_per_second, 0);
    const wanting = overview.desired_objective !== null && overview.objective > 0 ? overview.desired_objective / overview.objective : null;
    show_(figures, [
      ["Mean latency of a token", milliseconds(overview.mean_latency_seconds), wanting !== null && wanting < 0.995 ? `${milliseconds(overview.mean_latency_seconds * wanting)} once converged` : "in the experts, all layers"],
      ["Served locally", ratio(overview.local_hit_ratio), "of activations"],
      ["Balance", overview.balancedness === null ? "–" : overview.balancedness.toFixed(2), "mean over busiest node"],
      ["Nodes", `${live.length} of ${overview.nodes.length}`, "alive"],
      ["Memory for experts", ratio(capacity ? used / capacity : null), `${bytes(used)} of ${bytes(capacity)}`],
      ["Traffic", `${count(tokens)}/s`, "tokens"],
      ["Telemetry", age(overview.telemetry_until), `analysed ${age(overview.created_at)}`],
    ]);
    replace(
      reasons,
      (status?.conditions ?? []).filter(worrying).map((condition) => {
        const { reason, remedy } = condition;
        const [kind, text] = conditionWords(condition);
        return h("li", {}, mark(kind), " ", h("strong", {}, text), `: ${reason}`, remedy ? h("p", { class: "muted" }, `What to do: ${remedy}`) : "");
      }),
    );
    drawLayers();
  }
  for (const part of ["overview", "status", "cluster"]) feed.addEventListener(part, draw, { signal });
  draw();
  return () => looking.stop();
}

const worrying = ({ type, status }) => (type === "Migrating" ? status : !status);

function show_(list, figures) {
  if (list.children.length !== figures.length)
    replace(list, figures.map(() => h("div", {}, h("dt"), h("dd", { class: "value" }), h("dd", { class: "note" }))));
  figures.forEach(([term, value, note], i) => {
    const [dt, dd, small] = list.children[i].children;
    setText(dt, term);
    setText(dd, value);
    setText(small, note);
  });
}

function health({ live, progress, record }) {
  if (!live) return ["bad", "lost"];
  if (progress?.state === "FAILED") return ["bad", "failed"];
  if (record?.condition === "DRAINED") return ["warn", "drained"];
  if (record?.condition === "DRAINING") return ["warn", "draining"];
  if (progress && (progress.missing_count || progress.excess_count || !progress.routes_current)) return ["busy", "converging"];
  return ["good", "converged"];
}

const columns = (feed) => [
  { title: "Node", head: true, sort: (row) => row.node_id, text: (row) => row.node_id },
  {
    title: "Health",
    sort: (row) => health(row)[1],
    draw(cell, row) {
      const [kind, text] = health(row);
      const because = row.record?.status?.reason ?? "";
      if (cell.dataset.state === kind + text + because) return;
      cell.dataset.state = kind + text + because;
      replace(cell, mark(kind), " ", text);
      cell.title = because;
    },
  },
  {
    title: "Generation",
    number: true,
    sort: (row) => row.progress?.generation,
    text({ progress }) {
      if (!progress || progress.generation === null) return "–";
      const behind = (feed.generation ?? 0) - progress.generation;
      return behind > 0 ? `${progress.generation} (−${behind})` : String(progress.generation);
    },
  },
  {
    title: "Memory for experts",
    sort: (row) => row.used_bytes / row.capacity_bytes,
    draw(cell, { used_bytes: used, capacity_bytes: capacity }) {
      if (!cell.firstChild) cell.append(h("span", { class: "bar", "aria-hidden": "true" }, h("span")), h("span", { class: "beside" }));
      const part = capacity ? used / capacity : 0;
      cell.firstChild.firstChild.style.setProperty("inline-size", `${(100 * part).toFixed(1)}%`);
      setText(cell.lastChild, `${bytes(used)} of ${bytes(capacity)}`);
    },
  },
  { title: "Experts", number: true, hint: "held now", sort: (row) => row.progress?.held_count, text: (row) => count(row.progress?.held_count) },
  {
    title: "To come / go",
    number: true,
    hint: "copies it is still to receive, and to drop",
    sort: (row) => row.progress?.missing_count,
    text: ({ progress }) => (progress ? `${count(progress.missing_count)} / ${count(progress.excess_count)}` : "–"),
  },
  {
    title: "Tokens",
    number: true,
    hint: "a sign beside them: what the node counts is doubted",
    sort: (row) => row.tokens_per_second,
    draw(cell, row) {
      const because = (row.doubts ?? []).map((doubt) => doubt.reason).join("; ");
      const text = perSecond(row.tokens_per_second);
      if (cell.dataset.state === text + because) return;
      cell.dataset.state = text + because;
      replace(cell, because && [mark("warn"), " "], text);
      cell.title = because;
    },
  },
  { title: "Latency", number: true, hint: "mean of a token, all MoE layers", sort: (row) => row.mean_latency_seconds, text: (row) => milliseconds(row.mean_latency_seconds) },
  {
    title: "Served by",
    sort: (row) => row.local_hit_ratio,
    draw(cell, row) {
      if (!cell.firstChild)
        cell.append(h("span", { class: "bar stacked", "aria-hidden": "true" }, SERVED.map(([, kind]) => h("span", { class: `served ${kind}` }))), h("span", { class: "beside" }));
      if (row.local_hit_ratio === null) {
        SERVED.forEach((_, i) => cell.firstChild.children[i].style.setProperty("inline-size", "0"));
        setText(cell.lastChild, "–");
        return;
      }
      SERVED.forEach(([field], i) => cell.firstChild.children[i].style.setProperty("inline-size", `${(100 * row[field]).toFixed(2)}%`));
      setText(cell.lastChild, `${ratio(row.local_hit_ratio)} local`);
      cell.title = SERVED.map(([field, , words_]) => `${ratio(row[field])} ${words_}`).join(", ");
    },
  },
  { title: "Serves", number: true, hint: "activations it serves for all nodes", sort: (row) => row.served_per_second, text: (row) => perSecond(row.served_per_second) },
  {
    title: "Heard",
    number: true,
    hint: "since its last heartbeat",
    sort: (row) => row.record?.status?.received_at,
    text: (row) => (row.record?.status ? age(row.record.status.received_at) : "–"),
  },
];

const LAYER_COLUMNS = [
  { title: "Layer", head: true, sort: (row) => row.layer, text: (row) => `${row.model_id} ${row.layer}` },
  { title: "Latency", number: true, sort: (row) => row.latency_seconds, text: (row) => seconds(row.latency_seconds) },
  { title: "Local", number: true, sort: (row) => row.local_hit_ratio, text: (row) => ratio(row.local_hit_ratio) },
  { title: "Peers", number: true, sort: (row) => row.peer_ratio, text: (row) => ratio(row.peer_ratio) },
  { title: "Origin", number: true, sort: (row) => row.origin_ratio, text: (row) => ratio(row.origin_ratio) },
  { title: "Activations", number: true, sort: (row) => row.activations_per_second, text: (row) => perSecond(row.activations_per_second) },
  { title: "Copies", number: true, sort: (row) => row.copies, text: (row) => `${plural(row.copies, "copy", "copies")} of ${row.experts}` },
];
