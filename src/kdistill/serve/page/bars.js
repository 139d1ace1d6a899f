// The answer in one line, and the 14 bars behind it.

import { el, section, svg } from "./dom.js";
import { rove } from "./roving.js";
import { NO_FINDING, inProse, named, wordOf } from "./words.js";

const DEVICES = "Support Devices";

/** Normal or abnormal in one line, before anything else. An abstention states nothing. */
export function headline(explanation) {
  if (explanation.abstained) {
    const reasons = explanation.flags.filter((flag) => ["implausible_image", "all_indeterminate"].includes(flag.code));
    return el("p", { class: "headline abstained" }, el("strong", {}, "No answer. "), reasons.map((flag) => flag.text).join(" "));
  }
  const of = (state) => explanation.observations.filter((item) => item.state === state && item.name !== NO_FINDING);
  const high = of("present"), unsure = of("uncertain");
  const where = explanation.observations.some((item) => item.probability === null) ? " stated" : " above its threshold";
  if (high.some((item) => item.name !== DEVICES)) {
    const line = el("p", { class: "headline abnormal" }, el("strong", {}, "Abnormal: "), high.map(named).join(", "));
    if (unsure.length) line.append(el("span", { class: "unsure" }, `Indeterminate: ${unsure.map(named).join(", ")}`));
    return line;
  }
  // What is indeterminate may lie above its threshold: then "no abnormality" holds for the others only.
  const line = unsure.length
    ? el("p", { class: "headline undecided" }, el("strong", {}, "Indeterminate: "), unsure.map(named).join(", "), el("span", { class: "unsure" }, `No other abnormality${where}`))
    : el("p", { class: "headline normal" }, el("strong", {}, "No abnormality"), where);
  if (high.length) line.append("; support devices");  // a device is no abnormality of the chest
  return line;
}

/** The bars; `marks` are what the reader saw first (null: he was not asked). */
export function bars(explanation, selection, marks) {
  const doubted = new Set(explanation.flags.map((flag) => flag.observation));
  const rows = explanation.observations.map((item, index) => row(item, index, selection, marks, doubted.has(item.name)));
  const list = el("ul", { class: marks ? "bars compared" : "bars" }, rows);
  rove(list, ".row", (node) => selection.choose(Number(node.dataset.index)));
  const hint = el("p", { class: "hint" }, "Choose a finding to see where the model looked for it. The tick is its threshold.");
  return section("observations", "Findings", hint, marks ? comparison(explanation, marks) : null, list);
}

function row(item, index, selection, marks, isDoubted) {
  const number = item.probability === null ? "–" : item.probability.toFixed(2);
  const side = item.side && item.state !== "absent" ? el("span", { class: "body-side" }, ` ${item.side}`) : null;
  return el("li", {},
    el("button", { type: "button", class: `row ${item.state}`, "data-index": index, "aria-pressed": "false", onclick: () => selection.choose(index) },
      el("span", { class: "name" }, item.name, side, isDoubted ? el("span", { class: "doubt", title: "A check objects" }, " !", el("span", { class: "heard" }, " a check objects")) : null), bar(item),
      el("span", { class: "number" }, number), el("span", { class: "state" }, wordOf(item)),
      marks ? mine(item, marks[item.name]) : null));
}

/** A probability and the tick of its threshold. */
export function bar(item) {
  if (item.probability === null || item.threshold === null) return el("span", { class: "nohead" }, "no classifier");
  const label = `probability ${item.probability.toFixed(2)}, threshold ${item.threshold.toFixed(2)}`;
  const tick = Math.min(Math.max(100 * item.threshold, 0.8), 99.2);
  return svg("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img", "aria-label": label, class: "bar" },
    svg("rect", { class: "track", x: 0, y: 2, width: 100, height: 8 }),
    svg("rect", { class: "fill", x: 0, y: 2, width: 100 * item.probability, height: 8 }),
    svg("line", { class: "tick", x1: tick, x2: tick, y1: 0, y2: 12, "vector-effect": "non-scaling-stroke" }));
}

const SAW = { present: "present", absent: "absent", uncertain: "unsure" };

function mine(item, mark) {
  const differs = mark !== item.state;
  return el("span", { class: differs ? "mine differs" : "mine" }, el("span", { class: "heard" }, " you: "), `${differs ? "≠" : "="} ${SAW[mark]}`);
}

function comparison(explanation, marks) {
  const differing = explanation.observations.filter((item) => marks[item.name] !== item.state);
  const text = differing.length
    ? `You and the model differ on ${differing.length} of ${explanation.observations.length}: ${differing.map((item) => inProse(item.name)).join(", ")}.`
    : "You and the model agree on every finding.";
  return el("p", { class: "comparison" }, text, el("span", { class: "soft" }, " What you marked stands last in each row."));
}

/** Keep the bars in step with what is chosen. */
export function markBars(root, selection) {
  for (const node of root.querySelectorAll(".row")) {
    const index = Number(node.dataset.index);
    node.setAttribute("aria-pressed", String(index === selection.chosen));
    node.classList.toggle("glimpsed", index === selection.glimpsed);
  }
}
