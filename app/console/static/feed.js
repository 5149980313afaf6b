// What is known of the chosen cluster, kept current; views listen to the parts they show.

import { ask, pages, watch } from "./api.js";

const KEPT_PLACEMENTS = 6;
const WAIT_SECONDS = 25;

/** Events: "status", "overview", "cluster"; each part is null until it is known. */
export class Feed extends EventTarget {
  status = null;
  overview = null;
  cluster = null;
  #placements = new Map();
  #watches;

  constructor(clusterId) {
    super();
    this.clusterId = clusterId;
    this.base = `v1/clusters/${encodeURIComponent(clusterId)}`;
    this.#watches = [
      this.watch("/placement/status", { wait: WAIT_SECONDS, onValue: (body) => this.#have("status", body) }),
      this.watch("/analysis/overview", { every: 2500, onValue: (body) => this.#have("overview", body) }),
      this.watch("", { every: 10_000, onValue: (body) => this.#have("cluster", body), onProblem: (error) => this.#gone(error) }),
    ];
  }

  stop() {
    for (const one of this.#watches) one.stop();
  }

  /** Look at a part of the cluster now. */
  refresh() {
    for (const one of this.#watches.slice(1)) one.now();
  }

  ask = (path, options) => ask(this.base + path, options);
  pages = (path, field, cursor, most, options) => pages(this.base + path, field, cursor, most, options);
  watch = (path, options) => watch(typeof path === "function" ? () => this.base + path() : this.base + path, options);

  get generation() {
    return this.status?.generation ?? this.cluster?.generation ?? null;
  }

  /** A generation's placement, which never changes: {metadata, evidence, holders(model, layer)}. */
  placement(generation) {
    let found = this.#placements.get(generation);
    if (!found) {
      found = this.ask(`/placements/${generation}`).then(({ body }) => new Placement(body));
      found.catch(() => this.#placements.delete(generation));
    } else this.#placements.delete(generation);
    this.#placements.set(generation, found);
    if (this.#placements.size > KEPT_PLACEMENTS) this.#placements.delete(this.#placements.keys().next().value);
    return found;
  }

  #have(part, body) {
    if (part === "status" && this.status && this.status.cluster_uid !== body.cluster_uid) this.#placements.clear();
    this[part] = body;
    this.dispatchEvent(new Event(part));
  }

  #gone(error) {
    if (error.status === 404) this.dispatchEvent(new Event("gone"));
  }
}

/** Who is to hold what: experts by node, for each layer of each model. */
export class Placement {
  #layers = new Map();

  constructor(document) {
    this.metadata = document.metadata;
    this.evidence = document.evidence;
    this.nodes = document.spec.nodes;
    for (const { node_id, holds } of document.spec.holds)
      for (const { model_id, layer, experts } of holds) {
        const key = `${model_id}/${layer}`;
        if (!this.#layers.has(key)) this.#layers.set(key, new Map());
        this.#layers.get(key).set(node_id, experts);
      }
  }

  get layers() {
    return [...this.#layers.keys()];
  }

  /** Map node_id -> experts */
  layer(key) {
    return this.#layers.get(key) ?? new Map();
  }

  /** [{node, layer, added: [expert], removed: [expert]}] of what is different here from `before`. */
  since(before) {
    const found = [];
    for (const key of new Set([...this.layers, ...before.layers])) {
      const now = this.layer(key);
      const then = before.layer(key);
      for (const node of new Set([...now.keys(), ...then.keys()])) {
        const had = new Set(then.get(node));
        const has = new Set(now.get(node));
        const added = [...has].filter((expert) => !had.has(expert));
        const removed = [...had].filter((expert) => !has.has(expert));
        if (added.length || removed.length) found.push({ node, layer: key, added, removed });
      }
    }
    return found;
  }
}
