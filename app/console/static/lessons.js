// What to do where there is nothing to see yet.

import { h } from "./dom.js";

const here = () => new URL(".", document.baseURI).href.replace(/\/$/, "");
const code = (...lines) => h("pre", { tabindex: "0", role: "region", "aria-label": "Commands" }, h("code", {}, lines.join("\n")));

const model = (cluster) => [
  "# a model: a well-known architecture by name, blocks of your own, or a Hugging Face config.json",
  `curl -X PUT ${here()}/v1/clusters/${cluster}/models/lite \\`,
  `  -H 'content-type: application/json' -d '{"preset": "deepseek-v2-lite"}'`,
];
const node = (cluster, name) => [
  `curl -X PUT ${here()}/v1/clusters/${cluster}/nodes/${name} \\`,
  `  -H 'content-type: application/json' \\`,
  `  -d '{"instance_uid": "1", "devices": [{"device_id": "gpu0", "memory_bytes": 24000000000}]}'`,
];
const rest = "Each node then sends heartbeats and telemetry, and polls its assignment. The command moeplace agent does this.";

export function nothingYet() {
  return h("section", { class: "lesson" },
    h("h1", {}, "No cluster yet"),
    h("p", {}, "A cluster is the fleet of nodes that one placement covers. Registering a model or a node creates it:"),
    code(...model("edge"), "", "# its nodes, each with the memory that experts may use", ...node("edge", "node-a"), ...node("edge", "node-b")),
    h("p", {}, rest, " Or watch a small fleet with everything: "),
    code("moeplace demo --keep"),
    h("p", {}, "This page updates by itself. ", h("a", { href: "docs" }, "The whole API")));
}

/** Why a cluster has nothing to show; null once it has. */
export function missing(feed) {
  const { cluster, overview } = feed;
  if (overview || !cluster) return null;
  const parts = [];
  if (!cluster.models.length) parts.push(h("p", {}, "It has no model yet."), code(...model(feed.clusterId)));
  if (!cluster.nodes.length) parts.push(h("p", {}, "It has no node yet."), code(...node(feed.clusterId, "node-a")));
  if (!parts.length)
    parts.push(h("p", {}, "Models and nodes are registered. The worker sees them within seconds. If nothing appears, check that a worker runs: ", h("a", { href: "readyz" }, "readyz"), "."));
  return h("section", { class: "lesson" }, h("h2", {}, `Cluster ${feed.clusterId} has nothing to show yet`), parts, h("p", {}, rest));
}
