// What if: a solve on a hypothetical fleet, which changes nothing, compared with the present.

import { Refused, ask } from "../api.js";
import { announce, h, replace, setText } from "../dom.js";
import { age, bytes, count, milliseconds, ratio, seconds, signed, words } from "../format.js";
import { missing } from "../lessons.js";
import { Table } from "../table.js";

export const name = "what-if";
export const title = "What if";

const WAIT_SECONDS = 25;
const ENDED = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);
const UNITS = { GB: 1e9, MB: 1e6, kB: 1e3 };

export function show(place, { feed, signal }) {
  const lesson = h("div");
  const nodes = h("ul", { class: "choices" });
  const memoryNode = h("select", { id: "memory-node" });
  const memory = h("input", { id: "memory", type: "number", min: "0", step: "any", inputmode: "decimal" });
  const unit = h("select", { id: "memory-unit", "aria-label": "Unit" }, Object.keys(UNITS).map((name) => h("option", { value: name }, name)));
  const memoryNow = h("span", { class: "muted", id: "memory-now" });
  const coupling = h("select", { id: "coupling" },
    h("option", { value: "" }, "the cluster's"), h("option", { value: "sum" }, "sum: one expert after another"), h("option", { value: "slowest" }, "slowest: all at once, the last counts"), h("option", { value: "colocated" }, "colocated: one call per host"));
  const algorithm = h("select", { id: "algorithm" }, h("option", { value: "" }, "the cluster's"));
  const limit = h("input", { id: "limit", type: "number", min: "0.1", max: "600", step: "any", value: "5" });
  const origin = h("input", { id: "no-origin", type: "checkbox" });
  const run = h("button", { class: "primary" }, "Compute");
  const cancel = h("button", { type: "button", hidden: true }, "Cancel");
  const said = h("p", { class: "problem", role: "alert" });
  const outcome = h("section", { class: "panel", "aria-live": "polite", "aria-label": "Outcome" }, h("p", { class: "muted" }, "Choose changes and compute. Nothing changes in the cluster."));
  const history = new Table({ caption: "Recent computations", columns: COLUMNS, keyOf: (record) => record.optimization_id });
  const form = h("form", { class: "panel what-if", novalidate: true },
    h("fieldset", {}, h("legend", {}, "Without these nodes"), nodes),
    h("fieldset", {}, h("legend", {}, "Other memory for experts"),
      h("div", { class: "field" }, h("label", { for: "memory-node" }, "Node"), memoryNode),
      h("div", { class: "field" }, h("label", { for: "memory" }, "Has"), memory, unit, memoryNow)),
    h("fieldset", {}, h("legend", {}, "How to solve"),
      h("div", { class: "field" }, h("label", { for: "coupling" }, "Coupling"), coupling),
      h("div", { class: "field" }, h("label", { for: "algorithm" }, "Algorithm"), algorithm),
      h("div", { class: "field" }, h("label", { for: "limit" }, "Time limit in seconds"), limit),
      h("div", { class: "field" }, origin, h("label", { for: "no-origin" }, "without the origin"))),
    said,
    h("div", { class: "buttons" }, run, cancel));
  const body = h("div", { class: "split", hidden: true }, form, h("div", {}, outcome, h("section", { class: "panel" }, history.element)));
  place.append(lesson, body);

  let running = null; // the id of what is computed
  let chosen = new Set();

  ask("v1/algorithms", { signal }).then(
    ({ body: found }) => replace(algorithm, h("option", { value: "" }, "the cluster's"), found.algorithms.map((one) => h("option", { value: one.name, title: one.summary }, `${one.name}: ${one.summary}`))),
    () => {},
  );

  function offer() {
    replace(lesson, missing(feed));
    body.hidden = !feed.overview;
    if (!feed.overview) return;
    const ids = feed.overview.nodes.map((node) => node.node_id);
    if (ids.length !== nodes.children.length || ids.some((id, i) => nodes.children[i].dataset.node !== id)) {
      replace(nodes, ids.map((id, i) => h("li", { "data-node": id }, h("input", { id: `without-${i}`, type: "checkbox", value: id, checked: chosen.has(id), onchange: (event) => (event.target.checked ? chosen.add(id) : chosen.delete(id)) }), h("label", { for: `without-${i}` }, id))));
      const kept = memoryNode.value;
      replace(memoryNode, h("option", { value: "" }, "none"), ids.map((id) => h("option", { value: id }, id)));
      memoryNode.value = ids.includes(kept) ? kept : "";
    }
    tellMemory(false);
  }

  function tellMemory(anew) {
    const node = feed.overview.nodes.find((one) => one.node_id === memoryNode.value);
    memory.disabled = unit.disabled = !node;
    setText(memoryNow, node ? `now ${bytes(node.capacity_bytes)}` : "");
    if (!anew) return;
    const [name, size] = Object.entries(UNITS).find(([, size]) => node && node.capacity_bytes >= size) ?? ["GB", 1e9];
    unit.value = name;
    memory.value = node ? String((2 * node.capacity_bytes) / size) : "";
  }
  memoryNode.addEventListener("change", () => tellMemory(true));

  /** What the form asks for; throws in words. */
  function wanted() {
    const overrides = {};
    const gone = feed.overview.nodes.map((node) => node.node_id).filter((id) => chosen.has(id));
    if (gone.length) overrides.remove_nodes = gone;
    if (memoryNode.value) {
      const size = Number(memory.value) * UNITS[unit.value];
      if (memory.value === "" || !(size >= 0)) throw new RangeError(`Memory of ${memoryNode.value}: expected a number of ${unit.value}, 0 or more.`);
      overrides.capacity_bytes = { [memoryNode.value]: Math.round(size) };
    }
    if (origin.checked) overrides.origin = false;
    const time = Number(limit.value);
    if (!(time >= 0.1 && time <= 600)) throw new RangeError("Time limit in seconds: expected 0.1 to 600.");
    return { validate_only: true, coupling: coupling.value || null, algorithm: algorithm.value || null, time_limit_seconds: time, overrides };
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setText(said, "");
    let body_;
    try {
      body_ = wanted();
    } catch (error) {
      setText(said, error.message);
      return;
    }
    run.disabled = true;
    try {
      const answer = await feed.ask("/optimizations", { method: "POST", body: body_, wait: WAIT_SECONDS / 5, signal });
      let record = answer.body;
      let etag = null;
      running = record.optimization_id;
      cancel.hidden = ENDED.has(record.state);
      while (!ENDED.has(record.state)) {
        replace(outcome, h("p", {}, record.state === "QUEUED" ? "Waiting for the worker…" : "Computing…"));
        const next = await feed.ask(`/optimizations/${running}`, { wait: WAIT_SECONDS, etag, signal });
        if (next.body) record = next.body;
        etag = next.etag;
      }
      replace(outcome, told(record, feed));
      announce("The what-if result is ready");
      list();
    } catch (error) {
      if (error.name === "AbortError") return;
      setText(said, error instanceof Refused && error.status === 403 ? `This token may not ask for a computation (403): ${error.message}` : error.message);
    } finally {
      running = null;
      run.disabled = false;
      cancel.hidden = true;
    }
  });
  cancel.addEventListener("click", () => running && feed.ask(`/optimizations/${running}:cancel`, { method: "POST" }).catch((error) => setText(said, error.message)));

  async function list() {
    try {
      const { body: found } = await feed.ask("/optimizations?limit=20", { signal });
      history.show(found.optimizations);
      history.element.parentElement.hidden = !found.optimizations.length;
    } catch (error) {
      if (error.name !== "AbortError") setText(said, error.message);
    }
  }
  for (const part of ["overview", "cluster"]) feed.addEventListener(part, offer, { signal });
  offer();
  list();
}

/** The hypothetical changes, in words. */
function pretended({ overrides, coupling, algorithm }) {
  const parts = [];
  if (overrides.remove_nodes.length) parts.push(`without ${overrides.remove_nodes.join(", ")}`);
  for (const [node, size] of Object.entries(overrides.capacity_bytes)) parts.push(`${node} with ${bytes(size)}`);
  if (overrides.origin === false) parts.push("no origin");
  if (overrides.min_replicas !== null) parts.push(`every expert ${overrides.min_replicas} times`);
  if (coupling) parts.push(`coupling ${coupling}`);
  if (algorithm) parts.push(algorithm);
  return parts.join("; ") || "the fleet as it is";
}

function told(record, feed) {
  const { result } = record;
  const heading = h("h2", {}, `What if: ${pretended(record.request)}`);
  if (!result) return [heading, h("p", { class: "problem" }, record.error ?? words(record.state))];
  if (result.objective === null) return [heading, h("p", { class: "problem" }, result.detail || words(result.status))];
  const tokens = result.mean_latency_seconds ? result.objective / result.mean_latency_seconds : null;
  const before = result.objective_before !== null && tokens ? result.objective_before / tokens : null;
  const change = before ? (result.mean_latency_seconds - before) / before : null;
  const measured = feed.overview?.mean_latency_seconds ?? null;
  const row = (term, now, then, note = "") => h("tr", {}, h("th", { scope: "row" }, term), h("td", { class: "number" }, now), h("td", { class: "number" }, then), h("td", { class: "number" }, note));
  return [
    heading,
    h("table", { class: "data compare" },
      h("caption", { class: "unseen" }, "The placement in force and the computed one"),
      h("thead", {}, h("tr", {}, h("td"), h("th", { scope: "col", class: "number" }, "In force"), h("th", { scope: "col", class: "number" }, "What if"), h("th", { scope: "col", class: "number" }, "Difference"))),
      h("tbody", {},
        row("Mean latency of a token", milliseconds(before), milliseconds(result.mean_latency_seconds), signed(change, (value) => ratio(value))),
        row("Proven lower bound", "–", milliseconds(result.lower_bound !== null && tokens ? result.lower_bound / tokens : null), result.gap_ratio === null ? "–" : `gap ${ratio(result.gap_ratio)}`),
        row("Copies to make", "–", count(result.copies), bytes(result.migration_bytes)),
        row("Expected duration of moving", "–", seconds(result.migration_seconds)))),
    h("p", { class: "muted" },
      `“In force” is today's placement on the pretended fleet and coupling, same traffic${measured ? `; as things are it is ${milliseconds(measured)}` : ""}. `,
      `${result.algorithm}, ${words(result.status)}, ${seconds(result.runtime_seconds)}. ${result.detail}`),
  ];
}

const COLUMNS = [
  { title: "Asked", head: true, sort: (one) => one.created_at, text: (one) => age(one.created_at) },
  { title: "What", text: (one) => (one.request.validate_only ? pretended(one.request) : "solve now") },
  { title: "State", sort: (one) => one.state, text: (one) => words(one.state) },
  { title: "Latency", number: true, sort: (one) => one.result?.mean_latency_seconds, text: (one) => milliseconds(one.result?.mean_latency_seconds) },
  { title: "Gap", number: true, sort: (one) => one.result?.gap_ratio, text: (one) => ratio(one.result?.gap_ratio) },
  { title: "Copies", number: true, sort: (one) => one.result?.copies, text: (one) => count(one.result?.copies) },
  { title: "Took", number: true, sort: (one) => one.result?.runtime_seconds, text: (one) => seconds(one.result?.runtime_seconds) },
];
