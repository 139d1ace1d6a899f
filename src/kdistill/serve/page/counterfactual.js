/* What if it were not there? A finding fades from the film, and probability, map and sentences are watched.

   mountCounterfactual(element, { sample, resultId, explanation, ask, onReading }) fills `element` and returns
   { close }; it also ends where the element is taken off the page. `sample` is null for an upload; without a
   `resultId` nothing is offered to blur. `ask(path, options)` answers with JSON or throws. `onReading(explanation,
   pixelsUrl, step)` is called at each move of the slider: pixelsUrl is a data: URL of the picture that was read, step
   is { strength, resultId, observation, kind }. At strength 1 it is the film as it is, and `explanation` the very
   object that was given. */

import { OTHER_MODEL, OTHER_SAMPLES, wordOf } from "./words.js";

const POLL_MS = 150;
const STATES = { failed: "The model failed on one of the images; ask again.", expired: "The images waited too long; ask again." };
const SVG = new DOMParser().parseFromString("<svg></svg>", "text/html").querySelector("svg").namespaceURI;
const CHART = { width: 340, height: 132, left: 30, right: 10, top: 10, bottom: 24 };

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(tag, attributes, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const number = (value) => (value === null ? "no probability" : value.toFixed(2));
const reading = (explanation, name) => explanation.observations.find((item) => item.name === name);

function strengthWords(strength, kind) {
  if (strength === 1) return "as it is";
  if (strength === 0) return kind === "removed" ? "gone" : "blurred";
  return `at ${Math.round(strength * 100)}%`;
}

/* A data: URL, since the page's policy lets pictures come from there and a second look must cost nothing. */
async function picture(path) {
  const answer = await fetch(path, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
  const blob = await answer.blob();
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("A picture could not be read."));
    reader.readAsDataURL(blob);
  });
}

const sentences = (text) => text.split(/(?<=[.!?])\s+/).filter((part) => part.trim() !== "");

function textsOf(explanation) {
  return [
    ["Findings", sentences(explanation.findings)],
    ["Impression", sentences(explanation.impression)],
    ["Rationale", explanation.rationale.map((sentence) => sentence.text)],
  ];
}

/* [kind, sentence] in reading order by the longest common subsequence: "same", "gone" or "new". */
export function compare(before, after) {
  const long = Array.from({ length: before.length + 1 }, () => new Array(after.length + 1).fill(0));
  for (let i = before.length - 1; i >= 0; i -= 1) {
    for (let j = after.length - 1; j >= 0; j -= 1) {
      long[i][j] = before[i] === after[j] ? long[i + 1][j + 1] + 1 : Math.max(long[i + 1][j], long[i][j + 1]);
    }
  }
  const found = [];
  let i = 0;
  let j = 0;
  while (i < before.length || j < after.length) {
    if (i < before.length && j < after.length && before[i] === after[j]) { found.push(["same", before[i]]); i += 1; j += 1; }
    else if (i < before.length && (j === after.length || long[i + 1][j] >= long[i][j + 1])) { found.push(["gone", before[i]]); i += 1; }
    else { found.push(["new", after[j]]); j += 1; }
  }
  return found;
}

function marked([kind, sentence]) {
  if (kind === "same") return make("span", {}, sentence);
  const hidden = make("span", { class: "cf-hidden" }, kind === "gone" ? "gone: " : "new: ");
  return make(kind === "gone" ? "del" : "ins", {}, hidden, sentence);
}

/* Probability against the slider: the film as it is on the left, without the finding on the right. */
function chartOf(steps, name) {
  const points = steps.map((step) => reading(step.explanation, name).probability);
  const threshold = reading(steps[0].explanation, name).threshold;
  const { width, height, left, right, top, bottom } = CHART;
  const across = (index) => left + ((width - left - right) * index) / (steps.length - 1);
  const up = (value) => top + (height - top - bottom) * (1 - value);
  const told = steps.map((step, index) => `${strengthWords(step.strength, step.kind)} ${number(points[index])}`).join(", ");
  const label = `Probability of ${name}: ${told}; threshold ${number(threshold)}`;
  const svg = draw("svg", { class: "cf-chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const value of [0, 0.5, 1]) {
    svg.append(draw("line", { class: "cf-grid", x1: left, x2: width - right, y1: up(value), y2: up(value) }));
    svg.append(draw("text", { class: "cf-tick", x: left - 5, y: up(value) + 4, "text-anchor": "end" }, String(value)));
  }
  svg.append(draw("text", { class: "cf-tick", x: left, y: height - 6 }, "as it is"));
  svg.append(draw("text", { class: "cf-tick", x: width - right, y: height - 6, "text-anchor": "end" }, strengthWords(0, steps[0].kind)));
  svg.append(draw("line", { class: "cf-threshold", x1: left, x2: width - right, y1: up(threshold), y2: up(threshold) }));
  const below = threshold > 0.85;
  svg.append(draw("text", { class: "cf-tick", x: width - right, y: up(threshold) + (below ? 12 : -4), "text-anchor": "end" }, `threshold ${number(threshold)}`));
  svg.append(draw("polyline", { class: "cf-line", points: points.map((value, index) => `${across(index)},${up(value)}`).join(" ") }));
  const dots = points.map((value, index) => draw("circle", { class: "cf-dot", cx: across(index), cy: up(value), r: 3 }));
  svg.append(...dots);
  const mark = (shown) => dots.forEach((dot, index) => {
    dot.setAttribute("r", index === shown ? 6 : 3);
    dot.classList.toggle("cf-shown", index === shown);
  });
  return { svg, mark };
}

function optionsOf(explanation) {
  if (explanation.abstained) return [];
  const rank = { present: 0, uncertain: 1, absent: 2 };
  return explanation.observations
    .filter((item) => item.evidence_map !== null && item.name !== "No Finding")
    .sort((one, other) => rank[one.state] - rank[other.state])
    .map((item) => make("option", { value: `occluded/${item.name}` }, `${item.name} (${number(item.probability)}, ${wordOf(item)})`));
}

function controls() {
  const parts = {
    offer: make("button", { type: "button", class: "cf-offer" }, "Take a finding away (tells what is present)"),
    choice: make("select", { id: "cf-choice" }),
    start: make("button", { type: "button", class: "cf-start" }, "Show what changes"),
    state: make("p", { class: "cf-state", role: "status" }),
    problem: make("p", { class: "cf-problem", role: "alert" }),
    summary: make("p", { class: "cf-summary", id: "cf-summary" }),
    slider: make("input", { id: "cf-slider", type: "range", min: "0", step: "1", value: "0", "aria-describedby": "cf-summary" }),
    shown: make("output", { for: "cf-slider", class: "cf-strength" }),
    now: make("p", { class: "cf-now", role: "status" }),
    chart: make("div"),
    texts: make("div", { class: "cf-texts" }),
    made: make("p", { class: "cf-made" }),
    back: make("button", { type: "button", class: "cf-back" }, "Back to the film as it is"),
  };
  parts.ask = make("div", { class: "cf-ask" }, make("label", { for: "cf-choice" }, "Finding"), parts.choice, parts.start);
  parts.label = make("label", { for: "cf-slider" });
  parts.move = make("div", { class: "cf-move" }, parts.label, parts.slider, parts.shown, parts.back);
  parts.result = make("div", { class: "cf-result", hidden: "" }, parts.summary, parts.move, parts.now, parts.chart, parts.texts, parts.made);
  return parts;
}

export function mountCounterfactual(element, { sample = null, resultId = null, explanation, ask, onReading }) {
  const parts = controls();
  let turn = 0;
  let kept = null;
  const isLate = (mine) => mine !== turn || !element.isConnected;

  function choices(groups) {
    parts.choice.replaceChildren(...groups.filter(([, options]) => options.length > 0).map(([label, options]) => make("optgroup", { label }, ...options)));
    const none = parts.choice.options.length === 0;
    parts.ask.hidden = none;
    return none;
  }

  const blurred = () => ["Blur its evidence (occlusion test)", resultId === null ? [] : optionsOf(explanation)];

  async function offer() {
    parts.offer.disabled = true;
    parts.problem.textContent = "";
    try {
      const { findings, reason, image_sha256 } = await ask(`/v1/samples/${sample}/counterfactuals`);
      if (image_sha256 !== explanation.image_sha256) throw new Error(OTHER_SAMPLES);
      const known = findings.map((item) => make("option", { value: `removed/${item.name}` }, item.side ? `${item.name} (${item.side})` : item.name));
      choices([["Take it away (the same patient, drawn without it)", known], blurred()]);
      parts.offer.hidden = known.length > 0;
      parts.state.textContent = reason || "";
      if (known.length > 0) parts.choice.focus();
    } catch (error) { parts.problem.textContent = error.message; }
    parts.offer.disabled = false;
  }

  function drop() {
    if (kept !== null) ask(`/v1/counterfactuals/${kept}`, { method: "DELETE" }).catch(() => {});  // it ends by itself too
    kept = null;
  }

  async function done(path, mine) {
    let set = await ask(path, { method: "POST" });
    kept = set.id;
    while (!isLate(mine) && (set.stage === "waiting" || set.stage === "reading")) {
      const ready = set.steps.filter((step) => step.stage === "done").length;
      parts.state.textContent = `The model reads ${set.steps.length} images: ${ready} done.`;
      await pause(POLL_MS);
      if (!isLate(mine)) set = await ask(`/v1/counterfactuals/${set.id}`);
    }
    if (isLate(mine)) {
      drop();
      return null;
    }
    if (set.stage !== "done") throw new Error(set.summary || STATES[set.stage]);
    return set;
  }

  async function load(set) {
    return Promise.all(set.steps.map(async (step) => {
      const [read, pixels] = await Promise.all([ask(step.result), picture(step.image)]);
      return { strength: step.strength, kind: set.kind, resultId: step.job, explanation: read, pixels };
    }));
  }

  /* The first step is the film as it is. Where it is not, or another model read it, the rest says nothing about it. */
  function refuseOther([first]) {
    if (first.explanation.image_sha256 !== explanation.image_sha256) throw new Error(OTHER_SAMPLES);
    if (first.explanation.model !== explanation.model) throw new Error(OTHER_MODEL);
  }

  async function start() {
    turn += 1;
    const mine = turn;
    const [kind, name] = parts.choice.value.split("/");
    const from = kind === "removed" ? `/v1/samples/${sample}` : `/v1/results/${resultId}`;
    drop();
    parts.result.hidden = true;
    parts.problem.textContent = "";
    parts.start.disabled = true;
    try {
      const set = await done(`${from}/counterfactuals/${encodeURIComponent(name)}`, mine);
      const steps = set === null ? [] : await load(set);
      if (set !== null && !isLate(mine)) {
        refuseOther(steps);
        show(set, steps);
      }
    } catch (error) {
      if (mine === turn) drop();
      if (mine === turn) { parts.state.textContent = ""; parts.problem.textContent = error.message; }
    }
    if (mine === turn) parts.start.disabled = false;
  }

  function show(set, steps) {
    const name = set.observation;
    const hasNumbers = steps.every((step) => reading(step.explanation, name).probability !== null);
    const chart = hasNumbers ? chartOf(steps, name) : { svg: make("p", {}, "This model gives no probabilities."), mark: () => {} };
    parts.state.textContent = "";
    parts.summary.textContent = set.summary;
    parts.made.textContent = `${set.made} ${set.between}`;
    parts.chart.replaceChildren(chart.svg);
    parts.label.textContent = `From the film as it is to the film ${set.kind === "removed" ? "without the finding" : "with its evidence blurred"}`;
    parts.slider.max = String(steps.length - 1);
    parts.slider.value = "0";
    parts.slider.oninput = () => move(Number(parts.slider.value));
    parts.back.onclick = () => { parts.slider.value = "0"; move(0); parts.slider.focus(); };
    parts.result.hidden = false;

    function move(index) {
      const step = steps[index];
      const item = reading(step.explanation, name);
      const pieces = textsOf(step.explanation).map(([title, now], slot) => [title, compare(textsOf(steps[0].explanation)[slot][1], now)]);
      const count = (kind) => pieces.flatMap(([, list]) => list).filter(([is]) => is === kind).length;
      const words = strengthWords(step.strength, step.kind);
      parts.shown.textContent = words;
      parts.slider.setAttribute("aria-valuetext", words);
      chart.mark(index);
      parts.now.textContent = `${name} ${words}: ${number(item.probability)}, ${wordOf(item)}; sentences gone: ${count("gone")}, new: ${count("new")}.`;
      parts.texts.replaceChildren(...pieces.filter(([, list]) => list.length > 0).flatMap(([title, list]) => [make("h3", {}, title), make("p", {}, ...list.flatMap((piece) => [marked(piece), " "]))]));
      onReading(step.strength === 1 ? explanation : step.explanation, step.pixels, { strength: step.strength, resultId: step.resultId, observation: name, kind: step.kind });
    }
    move(0);
    parts.slider.focus();
  }

  parts.offer.addEventListener("click", offer);
  parts.start.addEventListener("click", start);
  parts.offer.hidden = sample === null;
  const none = choices([blurred()]);
  if (none && sample === null) parts.state.textContent = "The model shows no evidence for this image, so there is nothing to blur.";
  element.replaceChildren(make(
    "section", { class: "cf", "aria-labelledby": "cf-title" },
    make("h2", { id: "cf-title" }, "What if it were not there?"),
    parts.offer, parts.ask, parts.state, parts.problem, parts.result,
  ));
  return { close() { turn += 1; drop(); element.replaceChildren(); } };
}
