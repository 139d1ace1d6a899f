// A first look at a file before the server has read it: plain or JPEG-baseline DICOM, PNG, JPEG. Anything else waits.
// It is a look and no more: what the server decodes, and the model was given, takes its place.

const IMPLICIT = "1.2.840.10008.1.2", EXPLICIT = "1.2.840.10008.1.2.1", JPEG = "1.2.840.10008.1.2.4.50";
const LONG = new Set("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split(" "));
const ENDLESS = 0xffffffff, PIXELS = 0x7fe00010;
const TAGS = {
  0x00280002: "samples", 0x00280010: "rows", 0x00280011: "columns", 0x00280100: "allocated", 0x00280101: "stored",
  0x00280103: "signed",
};
const TEXTS = { 0x00280004: "photometric", 0x00281050: "centre", 0x00281051: "width", 0x00281052: "intercept", 0x00281053: "slope", 0x20500020: "shape" };

/** {head, values} of a file, or null where only the server can read it. */
export async function previewOf(file) {
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const isDicom = String.fromCharCode(...bytes.subarray(128, 132)) === "DICM";
    return isDicom ? await dicom(bytes) : await picture(new Blob([bytes]), false);
  } catch {
    return null;
  }
}

async function dicom(bytes) {
  const data = new DataView(bytes.buffer);
  const { syntax, start } = meta(data);
  if (![IMPLICIT, EXPLICIT, JPEG].includes(syntax)) return null;
  const found = walk(data, start, syntax !== IMPLICIT);
  if (found.shape === "INVERSE" || ![8, 16].includes(found.allocated)) return null;  // else black and white change places
  if (!found.pixels || found.samples !== 1 || !/^MONOCHROME[12]$/.test(found.photometric)) return null;
  if (syntax === JPEG) return picture(new Blob(found.pixels.parts.map(([a, b]) => bytes.subarray(a, b))), found.photometric === "MONOCHROME1");
  return native(data, found);
}

function ascii(data, at, length) {
  let text = "";
  for (let i = 0; i < length; i++) text += String.fromCharCode(data.getUint8(at + i));
  return text.replace(/[\0 ]+$/, "");
}

function meta(data) {
  let at = 132, syntax = "";
  while (data.getUint16(at, true) === 2) {
    const element = elementAt(data, at, true);
    if (element.tag === 0x00020010) syntax = ascii(data, element.value, element.length);
    at = element.value + element.length;
  }
  return { syntax, start: at };
}

function elementAt(data, at, explicit) {
  const tag = data.getUint16(at, true) * 65536 + data.getUint16(at + 2, true);
  if (!explicit || tag >= 0xfffe0000) return { tag, vr: "", value: at + 8, length: data.getUint32(at + 4, true) };
  const vr = ascii(data, at + 4, 2);
  return LONG.has(vr)
    ? { tag, vr, value: at + 12, length: data.getUint32(at + 8, true) }
    : { tag, vr, value: at + 8, length: data.getUint16(at + 6, true) };
}

function walk(data, start, explicit) {
  const found = { samples: 1, signed: 0 };
  for (let at = start, count = 0; at + 8 <= data.byteLength && count < 5000; count++) {
    const { tag, vr, value, length } = elementAt(data, at, explicit);
    if (tag === PIXELS) return { ...found, pixels: length === ENDLESS ? { parts: fragments(data, value) } : { value, length } };
    if (tag in TAGS) found[TAGS[tag]] = data.getUint16(value, true);
    else if (tag in TEXTS) found[TEXTS[tag]] = ascii(data, value, length).split("\\")[0];
    at = length === ENDLESS ? afterItems(data, value, explicit && vr !== "UN") : value + length;
  }
  return found;
}

/** Where a sequence of no stated length ends. */
function afterItems(data, at, explicit) {
  for (;;) {
    const item = elementAt(data, at, explicit);
    if (item.tag === 0xfffee0dd) return item.value;
    if (item.length !== ENDLESS) { at = item.value + item.length; continue; }
    at = item.value;
    for (let inner = elementAt(data, at, explicit); inner.tag !== 0xfffee00d; inner = elementAt(data, at, explicit)) {
      at = inner.length === ENDLESS ? afterItems(data, inner.value, explicit) : inner.value + inner.length;
    }
    at += 8;
  }
}

function fragments(data, at) {
  const parts = [];
  for (let item = elementAt(data, at, false); item.tag === 0xfffee000; item = elementAt(data, at, false)) {
    parts.push([item.value, item.value + item.length]);
    at = item.value + item.length;
  }
  return parts.slice(1);  // the first holds offsets
}

function native(data, found) {
  const { rows, columns, allocated, stored, signed, pixels } = found, count = rows * columns;
  if (pixels.length < count * (allocated / 8)) return null;
  const cells = allocated === 8 ? new Uint8Array(data.buffer, pixels.value, count) : words(data, pixels.value, count);
  const mask = (1 << stored) - 1, half = signed ? 1 << (stored - 1) : 0, top = signed ? 1 << stored : 0;
  const values = new Uint16Array(count), turned = found.photometric === "MONOCHROME1";
  const offset = half;  // signed values are moved up, so that they fit
  for (let i = 0; i < count; i++) {
    const cell = cells[i] & mask;
    const value = (cell >= half && half ? cell - top : cell) + offset;
    values[i] = turned ? mask - value : value;
  }
  const [slope, intercept] = [Number.parseFloat(found.slope) || 1, Number.parseFloat(found.intercept) || 0];  // the file's unit
  const [low, high] = window(found, values, { slope, intercept, offset, turned, mask });
  const zero = (turned ? mask - offset : -offset) * slope + intercept;
  return { head: headOf(columns, rows, low, high, turned ? -slope : slope, zero), values };
}

function words(data, at, count) {
  return at % 2 === 0 ? new Uint16Array(data.buffer, at, count) : new Uint16Array(data.buffer.slice(at, at + 2 * count));
}

function window(found, values, { slope, intercept, offset, turned, mask }) {
  const centre = Number.parseFloat(found.centre), width = Number.parseFloat(found.width);
  if (!(width >= 1) || !Number.isFinite(centre)) return percentiles(values);
  const ends = [centre - width / 2, centre - 1 + width / 2].map((end) => (end - intercept) / slope + offset);
  return turned ? [mask - ends[1], mask - ends[0]] : ends;
}

function percentiles(values) {
  const counts = new Uint32Array(65536);
  for (const value of values) counts[value] += 1;
  const find = (share) => {
    let sum = 0;
    for (let value = 0; value < 65536; value++) if ((sum += counts[value]) >= share * values.length) return value;
    return 65535;
  };
  return [find(0.005), Math.max(find(0.995), find(0.005) + 1)];
}

async function picture(blob, turned) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "none", colorSpaceConversion: "none" });  // as the server reads it
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const values = new Uint16Array(bitmap.width * bitmap.height);
  for (let i = 0; i < values.length; i++) values[i] = turned ? 255 - data[4 * i] : data[4 * i];
  return { head: headOf(bitmap.width, bitmap.height, 0, 255, 1, 0), values };
}

const headOf = (width, height, low, high, slope, intercept) => ({
  width, height, source_width: width, source_height: height, low, high, slope, intercept,
  is_linear: true, kind: "preview", spacing_mm: null, spacing_at: null, is_side_doubtful: true,  // nobody has looked
});
