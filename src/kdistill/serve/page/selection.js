// Which finding is looked at: chosen (by bar, key or sentence), or only glimpsed while a sentence is pointed at.

import { NO_FINDING } from "./words.js";

/** Tells "change". `items` are the observations on show; none while the model's reading is hidden. */
export class Selection extends EventTarget {
  constructor() {
    super();
    this.items = [];
    this.chosen = null;
    this.glimpsed = null;
    this.visible = false;
  }

  /** Other readings of the same findings keep what was chosen. */
  offer(items, keep = false) {
    this.items = items;
    this.glimpsed = null;  // the sentence that was pointed at has gone, and nobody tells when the pointer leaves it
    if (!keep || !items.length) [this.chosen, this.visible] = [null, false];
    this.tell();
  }

  choose(index) {
    this.chosen = (index + this.items.length) % this.items.length;
    this.glimpsed = null;
    this.visible = true;
    this.tell();
  }

  /** One further on, or the first to look at where none is chosen. */
  step(by) {
    if (this.items.length) this.choose(this.chosen === null ? this.first() : this.chosen + by);
  }

  glimpse(index) {
    if (this.glimpsed === index) return;
    this.glimpsed = index;
    this.tell();
  }

  clear() {
    [this.chosen, this.glimpsed, this.visible] = [null, null, false];
    this.tell();
  }

  toggle() {
    if (!this.items.length) return;
    if (this.chosen === null) this.choose(this.first());
    else {
      this.visible = !this.visible;
      this.tell();
    }
  }

  get index() { return this.glimpsed ?? this.chosen; }
  get item() { return this.index === null ? null : this.items[this.index]; }
  get isShown() { return this.visible || this.glimpsed !== null; }
  indexOf(name) {
    const found = this.items.findIndex((item) => item.name === name);
    return found < 0 ? null : found;
  }

  /** The finding furthest above its threshold. */
  first() {
    const rank = (item) => (item.name !== NO_FINDING && item.state === "present" ? 10 : 0) + (item.probability ?? 0) - (item.threshold ?? 0);
    return this.items.reduce((best, item, index) => (rank(item) > rank(this.items[best]) ? index : best), 0);
  }

  tell() { this.dispatchEvent(new Event("change")); }
}
