// Which of two answers is better: one word, a note, and the names afterwards.

import { el, section } from "./dom.js";
import { remember, remembered } from "./feedback.js";

const CHOICES = [["a_better", "A is better"], ["b_better", "B is better"], ["equal", "Equally good"], ["both_wrong", "Both wrong"]];
const WORDS = { ...Object.fromEntries(CHOICES), withdrawn: "nothing, taken back" };
const MAX_COMMENT = 500, MAX_READER = 60;

/** What was stored, as a sentence; with the names, once they are told. */
export function storedWords({ preference, models }) {
  if (!preference) return "";
  const names = models ? ` A was ${models.a}; B was ${models.b}.` : "";
  return `Stored: ${WORDS[preference.choice]}${preference.blinded ? ", blinded" : ""}.${names}`;
}

/** The form; `store(word)` sends it, and throws an Error with a sentence where nothing was stored. */
export function preferenceForm(comparison, store) {
  const { preference, blinded, models } = comparison;
  const boxes = CHOICES.map(([value, text]) => {
    const id = `prefer-${value}`;
    const box = el("input", { type: "radio", name: "prefer", value, id, required: true, checked: preference !== null && preference.choice === value });
    return el("label", { for: id, class: "choice" }, box, ` ${text}`);
  });
  const comment = el("textarea", { id: "prefer-comment", rows: 2, maxlength: MAX_COMMENT, "aria-describedby": "prefer-warning" });
  if (preference) comment.value = preference.comment;
  const reader = el("input", { id: "prefer-reader", type: "text", maxlength: MAX_READER, autocomplete: "off" });
  reader.value = remembered();
  reader.addEventListener("change", () => remember(reader.value));
  const told = el("p", { class: "problem", role: "alert" });
  const send = el("button", { type: "submit", class: "primary" }, blinded && !models ? "Store and show the names" : preference ? "Store again" : "Store");
  const form = el("form", {
    id: "preference-form",
    onsubmit: async (event) => {
      event.preventDefault();
      if (send.disabled) return;  // a second press before the first is answered
      send.disabled = true;
      told.textContent = "";
      try {
        await store({ choice: form.elements.prefer.value, comment: comparison.comments ? comment.value : "", reader: reader.value });
      } catch (error) {
        told.textContent = `Not stored. ${error.message}`;
      }
      send.disabled = false;
    },
  },
  el("fieldset", { class: "choices-row" }, el("legend", {}, "Which answer is better for this film?"), boxes),
  comparison.comments ? [
    el("label", { for: "prefer-comment", class: "above" }, "Why (optional)"), comment,
    el("p", { class: "hint", id: "prefer-warning" }, `Nothing about the patient: no name, number, date or place. At most ${MAX_COMMENT} characters.`)] : null,
  el("p", { class: "buttons" }, el("label", { for: "prefer-reader" }, "Your pseudonym (optional)"), reader, send), told);
  const hint = blinded && preference ? "Your last word counts. A change now is kept as one that knew the names." : null;
  return section("preference", "Your preference",
    preference ? el("p", { class: "stored" }, storedWords(comparison)) : null, hint ? el("p", { class: "hint" }, hint) : null, form);
}
