// What a call from one node to another takes.

import { h, replace, setText } from "../dom.js";
import { bytes, plural, seconds } from "../format.js";
import { gradient, ink, onTheme, tone } from "../palette.js";
import { Table, folded } from "../table.js";
import { Pager } from "../pager.js";
import { Grid } from "../charts/grid.js";

export const name = "network";
export const title = "Network";

const ORIGIN = "origin";
const PRINTED_FROM = 42;

export function show(place, { feed, signal }) {
  const summary = h("p", { class: "summary" }, "Asking…");
  const ramp = h("span", { class: "ramp", "aria-hidden": "true" });
  const low = h("span");
  const high = h("span");
  const inspector = h("div", { class: "inspector" });
  const grid = new Grid({
    label: "Latency from each node to each other. Arrow keys go from pair to pair.",
    height: [12, 44],
    width: [6, 84],
    foot: 20,
    right: 22,
    signal,
    draw: drawCell,
    describe: (row, column) => sentence(row + pager.from, column),
    onLook: (row, column) => inspect(row === null ? null : row + pager.from, column),
  });
  const table = new Table({ caption: "Nodes and their latencies", columns: COLUMNS, keyOf: (row) => row.node_id });
  const fold = folded("The network as a table", table, rows);
  const pager = new Pager(() => network && arrange());
  const panel = h("section", { class: "panel" }, summary, pager.element, grid.element,
    h("div", { class: "under" }, h("div", { class: "scale" }, h("p", {}, "Seconds of one expert call, ", low, " to ", high, ", logarithmic"), h("ul", { class: "legend" }, h("li", {}, ramp, "slower"), h("li", {}, h("span", { class: "key assumed", "aria-hidden": "true" }), "nobody told it: the cluster's default"))), inspector));
  place.append(panel, h("section", { class: "panel" }, fold.element));
  const dye = () => ramp.style.setProperty("background", gradient("colour"));
  onTheme(dye, signal);
  dye();

  let network = null;
  let bounds = [1e-6, 1];
  let assumed = [];
  let measured = 0;

  const looking = feed.watch("/network", {
    every: 6000,
    onValue(found) {
      network = found;
      arrange();
    },
    onProblem: (error) => setText(summary, error.message),
  });

  function arrange() {
    const found = network;
    const values = found.nodes.flatMap((node, row) => [...node.latency_seconds.filter((_, column) => column !== row), node.origin_seconds ?? 0]).filter((value) => value > 0);
    bounds = values.length ? [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))] : [1e-6, 1];
    assumed = found.nodes.map((node) => new Set(node.defaulted));
    measured = found.nodes.reduce((sum, node) => sum + node.measured.length, 0);
    const columns = found.nodes.map((node) => ({ label: node.node_id }));
    if (found.nodes.some((node) => node.origin_seconds !== null)) columns.push({ label: ORIGIN });
    grid.shape(pager.part(found.nodes).map((node) => ({ label: node.node_id, dim: !node.live })), columns);
    grid.paint();
    setText(low, seconds(bounds[0]));
    setText(high, seconds(bounds[1]));
    const guessed = assumed.reduce((sum, set) => sum + set.size, 0);
    setText(summary, found.nodes.length ? `Row calls column. ${plural(found.nodes.length, "node")}; ${plural(measured, "latency", "latencies")} measured by the nodes, ${guessed ? `${guessed} taken for the default of ${seconds(found.default_latency_seconds)}` : "the rest specified"}.` : "No node is registered yet.");
    if (grid.cursor) inspect(grid.cursor.row + pager.from, grid.cursor.column);
    fold.update();
  }

  const value = (row, column) => (column < network.nodes.length ? network.nodes[row].latency_seconds[column] : network.nodes[row].origin_seconds);

  function drawCell(context, { row: shown, column, x, y, width, height }) {
    const row = shown + pager.from;
    const found = value(row, column);
    if (found === null || found === undefined) return;
    const span = Math.log(bounds[1] / bounds[0]) || 1;
    const { css, bright } = tone("colour", found > 0 ? 0.04 + (0.9 * Math.log(Math.max(found, bounds[0]) / bounds[0])) / span : 0);
    const guessed = assumed[row].has(column);
    context.fillStyle = row === column ? ink("--sunken") : css;
    context.fillRect(x, y, width - 1, height - 1);
    if (guessed) {
      context.strokeStyle = bright ? "#0008" : "#fff8";
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(x + 1, y + height - 2);
      context.lineTo(x + width - 2, y + 1);
      context.stroke();
    }
    if (width < PRINTED_FROM) return;
    context.fillStyle = row === column ? ink("--text") : bright ? "#000" : "#fff";
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(seconds(found), x + width / 2, y + height / 2);
  }

  const nameOf = (column) => network.nodes[column]?.node_id ?? ORIGIN;

  function how(row, column) {
    if (column >= network.nodes.length) return "as specified";
    const node = network.nodes[row];
    return node.measured.includes(column) ? "measured by the node" : assumed[row].has(column) ? "the cluster's default: neither measured nor specified" : "as specified";
  }

  const sentence = (row, column) => `${nameOf(row)} calls ${row === column ? "itself" : nameOf(column)}: ${seconds(value(row, column))}, ${how(row, column)}`;

  function inspect(row, column) {
    if (row === null) {
      replace(inspector, h("p", { class: "muted" }, "Point at a pair, or enter the matrix with Tab and use the arrow keys."));
      return;
    }
    const node = network.nodes[row];
    const back = column < network.nodes.length && column !== row ? value(column, row) : null;
    replace(
      inspector,
      h("h2", {}, `${nameOf(row)} → ${row === column ? "itself" : nameOf(column)}`),
      h("dl", { class: "facts" },
        fact("One call", `${seconds(value(row, column))}, ${how(row, column)}`),
        back !== null && fact("The other way", seconds(back)),
        fact("Bandwidth", `${node.node_id} receives ${bytes(node.ingress_bytes_per_second)}/s, sends ${bytes(node.egress_bytes_per_second)}/s`)),
    );
  }

  function rows() {
    return (network?.nodes ?? []).map((node, row) => {
      const others = node.latency_seconds.map((latency, column) => ({ latency, column })).filter(({ column }) => column !== row).sort((a, b) => a.latency - b.latency);
      return { ...node, nearest: others[0], farthest: others.at(-1), nameOf, all: others };
    });
  }
  inspect(null);
  return () => looking.stop();
}

const fact = (term, text) => h("div", {}, h("dt", {}, term), h("dd", {}, text));
const peer = (row, one) => (one ? `${row.nameOf(one.column)}, ${seconds(one.latency)}` : "–");

const COLUMNS = [
  { title: "Node", head: true, sort: (row) => row.node_id, text: (row) => row.node_id },
  { title: "Nearest", sort: (row) => row.nearest?.latency, text: (row) => peer(row, row.nearest) },
  { title: "Farthest", sort: (row) => row.farthest?.latency, text: (row) => peer(row, row.farthest) },
  { title: "Origin", number: true, sort: (row) => row.origin_seconds, text: (row) => seconds(row.origin_seconds) },
  { title: "To all, nearest first", text: (row) => row.all.slice(0, 32).map((one) => peer(row, one)).join("; ") + (row.all.length > 32 ? "; …" : "") },
  { title: "Receives", number: true, sort: (row) => row.ingress_bytes_per_second, text: (row) => `${bytes(row.ingress_bytes_per_second)}/s` },
  { title: "Sends", number: true, sort: (row) => row.egress_bytes_per_second, text: (row) => `${bytes(row.egress_bytes_per_second)}/s` },
];
