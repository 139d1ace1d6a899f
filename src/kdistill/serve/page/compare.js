// Two models, one film: asks for the second reading, shows both answers, and stores which one is better.

import { Refused, ask } from "./api.js";
import { at, button, el } from "./dom.js";
import { captionOf } from "./evidence.js";
import { captionOfPair, countWords, differenceList, headlines, objections, pairBars, pairItems, reasons, reports } from "./compare_view.js";
import { preferenceForm, storedWords } from "./preference.js";

const POLL_MS = 200;
const ENDS = {
  failed: "The second model failed on this film. Compare again.",
  expired: "The film waited for the second model longer than the server allows. Compare again.",
};
const pause = () => new Promise((resolve) => setTimeout(resolve, POLL_MS));

/** Shows the comparison of one study at a time; `actions`: {back(study), again(study, blinded)}. */
export class Comparing {
  constructor(viewer, twin, selection, pane, actions) {
    Object.assign(this, { viewer, twin, selection, pane, actions });
    this.study = null;
    this.isNamed = false;  // whether the names have been told
  }

  get isOpen() { return this.study !== null; }
  path(study) { return `/v1/results/${study.jobId}/comparison`; }

  /** Compare. Throws `Refused`; what was on show before stays until the server has agreed. */
  async open(study, blinded) {
    const found = await ask(this.path(study), { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ blinded }) });
    this.begin(study);
    await this.follow(study, found);
  }

  begin(study) {
    this.close();
    this.study = study;
    this.isNamed = false;
    this.pane.clear();
    this.said = el("p", { class: "status busy", role: "status" });
    this.content = el("div", { class: "comparing-parts" });
    this.pane.body.replaceChildren(this.said, this.content);
    at("room").classList.add("comparing");
  }

  /** Say why there is no comparison, and what to do. While nobody may know an answer's name, none is shown instead. */
  fail(study, error, blinded) {
    this.begin(study);
    this.say("");
    this.content.replaceChildren(el("div", { class: "problem card", role: "alert" }, el("p", {}, error.message),
      el("p", { class: "buttons" }, button("Compare again", () => this.actions.again(study, blinded)),
        blinded ? null : button("Back to one answer", () => this.actions.back(study)))));
  }

  /** Ask until the second model has read the film. */
  async follow(study, first) {
    let found = first;
    this.said.textContent = "The second model reads the film …";
    while (!["done", "failed", "expired"].includes(found.stage)) {
      await pause();
      if (this.study !== study) return;
      found = await ask(this.path(study));
    }
    if (this.study !== study) return;
    this.say("");
    if (found.stage === "done") this.show(found);
    else throw new Refused(ENDS[found.stage], 503);
  }

  close() {
    if (!this.isOpen) return;
    this.study = null;
    this.viewer.captionOf = captionOf;
    this.twin.show(false);
    at("room").classList.remove("comparing");
  }

  say(text) {
    this.said.classList.toggle("busy", false);
    this.said.classList.toggle("heard", true);  // who sees, sees the answers
    this.said.textContent = text;
  }

  show(comparison) {
    this.isNamed = comparison.models !== null;
    this.viewer.captionOf = captionOfPair;
    this.viewer.doubtSides(comparison.a.is_side_doubtful || comparison.b.is_side_doubtful);
    this.selection.offer(pairItems(comparison));
    this.twin.show(true);
    at("model").textContent = comparison.models ? "two models" : "two models, blinded";
    this.preference = el("div");
    this.content.replaceChildren(
      this.head(comparison), headlines(comparison), differenceList(comparison, this.selection),
      reports(comparison, this.selection), pairBars(comparison, this.selection), reasons(comparison, this.selection), objections(comparison), this.preference);
    if (this.pane.takesFeedback && !(comparison.a.abstained && comparison.b.abstained)) {
      this.preference.append(preferenceForm(comparison, (word) => this.store(word)));
    }
    this.selection.tell();
    this.say(`Both answers are here. ${countWords(comparison)}`);
  }

  /** What this is, and the ways on. While nobody may know the names, there is no way back to one answer. */
  head(comparison) {
    const { blinded, models } = comparison, study = this.study;
    const marked = "Sentences on a tinted ground are stated by one model only.";
    const text = models ? `${blinded ? "The order was drawn for this film. " : ""}${marked}`
      : `Blinded: the order is drawn for each film, and the names are shown once you have stored a preference. ${marked}`;
    const back = models ? button(["Back to one answer", el("kbd", {}, "B")], () => this.actions.back(study)) : null;
    const down = this.pane.takesFeedback ? el("a", { href: "#preference", class: "button" }, "To your preference") : null;
    return el("section", { class: "card", "aria-labelledby": "pair-title" }, el("h2", { id: "pair-title" }, "Two models, one film"),
      el("p", { id: "pair-names" }, text), back || down ? el("p", { class: "buttons" }, back, down) : null);
  }

  async store(word) {
    const study = this.study;
    const found = await ask(`${this.path(study)}/preference`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(word) });
    if (this.study !== study) return;
    const { chosen, visible } = this.selection;
    this.show(found);
    if (chosen !== null) Object.assign(this.selection, { chosen, visible });
    this.selection.tell();
    this.say(storedWords(found));
    at("preference").tabIndex = -1;
    at("preference").focus();  // the button that was pressed has gone
  }
}
