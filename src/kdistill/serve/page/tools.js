// The row of tools above the film, and the words in its corners.

import { at, button, el } from "./dom.js";

/** A number with as many digits as its size deserves. */
export function shownNumber(value) {
  const size = Math.abs(value);
  return size >= 100 ? value.toFixed(0) : size >= 1 ? String(Number(value.toFixed(1))) : String(Number(value.toPrecision(2)));
}

function key(letter) { return el("kbd", {}, letter); }

/** What was typed counts at once; what the window did not take does not stay in the field. */
function numberField(id, label, viewer, set) {
  const input = el("input", { id, type: "number", step: "any", autocomplete: "off", disabled: true });
  input.addEventListener("change", () => {
    if (viewer.film && Number.isFinite(input.valueAsNumber)) set(input.valueAsNumber);
    input.value = viewer.film ? shownNumber(viewer.units[id]) : "";
  });
  input.addEventListener("blur", () => { if (viewer.film) input.value = shownNumber(viewer.units[id]); });
  viewer.addEventListener("film", () => { input.value = viewer.film ? shownNumber(viewer.units[id]) : ""; });
  return [el("label", { for: id }, label), input];
}

/** Make the tools; they follow the viewer. Gives {isMoving, toggleMoving}. */
export function makeTools(viewer, actions) {
  const window = el("span", { class: "group" },
    ...numberField("centre", "Level", viewer, (centre) => { viewer.units = { ...viewer.units, centre }; }),
    ...numberField("width", "Window", viewer, (width) => { if (width > 0) viewer.units = { ...viewer.units, width }; }));
  const move = button(["Move", key("M")], () => toggleMoving(), { "aria-pressed": "false", title: "Drag moves the film instead of changing its window" });
  const tool = (name, letter, act, attributes = {}) => button([name, letter ? key(letter) : ""], act, attributes);
  const invert = tool("Invert", "I", () => viewer.invert(), { "aria-pressed": "false" });
  const evidence = tool("Evidence", "H", actions.toggleEvidence, { "aria-pressed": "false", id: "toggle-evidence" });
  const cells = tool("Cells", "C", actions.toggleCells, { "aria-pressed": "false", title: "The map's cells as the model has them, not smoothed" });
  const opacity = el("input", { id: "opacity", type: "range", min: 10, max: 100, value: 65 });
  opacity.addEventListener("input", () => viewer.setOpacity(opacity.valueAsNumber / 100));
  const film = [window,
    el("span", { class: "group" },
      tool("−", "", () => viewer.zoom(1 / 1.25), { "aria-label": "Smaller", title: "Smaller (key -)" }),
      tool("+", "", () => viewer.zoom(1.25), { "aria-label": "Larger", title: "Larger (key +)" }),
      tool("Fit", "0", () => viewer.fit()), tool("1:1", "1", () => viewer.actualSize(), { title: "One pixel of the film on one of the screen" })),
    el("span", { class: "group" }, move, invert, tool("Reset", "R", () => viewer.reset()))];
  const map = el("span", { class: "group" }, evidence, cells, el("label", { for: "opacity" }, "Opacity"), opacity);
  at("tools").append(...film, map);

  let moving = false;
  function toggleMoving() {
    moving = !moving;
    move.setAttribute("aria-pressed", String(moving));
    viewer.stage.classList.toggle("moving", moving);
  }

  viewer.addEventListener("change", () => {
    const { film: shown, evidence: laid } = viewer;
    for (const control of at("tools").querySelectorAll("button, input")) control.disabled = !shown;
    for (const control of [evidence, cells, opacity]) control.disabled = !(shown && laid.item && laid.item.evidence_map);
    invert.setAttribute("aria-pressed", String(viewer.inverted));
    evidence.setAttribute("aria-pressed", String(laid.visible));
    cells.setAttribute("aria-pressed", String(laid.cells));
    tellWindow(viewer);
    tellSize(viewer);
  });
  return { isMoving: () => moving, toggleMoving };
}

function tellWindow(viewer) {
  if (!viewer.film) {
    at("corner-window").textContent = at("centre").value = at("width").value = "";
    return;
  }
  const { centre, width } = viewer.units;
  for (const [id, value] of [["centre", centre], ["width", width]]) {
    if (document.activeElement !== at(id)) at(id).value = shownNumber(value);
  }
  const own = viewer.window.low === viewer.film.low && viewer.window.high === viewer.film.high;
  at("corner-window").textContent = `L ${shownNumber(centre)}  W ${shownNumber(width)}${viewer.inverted ? "  inverted" : ""}`
    + (own && !viewer.inverted && viewer.film.head.kind !== "preview" ? "  · as the model was given it" : "");
}

function tellSize(viewer) {
  const film = viewer.film;
  at("ruler").hidden = !(film && film.head.spacing_mm);
  if (!film) {
    at("corner-size").textContent = "";
    return;
  }
  const { head } = film, percent = (100 * viewer.view.scale) / viewer.ratio;
  const reduced = head.source_width > head.width ? ` (reduced from ${head.source_width} × ${head.source_height})` : "";
  const curve = head.is_linear ? "" : " · values behind the file's own curve";
  const eight = head.kind === "display" ? " · 8 bits only" : "";
  at("corner-size").textContent = `${head.width} × ${head.height}${reduced} · ${percent < 10 ? percent.toFixed(1) : percent.toFixed(0)} %${curve}${eight}`;
  if (head.spacing_mm) measure(viewer, head);
}

/** A ruler of a round length that takes about a quarter of the film's place. */
function measure(viewer, head) {
  const pixelsPerMm = viewer.view.scale / viewer.ratio / head.spacing_mm[1];
  const room = viewer.canvas.width / viewer.ratio / 4;
  const length = [200, 100, 50, 20, 10, 5, 2, 1].find((mm) => mm * pixelsPerMm <= room) || 1;
  at("ruler").style.width = `${length * pixelsPerMm}px`;
  const words = length >= 10 ? `${length / 10} cm` : `${length} mm`;
  at("ruler-text").textContent = `${words}${{ detector: " at the detector", unknown: " (detector or patient: not stated)" }[head.spacing_at] || ""}`;
}
