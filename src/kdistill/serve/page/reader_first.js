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

/** "No Finding" as CheXpert has it: only where nothing else is present or unsure; a device does not count. */
function noFinding(marks) {
  const others = OBSERVATIONS.filter((name) => ![NO_FINDING, "Support Devices"].includes(name)).map((name) => marks[name]);
  return others.includes("present") ? "absent" : others.includes("uncertain") ? "uncertain" : "present";
}

/** The form; `draft` keeps what is marked; `onCommit(marks)` gets {name: "present" | "absent" | "uncertain"}. */
export function readerForm(draft, onCommit) {
  const marks = () => Object.fromEntries(OBSERVATIONS.map((name, index) => [name, form.elements[`mark-${index}`].value]));
  const show = () => OBSERVATIONS.forEach((name, index) => { form.elements[`mark-${index}`].value = draft[name] || ""; });
  const rest = button("Mark the rest absent", () => {
    for (const name of OBSERVATIONS) if (name !== NO_FINDING) draft[name] ||= "absent";
    draft[NO_FINDING] ||= noFinding(draft);
    show();
  });
  const form = el("form", {
    id: "reader-form",
    onchange: () => Object.assign(draft, marks()),
    onsubmit: (event) => {
      event.preventDefault();
      onCommit(marks());
    },
  },
  OBSERVATIONS.map(field), el("p", { class: "buttons" }, rest, el("button", { type: "submit", class: "primary" }, "Commit and compare")));
  show();
  return section("reader", "What do you see?",
    el("p", { class: "hint" }, "The model's reading stays hidden until you commit. Your marks stay in this browser tab."), form);
}
