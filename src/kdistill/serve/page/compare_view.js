// Two answers about one film as elements: what differs first, then words, bars and checks of A and B side by side.

import { bar, headline } from "./bars.js";
import { alerts, checks } from "./checks.js";
import { button, el, section } from "./dom.js";
import { peakOf } from "./evidence.js";
import { rove } from "./roving.js";
import { rationale, report } from "./text.js";
import { nothing } from "./twin.js";
import { NO_FINDING, inProse, wordOf } from "./words.js";

const SIDES = ["a", "b"];
const KINDS = { stated: "stated by one", threshold: "thresholds", side: "sides" };

/** The findings as the viewer and the selection know them: those of A, each with its `other` of B. */
export function pairItems({ a, b }) {
  const of = (explanation, index) => (explanation.abstained ? { ...explanation.observations[index], evidence_map: null } : explanation.observations[index]);
  return a.observations.map((_, index) => {
    const own = of(a, index), other = of(b, index);
    const laid = own.evidence_map ?? (other.evidence_map && nothing(other.evidence_map));
    return { ...own, evidence_map: laid, own, other };
  });
}

/** What stands below the two films while maps are shown. */
export function captionOfPair({ name, own, other }, cells, isSideDoubtful) {
  const told = (who, item) => el("span", { class: "told" }, el("strong", {}, `${who}: `), `${placeWords(item.evidence_map, isSideDoubtful)}. `);
  const shown = el("strong", {}, name === NO_FINDING ? "“no finding”" : inProse(name));
  return [el("span", { class: "told what" }, "Where each looked for ", shown, `${cells ? "" : " (smoothed)"}. `), told("A", own), told("B", other)];
}

function placeWords(map, isSideDoubtful) {
  if (map === null) return "no map";
  const { where, times } = peakOf(map, isSideDoubtful);
  if (times < 2) return "everywhere alike, this map points at nothing";
  return `${where}, ${times < 10 ? times.toFixed(1) : times.toFixed(0)} times an equal share`;
}

const which = (side) => el("span", { class: `tag ${side}`, "aria-hidden": "true" }, side.toUpperCase());

/** In how many findings the two differ, in words. */
export function countWords({ a, b, differences }) {
  if (a.abstained && b.abstained) return "Neither model gives an answer about this film.";
  if (a.abstained || b.abstained) return `Only ${a.abstained ? "B" : "A"} gives an answer about this film.`;
  const count = new Set(differences.map((one) => one.observation)).size;
  return count ? `They differ on ${count} of ${a.observations.length} findings.` : "They differ on no finding.";
}

/** What differs, finding by finding; each leads to its bars and maps. */
export function differenceList(comparison, selection) {
  const items = [...grouped(comparison.differences)].map(([name, found]) => el("li", {},
    button(name, () => selection.choose(selection.indexOf(name)), { class: "plain-button" }), ` ${found.map((one) => one.text).join(" ")}`));
  return section("differences", "What differs", el("p", { class: "count" }, countWords(comparison)),
    items.length ? el("ul", { class: "differing" }, items) : null);
}

/** The 14 findings, each with the bar of A above that of B on one scale. */
export function pairBars(comparison, selection) {
  const differing = grouped(comparison.differences);
  const rows = pairItems(comparison).map(({ own, other, name }, index) => pairRow(name, { a: own, b: other }, index, differing.get(name) ?? [], comparison, selection));
  const list = el("ul", { class: "bars pair-bars" }, rows);
  rove(list, ".row", (node) => selection.choose(Number(node.dataset.index)));
  return section("observations", "Findings", el("p", { class: "hint" }, "A above B; the ticks are their thresholds. Choose a finding, or a sentence that names one, to see where each model looked."), list);
}

function grouped(differences) {
  const found = new Map();
  for (const one of differences) found.set(one.observation, [...(found.get(one.observation) ?? []), one]);
  return found;
}

function pairRow(name, items, index, differing, comparison, selection) {
  const kinds = differing.map((one) => KINDS[one.kind]);
  const mark = kinds.length ? el("span", { class: "differs" }, el("span", { class: "heard" }, "differs: "), el("span", { "aria-hidden": "true" }, "≠ "), kinds.join(", ")) : null;
  return el("li", {},
    el("button", { type: "button", class: kinds.length ? "row pair differing-row" : "row pair", "data-index": index, "aria-pressed": "false", onclick: () => selection.choose(index) },
      el("span", { class: "name" }, name, mark), SIDES.map((side) => line(side, items[side], comparison[side].abstained))));
}

function line(side, item, isAbstained) {
  const who = [which(side), el("span", { class: "heard" }, `${side.toUpperCase()}: `)];
  if (isAbstained) return el("span", { class: "line" }, who, el("span", { class: "nohead" }, "no answer"));
  const where = item.side && item.state !== "absent" ? `, ${item.side}` : "";
  return el("span", { class: `line ${item.state}` }, who, bar(item),
    el("span", { class: "number" }, item.probability === null ? "–" : item.probability.toFixed(2)), el("span", { class: "state" }, `${wordOf(item)}${where}`));
}

/** One part of both answers beside each other; `make(explanation, side)` gives nodes. */
function both(comparison, kind, make) {
  return el("div", { class: `pair ${kind}` }, SIDES.map((side) => el("div", { class: "half", "data-side": side }, make(comparison[side], side))));
}

const place = (side, id, title) => ({ id: `${id}-${side}`, title: `${side.toUpperCase()}: ${title}` });

/** Who each is, as far as that is told, and its first line. */
export function headlines(comparison) {
  return both(comparison, "headlines", (explanation, side) => el("div", { class: "card first" },
    el("h2", {}, which(side), el("span", { class: "heard" }, side.toUpperCase()), comparison.models ? ` ${comparison.models[side]}` : ""),
    headline(explanation), alerts(explanation, `checks-${side}`)));
}

export function reports(comparison, selection) {
  return markOnly(both(comparison, "reports", (explanation, side) => report(explanation, selection, place(side, "report", "report"))), comparison);
}

export function reasons(comparison, selection) {
  const found = both(comparison, "reasons-pair", (explanation, side) => (explanation.abstained ? [] : rationale(explanation, selection, place(side, "rationale", "rationale"))));
  return markOnly(found, comparison);
}

export const objections = (comparison) => both(comparison, "objections", (explanation, side) => checks(explanation, place(side, "checks", "checks")));

/** Mark the sentences that state what the other model does not. */
function markOnly(root, comparison) {
  for (const side of SIDES) {
    const only = comparison.differences.filter((one) => one.kind === "stated" && one.only === side).map((one) => one.observation);
    for (const node of root.querySelectorAll(`[data-side=${side}] .sentence`)) {
      if (!node.dataset.stated.split("|").some((name) => only.includes(name))) continue;
      node.classList.add("only");
      node.append(el("span", { class: "heard" }, ` (only ${side.toUpperCase()} states this) `));
    }
  }
  return root;
}
