// The page around the views: which cluster, which view, whether the service answers, and what it refuses.

import { ask, events, token, watch } from "./api.js";
import { announce, h, replace, setText } from "./dom.js";
import { Feed } from "./feed.js";
import { Strip } from "./strip.js";
import { confirm, helpDialog, tokenDialog } from "./dialogs.js";
import { Shortcuts } from "./shortcuts.js";
import { nothingYet } from "./lessons.js";
import { plural } from "./format.js";
import * as fleet from "./views/fleet.js";
import * as placement from "./views/placement.js";
import * as network from "./views/network.js";
import * as migrations from "./views/migrations.js";
import * as history from "./views/history.js";
import * as whatif from "./views/whatif.js";

const VIEWS = [fleet, placement, network, migrations, history, whatif];
const CHOSEN = "moeplace-cluster";

const place = document.getElementById("view");
const chooser = document.getElementById("cluster");
const tabs = document.getElementById("tabs");
const refusal = document.getElementById("refusal");
const live = document.getElementById("live");

let clusters = null;
let feed = null;
let strip = null;
let shown = null; // {view, leave}

// --- where we are: #/cluster/view
function location_() {
  const [, cluster = "", name = ""] = window.location.hash.split("/");
  return { cluster: decodeURIComponent(cluster), view: VIEWS.find((view) => view.name === name) ?? fleet };
}

const href = (cluster, view) => `#/${encodeURIComponent(cluster)}/${view.name}`;

function arrive() {
  const { cluster, view } = location_();
  const wanted = clusters?.includes(cluster) ? cluster : null;
  if (clusters === null) return;
  if (!wanted) {
    const remembered = sessionStorage.getItem(CHOSEN);
    const other = clusters.includes(remembered) ? remembered : clusters[0];
    if (other) window.location.replace(href(other, view));
    else showNothing();
    return;
  }
  sessionStorage.setItem(CHOSEN, wanted);
  chooser.value = wanted;
  replace(
    tabs,
    VIEWS.map((one, i) =>
      h("a", { href: href(wanted, one), "aria-current": one === view ? "page" : null, "aria-keyshortcuts": String(i + 1) }, one.title),
    ),
  );
  const anew = feed?.clusterId !== wanted;
  if (anew) {
    strip?.leave();
    feed?.stop();
    feed = new Feed(wanted);
    feed.addEventListener("gone", () => lookForClusters.now());
    strip = new Strip(document.getElementById("strip"), feed);
  }
  if (anew || shown?.view !== view) show(view);
}

function show(view) {
  const first = shown === null;
  shown?.leave();
  replace(place);
  document.title = `${view.title} · ${feed.clusterId} · moeplace`;
  const heading = h("h1", { class: "unseen" }, `${view.title} of cluster ${feed.clusterId}`);
  const section = h("div", { class: `view view-${view.name}` });
  place.append(heading, section);
  const ending = new AbortController();
  const leave = view.show(section, { feed, signal: ending.signal, act });
  shown = {
    view,
    leave() {
      ending.abort();
      leave?.();
    },
  };
  if (!first) {
    place.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
}

function showNothing() {
  shown?.leave();
  shown = null;
  strip?.leave();
  feed?.stop();
  feed = strip = null;
  replace(tabs);
  replace(place, nothingYet());
}

replace(place, h("p", { class: "summary" }, "Loading the list of clusters…"));

// --- which clusters there are
const lookForClusters = watch("v1/clusters", {
  every: 15_000,
  onValue({ clusters: found }) {
    const same = clusters && found.length === clusters.length && found.every((name, i) => name === clusters[i]);
    if (same) return;
    if (clusters) announce(`${plural(found.length, "cluster")} now`);
    clusters = found;
    replace(chooser, found.map((name) => h("option", { value: name }, name)));
    document.getElementById("chooser").hidden = !found.length;
    arrive();
  },
});

chooser.addEventListener("change", () => {
  window.location.hash = href(chooser.value, location_().view);
});
window.addEventListener("hashchange", arrive);

// --- whether the service answers
let answeredAt = null;
let failing = null;
events.addEventListener("answered", () => {
  answeredAt = Date.now();
  failing = null;
  refusal.hidden = true;
  showLive();
});
events.addEventListener("failed", ({ detail }) => {
  failing = detail;
  showLive();
});
events.addEventListener("refused", ({ detail }) => {
  const words =
    detail.status === 401
      ? token.get()
        ? "The service does not know this token (401). Check it, or ask the operator for another."
        : "The service requires a token (401). Enter the token of a reader or an operator."
      : `This token does not allow that (403): ${detail.message}`;
  replace(refusal, h("span", {}, words), " ", h("button", { type: "button", onclick: () => tokenDialog() }, "Enter a token"));
  refusal.hidden = false;
});

function showLive() {
  let state = "waiting";
  let text = "connecting";
  if (failing) {
    state = "failing";
    const left = Math.max(0, Math.ceil((failing.retryAt - Date.now()) / 1000));
    text = navigator.onLine ? `no answer, again in ${left} s` : "offline";
  } else if (answeredAt) {
    state = document.hidden ? "waiting" : "live";
    text = "live";
  }
  live.dataset.state = state;
  setText(live, text);
}
setInterval(() => failing && showLive(), 1000);
showLive();

/** Do something that changes the cluster; what goes wrong is said, and false returned. */
async function act(what, path, options) {
  try {
    const answer = await ask(`${feed.base}${path}`, { method: "POST", ...options });
    announce(`${what}: done`);
    feed.refresh();
    return answer;
  } catch (error) {
    await confirm({ title: `${what} did not work`, text: error.message, only: "Close" });
    return null;
  }
}

// --- keys
document.getElementById("token-button").addEventListener("click", () => tokenDialog());
const showToken = () => setText(document.getElementById("token-button"), token.get() ? "Token set" : "Token");
events.addEventListener("token", showToken);
showToken();

const shortcuts = new Shortcuts();
document.getElementById("help-button").addEventListener("click", () => helpDialog(shortcuts));
VIEWS.forEach((view, i) => shortcuts.on(String(i + 1), `show ${view.title}`, () => feed && (window.location.hash = href(feed.clusterId, view))));
shortcuts.on("c", "choose a cluster", () => chooser.focus());
shortcuts.on("[", "previous layer", () => document.dispatchEvent(new CustomEvent("layer", { detail: -1 })));
shortcuts.on("]", "next layer", () => document.dispatchEvent(new CustomEvent("layer", { detail: 1 })));
shortcuts.on("?", "show this help", () => helpDialog(shortcuts));
