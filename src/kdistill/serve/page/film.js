// The film as numbers: reduced copies for small scales, the window as a table, and sampling onto the screen.

const MIN_SIDE = 128;

function halved({ values, width, height }) {
  const w = Math.max(1, width >> 1), h = Math.max(1, height >> 1);
  const out = new Uint16Array(w * h);
  for (let y = 0; y < h; y++) {
    let a = 2 * y * width, b = Math.min(2 * y + 1, height - 1) * width;
    for (let x = 0, i = y * w; x < w; x++, i++, a += 2, b += 2) {
      out[i] = (values[a] + values[a + 1] + values[b] + values[b + 1] + 2) >> 2;
    }
  }
  return { values: out, width: w, height: h };
}

/**
 * A film with copies of half, a quarter ... its size, each pixel the mean of four: a small view does not glitter.
 * `head` is what the server says of the pixels (or what a preview made up in the same words).
 */
export function filmOf(head, values) {
  const levels = [{ values, width: head.width, height: head.height }];
  while (Math.min(levels.at(-1).width, levels.at(-1).height) >= 2 * MIN_SIDE) levels.push(halved(levels.at(-1)));
  return { head, levels, width: head.width, height: head.height, low: head.low, high: head.high };
}

/** Value -> packed grey, for all 65,536 values: black at `low`, white at `high`, straight between. */
export function greyTable({ low, high }, inverted) {
  const table = new Uint32Array(65536);
  const scale = 255 / Math.max(high - low, 1e-6);
  for (let value = 0; value < 65536; value++) {
    let grey = Math.round(Math.min(Math.max((value - low) * scale, 0), 255));
    if (inverted) grey = 255 - grey;
    table[value] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  }
  return table;
}

function levelFor(film, scale) {
  const level = Math.max(0, Math.floor(Math.log2(1 / scale) + 1e-6));
  return Math.min(level, film.levels.length - 1);
}

function along(count, offset, step, size) {
  const first = new Int32Array(count), part = new Float32Array(count);
  let start = -1, stop = -1;
  for (let i = 0; i < count; i++) {
    const at = (i + 0.5 - offset) * step;  // 0 to size: inside the film
    if (at < 0 || at >= size) continue;
    if (start < 0) start = i;
    stop = i + 1;
    const shifted = Math.min(Math.max(at - 0.5, 0), size - 1);
    first[i] = Math.min(Math.floor(shifted), Math.max(size - 2, 0));
    part[i] = shifted - first[i];
  }
  return { first, part, start: Math.max(start, 0), stop: Math.max(stop, 0) };
}

/**
 * Draw the film into a picture (ImageData): `view` = {scale, x, y}, screen pixels a film pixel and where its corner lies.
 * Values are interpolated before the window is applied, as a radiograph's grey is a function of its values.
 */
export function paint(film, view, table, picture) {
  const out = new Uint32Array(picture.data.buffer);
  out.fill(0xff000000);
  const level = film.levels[levelFor(film, view.scale)];
  const { values, width, height } = level;
  const xs = along(picture.width, view.x, width / (film.width * view.scale), width);
  const ys = along(picture.height, view.y, height / (film.height * view.scale), height);
  const right = width > 1 ? 1 : 0;
  for (let y = ys.start; y < ys.stop; y++) {
    const top = ys.first[y] * width, bottom = height > 1 ? top + width : top, down = ys.part[y];
    for (let x = xs.start, i = y * picture.width + xs.start; x < xs.stop; x++, i++) {
      const column = xs.first[x], across = xs.part[x];
      const a = values[top + column], b = values[bottom + column];
      const upper = a + (values[top + column + right] - a) * across;
      const lower = b + (values[bottom + column + right] - b) * across;
      out[i] = table[(upper + (lower - upper) * down + 0.5) | 0];
    }
  }
}

/**
 * Where a film has to lie that takes the place of another picture of the same patient, so that nothing moves: each may
 * be the film itself or the square that it was padded to, equally on both sides, at any size.
 */
export function inPlaceOf(view, before, after) {
  const side = (film) => Math.max(film.width, film.height);
  const scale = (view.scale * side(before)) / side(after);
  const moved = (place, length) => place - ((side(before) - before[length]) / 2) * view.scale + ((side(after) - after[length]) / 2) * scale;
  return { scale, x: moved(view.x, "width"), y: moved(view.y, "height") };
}

/** The film's own value at a place on the screen; null beside it. */
export function valueAt(film, view, x, y) {
  const column = Math.floor((x - view.x) / view.scale), row = Math.floor((y - view.y) / view.scale);
  if (column < 0 || row < 0 || column >= film.width || row >= film.height) return null;
  const { slope, intercept } = film.head;
  return { column, row, value: film.levels[0].values[row * film.width + column] * slope + intercept };
}

/** DICOM's LINEAR window counts its end values (PS3.3 C.11.2.1.2), so 0 to 255 is a width of 256 around 128. */
const COUNTED = 1, NARROW = 16;

/** Window in the file's own unit, as a radiologist sets it: {centre, width}. */
export function inUnits(film, { low, high }) {
  const { slope, intercept } = film.head, span = (high - low) * Math.abs(slope);
  const more = span >= NARROW ? COUNTED : 0;
  return { centre: ((low + high) / 2) * slope + intercept + more / 2, width: span + more };
}

/** The reverse of `inUnits`. */
export function fromUnits(film, { centre, width }) {
  const { slope, intercept } = film.head, more = width >= NARROW + COUNTED ? COUNTED : 0;
  const middle = (centre - more / 2 - intercept) / slope, half = Math.max((width - more) / Math.abs(slope), 1e-3) / 2;
  return { low: middle - half, high: middle + half };
}

/** A grey picture by its address, as a film of 8 bits: {head, values}. */
export async function greyOf(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement("canvas");
  const width = canvas.width = image.naturalWidth, height = canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const values = Uint16Array.from({ length: width * height }, (_, n) => data[4 * n]);
  const head = { width, height, source_width: width, source_height: height, low: 0, high: 255, slope: 1, intercept: 0, is_linear: true, kind: "display", spacing_mm: null, spacing_at: null, is_side_doubtful: null };
  return { head, values };
}

/** A small picture of the film for the worklist. */
export function thumbnail(film, canvas) {
  const scale = Math.min(canvas.width / film.width, canvas.height / film.height);
  const view = { scale, x: (canvas.width - film.width * scale) / 2, y: (canvas.height - film.height * scale) / 2 };
  const context = canvas.getContext("2d"), picture = context.createImageData(canvas.width, canvas.height);
  paint(film, view, greyTable(film, false), picture);
  context.putImageData(picture, 0, 0);
}
