// The list of films on the left: what it is called, how it looks, where it stands.

import { at, button, el } from "./dom.js";
import { STAGE_WORDS } from "./words.js";

/** Keeps one entry a film for as long as the film is listed: a press or the focus on it survives whatever is redrawn. */
export class Worklist {
  constructor(onOpen, onRemove) { Object.assign(this, { onOpen, onRemove, entries: new Map() }); }

  draw(studies, current) {
    at("uploads-section").hidden = studies.uploads.length === 0;
    at("samples-section").hidden = studies.samples.length === 0;
    this.drop(new Set(studies.all));
    this.fill(at("uploads"), studies.uploads);
    this.fill(at("samples"), studies.samples);
    for (const [study, entry] of this.entries) refresh(entry, study, study === current);
  }

  /** Take entries off; the focus goes on to the film that takes the place, never to its "Delete". */
  drop(listed) {
    for (const [study, { node }] of [...this.entries]) {
      if (listed.has(study)) continue;
      const next = node.nextElementSibling || node.previousElementSibling, had = node.contains(document.activeElement);
      node.remove();
      this.entries.delete(study);
      if (had) (next ? next.querySelector(".film-button") : at("file")).focus();
    }
  }

  fill(list, studies) {
    studies.forEach((study, index) => {
      if (!this.entries.has(study)) this.entries.set(study, this.entry(study));
      const { node } = this.entries.get(study);
      if (list.children[index] !== node) list.insertBefore(node, list.children[index] || null);
    });
  }

  entry(study) {
    const thumb = el("span", { "aria-hidden": "true" }, study.thumbnail), state = el("span");
    const open = el("button", { type: "button", class: "film-button", onclick: () => this.onOpen(study) },
      thumb, el("span", { class: "film-name", title: study.name }, study.name), state);
    const remove = study.sample === null
      ? button("×", () => this.onRemove(study), { class: "remove", "aria-label": `Delete ${study.name}`, title: "Delete from the server" }) : null;
    return { node: el("li", {}, open, remove), open, thumb, state };
  }
}

function refresh({ open, thumb, state }, study, isOpen) {
  if (isOpen) open.setAttribute("aria-current", "true");
  else open.removeAttribute("aria-current");
  thumb.className = study.isDrawn ? "thumb" : "thumb none";
  state.className = `film-state ${study.problem ? "problem" : study.stage}`;
  const isSilent = study.stage === "done" && study.explanation !== null && study.explanation.abstained;
  const word = study.problem ? "problem" : isSilent ? "no answer" : STAGE_WORDS[study.stage];
  if (state.textContent !== word) state.textContent = word;
}
