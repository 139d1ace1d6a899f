// Keys for everything. Single letters can be switched off in the help (WCAG 2.1.4), and never act while one types.

import { at } from "./dom.js";

const ZOOM = 1.25, WINDOW = 0.05, PAN_PX = 60;
const ARROWS = { ArrowLeft: [PAN_PX, 0], ArrowRight: [-PAN_PX, 0], ArrowUp: [0, PAN_PX], ArrowDown: [0, -PAN_PX] };

const typed = (target) => target.closest("input:not([type=checkbox]):not([type=radio]):not([type=range]), select, textarea") !== null;

export function bindKeys({ viewer, selection, tools, shortcuts, step, help, compare }) {
  const acts = {
    h: () => selection.toggle(), c: () => viewer.showCells(!viewer.evidence.cells), i: () => viewer.invert(), r: () => viewer.reset(),
    j: () => selection.step(1), k: () => selection.step(-1), m: () => tools.toggleMoving(), n: () => step(1), p: () => step(-1),
    d: () => viewer.adjustWindow(WINDOW, 0), a: () => viewer.adjustWindow(-WINDOW, 0), w: () => viewer.adjustWindow(0, WINDOW), s: () => viewer.adjustWindow(0, -WINDOW),
    "+": () => viewer.zoom(ZOOM), "=": () => viewer.zoom(ZOOM), "-": () => viewer.zoom(1 / ZOOM), 0: () => viewer.fit(), 1: () => viewer.actualSize(),
    b: () => compare(),
    "?": () => help.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open || typed(event.target)) return;
    if (event.key === "Escape") selection.clear();
    const arrow = ARROWS[event.key];
    if (arrow && event.target === at("stage")) {
      event.preventDefault();
      viewer.pan(...arrow);
      return;
    }
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || !shortcuts.on) return;
    event.preventDefault();
    act();
  });
}
