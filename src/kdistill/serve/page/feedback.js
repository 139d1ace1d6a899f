// What a reader thinks of an answer: controls for each finding and each sentence, saved as they are pressed.
//
//   import { mountFeedback } from "/page/feedback.js";
//   await mountFeedback(element, { resultId, explanation, ask });
//
// `element` is filled, and hidden where the server takes no feedback. `explanation` is GET /v1/results/{id};
// `ask(path, options)` fetches JSON and throws an Error with a sentence for a reader.

const WORDS = { present: "present", absent: "absent", uncertain: "unsure" };
const SENTENCE = [["correct", "Correct"], ["wrong", "Wrong"], ["not_useful", "Not useful"]];
const SECTIONS = { findings: "Findings", impression: "Impression", rationale: "Rationale" };
const LATERALISED = new Set(["Lung Lesion", "Lung Opacity", "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"]);
const READER_KEY = "kdistill-reader";
const MAX_COMMENT = 500;
const MAX_READER = 60;
let serial = 0;

export async function mountFeedback(element, { resultId, explanation, ask }) {
  element.hidden = true;
  element.replaceChildren();
  const path = `/v1/results/${encodeURIComponent(resultId)}/feedback`;
  let said;
  try {
    said = await ask(path);
  } catch (error) {
    if (error.status !== 503) return;  // off, or the result is gone: nothing to ask about
    element.append(make("p", { className: "fb-status fb-error", textContent: `Feedback cannot be given just now. ${error.message}` }));
    element.hidden = false;
    return;
  }
  if (explanation.abstained) return;
  const desk = new Desk(element, path, explanation, ask, said);
  desk.build();
  element.hidden = false;
}

class Desk {
  constructor(element, path, explanation, ask, said) {
    Object.assign(this, { element, path, explanation, ask, said, rows: [], status: null, reader: null });
  }

  build() {
    const title = make("h2", { id: fresh("feedback"), textContent: "What do you say?" });
    const hint = make("p", { className: "fb-hint", textContent: "Each press is saved at once, without the image; press again to take it back." });
    this.status = make("p", { className: "fb-status" });
    this.status.setAttribute("role", "status");
    this.status.setAttribute("aria-live", "polite");
    this.element.classList.add("feedback");
    this.element.setAttribute("aria-labelledby", title.id);
    this.element.append(title, hint, this.readerField(), this.findings(), ...this.sections(), this.status);
  }

  readerField() {
    const label = make("label", { className: "fb-reader", textContent: "Your pseudonym (optional) " });
    this.reader = make("input", { type: "text", maxLength: MAX_READER, autocomplete: "off", value: remembered() });
    this.reader.addEventListener("change", () => {  // another name is another reader, with words of its own
      remember(this.reader.value);
      for (const row of this.rows) row.recall();
    });
    label.append(this.reader);
    return label;
  }

  findings() {
    const block = make("div", { className: "fb-block" });
    const [first, others] = [[], []];
    for (const item of this.explanation.observations) {
      (item.state === "absent" ? others : first).push(new Finding(this, item).element);
    }
    if (first.length) block.append(make("h3", { textContent: "Findings shown as present or unsure" }), list(first));
    if (others.length) block.append(folded(`Findings shown as absent (${others.length})`, list(others)));
    return block;
  }

  sections() {
    return Object.entries(SECTIONS).flatMap(([section, title]) => {
      const items = this.said.sentences.filter((sentence) => sentence.section === section);
      return items.length ? [folded(`${title}, sentence by sentence (${items.length})`, list(items.map((item) => new Sentence(this, item).element)))] : [];
    });
  }

  // The last word of this reader about a target.
  last(target) {
    const reader = this.reader.value.trim();
    return this.said.judgements.filter((one) => one.target === target && one.reader === reader).at(-1) ?? null;
  }

  async send(word, told) {
    try {
      const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...word, reader: this.reader.value }) };
      this.said.judgements.push(await this.ask(this.path, options));
      this.status.textContent = `Saved: ${told}.`;
      this.status.classList.remove("fb-error");
    } catch (error) {
      this.status.textContent = `Not saved: ${told}. ${error.message}`;
      this.status.classList.add("fb-error");
    }
  }
}

// One row: a name, buttons of which at most one is pressed, and a note.
class Row {
  constructor(desk, target, name) {
    Object.assign(this, { desk, target, name, buttons: new Map(), judgement: desk.last(target), busy: false });
    desk.rows.push(this);
    this.element = make("li", { className: "fb-item" });
    this.group = make("div", { className: "fb-buttons" });
    this.group.setAttribute("role", "group");
    this.group.setAttribute("aria-label", `Your word on: ${name}`);
  }

  button(key, text) {
    const button = make("button", { type: "button", textContent: text });
    button.addEventListener("click", () => this.press(key));
    this.buttons.set(key, button);
    this.group.append(button);
  }

  finish() {
    this.element.append(this.group);
    if (this.desk.said.comments) this.element.append(this.note());
    this.refresh();
  }

  note() {
    this.text = make("textarea", { rows: 2, maxLength: MAX_COMMENT, value: this.judgement?.comment ?? "" });
    this.text.setAttribute("aria-label", `Note on: ${this.name}`);
    const warning = make("p", { className: "fb-warning", id: fresh("warning"), textContent: `Nothing about the patient: no name, number, date or place. At most ${MAX_COMMENT} characters.` });
    this.text.setAttribute("aria-describedby", warning.id);
    this.save = make("button", { type: "button", textContent: "Save the note" });
    this.save.addEventListener("click", () => this.store(this.word(this.pressed()), `${this.name}, with your note`));
    return folded("Note", warning, this.text, this.save);
  }

  async press(key) {
    const taken = key === this.pressed();
    await this.store(taken ? { ...this.place(), verdict: "withdrawn" } : this.word(key), taken ? `${this.name}, taken back` : `${this.name}, ${this.buttons.get(key).textContent.toLowerCase()}`);
  }

  async store(word, told) {
    if (this.busy) return;  // a second press before the first is answered would overtake it
    this.busy = true;
    const comment = word.verdict === "withdrawn" || !this.text ? "" : this.text.value;
    await this.desk.send({ ...word, comment }, told);
    this.busy = false;
    this.judgement = this.desk.last(this.target);
    this.refresh();
  }

  // Show what stands in the file for this reader.
  recall() {
    this.judgement = this.desk.last(this.target);
    if (this.text) this.text.value = this.judgement?.comment ?? "";
    this.refresh();
  }

  refresh() {
    const pressed = this.pressed();
    for (const [key, button] of this.buttons) button.setAttribute("aria-pressed", String(key === pressed));
    if (this.save) this.save.disabled = pressed === null;
    this.element.classList.toggle("fb-said", pressed !== null);
  }
}

class Finding extends Row {
  constructor(desk, item) {
    super(desk, `finding/${item.name}`, item.name);
    this.item = item;
    const side = item.state === "absent" || !item.side ? "" : `, ${item.side}`;
    const number = item.probability === null ? "" : `, ${item.probability.toFixed(2)}`;
    const name = make("span", { className: "fb-name", textContent: item.name });
    this.element.append(name, make("span", { className: "fb-shown", textContent: `shown: ${WORDS[item.state]}${side}${number}` }));
    this.button("agree", "Agree");
    for (const state of ["present", "absent", "uncertain"]) if (state !== item.state) this.button(state, `No: ${WORDS[state]}`);
    if (LATERALISED.has(item.name)) this.group.append(this.sides());
    this.finish();
    this.recall();
  }

  recall() {
    super.recall();
    const other = this.judgement?.verdict === "disagree" ? this.judgement.side : null;
    if (this.side) this.side.value = other ?? "";
  }

  refresh() {
    super.refresh();
    const pressed = this.pressed();
    const onlySide = pressed === "agree" && this.judgement.verdict === "disagree";
    this.buttons.get("agree").textContent = onlySide ? "Agree, but for the side" : "Agree";
    if (this.side) this.side.disabled = pressed !== null && this.stateOf(pressed) === "absent";
  }

  place() { return { kind: "finding", observation: this.item.name }; }

  // Another side than the one shown is a disagreement, too.
  word(key) {
    const side = this.side && this.side.value !== "" && this.stateOf(key) !== "absent" ? this.side.value : null;
    const shown = this.item.state === "absent" ? null : this.item.side;
    if (key === "agree" && (side === null || side === shown)) return { ...this.place(), verdict: "agree" };
    return { ...this.place(), verdict: "disagree", state: this.stateOf(key), side };
  }

  stateOf(key) { return key === "agree" || key === null ? this.item.state : key; }

  pressed() {
    if (this.judgement === null || this.judgement.verdict === "withdrawn") return null;
    return this.judgement.state === this.item.state ? "agree" : this.judgement.state;
  }

  sides() {
    const label = make("label", { className: "fb-side", textContent: "Side " });
    this.side = make("select");
    this.side.setAttribute("aria-label", `Side of: ${this.item.name}`);
    const unsaid = this.item.state !== "absent" && this.item.side ? "as shown" : "not said";
    for (const [value, text] of [["", unsaid], ["left", "left"], ["right", "right"], ["bilateral", "both"]]) {
      this.side.append(make("option", { value, textContent: text }));
    }
    this.side.addEventListener("change", () => {
      const key = this.pressed() ?? (this.item.state === "absent" ? "present" : "agree");
      this.store(this.word(key), `${this.item.name}, side ${this.side.selectedOptions[0].textContent}`);
    });
    label.append(this.side);
    return label;
  }
}

class Sentence extends Row {
  constructor(desk, item) {
    super(desk, `sentence/${item.section}/${item.index}`, item.text);
    this.item = item;
    this.element.append(make("q", { className: "fb-sentence", textContent: item.text }));
    for (const [key, text] of SENTENCE) this.button(key, text);
    this.finish();
  }

  place() { return { kind: "sentence", section: this.item.section, index: this.item.index }; }

  word(key) { return { ...this.place(), verdict: key }; }

  pressed() { return this.judgement === null || this.judgement.verdict === "withdrawn" ? null : this.judgement.verdict; }
}

function make(tag, properties = {}) { return Object.assign(document.createElement(tag), properties); }

function list(items) {
  const found = make("ul", { className: "fb-list" });
  found.append(...items);
  return found;
}

function folded(summary, ...content) {
  const details = make("details", { className: "fb-fold" });
  details.append(make("summary", { textContent: summary }), ...content);
  return details;
}

function fresh(name) { serial += 1; return `fb-${name}-${serial}`; }

// The pseudonym stays in this tab; a browser that keeps nothing is no error.
export function remembered() { try { return sessionStorage.getItem(READER_KEY) ?? ""; } catch (_) { return ""; } }

export function remember(name) { try { sessionStorage.setItem(READER_KEY, name); } catch (_) { /* asked again next time */ } }
