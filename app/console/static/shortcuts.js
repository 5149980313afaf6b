// Single keys, which can be turned off: they get in the way of speech input, and of some assistive software.

const OFF = "moeplace-shortcuts-off";

export class Shortcuts {
  #all = new Map();

  constructor() {
    document.addEventListener("keydown", (event) => this.#press(event));
  }

  on(key, words, run) {
    this.#all.set(key, { key, words, run });
  }

  get list() {
    return [...this.#all.values()];
  }

  get enabled() {
    return localStorage.getItem(OFF) === null;
  }

  set enabled(on) {
    if (on) localStorage.removeItem(OFF);
    else localStorage.setItem(OFF, "1");
  }

  #press(event) {
    if (!this.enabled || event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    if (event.target.closest("input, select, textarea, dialog, [contenteditable]")) return;
    const found = this.#all.get(event.key);
    if (!found) return;
    event.preventDefault();
    found.run();
  }
}
