// The film on the screen: one canvas, the film's window at full depth, zoom and place, and one evidence map over it.

import { at } from "./dom.js";
import { captionOf, legend, overlayOf } from "./evidence.js";
import { filmOf, fromUnits, greyTable, inPlaceOf, inUnits, paint, valueAt } from "./film.js";

const MAX_SCALE = 32;
const MARGIN_PX = 12;

/** Tells "change" whenever anything that a control shows has changed, and "film" when another film is shown. */
export class Viewer extends EventTarget {
  constructor(stage, canvas) {
    super();
    this.stage = stage;
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    this.film = null;
    this.view = { scale: 1, x: 0, y: 0 };
    this.inverted = false;
    this.evidence = { item: null, visible: false, cells: false, opacity: 0.65, canvas: null };
    this.isFitted = true;
    this.waits = false;
    /** Whether anything speaks against the patient's right on the left: the film itself, or what is said of it. */
    this.doubts = { film: false, answer: false };
    /** The words below the film; a comparison has its own. */
    this.captionOf = captionOf;
    at("legend").append(legend());
    new ResizeObserver(() => this.resized()).observe(stage);
  }

  show(head, values, name, keep = false) { this.put(filmOf(head, values), name, keep); }

  /** Show a film. `keep`: it is the same patient's; place and window stay where they were set by hand. */
  put(film, name, keep = false) {
    const before = this.film, { head } = film;
    this.film = film;
    this.name = name;
    if (!keep || before === null) {
      this.inverted = false;
      this.window = { low: head.low, high: head.high };
      this.resized();
      this.fit();
    } else {
      this.view = inPlaceOf(this.view, before, film);
      const isOwn = this.window.low === before.low && this.window.high === before.high;
      this.window = isOwn ? { low: head.low, high: head.high } : fromUnits(this.film, inUnits(before, this.window));
      if (this.isFitted) this.fit();
    }
    for (const id of ["mark-left", "mark-right"]) at(id).hidden = false;
    at("empty").hidden = true;
    if (head.is_side_doubtful !== null) this.doubts.film = head.is_side_doubtful;
    this.tellSides();
    this.dispatchEvent(new Event("film"));
    this.redraw();
  }

  close() {
    this.film = null;
    this.evidence = { ...this.evidence, item: null, visible: false, canvas: null };
    for (const id of ["mark-left", "mark-right"]) at(id).hidden = true;
    at("empty").hidden = false;
    this.canvas.setAttribute("aria-label", "No film is open");
    this.redraw();
  }

  /** What an answer says against the sides; a film brings its own doubts. */
  doubtSides(isDoubtful) {
    this.doubts.answer = isDoubtful;
    this.tellSides();
    this.describe();
  }

  get isSideDoubtful() { return this.doubts.film || this.doubts.answer; }

  /** Mark the sides with a question where anything says that the picture is turned, or nobody has looked yet. */
  tellSides() {
    at("mark-left").textContent = this.isSideDoubtful ? "R?" : "R";
    at("mark-right").textContent = this.isSideDoubtful ? "L?" : "L";
    const sides = this.isSideDoubtful ? "It is not certain which side is the patient's right." : "The patient's right is on the left.";
    if (this.film) this.canvas.setAttribute("aria-label", `Film: ${this.name}. ${sides}`);
  }

  resized() {
    const box = this.stage.getBoundingClientRect();
    this.ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(box.width * this.ratio)), height = Math.max(1, Math.round(box.height * this.ratio));
    if (width === this.canvas.width && height === this.canvas.height && this.picture) return;
    const dx = (width - this.canvas.width) / 2, dy = (height - this.canvas.height) / 2;
    this.canvas.width = width;
    this.canvas.height = height;
    this.picture = this.context.createImageData(width, height);
    this.view = { ...this.view, x: this.view.x + dx, y: this.view.y + dy };
    if (this.isFitted) this.fit();
    this.redraw();
  }

  fit() {
    if (!this.film) return;
    const { width, height } = this.canvas, room = MARGIN_PX * this.ratio;
    const scale = Math.min((width - 2 * room) / this.film.width, (height - 2 * room) / this.film.height);
    this.view = { scale, x: (width - this.film.width * scale) / 2, y: (height - this.film.height * scale) / 2 };
    this.isFitted = true;
    this.redraw();
  }

  /** Zoom by a factor to a place on the canvas (CSS pixels; none: the middle). */
  zoom(factor, place = null) {
    if (!this.film) return;
    const x = (place ? place.x : this.canvas.width / this.ratio / 2) * this.ratio;
    const y = (place ? place.y : this.canvas.height / this.ratio / 2) * this.ratio;
    const smallest = 32 / Math.max(this.film.width, this.film.height);
    const scale = Math.min(Math.max(this.view.scale * factor, smallest), MAX_SCALE * this.ratio);
    const by = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * by, y: y - (y - this.view.y) * by };
    this.isFitted = false;
    this.redraw();
  }

  /** One film pixel on one screen pixel. */
  actualSize() {
    if (!this.film) return;
    this.zoom(1 / this.view.scale);
    this.view = { scale: 1, x: Math.round(this.view.x), y: Math.round(this.view.y) };  // else every pixel is mixed of four
  }

  /** Move the film by CSS pixels; a corner of it always stays in sight. */
  pan(dx, dy) {
    if (!this.film) return;
    const inside = (place, length, room) => Math.min(Math.max(place, 40 - length), room - 40);
    this.view = {
      ...this.view,
      x: inside(this.view.x + dx * this.ratio, this.film.width * this.view.scale, this.canvas.width),
      y: inside(this.view.y + dy * this.ratio, this.film.height * this.view.scale, this.canvas.height),
    };
    this.isFitted = false;
    this.redraw();
  }

  /** Move the window: shares of the film's own window; `wider` widens it, `brighter` lowers its centre. */
  adjustWindow(wider, brighter) {
    if (!this.film) return;
    const span = this.film.high - this.film.low, { low, high } = this.window;
    const middle = (low + high) / 2 - brighter * span;
    const half = Math.max(high - low + wider * span, span / 1000) / 2;
    this.setWindow({ low: middle - half, high: middle + half });
  }

  setWindow({ low, high }) {
    this.window = { low, high };
    this.redraw();
  }

  get units() { return inUnits(this.film, this.window); }
  set units(wanted) { this.setWindow(fromUnits(this.film, wanted)); }

  invert() {
    if (!this.film) return;
    this.inverted = !this.inverted;
    this.redraw();
  }

  /** Everything as it was when the film was opened; the chosen map stays. */
  reset() {
    if (!this.film) return;
    this.inverted = false;
    this.window = { low: this.film.low, high: this.film.high };
    this.fit();
  }

  /** Lay the map of an observation over the film; null: none. */
  lay(item, visible) {
    const old = this.evidence;
    const changed = item !== old.item;
    const map = item && item.evidence_map;
    this.evidence = { ...old, item, visible, canvas: changed ? (map ? overlayOf(map, old.cells) : null) : old.canvas };
    this.compose();
  }

  showCells(cells) {
    const map = this.evidence.item && this.evidence.item.evidence_map;
    this.evidence = { ...this.evidence, cells, canvas: map ? overlayOf(map, cells) : null };
    this.compose();
  }

  setOpacity(opacity) {
    this.evidence.opacity = opacity;
    this.compose();
  }

  valueAt(x, y) {
    return this.film && valueAt(this.film, this.view, x * this.ratio, y * this.ratio);
  }

  /** Draw at the next frame, once however often it is asked for. */
  redraw() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      if (!this.picture) return;
      if (this.film) paint(this.film, this.view, greyTable(this.window, this.inverted), this.picture);
      else new Uint32Array(this.picture.data.buffer).fill(0xff000000);
      this.compose();
    });
  }

  /** The film as it was last drawn, and the map over it. */
  compose() {
    if (!this.picture) return;
    this.context.putImageData(this.picture, 0, 0);
    const { visible, canvas } = this.evidence;
    if (this.film && visible && canvas) this.layOver(this.context, canvas);
    at("legend").hidden = !(this.film && visible && canvas);
    this.describe();
    this.dispatchEvent(new Event("change"));
  }

  /** Draw a map over the film as it is shown, on any canvas of the same size. */
  layOver(context, map) {
    const { scale, x, y } = this.view, side = Math.max(this.film.width, this.film.height);
    context.globalAlpha = this.evidence.opacity;
    context.imageSmoothingEnabled = !this.evidence.cells;
    context.imageSmoothingQuality = "high";
    // The model saw the film padded to a square, equally on both sides.
    const left = x - ((side - this.film.width) / 2) * scale, top = y - ((side - this.film.height) / 2) * scale;
    context.drawImage(map, left, top, side * scale, side * scale);
    context.globalAlpha = 1;
  }

  /** The words below the film: which map lies over it. A live region: told anew only where they change. */
  describe() {
    const { item, visible, cells } = this.evidence;
    const words = this.film && item && visible ? this.captionOf(item, cells, this.isSideDoubtful) : [];
    const text = words.map((word) => (typeof word === "string" ? word : word.textContent)).join("");
    if (text !== at("caption").textContent) at("caption").replaceChildren(...words);
  }
}
