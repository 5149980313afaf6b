// Numbers as people read them: few digits, units, aligned by tabular figures.

const NONE = "–";
const absent = (value) => value === null || value === undefined || !Number.isFinite(value);

function digits(value, significant) {
  if (value === 0) return "0";
  const magnitude = Math.floor(Math.log10(Math.abs(value))) + 1;
  return value.toFixed(Math.max(0, significant - magnitude));
}

export function seconds(value) {
  if (absent(value)) return NONE;
  if (value >= 7200) return `${digits(value / 3600, 3)} h`;
  if (value >= 120) return `${digits(value / 60, 3)} min`;
  if (value >= 1) return `${digits(value, 3)} s`;
  if (value >= 1e-3 || value === 0) return `${digits(value * 1e3, 3)} ms`;
  return `${digits(value * 1e6, 3)} µs`;
}

/** Always in milliseconds, for columns. */
export const milliseconds = (value) => (absent(value) ? NONE : `${digits(value * 1e3, 3)} ms`);

export const ratio = (value, places = 1) => (absent(value) ? NONE : `${(value * 100).toFixed(places).replace("-", "−")} %`);

export function share(value) {
  if (absent(value)) return NONE;
  return value === 0 ? "0 %" : `${digits(value * 100, 3)} %`;
}

export function bytes(value) {
  if (absent(value)) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  let size = value;
  while (Math.abs(size) >= 999.5 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit ? digits(size, 3) : size} ${units[unit]}`;
}

export const perSecond = (value) => (absent(value) ? NONE : `${count(value)}/s`);

export function count(value) {
  if (absent(value)) return NONE;
  return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
}

export const signed = (value, text) => (absent(value) ? NONE : `${value > 0 ? "+" : value < 0 ? "−" : "±"}${text(Math.abs(value))}`);

export const plural = (number, noun, nouns = `${noun}s`) => `${count(number)} ${number === 1 ? noun : nouns}`;

export const moment = (text) => (text ? new Date(text).getTime() : null);

export function age(text, now = Date.now()) {
  const at = moment(text);
  if (at === null) return NONE;
  const passed = Math.max(0, (now - at) / 1000);
  if (passed < 1) return "just now";
  if (passed < 120) return `${Math.round(passed)} s ago`;
  if (passed < 7200) return `${Math.round(passed / 60)} min ago`;
  if (passed < 172800) return `${Math.round(passed / 3600)} h ago`;
  return `${Math.round(passed / 86400)} days ago`;
}

export function clock(text) {
  const at = moment(text);
  if (at === null) return NONE;
  const date = new Date(at);
  const time = date.toLocaleTimeString("en-GB");
  return new Date().toDateString() === date.toDateString() ? time : `${date.toISOString().slice(0, 10)} ${time}`;
}

/** RUNNING -> running, NODES_CHANGED -> nodes changed */
export const words = (text) => (text ? text.toLowerCase().replaceAll("_", " ") : NONE);
