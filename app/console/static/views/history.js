// What was in force, what it promised and what it achieved; two generations compared; and back to one of them.

import { announce, h, replace, setText } from "../dom.js";
import { ask } from "../api.js";
import { age, bytes, clock, count, milliseconds, plural, ratio, seconds, words } from "../format.js";
import { confirm } from "../dialogs.js";
import { Table } from "../table.js";
import { Lines } from "../charts/lines.js";

export const name = "history";
export const title = "History";

const MOST = 200;
const LISTED = 200;

export function show(place, { feed, signal }) {
  const none = h("p", { class: "summary" }, "Loading…");
  const chart = new Lines(
    {
      label: "Mean latency of a token, generation by generation",
      x: { label: "generation", text: String },
      y: { text: milliseconds },
      series: [
        { label: "predicted", ink: "--blue", dash: [6, 4], hollow: true, points: 7 },
        { label: "achieved on later traffic", ink: "--green", points: 8 },
        { label: "generation before, on that traffic", ink: "--orange", dash: [2, 3], points: 5 },
      ],
    },
    signal,
  );
  const table = new Table({ caption: "Generations, newest first", columns: columns(), keyOf: (entry) => entry.metadata.generation, onRow: (row, entry) => row.toggleAttribute("data-chosen", entry.metadata.generation === feed.generation) });
  const from = h("select", { id: "from" });
  const to = h("select", { id: "to" });
  const outcome = h("div", { "aria-live": "polite" });
  const compare = h("form", { class: "controls" },
    h("div", { class: "field" }, h("label", { for: "from" }, "From generation"), from),
    h("div", { class: "field" }, h("label", { for: "to" }, "to"), to),
    h("button", { class: "primary" }, "Compare"));
  compare.addEventListener("submit", (event) => {
    event.preventDefault();
    diff();
  });
  const chartPanel = h("section", { class: "panel" }, chart.element);
  const body = h("div", { hidden: true },
    chartPanel,
    h("section", { class: "panel" }, table.element),
    h("section", { class: "panel", "aria-labelledby": "compare" }, h("h2", { id: "compare" }, "Compare two generations"), compare, outcome));
  place.append(none, body);

  let entries = [];
  let newest = null;

  async function load() {
    try {
      entries = await feed.pages("/placements", "placements", "before", MOST);
    } catch (error) {
      setText(none, error.message);
      return;
    }
    body.hidden = !entries.length;
    none.hidden = entries.length > 0;
    setText(none, "No placement has been in force yet. A cluster needs a model, and nodes that can hold it.");
    if (!entries.length) return;
    const rising = [...entries].reverse();
    const timed = entries.some((entry) => entry.evidence.mean_latency_seconds ?? entry.outcome?.mean_latency_seconds ?? null);
    chartPanel.hidden = !timed;
    if (timed) chart.show([
      rising.map((entry) => entry.metadata.generation),
      rising.map((entry) => entry.evidence.mean_latency_seconds),
      rising.map((entry) => entry.outcome?.mean_latency_seconds ?? null),
      rising.map((entry) => entry.outcome?.mean_latency_seconds_before ?? null),
    ]);
    table.show(entries);
    if (newest !== entries[0].metadata.generation) {
      newest = entries[0].metadata.generation;
      offer();
    }
  }

  function offer() {
    const generations = entries.map((entry) => entry.metadata.generation);
    for (const [select, fallback] of [[from, generations[1] ?? generations[0]], [to, generations[0]]]) {
      const kept = Number(select.value);
      replace(select, generations.map((one) => h("option", { value: String(one) }, String(one))));
      select.value = String(generations.includes(kept) ? kept : fallback);
    }
  }

  async function diff() {
    const [a, b] = [Number(from.value), Number(to.value)];
    replace(outcome, h("p", {}, "Comparing…"));
    try {
      const [before, after] = await Promise.all([feed.placement(a), feed.placement(b)]);
      replace(outcome, difference(before, after));
    } catch (error) {
      replace(outcome, h("p", { class: "problem" }, error.message));
      return;
    }
    const cost = h("p", { class: "muted" }, "Planning the moves…");
    outcome.append(cost);
    try {
      setText(cost, await whatItTakes(a, b));
    } catch (error) {
      setText(cost, `The moves are not known: ${error.message}`);
    }
  }

  async function whatItTakes(a, b) {
    if (a === b) return "Nothing to do.";
    const { body: plan } = await feed.ask("/migration_plans", { method: "POST", wait: 20, body: { from_generation: a, to_generation: b, validate_only: true } });
    if (!plan.estimate) return plan.reason ?? "The worker has not planned it yet: see Migrations.";
    return `To go from ${a} to ${b} would take ${plural(plan.progress.moves_total, "move")}, ${bytes(plan.estimate.bytes)} and ${seconds(plan.estimate.seconds)}.`;
  }

  async function rollback(generation) {
    // What is compared and confirmed is what must still be in force then.
    let etag;
    let effect;
    try {
      const { body, etag: found } = await feed.ask("/placement");
      etag = found;
      const [now, then] = await Promise.all([feed.placement(body.metadata.generation), feed.placement(generation)]);
      effect = [
        h("p", {}, `Generation ${body.metadata.generation} is in force now. The holdings of generation ${generation} come into force again as a new generation.`),
        totals(now, then),
        feed.status?.paused ? null : h("p", {}, "Recomputation is not paused: in the next interval the service may change the placement again. Pause it to keep the generation that you roll back to."),
      ];
    } catch (error) {
      await confirm({ title: "Rolling back is not possible", text: error.message, only: "Close" });
      return;
    }
    if (!(await confirm({ title: `Roll back to generation ${generation}?`, content: effect, yes: "Roll back" }))) return;
    try {
      const { body } = await ask(`${feed.base}/placement:rollback`, { method: "POST", ifMatch: etag, body: { to_generation: generation } });
      announce(`Generation ${body.metadata.generation} is in force: the holdings of ${generation}`);
      load();
      feed.refresh();
    } catch (error) {
      const changed = error.status === 412 || error.status === 409;
      await confirm({ title: "The rollback failed", text: changed ? `Another placement came into force meanwhile, or the fleet cannot hold that one any more. ${error.message}` : error.message, only: "Close" });
    }
  }

  function columns() {
    return [
      { title: "Generation", head: true, number: true, sort: (e) => e.metadata.generation, text: (e) => String(e.metadata.generation) },
      { title: "In force since", sort: (e) => e.metadata.created_at, draw(cell, e) {
        setText(cell, clock(e.metadata.created_at));
        cell.title = age(e.metadata.created_at);
      } },
      { title: "By", sort: (e) => e.evidence.algorithm, text: (e) => e.evidence.algorithm },
      { title: "Because of", sort: (e) => e.evidence.reason, text: (e) => words(e.evidence.reason) },
      { title: "Predicted", number: true, hint: "mean latency of a token, predicted at adoption", sort: (e) => e.evidence.mean_latency_seconds, text: (e) => milliseconds(e.evidence.mean_latency_seconds) },
      { title: "Achieved", number: true, hint: "on traffic from after it had converged", sort: (e) => e.outcome?.mean_latency_seconds, text: (e) => milliseconds(e.outcome?.mean_latency_seconds) },
      { title: "Saved", number: true, hint: "against the generation before, same later traffic", sort: (e) => e.outcome?.achieved_improvement_ratio, text: (e) => ratio(e.outcome?.achieved_improvement_ratio) },
      { title: "Gap", number: true, hint: "to the proven lower bound", sort: (e) => e.evidence.gap_ratio, text: (e) => ratio(e.evidence.gap_ratio) },
      { title: "True gap", number: true, hint: "at most, with a confidence of 95 %, for the traffic behind the samples from after it had converged", sort: (e) => e.outcome?.true_gap?.gap_upper_ratio, text: (e) => ratio(e.outcome?.true_gap?.gap_upper_ratio) },
      { title: "Samples", number: true, hint: "tokens whose routes were sampled, of the layer and node with the fewest", sort: (e) => e.evidence.samples?.least, text: (e) => count(e.evidence.samples?.least) },
      { title: "Copies", number: true, sort: (e) => e.evidence.copies, text: (e) => count(e.evidence.copies) },
      { title: "Moved", number: true, sort: (e) => e.evidence.migration_bytes, text: (e) => bytes(e.evidence.migration_bytes) },
      { title: "Converged after", number: true, text: (e) => (e.outcome?.converged_at ? seconds((new Date(e.outcome.converged_at) - new Date(e.metadata.created_at)) / 1000) : "–") },
      {
        title: "Back",
        draw(cell, e) {
          const { generation } = e.metadata;
          const current = generation === feed.generation;
          if (cell.dataset.current === String(current)) return;
          cell.dataset.current = String(current);
          replace(cell, current ? h("span", { class: "muted" }, "in force") : h("button", { type: "button", class: "quiet", "aria-label": `Roll back to generation ${generation}`, onclick: () => rollback(generation) }, "Roll back…"));
        },
      },
    ];
  }

  let last = feed.generation;
  feed.addEventListener("status", () => {
    if (feed.generation !== last) {
      last = feed.generation;
      load();
    }
  }, { signal });
  // Outcomes come without a new generation.
  const timer = setInterval(() => !document.hidden && load(), 10_000);
  load();
  return () => clearInterval(timer);
}

function totals(before, after) {
  const changes = after.since(before);
  const added = changes.reduce((sum, one) => sum + one.added.length, 0);
  const removed = changes.reduce((sum, one) => sum + one.removed.length, 0);
  return h("p", {}, changes.length ? `That is ${plural(added, "copy", "copies")} more and ${count(removed)} fewer, in ${plural(new Set(changes.map((one) => one.layer)).size, "layer")} at ${plural(new Set(changes.map((one) => one.node)).size, "node")}.` : "Both generations hold the same.");
}

function difference(before, after) {
  const order = (a, b) => a.localeCompare(b, "en", { numeric: true });
  const changes = after.since(before).sort((a, b) => order(a.layer, b.layer) || order(a.node, b.node));
  const byNode = new Map();
  for (const { node, added, removed } of changes) {
    const sum = byNode.get(node) ?? { node, added: 0, removed: 0, layers: 0 };
    byNode.set(node, { node, added: sum.added + added.length, removed: sum.removed + removed.length, layers: sum.layers + 1 });
  }
  const parts = [totals(before, after)];
  if (changes.length) {
    const nodes = new Table({
      caption: "By node",
      columns: [
        { title: "Node", head: true, sort: (row) => row.node, text: (row) => row.node },
        { title: "More", number: true, sort: (row) => row.added, text: (row) => `+${count(row.added)}` },
        { title: "Fewer", number: true, sort: (row) => row.removed, text: (row) => `−${count(row.removed)}` },
        { title: "Layers", number: true, sort: (row) => row.layers, text: (row) => count(row.layers) },
      ],
      keyOf: (row) => row.node,
    });
    nodes.show([...byNode.values()].sort((a, b) => order(a.node, b.node)));
    const each = new Table({
      caption: "By node and layer",
      columns: [
        { title: "Node", head: true, sort: (row) => row.node, text: (row) => row.node },
        { title: "Layer", sort: (row) => row.layer, text: (row) => row.layer.split("/").reverse().join(" of ") },
        { title: "Experts more", text: (row) => row.added.join(" ") },
        { title: "Experts fewer", text: (row) => row.removed.join(" ") },
      ],
      keyOf: (row) => `${row.node} ${row.layer}`,
    });
    each.show(changes.slice(0, LISTED));
    parts.push(h("div", { class: "diff" }, nodes.element, each.element));
    if (changes.length > LISTED) parts.push(h("p", { class: "muted" }, `The second table lists the first ${LISTED} of ${count(changes.length)}.`));
  }
  return parts;
}
