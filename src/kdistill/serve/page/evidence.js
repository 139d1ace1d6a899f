// Evidence maps: one fixed colour scale for every map, drawn smoothly, with the grid that they really have told.
// The same scale as on explanation pages and in exports (explain/pictures.py).

import { el, svg } from "./dom.js";
import { NO_FINDING, named } from "./words.js";

/** The scale's top: a cell with 32 times its equal share of attention. */
export const SCALE_TOP = 32;
/** Viridis at 17 steps: even in lightness, readable with every common colour vision deficiency. */
export const VIRIDIS = [
  0x440154, 0x48186a, 0x472d7b, 0x424086, 0x3b528b, 0x33638d, 0x2c728e, 0x26828e, 0x21918c, 0x1f9f88, 0x27ad81,
  0x3dbc74, 0x5cc863, 0x81d34d, 0xaadc32, 0xd5e21a, 0xfde725,
];
const SMOOTH_PX = 256;

/** Colour of a strength from 0 to 1: [red, green, blue]. */
export function colour(strength) {
  const place = Math.min(Math.max(strength, 0), 1) * (VIRIDIS.length - 1);
  const below = Math.min(Math.floor(place), VIRIDIS.length - 2), part = place - below;
  return [16, 8, 0].map((shift) => {
    const a = (VIRIDIS[below] >> shift) & 255, b = (VIRIDIS[below + 1] >> shift) & 255;
    return Math.round(a + (b - a) * part);
  });
}

/** Attention on the fixed scale: 0 at the equal share, 1 at 32 times that, logarithmic between. */
export function strengths(map) {
  const cells = map.length * map[0].length;
  return map.map((row) => row.map((value) => {
    const share = Math.max(value * cells, 1e-12);
    return Math.min(Math.max(Math.log(share) / Math.log(SCALE_TOP), 0), 1);
  }));
}

function between(grid, y, x) {
  const rows = grid.length, columns = grid[0].length;
  const v = Math.min(Math.max(y * rows - 0.5, 0), rows - 1), u = Math.min(Math.max(x * columns - 0.5, 0), columns - 1);
  const top = Math.floor(v), left = Math.floor(u), bottom = Math.min(top + 1, rows - 1), right = Math.min(left + 1, columns - 1);
  const a = grid[top][left] + (grid[top][right] - grid[top][left]) * (u - left);
  const b = grid[bottom][left] + (grid[bottom][right] - grid[bottom][left]) * (u - left);
  return a + (b - a) * (v - top);
}

/** The map as a canvas, clear at the equal share; `cells`: one pixel a cell, as the model has it. */
export function overlayOf(map, cells) {
  const grid = strengths(map);
  const height = cells ? grid.length : SMOOTH_PX, width = cells ? grid[0].length : SMOOTH_PX;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i += 4) {
      const strength = cells ? grid[y][x] : between(grid, (y + 0.5) / height, (x + 0.5) / width);
      [picture.data[i], picture.data[i + 1], picture.data[i + 2]] = colour(strength);
      picture.data[i + 3] = Math.round(255 * Math.min(1, 1.6 * strength));
    }
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

/** The map's peak in words; the patient's right is on the image's left, where nothing speaks against that. */
export function peakOf(map, isSideDoubtful = false) {
  let best = -1, row = 0, column = 0;
  map.forEach((line, y) => line.forEach((value, x) => { if (value > best) [best, row, column] = [value, y, x]; }));
  const height = ["upper", "middle", "lower"][Math.min(2, Math.floor((3 * (row + 0.5)) / map.length))];
  const across = (column + 0.5) / map[0].length;
  const [left, right] = isSideDoubtful ? ["picture's left", "picture's right"] : ["patient's right", "patient's left"];
  const side = across < 0.42 ? left : across > 0.58 ? right : "midline";
  return { where: `${height} third, ${side}`, times: best * map.length * map[0].length };
}

/** What stands below the film while a map is shown. */
export function captionOf(item, cells, isSideDoubtful = false) {
  if (item.evidence_map === null) return ["This model has no evidence maps: its decoder reads the whole film."];
  const { where, times } = peakOf(item.evidence_map, isSideDoubtful);
  const grid = `${item.evidence_map.length} × ${item.evidence_map[0].length} cells`;
  const weak = times < 2 ? " The model looked everywhere alike: this map points at nothing." : "";
  return [
    "Where the model looked for ", el("strong", {}, item.name === NO_FINDING ? "“no finding”" : named(item)),
    `: strongest in the ${where}, ${times < 10 ? times.toFixed(1) : times.toFixed(0)} times an equal share (${grid}${cells ? "" : ", drawn smoothly"}).${weak}`,
  ];
}

/** The colour scale. */
export function legend() {
  const stops = VIRIDIS.map((_, i) => {
    const [red, green, blue] = colour(i / (VIRIDIS.length - 1));
    return svg("stop", { offset: i / (VIRIDIS.length - 1), "stop-color": `rgb(${red},${green},${blue})` });
  });
  const label = `Colour scale, the same for every map: from one to ${SCALE_TOP} times an equal share of attention`;
  return svg("svg", { viewBox: "0 0 220 26", role: "img", "aria-label": label, class: "scale" },
    svg("defs", {}, svg("linearGradient", { id: "scale-colours" }, ...stops)),
    svg("rect", { x: 0, y: 0, width: 220, height: 9, rx: 2, fill: "url(#scale-colours)" }),
    svg("text", { x: 0, y: 23 }, "1× equal share"),
    svg("text", { x: 220, y: 23, "text-anchor": "end" }, `${SCALE_TOP}× (fixed)`));
}
