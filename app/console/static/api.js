// The public HTTP API, as any client uses it.

const TOKEN = "moeplace-token";
const LONGEST_PAUSE = 30_000;
const UNKNOWN_PAUSE = 60_000;

export const events = new EventTarget();
/** "refused" (detail: Refused), "answered", "failed" (detail: {error, retryAt}), "token". */
const tell = (name, detail) => events.dispatchEvent(new CustomEvent(name, { detail }));

/** An answer that says no, in the service's own words. */
export class Refused extends Error {
  constructor(status, problem, retryAfter) {
    super(problem?.detail || `the service answered ${status}`);
    this.status = status;
    this.problem = problem;
    this.retryAfter = retryAfter;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set(value) {
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
    tell("token");
  },
};

/** {status, body, etag}; body is null for 304. Raises `Refused`, or TypeError where nobody answers. */
export async function ask(path, { method = "GET", body, etag, ifMatch, wait, signal } = {}) {
  const headers = { Accept: "application/json" };
  const given = token.get();
  if (given) headers.Authorization = `Bearer ${given}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (etag) headers["If-None-Match"] = etag;
  if (ifMatch) headers["If-Match"] = ifMatch;
  if (wait) headers.Prefer = `wait=${wait}`;
  const response = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
    credentials: "same-origin",
  });
  if (response.status === 304) {
    tell("answered");
    return { status: 304, body: null, etag };
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) {
    const refused = new Refused(response.status, answer, Number(response.headers.get("Retry-After")) || 0);
    if (refused.status === 401 || refused.status === 403) tell("refused", refused);
    throw refused;
  }
  tell("answered");
  return { status: response.status, body: answer, etag: response.headers.get("ETag") };
}

/** All pages of a list, `field` of each; at most `most` entries. */
export async function pages(path, field, cursor, most = 2000, options = {}) {
  const found = [];
  let next = null;
  do {
    const query = new URLSearchParams({ limit: String(Math.min(100, most)) });
    if (next !== null) query.set(cursor, next);
    const { body } = await ask(`${path}?${query}`, options);
    found.push(...body[field]);
    next = body[`next_${cursor}`];
  } while (next !== null && found.length < most);
  return found;
}

/**
 * Look again and again, only while somebody looks at the page, until `stop()`.
 *
 * With `wait` the request is held by the service until there is something new; without, it is made every
 * `every` milliseconds. Answers that took long to get are asked for less often. `onValue(body, etag)` is called for
 * what is new, `onProblem(error)` for what went wrong, which is tried again after a growing pause.
 */
export function watch(path, { wait = 0, every = 3000, onValue, onProblem = () => {} }) {
  let stopped = false;
  let etag = null;
  let wake = () => {};
  let request = null;
  const interrupt = () => {
    request?.abort();
    wake();
  };
  const visibility = () => (document.hidden ? request?.abort() : wake());
  const retoken = () => interrupt();
  document.addEventListener("visibilitychange", visibility);
  events.addEventListener("token", retoken);

  const pause = (milliseconds) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  async function loop() {
    let failures = 0;
    while (!stopped) {
      if (document.hidden) {
        await pause(2 ** 31 - 1);
        continue;
      }
      request = new AbortController();
      const began = performance.now();
      let rest = wait ? 150 : every;
      try {
        const answer = await ask(typeof path === "function" ? path() : path, {
          etag,
          wait: etag ? wait : 0,
          signal: request.signal,
        });
        if (stopped) return;
        failures = 0;
        if (answer.body !== null) {
          etag = answer.etag;
          try {
            await onValue(answer.body, answer.etag);
          } catch (fault) {
            if (fault instanceof Refused || fault.name === "AbortError" || fault.message.includes("fetch")) throw fault;
            console.error(fault);
          }
          const took = performance.now() - began;
          if (!wait || took < 1000) rest = Math.max(rest, Math.min(LONGEST_PAUSE, 4 * took));
        }
      } catch (error) {
        if (stopped) return;
        if (error.name === "AbortError") continue;
        failures += 1;
        if (error instanceof Refused && error.status === 404) etag = null;
        const least = error instanceof Refused && error.retryAfter ? 1000 * error.retryAfter : 0;
        const backoff = Math.min(LONGEST_PAUSE, 1000 * 2 ** Math.min(failures - 1, 5));
        // What is not there yet may come any time; without another token the same answer comes again.
        const own = { 404: 2000, 401: UNKNOWN_PAUSE }[error.status];
        rest = Math.max(least, own ?? backoff * (0.5 + Math.random() / 2));
        if (!(error instanceof Refused)) tell("failed", { error, retryAt: Date.now() + rest });
        onProblem(error);
      }
      await pause(rest);
    }
  }
  loop();
  return {
    now: interrupt,
    stop() {
      stopped = true;
      document.removeEventListener("visibilitychange", visibility);
      events.removeEventListener("token", retoken);
      interrupt();
    },
  };
}
