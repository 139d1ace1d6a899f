// A second picture of the film beside the viewer's own: the same place and window, with another model's map over it.

import { at } from "./dom.js";
import { overlayOf } from "./evidence.js";

/** Follows the viewer while it is shown. The map is that of the observation that the viewer has a map of. */
export class Twin {
  constructor(viewer, stage, canvas) {
    Object.assign(this, { viewer, stage, canvas });
    this.context = canvas.getContext("2d", { alpha: false });
    this.drawn = { map: null, cells: null, canvas: null };
    viewer.addEventListener("change", () => { if (!stage.hidden) this.draw(); });
  }

  show(isShown) {
    this.stage.hidden = !isShown;
    at("stages").classList.toggle("two", isShown);
    at("which-a").hidden = !isShown;
    if (isShown) this.draw();
  }

  draw() {
    const { viewer } = this, { item, visible, cells } = viewer.evidence;
    if (!viewer.picture) return;
    Object.assign(this.canvas, { width: viewer.canvas.width, height: viewer.canvas.height });
    this.context.putImageData(viewer.picture, 0, 0);
    const map = viewer.film && visible && item && item.other ? item.other.evidence_map : null;
    if (map) viewer.layOver(this.context, this.overlay(map, cells));
    if (map) at("legend").hidden = false;
    for (const id of ["mark-left", "mark-right"]) {
      at(`${id}-b`).hidden = at(id).hidden;
      at(`${id}-b`).textContent = at(id).textContent;
    }
  }

  /** Made anew only for another map: the film may be moved many times a second. */
  overlay(map, cells) {
    if (map !== this.drawn.map || cells !== this.drawn.cells) this.drawn = { map, cells, canvas: overlayOf(map, cells) };
    return this.drawn.canvas;
  }
}

/** A map of nothing, of the same cells as another: for a model that has none, beside one that has. */
export const nothing = (map) => map.map((row) => row.map(() => 1 / (map.length * map[0].length)));

