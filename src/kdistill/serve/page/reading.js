// The right-hand column: the reader's own marks first where he asked for that, then the model's answer in its parts.

import { ask } from "./api.js";
import { bars, headline, markBars } from "./bars.js";
import { alerts, checks, exportsOf, provenance, quality, truthOf } from "./checks.js";
import { mountCounterfactual } from "./counterfactual.js";
import { at, button, el } from "./dom.js";
import { mountFeedback } from "./feedback.js";
import { readerForm } from "./reader_first.js";
import { markSentences, rationale, report } from "./text.js";
import { STATUS_SENTENCES } from "./words.js";

/** Draws the reading of one study at a time; `actions`: {retry, remove, commit, alter, compare}. */
export class ReadingPane {
  constructor(viewer, selection, actions) {
    Object.assign(this, { viewer, selection, actions });
    this.body = at("reading-body");
    this.takesFeedback = false;
    this.against = null;  // the model that can be compared with
    this.whatIf = null;
    selection.addEventListener("change", () => {
      markBars(this.body, selection);
      markSentences(this.body, selection);
      viewer.lay(selection.item, selection.isShown);
    });
  }

  /** Where a study stands; the answer is drawn by `answer`. */
  status(study) {
    const words = study ? STATUS_SENTENCES[study.stage] : "";
    if (at("status").textContent !== words) at("status").textContent = words;  // said once, not at every redraw
    at("status").classList.toggle("heard", Boolean(study && study.stage === "done"));  // who sees, sees the answer
    at("status").classList.toggle("busy", Boolean(study && ["sending", "waiting", "reading"].includes(study.stage)));
    at("problem").hidden = !(study && study.problem);
    if (study && study.problem) {
      const next = study.isFinal ? button("Take it off the list", () => this.actions.remove(study)) : button("Send it again", () => this.actions.retry(study));
      at("problem").replaceChildren(el("p", {}, study.problem), el("p", { class: "buttons" }, next));
    }
  }

  clear() {
    if (this.whatIf) this.whatIf.close();  // the server need not keep its films for another hour
    this.whatIf = null;
    this.body.replaceChildren();
    this.selection.offer([]);
    this.viewer.doubtSides(false);
  }

  /** The reader's form, in place of the answer. */
  askReader(study) {
    this.clear();
    this.body.append(readerForm(study.draft, (marks) => this.actions.commit(study, marks)));
  }

  /** The whole answer. */
  answer(study) {
    const { explanation } = study;
    this.parts = Object.fromEntries(["top", "bars", "words", "against"].map((name) => [name, el("div", { class: "part" })]));
    const counterfactual = el("div", { class: "mount" }), feedback = el("div", { class: "mount" });
    this.parts.said = el("div", { class: "mount" }, feedback);
    this.body.replaceChildren(
      this.parts.top, this.parts.bars, this.parts.words, counterfactual, this.parts.said, this.parts.against,
      quality(study.provenance, explanation), exportsOf(study, () => this.actions.remove(study)), provenance(study.provenance, explanation));
    this.paint(study, explanation);
    if (this.whatIf) this.whatIf.close();
    this.whatIf = explanation.abstained ? null : mountCounterfactual(counterfactual, { sample: study.sample, resultId: study.jobId, explanation, ask, onReading: (other, url, step) => this.alter(study, other, url, step) });
    if (this.takesFeedback) mountFeedback(feedback, { resultId: study.jobId, explanation, ask });
  }

  /** The slider has moved: its film and its reading take the place of the study's own. */
  alter(study, other, url, { strength }) {
    this.paint(study, other);
    this.actions.alter(study, strength === 1 ? null : url);
  }

  /** The way to the other model's answer. */
  comparison(study) {
    const compare = button(["Compare", el("kbd", {}, "B")], () => this.actions.compare(study), { id: "compare" });
    return el("p", { class: "compare-with" }, compare, el("span", { class: "soft small" }, `with ${this.against}`),
      study.wasSeen ? el("span", { class: "other" }, "You have seen an answer about this film before: it cannot be blinded any more.") : null);
  }

  /** The parts that depend on what the model says; another reading than the study's own is named as such. */
  paint(study, explanation) {
    const { top, bars: list, words, against } = this.parts, isOther = explanation !== study.explanation;
    const answers = !explanation.abstained;
    this.selection.offer(answers ? explanation.observations : [], isOther || this.isOther);
    this.isOther = isOther;
    top.replaceChildren(...[
      isOther ? el("p", { class: "other" }, "This film has been altered (see below), and this is the reading of the altered film.") : null,
      headline(explanation), alerts(explanation), this.against && !isOther ? this.comparison(study) : null, study.sample !== null && !isOther ? truthOf(study, ask) : null,
    ].filter(Boolean));
    list.replaceChildren(...(answers ? [bars(explanation, this.selection, isOther ? null : study.marks)] : []));
    words.replaceChildren(...(answers ? [report(explanation, this.selection), rationale(explanation, this.selection)] : [report(explanation, this.selection)]));
    against.replaceChildren(checks(explanation));
    this.parts.said.hidden = isOther;  // a word about an altered film would be kept as one about the film
    this.viewer.doubtSides(explanation.is_side_doubtful);
    this.selection.tell();
  }
}
