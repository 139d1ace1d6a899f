// Report and rationale. Pointing at a sentence shows its finding and its map; choosing a finding marks its sentences.

import { el, section } from "./dom.js";
import { rove } from "./roving.js";

const OF_REPORT = ["report_contradicts_probability", "side_mismatch", "prior_mentioned", "degenerate"];

/** Findings and impression as they were generated, with what objects to them right below. */
export function report(explanation) {
  const nothing = explanation.abstained ? "(withheld: the model abstained)" : "(empty)";
  return section("report", "Report",
    el("dl", { class: "report" },
      el("dt", {}, "Findings"), el("dd", {}, explanation.findings || nothing),
      el("dt", {}, "Impression"), el("dd", {}, explanation.impression || nothing)),
    explanation.flags.filter((flag) => OF_REPORT.includes(flag.code)).map((flag) =>
      el("p", { class: "objection" }, "Objection: ", flag.observation ? `${flag.observation}. ` : "", flag.text)));
}

function grouped(sentences) {
  const groups = [];
  for (const sentence of sentences) {
    const last = groups.at(-1);
    if (last && last[0].observation === sentence.observation) last.push(sentence);
    else groups.push([sentence]);
  }
  return groups;
}

/** The reasons sentence by sentence, each with the article it was found in. */
export function rationale(explanation, selection) {
  if (!explanation.rationale.length) return section("rationale", "Rationale", el("p", { class: "soft" }, "(this model writes none)"));
  const groups = grouped(explanation.rationale);
  const isDenied = (group) => group.every((sentence) => sentence.state === "absent");
  const stated = groups.filter((group) => !isDenied(group)), denied = groups.filter(isDenied);
  const list = el("ol", { class: "reasons" }, stated.map((group) => entry(group, selection)),
    denied.length ? el("li", { class: "denied" }, el("h3", {}, "Said to be absent"), denied.flat().map((s) => sentenceOf(s, selection))) : null);
  rove(list, ".sentence");
  return section("rationale", "Rationale", el("p", { class: "hint" }, "Point at a sentence to see its finding and its map."), list);
}

function entry(group, selection) {
  const heading = group[0].observation || "No finding behind it";
  return el("li", {}, el("h3", {}, heading), group.map((sentence) => sentenceOf(sentence, selection)));
}

function sentenceOf(sentence, selection) {
  const index = () => (sentence.observation ? selection.indexOf(sentence.observation) : null);
  const choose = () => { if (index() !== null) selection.choose(index()); };
  const text = el("p", {
    class: sentence.statement ? "sentence statement" : "sentence", "data-name": sentence.observation || "",
    onmouseenter: () => selection.glimpse(index()), onmouseleave: () => selection.glimpse(null),
    onfocus: () => selection.glimpse(index()), onblur: () => selection.glimpse(null), onclick: choose,
    onkeydown: (event) => { if (event.key === "Enter") choose(); },
  }, sentence.text);
  return [text, sources(sentence)];
}

function sources(sentence) {
  if (sentence.citations.length) return sentence.citations.map(citation);
  return sentence.statement ? null : el("p", { class: "source none" }, "No source found for this sentence.");
}

function citation(found) {
  const year = found.year ? ` (${found.year})` : "", pmid = found.pmid ? ` · PMID ${found.pmid}` : "";
  return el("details", { class: "source" },
    el("summary", {}, `${found.title || found.article_id}${year}${pmid}`),
    el("blockquote", {}, found.quote), el("p", { class: "mono" }, found.article_id));
}

/** Keep the sentences in step with what is chosen or pointed at. */
export function markSentences(root, selection) {
  const name = selection.item ? selection.item.name : null;
  for (const node of root.querySelectorAll(".sentence")) node.classList.toggle("active", name !== null && node.dataset.name === name);
}
