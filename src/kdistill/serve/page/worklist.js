// The list of films on the left: what it is called, how it looks, where it stands.

import { at, button, el } from "./dom.js";
import { STAGE_WORDS } from "./words.js";

/** Draw both lists anew; the focus stays where it was, or a reader without a mouse would have to start again. */
export function drawWorklist(studies, current, onOpen, onRemove) {
  at("uploads-section").hidden = studies.uploads.length === 0;
  at("samples-section").hidden = studies.samples.length === 0;
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.study : null;
  at("uploads").replaceChildren(...studies.uploads.map((study, i) => item(study, `u${studies.uploads.length - i}`, current, onOpen, onRemove)));
  at("samples").replaceChildren(...studies.samples.map((study) => item(study, `s${study.sample}`, current, onOpen, null)));
  if (focused) document.querySelector(`[data-study="${focused}"]`)?.focus();
}

function item(study, id, current, onOpen, onRemove) {
  const isOpen = study === current;
  const state = study.problem ? "problem" : STAGE_WORDS[study.stage];
  const open = el("button", { type: "button", class: "film-button", "data-study": id, "aria-current": isOpen ? "true" : null, onclick: () => onOpen(study) },
    el("span", { class: study.isShown ? "thumb" : "thumb none", "aria-hidden": "true" }, study.thumbnail),
    el("span", { class: "film-name" }, study.name), el("span", { class: `film-state ${study.problem ? "problem" : study.stage}` }, state));
  const remove = onRemove ? button("×", () => onRemove(study), { class: "remove", "data-study": `${id}-remove`, "aria-label": `Delete ${study.name}`, title: "Delete from the server" }) : null;
  return el("li", {}, open, remove);
}
