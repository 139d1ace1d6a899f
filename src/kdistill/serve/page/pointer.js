// Mouse, pen and touch on the film: drag = window, Shift or middle button = move, wheel or two fingers = zoom.

import { at } from "./dom.js";
import { shownNumber } from "./tools.js";

const WHEEL = 0.0016;
/** Shares of the film's own window for each CSS pixel. */
const WINDOW_STEP = 1 / 350;

/** `stage`: where the pointer is; any element of the size of the viewer's own. */
export function bindPointers(viewer, isMoving, stage = viewer.stage) {
  const held = new Map();
  let drag = null;

  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const spread = () => {
    const [a, b] = [...held.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, far: Math.hypot(a.x - b.x, a.y - b.y) };
  };

  stage.addEventListener("pointerdown", (event) => {
    if (!viewer.film || event.button > 1) return;
    stage.setPointerCapture(event.pointerId);
    held.set(event.pointerId, place(event));
    const moves = event.shiftKey || event.button === 1 || isMoving();
    drag = held.size === 2 ? { kind: "pinch", from: spread() } : { kind: moves ? "pan" : "window" };
    if (event.button === 1) event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    const now = place(event), before = held.get(event.pointerId);
    tell(viewer, now);
    if (!before || !drag) return;
    held.set(event.pointerId, now);
    if (drag.kind === "pinch" && held.size === 2) {
      const to = spread();
      viewer.zoom(to.far / Math.max(drag.from.far, 1), to);
      viewer.pan(to.x - drag.from.x, to.y - drag.from.y);
      drag.from = to;
    } else if (drag.kind === "pan") viewer.pan(now.x - before.x, now.y - before.y);
    else if (drag.kind === "window") viewer.adjustWindow((now.x - before.x) * WINDOW_STEP, (before.y - now.y) * WINDOW_STEP);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      held.delete(event.pointerId);
      drag = null;  // the finger that is left must not jerk the film
    });
  }
  stage.addEventListener("pointerleave", () => tell(viewer, null));
  stage.addEventListener("dblclick", () => viewer.fit());
  stage.addEventListener("wheel", (event) => {
    if (!viewer.film) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    viewer.zoom(Math.exp(-event.deltaY * lines * WHEEL), place(event));
  }, { passive: false });
}

function tell(viewer, place) {
  const found = place && viewer.valueAt(place.x, place.y);
  at("corner-name").textContent = found
    ? `${viewer.name} · value ${shownNumber(found.value)} at ${found.column}, ${found.row}`
    : viewer.film ? viewer.name : "";
}
