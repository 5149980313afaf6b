// One line on the state of the placement, above every view.

import { announce, h, replace, setText } from "./dom.js";
import { ask } from "./api.js";
import { confirm } from "./dialogs.js";
import { age, clock } from "./format.js";

const CONDITIONS = {
  Available: { yes: "good", no: "bad", words: ["Available", "Not available"] },
  Converged: { yes: "good", no: "busy", words: ["Converged", "Converging"] },
  Migrating: { yes: "busy", no: "still", words: ["Migrating", "Not migrating"] },
  Intact: { yes: "good", no: "bad", words: ["Records intact", "Records damaged"] },
  TelemetryFresh: { yes: "good", no: "warn", words: ["Telemetry fresh", "Telemetry stale"] },
  TelemetryPlausible: { yes: "good", no: "warn", words: ["Telemetry plausible", "Telemetry doubtful"] },
  ClocksAgree: { yes: "good", no: "warn", words: ["Clocks agree", "Clocks differ"] },
  NodesDistinct: { yes: "good", no: "warn", words: ["Nodes distinct", "Two agents, one node"] },
};
const OUTLOOKS = { WAITING: ["warn", "Waiting"], CANNOT: ["bad", "Cannot converge"] };

/** The mark and the words of a condition as it is. */
export function conditionWords({ type, status, outlook }) {
  if (type === "Converged" && !status && outlook in OUTLOOKS) return OUTLOOKS[outlook];
  const { yes, no, words } = CONDITIONS[type] ?? { yes: "good", no: "warn", words: [type, `Not ${type}`] };
  return status ? [yes, words[0]] : [no, words[1]];
}
export const MARKS = { good: "✓", bad: "✕", warn: "!", busy: "↻", still: "–" };

export const mark = (kind) => h("span", { class: `mark ${kind}`, "aria-hidden": "true" }, MARKS[kind]);

export class Strip {
  #generation = null;
  #announced = new Map();
  #createdAt = null;
  #ending = new AbortController();

  constructor(place, feed) {
    this.place = place;
    this.feed = feed;
    this.generation = h("strong", {}, "–");
    this.when = h("span", { class: "muted" });
    this.conditions = h("ul", { class: "conditions" });
    this.automation = h("button", { type: "button", class: "quiet", onclick: () => this.#toggle() });
    this.paused = h("span", { class: "muted" });
    replace(place, h("span", { class: "generation" }, "Generation ", this.generation, " ", this.when), this.conditions, h("span", { class: "automation" }, this.paused, " ", this.automation));
    const { signal } = this.#ending;
    feed.addEventListener("status", () => this.#show(), { signal });
    this.timer = setInterval(() => this.#showAge(), 1000);
    place.hidden = true;
  }

  leave() {
    this.#ending.abort();
    clearInterval(this.timer);
    this.place.hidden = true;
    replace(this.place);
  }

  #show() {
    const { status } = this.feed;
    this.place.hidden = false;
    setText(this.generation, status.generation === null ? "none yet" : String(status.generation));
    if (status.generation !== this.#generation) {
      if (this.#generation !== null) announce(`Generation ${status.generation} is in force`);
      this.#generation = status.generation;
      this.#createdAt = null;
      if (status.generation !== null)
        this.feed.placement(status.generation).then(
          (placement) => {
            if (placement.metadata.generation !== this.#generation) return;
            this.#createdAt = placement.metadata.created_at;
            this.#showAge();
          },
          () => {},
        );
    }
    this.#showAge();
    replace(
      this.conditions,
      status.conditions.map((condition) => {
        const { type, reason, remedy, since } = condition;
        const [kind, text] = conditionWords(condition);
        const before = this.#announced.get(type);
        if (before !== undefined && before !== text) announce(`${text}: ${reason}`);
        this.#announced.set(type, text);
        return h("li", { title: `${reason} (since ${clock(since)})${remedy ? `. What to do: ${remedy}` : ""}` }, mark(kind), " ", text);
      }),
    );
    setText(this.paused, status.paused ? "Recomputation paused" : "");
    setText(this.automation, status.paused ? "Resume" : "Pause recomputation");
  }

  #showAge() {
    setText(this.when, this.#createdAt ? age(this.#createdAt) : "");
  }

  async #toggle() {
    const verb = this.feed.status.paused ? "resume" : "pause";
    try {
      await ask(`${this.feed.base}/placement:${verb}`, { method: "POST" });
      announce(verb === "pause" ? "Recomputation paused" : "Recomputation resumed");
    } catch (error) {
      await confirm({ title: `Recomputation could not be ${verb}d`, text: error.message, only: "Close" });
    }
  }
}
