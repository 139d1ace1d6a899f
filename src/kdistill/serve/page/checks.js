// What speaks against an answer, what the film is like, where the answer comes from, and what can be taken away.

import { button, el, section } from "./dom.js";
import { OTHER_SAMPLES, shownTime } from "./words.js";

/** Every objection, or that there was none. `place`: {id, title}. */
export function checks(explanation, { id, title } = { id: "checks", title: "Checks" }) {
  if (!explanation.flags.length) {
    return section(id, title, el("p", {}, "None of the checks objected. That is no proof that the answer is right."));
  }
  const items = explanation.flags.map((flag) => el("li", {},
    el("span", { class: "code" }, flag.code.replaceAll("_", " ")), " ",
    flag.observation ? el("strong", {}, `${flag.observation}: `) : null, flag.text));
  return section(id, title, el("ul", { class: "flags" }, items));
}

/** How many checks objected, as a way down to them. */
export function alerts(explanation, id = "checks") {
  const count = explanation.flags.length;
  if (!count) return null;
  const words = count === 1 ? "One check objects to this answer" : `${count} checks object to this answer`;
  return el("p", { class: "alerts" }, el("a", { href: `#${id}` }, explanation.abstained ? "Why there is no answer" : words));
}

/** Every look at the film itself: fit to be read, turned, inverted, lettering. */
export function quality(found, explanation) {
  if (explanation.quality_policy === "off") return section("quality", "Film quality", el("p", {}, "The film was not checked: this server was told not to."));
  if (found.quality === null) {
    return section("quality", "Film quality", el("p", { class: "soft" }, "A sample is checked at the model's size only; what was raised stands under Checks."));
  }
  const raised = found.quality.filter((check) => check.raised);
  const words = raised.length ? raised.map((check) => check.text).join(" ") : `Fit to be read: none of ${found.quality.length} checks was raised.`;
  const rows = found.quality.map((check) => el("tr", { class: check.raised ? "raised" : null },
    el("th", { scope: "row" }, check.kind.replaceAll("_", " ")), el("td", {}, check.score.toFixed(2)),
    el("td", {}, check.raised ? (check.refuses ? "refuses" : "warns") : "not raised")));
  return section("quality", "Film quality", el("p", {}, words),
    el("details", {}, el("summary", {}, "Every check"), el("table", {}, el("tbody", {}, rows))));
}

/** Which weights read which pixels, when and with what. */
export function provenance(found, explanation) {
  const size = found.source_width ? `${found.source_width} × ${found.source_height}, read at ${found.size_px} × ${found.size_px}` : `read at ${found.size_px} × ${found.size_px}`;
  const lines = [
    ["Model", explanation.model], ["Recorded", shownTime(found.recorded)], ["Film", size], ["Film SHA-256", explanation.image_sha256],
    ["Software", `kdistill ${found.kdistill}; ${Object.entries(found.libraries).map(([name, version]) => `${name} ${version}`).join(", ")}`],
    ["Quality policy", explanation.quality_policy],
    ["Thresholds", explanation.observations.map((item) => `${item.name} ${item.threshold === null ? "–" : item.threshold.toFixed(2)}`).join("; ")],
  ];
  return section("provenance", "Provenance", el("details", {}, el("summary", {}, "Model, film, versions, thresholds"),
    el("dl", {}, lines.map(([name, text]) => [el("dt", {}, name), el("dd", { class: "mono" }, text)]))));
}

/** Everything that can be taken away, and "delete". */
export function exportsOf(study, onDelete) {
  const path = (kind) => `/v1/results/${study.jobId}/${kind}`;
  const link = (kind, text) => el("a", { class: "button", href: path(kind), download: "" }, text);
  const page = el("a", { class: "button", href: path("html"), target: "_blank", rel: "noopener" }, "HTML page");
  const dicom = study.isDicom ? [link("dicom-sr", "DICOM-SR"), link("dicom-sc", "DICOM overlay")] : [];
  return section("exports", "Take away", el("p", { class: "buttons" }, link("json", "JSON"), page, link("pdf", "PDF"), link("fhir", "FHIR"), dicom),
    study.isDicom ? null : el("p", { class: "hint" }, "DICOM-SR and overlay are written for DICOM films only."),
    el("p", { class: "buttons" }, button("Delete film and result", onDelete, { class: "danger" })));
}

/** What is known of a sample; told only when it is asked for. */
export function truthOf(study, ask) {
  const told = el("p", { class: "truth", hidden: true, id: "truth" });
  const show = button("Show the truth", async () => {
    told.textContent = await ask(`/v1/samples/${study.sample}/truth`).then((known) => truthWords(known, study), (error) => error.message);
    told.hidden = false;
    show.setAttribute("aria-expanded", "true");
  }, { "aria-expanded": "false", "aria-controls": "truth" });
  return el("div", { class: "truth-part" }, show, told);
}

function truthWords(known, study) {
  if (known.image_sha256 !== study.explanation.image_sha256) return OTHER_SAMPLES;
  const names = known.present === null ? "not known" : known.present.join(", ") || "nothing";
  return `Present: ${names}.\nReport: ${known.report || "none"}`;
}
