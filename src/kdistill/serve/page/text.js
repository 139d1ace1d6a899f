// Report and rationale. Pointing at a sentence shows its finding and its map; choosing a finding marks its sentences.
// A sentence of the report may name several findings ("no effusion or pneumothorax"): each click goes on to the next.

import { el, section } from "./dom.js";
import { rove } from "./roving.js";
import { SIDES_IN_DOUBT } from "./words.js";

const OF_REPORT = ["contradiction", "report_contradicts_probability", "side_mismatch", "severity_mismatch", "prior_mentioned", "degenerate"];

/** Findings and impression as they were generated, with what objects to them right below. `place`: {id, title}. */
export function report(explanation, selection, { id, title } = { id: "report", title: "Report" }) {
  const nothing = explanation.abstained ? "(withheld: the model abstained)" : "(empty)";
  const part = (name) => (explanation[name] ? linked(explanation, name, selection) : nothing);
  const list = el("dl", { class: "report" },
    el("dt", {}, "Findings"), el("dd", {}, part("findings")), el("dt", {}, "Impression"), el("dd", {}, part("impression")));
  rove(list, ".sentence");
  const isLinked = explanation.report_sentences.some((sentence) => sentence.mentions.length);
  const isTold = explanation.is_side_doubtful && !explanation.abstained;
  return section(id, title,
    isTold ? el("p", { class: "objection", id: `${id}-sides-in-doubt` }, SIDES_IN_DOUBT) : null,
    isLinked ? el("p", { class: "hint" }, "Choose a sentence to see its finding and its map; again, for the next finding that it names.") : null, list,
    explanation.flags.filter((flag) => OF_REPORT.includes(flag.code)).map((flag) =>
      el("p", { class: "objection" }, "Objection: ", flag.observation ? `${flag.observation}. ` : "", flag.text)));
}

/** A section as it was written; its sentences that name findings can be pointed at and chosen. */
function linked(explanation, name, selection) {
  const whole = explanation[name], torn = tornOf(explanation), parts = [];
  let done = 0;
  for (const sentence of explanation.report_sentences.filter((one) => one.section === name)) {
    const start = whole.indexOf(sentence.text, done);
    if (start < 0) continue;
    parts.push(whole.slice(done, start), reportSentence(sentence, torn, selection));
    done = start + sentence.text.length;
  }
  return [...parts, whole.slice(done)];
}

function reportSentence(sentence, torn, selection) {
  const names = [...new Set(sentence.mentions.map((mention) => mention.observation))];
  const stated = sentence.mentions.filter((mention) => mention.state !== "absent").map((mention) => mention.observation);
  return names.length ? pointable("span", names, sentence.text, torn.has(sentence.text) ? "sentence torn" : "sentence", selection, stated) : sentence.text;
}

/** The sentences that a contradiction sets against each other, or that give one finding two degrees. */
const tornOf = (explanation) => new Set(explanation.flags.flatMap((flag) => flag.sentences));

/**
 * A sentence of some findings (or none): pointing glimpses the first, a click chooses one after the other. `stated` are
 * those of them that it states as present or possible.
 */
function pointable(tag, names, text, kind, selection, stated) {
  const first = () => (names.length ? selection.indexOf(names[0]) : null);
  const choose = () => {
    if (!names.length) return;
    const chosen = selection.chosen === null ? -1 : names.indexOf(selection.items[selection.chosen].name);
    selection.choose(selection.indexOf(names[(chosen + 1) % names.length]));
  };
  return el(tag, {
    class: kind, "data-names": names.join("|"), "data-stated": stated.join("|"), title: tag === "span" ? names.join(", ") : null,
    onmouseenter: () => selection.glimpse(first()), onmouseleave: () => selection.glimpse(null),
    onfocus: () => selection.glimpse(first()), onblur: () => selection.glimpse(null), onclick: choose,
    onkeydown: (event) => { if (event.key === "Enter") choose(); },
  }, text, kind.endsWith("torn") ? el("span", { class: "heard" }, " (contradicted) ") : null);
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

/** The reasons sentence by sentence, each with the article it was found in. `place`: {id, title}. */
export function rationale(explanation, selection, { id, title } = { id: "rationale", title: "Rationale" }) {
  if (!explanation.rationale.length) return section(id, title, el("p", { class: "soft" }, "(this model writes none)"));
  const groups = grouped(explanation.rationale);
  const isDenied = (group) => group.every((sentence) => sentence.state === "absent");
  const stated = groups.filter((group) => !isDenied(group)), denied = groups.filter(isDenied);
  const torn = tornOf(explanation);
  const list = el("ol", { class: "reasons" }, stated.map((group) => entry(group, torn, selection)),
    denied.length ? el("li", { class: "denied" }, el("h3", {}, "Said to be absent"), denied.flat().map((s) => sentenceOf(s, torn, selection))) : null);
  rove(list, ".sentence");
  return section(id, title, el("p", { class: "hint" }, "Point at a sentence to see its finding and its map."), list);
}

function entry(group, torn, selection) {
  const heading = group[0].observation || "No finding behind it";
  return el("li", {}, el("h3", {}, heading), group.map((sentence) => sentenceOf(sentence, torn, selection)));
}

function sentenceOf(sentence, torn, selection) {
  const kind = sentence.statement ? "sentence statement" : "sentence";
  const names = sentence.observation ? [sentence.observation] : [];
  const stated = ["present", "uncertain"].includes(sentence.state) ? names : [];
  return [pointable("p", names, sentence.text, sentence.statement && torn.has(sentence.text) ? `${kind} torn` : kind, selection, stated), sources(sentence)];
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
  for (const node of root.querySelectorAll(".sentence")) node.classList.toggle("active", name !== null && node.dataset.names.split("|").includes(name));
}
