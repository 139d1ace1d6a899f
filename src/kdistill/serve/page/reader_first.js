// The reader reads before the model speaks: 14 marks, then both side by side.

import { button, el, section } from "./dom.js";
import { NO_FINDING } from "./words.js";

const CHOICES = [["present", "present"], ["absent", "absent"], ["uncertain", "unsure"]];
/** The 14 of CheXpert in their one order (observations.py); asked before any answer of the model is loaded. */
export const OBSERVATIONS = [
  "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Lung Opacity", "Edema", "Consolidation",
  "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
];

function field(name, index) {
  const boxes = CHOICES.map(([value, word]) => {
    const id = `mark-${index}-${value}`;
    return [el("input", { type: "radio", name: `mark-${index}`, value, id, required: true }), el("label", { for: id }, word)];
  });
  return el("fieldset", { class: "mark-row" }, el("legend", {}, name), el("span", { class: "choices" }, boxes));
}

/** The form; `onCommit(marks)` gets {name: "present" | "absent" | "uncertain"} and is called once. */
export function readerForm(onCommit) {
  const rest = button("Mark the rest absent", () => {
    OBSERVATIONS.forEach((name, index) => {
      if (form.elements[`mark-${index}`].value) return;
      const anyFinding = OBSERVATIONS.some((other, i) => ![NO_FINDING, "Support Devices"].includes(other) && form.elements[`mark-${i}`].value === "present");
      form.elements[`mark-${index}`].value = name === NO_FINDING && !anyFinding ? "present" : "absent";
    });
  });
  const form = el("form", {
    id: "reader-form",
    onsubmit: (event) => {
      event.preventDefault();
      onCommit(Object.fromEntries(OBSERVATIONS.map((name, index) => [name, form.elements[`mark-${index}`].value])));
    },
  },
  OBSERVATIONS.map(field), el("p", { class: "buttons" }, rest, el("button", { type: "submit", class: "primary" }, "Commit and compare")));
  return section("reader", "What do you see?",
    el("p", { class: "hint" }, "The model's reading stays hidden until you commit. Your marks stay in this browser tab."), form);
}
