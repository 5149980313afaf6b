// Plans from one placement to the next, and how far the one looked at is: a Gantt chart of its moves.

import { h, keyed, replace, setText } from "../dom.js";
import { age, bytes, clock, count, moment, plural, ratio, seconds, words } from "../format.js";
import { confirm } from "../dialogs.js";
import { mark } from "../strip.js";
import { Table, folded } from "../table.js";
import { Gantt } from "../charts/gantt.js";

export const name = "migrations";
export const title = "Migrations";

const GOING_ON = new Set(["PENDING", "RUNNING", "PAUSED", "CANCELLING", "ROLLING_BACK"]);
const KINDS = { SUCCEEDED: "good", FAILED: "bad", RUNNING: "busy", ROLLING_BACK: "busy", CANCELLING: "warn", PAUSED: "warn", PENDING: "still", CANCELLED: "still", SUPERSEDED: "still" };
const LISTED = 300;

export function show(place, { feed, signal, act }) {
  const list = new Table({ caption: "Plans, newest first", columns: planColumns(choose), keyOf: (plan) => plan.plan_id, onRow: (row, plan) => row.toggleAttribute("data-chosen", plan.plan_id === chosen) });
  const heading = h("h2");
  const facts = h("dl", { class: "figures small" });
  const buttons = h("div", { class: "buttons" });
  const inspector = h("div", { class: "inspector" });
  const gantt = new Gantt({ label: "Moves over time by destination. Left and right go through moves, up and down through nodes.", onLook: inspect, signal });
  const legend = h("ul", { class: "legend" },
    key("copy", "copy from a peer"), key("fetch", "copy from the origin"), key("drop", "drop"), key("planned", "above each lane: as planned"), key("going-on", "under way"), key("failed", "failed"));
  const table = new Table({ caption: "Moves", columns: MOVE_COLUMNS, keyOf: (move) => move.id });
  const fold = folded("Moves as a table", table, () => moves.slice(0, LISTED));
  const rest = h("p", { class: "muted" });
  const detail = h("section", { class: "panel", hidden: true }, h("div", { class: "headed" }, heading, buttons), facts, gantt.element, h("div", { class: "under" }, legend, inspector), fold.element, rest);
  const none = h("p", { class: "summary" });
  place.append(h("section", { class: "panel" }, none, list.element), detail);

  let plans = [];
  let chosen = null;
  let byHand = false;
  let looking = null;
  let plan = null;
  let moves = [];
  let timer = null;

  const listing = feed.watch("/migration_plans?limit=50", {
    every: 4000,
    onValue(found) {
      plans = found.migration_plans;
      list.element.hidden = !plans.length;
      setText(none, plans.length ? "" : "No plan yet. A plan is made when a new generation requires nodes to hold other experts.");
      none.hidden = plans.length > 0;
      if (!byHand && plans.length) {
        const active = plans.find((one) => GOING_ON.has(one.state) && !one.validate_only) ?? plans.find((one) => !one.validate_only) ?? plans[0];
        if (active.plan_id !== chosen) follow(active.plan_id);
      }
      list.show(plans);
    },
    onProblem: (error) => setText(none, error.message),
  });
  feed.addEventListener("status", () => listing.now(), { signal });

  function choose(id) {
    byHand = true;
    follow(id);
    list.show(plans);
    detail.scrollIntoView({ block: "nearest" });
  }

  function follow(id) {
    chosen = id;
    looking?.stop();
    looking = feed.watch(`/migration_plans/${encodeURIComponent(id)}`, {
      wait: 25,
      onValue(found) {
        plan = found;
        detail.hidden = false;
        draw();
      },
      onProblem: (error) => setText(heading, error.message),
    });
  }

  function draw() {
    const progress = new Map(plan.progress_of_moves.map((one) => [one.move_id, one]));
    const released = plan.progress_of_moves.map((one) => moment(one.released_at)).filter((at) => at !== null);
    const start = released.length ? released.reduce((a, b) => Math.min(a, b)) : moment(plan.created_at);
    moves = plan.moves.map((move) => asMove(move, progress.get(move.move_id), start));
    const running = GOING_ON.has(plan.state) && released.length > 0;
    clearInterval(timer);
    const tick = () => gantt.show(moves, running && plan.state !== "PAUSED" ? (Date.now() - start) / 1000 : null);
    tick();
    if (running) timer = setInterval(tick, Math.max(500, moves.length / 8));
    replace(heading, `Generation ${plan.from_generation ?? "–"} → ${plan.to_generation} `, h("span", { class: "state" }, mark(KINDS[plan.state]), " ", plan.validate_only ? "only asked for, not carried out" : words(plan.state)));
    const { moves_total: total, moves_succeeded: done, moves_failed: failed, bytes_total: size, bytes_done: moved } = plan.progress;
    const finished = moves.map((move) => move.to).filter((to) => to !== null);
    const took = !running && finished.length ? finished.reduce((a, b) => Math.max(a, b)) : null;
    replace(
      facts,
      [
        ["Moves", `${count(done)} of ${count(total)}`, failed ? plural(failed, "failed", "failed") : "done"],
        ["Bytes", ratio(size ? moved / size : null), `${bytes(moved)} of ${bytes(size)}`],
        ["Planned", seconds(plan.estimate?.seconds), plan.estimate ? `${seconds(plan.estimate.transfer_seconds)} of it for the bytes, at least ${seconds(plan.estimate.lower_bound_seconds)}` : "not planned yet"],
        ["Took", took === null ? (running ? `${seconds((Date.now() - start) / 1000)} so far` : "–") : seconds(took), clock(plan.created_at)],
      ].map(([term, value, note]) => h("div", {}, h("dt", {}, term), h("dd", { class: "value" }, value), h("dd", { class: "note" }, note))),
    );
    if (plan.reason) facts.append(h("div", {}, h("dt", {}, "Because"), h("dd", { class: "note" }, plan.reason)));
    offerButtons();
    fold.update();
    setText(rest, moves.length > LISTED ? `The table lists the first ${LISTED} of ${count(moves.length)} moves; the API has all of them.` : "");
  }

  function offerButtons() {
    const path = `/migration_plans/${encodeURIComponent(plan.plan_id)}`;
    const offers = [];
    if (!plan.validate_only && (plan.state === "RUNNING" || plan.state === "PENDING")) offers.push(["pause", "Pause", () => act("Pausing the plan", `${path}:pause`)]);
    if (plan.state === "PAUSED") offers.push(["resume", "Resume", () => act("Resuming the plan", `${path}:resume`)]);
    if (!plan.validate_only && ["RUNNING", "PAUSED", "PENDING"].includes(plan.state)) {
      offers.push(["drain", "Cancel…", () => cancel(path, "DRAIN", "Released moves finish, and nothing else is released. Nodes keep what they then hold.")]);
      offers.push(["rollback", "Roll back…", () => cancel(path, "ROLLBACK", `Nodes return to generation ${plan.from_generation ?? "–"}.`)]);
    }
    keyed(buttons, offers, ([id]) => `${plan.plan_id} ${id}`, ([, text, run]) => h("button", { type: "button", onclick: run }, text), () => {});
  }

  async function cancel(path, mode, text) {
    if (await confirm({ title: mode === "DRAIN" ? "Cancel this plan?" : "Roll this plan back?", text, yes: mode === "DRAIN" ? "Cancel it" : "Roll back" }))
      await act("Cancelling the plan", `${path}:cancel`, { body: { mode } });
  }

  function inspect(move) {
    if (!move) {
      replace(inspector, h("p", { class: "muted" }, "Point at a move, or enter the chart with Tab and use the arrow keys."));
      return;
    }
    replace(
      inspector,
      h("h2", {}, `${move.drop ? "Drop" : "Copy"} of expert ${move.expert}, layer ${move.layer}`),
      h("dl", { class: "facts" },
        fact("Where", move.drop ? move.lane : `${move.source} → ${move.lane}`),
        fact("State", words(move.state) + (move.attempts > 1 ? `, attempt ${move.attempts}` : "") + (move.reason ? `: ${move.reason}` : "")),
        fact("Size", move.drop ? bytes(move.bytes) : `${bytes(move.done)} of ${bytes(move.bytes)}`),
        fact("Planned", `${seconds(move.plannedFrom)} to ${seconds(move.plannedTo)}`),
        move.from !== null && fact("Was", `${seconds(move.from)} to ${move.to === null ? "now" : seconds(move.to)}`)),
    );
  }
  inspect(null);
  return () => {
    listing.stop();
    looking?.stop();
    clearInterval(timer);
  };
}

const fact = (term, text) => h("div", {}, h("dt", {}, term), h("dd", {}, text));
const key = (kind, text) => h("li", {}, h("span", { class: `key ${kind}`, "aria-hidden": "true" }), text);

function asMove(move, progress, start) {
  const since = (text) => (text ? (moment(text) - start) / 1000 : null);
  const origin = progress ? progress.from_origin : move.from_origin;
  const found = {
    id: move.move_id,
    lane: move.destination,
    layer: `${move.layer} of ${move.model_id}`,
    expert: move.expert,
    drop: move.kind === "DROP",
    origin,
    source: origin ? "the origin" : progress?.source ?? move.source ?? "–",
    bytes: move.bytes,
    done: progress?.bytes_done ?? 0,
    part: move.bytes ? (progress?.bytes_done ?? 0) / move.bytes : 0,
    plannedFrom: move.start_seconds,
    plannedTo: move.end_seconds,
    from: since(progress?.released_at),
    to: since(progress?.finished_at),
    state: progress?.state ?? "PENDING",
    attempts: progress?.attempts ?? 0,
    reason: progress?.reason ?? null,
  };
  found.words = `${found.drop ? "drop" : "copy"} of expert ${found.expert}, layer ${found.layer}, ${found.drop ? `at ${found.lane}` : `from ${found.source} to ${found.lane}`}: ${words(found.state)}, planned from ${seconds(found.plannedFrom)} to ${seconds(found.plannedTo)}`;
  return found;
}

const planColumns = (choose) => [
  {
    title: "Generations",
    head: true,
    sort: (plan) => plan.to_generation,
    draw(cell, plan) {
      if (!cell.firstChild) cell.append(h("button", { type: "button", class: "link", onclick: () => choose(plan.plan_id) }));
      setText(cell.firstChild, `${plan.from_generation ?? "–"} → ${plan.to_generation}`);
    },
  },
  { title: "State", sort: (plan) => plan.state, draw(cell, plan) {
    if (cell.dataset.state === plan.state) return;
    cell.dataset.state = plan.state;
    replace(cell, mark(KINDS[plan.state]), " ", plan.validate_only ? "only asked for, not carried out" : words(plan.state));
  } },
  { title: "Moves", number: true, sort: (plan) => plan.progress.moves_total, text: (plan) => `${count(plan.progress.moves_succeeded)} / ${count(plan.progress.moves_total)}` },
  { title: "Bytes", number: true, sort: (plan) => plan.progress.bytes_total, text: (plan) => bytes(plan.progress.bytes_total) },
  {
    title: "Done",
    sort: (plan) => plan.progress.bytes_done / plan.progress.bytes_total,
    draw(cell, { progress }) {
      if (!cell.firstChild) cell.append(h("span", { class: "bar", "aria-hidden": "true" }, h("span")), h("span", { class: "beside" }));
      const part = progress.bytes_total ? progress.bytes_done / progress.bytes_total : progress.moves_total ? progress.moves_succeeded / progress.moves_total : 1;
      cell.firstChild.firstChild.style.setProperty("inline-size", `${(100 * part).toFixed(1)}%`);
      setText(cell.lastChild, ratio(part, 0));
    },
  },
  { title: "Planned", number: true, sort: (plan) => plan.estimate?.seconds, text: (plan) => seconds(plan.estimate?.seconds) },
  { title: "Failed", number: true, sort: (plan) => plan.progress.moves_failed, text: (plan) => count(plan.progress.moves_failed) },
  { title: "Begun", number: true, sort: (plan) => plan.created_at, text: (plan) => age(plan.created_at) },
];

const MOVE_COLUMNS = [
  { title: "Move", head: true, sort: (move) => move.id, text: (move) => move.id },
  { title: "Kind", sort: (move) => String(move.drop), text: (move) => (move.drop ? "drop" : "copy") },
  { title: "Layer", sort: (move) => move.layer, text: (move) => move.layer },
  { title: "Expert", number: true, sort: (move) => move.expert, text: (move) => String(move.expert) },
  { title: "From", sort: (move) => move.source, text: (move) => (move.drop ? "" : move.source) },
  { title: "At", sort: (move) => move.lane, text: (move) => move.lane },
  { title: "State", sort: (move) => move.state, text: (move) => words(move.state) },
  { title: "Size", number: true, sort: (move) => move.bytes, text: (move) => bytes(move.bytes) },
  { title: "Planned", number: true, sort: (move) => move.plannedFrom, text: (move) => `${seconds(move.plannedFrom)} – ${seconds(move.plannedTo)}` },
  { title: "Was", number: true, sort: (move) => move.from, text: (move) => (move.from === null ? "" : `${seconds(move.from)} – ${move.to === null ? "…" : seconds(move.to)}`) },
];
