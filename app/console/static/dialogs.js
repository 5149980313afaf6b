// Questions before what cannot be taken back lightly, the token, and the help.

import { token } from "./api.js";
import { freshId, h } from "./dom.js";

function open(title, content, buttons) {
  const id = freshId("dialog");
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": id });
    const form = h("form", { method: "dialog" }, h("h2", { id }, title), content, h("div", { class: "buttons" }, buttons));
    // Enter in a field means the button that does it, not the first one: the others are no submitters.
    for (const button of form.querySelectorAll("button:not(.primary)")) {
      button.type = "button";
      button.addEventListener("click", () => dialog.close(button.value));
    }
    // The policy forbids forms to go anywhere, a dialog's own closing included.
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close(event.submitter?.value ?? "");
    });
    dialog.append(form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** True when the one who was asked says yes. `only`: nothing to decide, just a button. */
export async function confirm({ title, text = null, content = [], yes = "Do it", only = null }) {
  const body = [text && h("p", {}, text), content];
  const buttons = only
    ? [h("button", { value: "no", autofocus: true }, only)]
    : [h("button", { value: "no", autofocus: true }, "Leave it"), h("button", { value: "yes", class: "primary" }, yes)];
  return (await open(title, body, buttons)) === "yes";
}

export async function tokenDialog() {
  const id = freshId("token");
  const field = h("input", { id, type: "password", autocomplete: "off", spellcheck: "false", autofocus: true, value: token.get() ?? "" });
  const chosen = await open(
    "Token",
    [
      h("p", {}, "The token is sent with every request of this tab, and forgotten when the tab closes. A reader's token shows everything; rollbacks, pauses and what-ifs need an operator's token."),
      h("div", { class: "field" }, h("label", { for: id }, "Token"), field),
    ],
    [
      h("button", { value: "no" }, "Cancel"),
      token.get() && h("button", { value: "forget" }, "Forget it"),
      h("button", { value: "use", class: "primary" }, "Use it"),
    ],
  );
  if (chosen === "use") token.set(field.value.trim());
  if (chosen === "forget") token.set(null);
}

export async function helpDialog(shortcuts) {
  if (document.querySelector("dialog[open]")) return;
  const id = freshId("keys");
  const enabled = h("input", { id, type: "checkbox", checked: shortcuts.enabled, onchange: () => (shortcuts.enabled = enabled.checked) });
  await open(
    "Keys",
    [
      h("table", { class: "keys" },
        h("caption", { class: "unseen" }, "Keyboard shortcuts"),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Key"), h("th", { scope: "col" }, "Does"))),
        h("tbody", {},
          shortcuts.list.map(({ key, words }) => h("tr", {}, h("td", {}, h("kbd", {}, key)), h("td", {}, words))),
          h("tr", {}, h("td", {}, h("kbd", {}, "arrows")), h("td", {}, "in a chart that has the focus: look at one cell or move after another; Home, End and Page keys go further")))),
      h("p", { class: "field" }, enabled, " ", h("label", { for: id }, "single keys do something")),
    ],
    [h("button", { value: "no", autofocus: true }, "Close")],
  );
}
