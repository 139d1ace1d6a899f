// The reading room: puts its parts together. Films come in here and go to the server, the viewer and the reading.

import { ask } from "./api.js";
import { previewOf } from "./dicom_preview.js";
import { at, remembered } from "./dom.js";
import { greyOf, thumbnail } from "./film.js";
import { makeHelp } from "./help.js";
import { bindKeys } from "./keys.js";
import { bindPointers } from "./pointer.js";
import { ReadingPane } from "./reading.js";
import { Selection } from "./selection.js";
import { Studies, Study } from "./studies.js";
import { bindTheme } from "./theme.js";
import { makeTools } from "./tools.js";
import { Viewer } from "./viewer.js";
import { drawWorklist } from "./worklist.js";

const studies = new Studies(), selection = new Selection();
const viewer = new Viewer(at("stage"), at("canvas"));
const shortcuts = { on: remembered.get("keys") !== "off" };
const pane = new ReadingPane(viewer, selection, { retry: (study) => retry(study), remove: (study) => remove(study), commit: (study, marks) => commit(study, marks), alter: (study, url) => showAltered(study, url) });
let current = null;

const readsFirst = () => at("reader-first").checked;
/** Whether the model has to be silent about a study: the reader has asked to go first and has not committed. */
const isSilent = (study) => readsFirst() && study.marks === null && study.explanation === null;

function draw() {
  drawWorklist(studies, current, open, remove);
  pane.status(current);
}

async function open(study) {
  if (study === current && !study.problem) return;
  if (current) current.altered = null;
  current = study;
  pane.clear();
  viewer.close();
  note(null);
  draw();
  if (study.problem) return;
  if (["new", "failed"].includes(study.stage)) {
    if (study.file) preview(study);
    studies.read(study);
  } else {
    if (study.jobId) showPixels(study);
    if (study.stage === "done") answer(study);
  }
}

/** A first look from the file itself, while the server has not decoded it. */
async function preview(study) {
  const found = await previewOf(study.file);
  if (!found || study !== current || study.isShown) return;
  viewer.show(found.head, found.values, study.name);
  note("Preview from the file; the server has not read it yet.");
}

async function showPixels(study) {
  try {
    const { head, values } = await studies.pixels(study);
    study.isShown = true;
    if (study === current) {
      viewer.show(head, values, study.name, true);
      note(head.kind === "display" ? "Full depth is not kept any more for this film: 8 bits at reduced size." : null);
      thumbnail(viewer.film, study.thumbnail);
      draw();
    }
  } catch (error) {
    if (study === current) note(error.message);
  }
}

/** The picture of a slider's step in place of the film; null: the film again, in the window that was set before. */
async function showAltered(study, url) {
  const before = study.altered;
  study.altered = url;
  if (url === null) {
    if (!before) return;
    await showPixels(study);
    if (study === current && !study.altered) viewer.units = study.units;
    return;
  }
  if (!before) study.units = viewer.units;
  const { head, values } = await greyOf(url);
  if (study !== current || study.altered !== url) return;  // the slider has moved on
  viewer.show(head, values, `${study.name}, altered`, true);
  viewer.setWindow({ low: head.low, high: head.high });
  note("An altered film: the slider beside it says how.");
}

function note(text) {
  at("film-note").hidden = text === null;
  at("film-note").textContent = text || "";
}

/** Show the model's answer, or the reader's form where he goes first. */
async function answer(study) {
  if (isSilent(study)) {
    pane.askReader(study);
    return;
  }
  try {
    await studies.explain(study);
    if (study === current) pane.answer(study);
  } catch (error) {
    Object.assign(study, { problem: error.message, stage: "failed", jobId: null });
    draw();
  }
}

async function commit(study, marks) {
  study.marks = marks;
  await answer(study);
  if (study === current) at("reading").focus();
}

function retry(study) {
  Object.assign(study, { problem: null, explanation: null, isShown: false, stage: "new" });
  current = null;
  open(study);
}

async function remove(study) {
  try {
    await studies.remove(study);
  } catch (error) {
    study.problem = error.message;
    draw();
    return;
  }
  if (study === current) {
    current = null;
    pane.clear();
    viewer.close();
    note(null);
  }
  draw();
}

async function take(files) {
  for (const file of files) {
    const isDicom = new TextDecoder("latin1").decode(await file.slice(128, 132).arrayBuffer()) === "DICM";
    const study = new Study({ name: file.name, file, isDicom });
    studies.add(study);
    if (file === files[0]) open(study);
    else studies.read(study);
  }
}

/** The next film of the list, round and round. */
function step(by) {
  const all = studies.all;
  if (!all.length) return;
  const now = all.indexOf(current);
  open(all[now < 0 ? 0 : (now + by + all.length) % all.length]);
}

function bindFiles() {
  at("file").addEventListener("change", () => {
    const files = [...at("file").files];
    at("file").value = "";
    take(files);
  });
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); document.body.classList.add("over"); });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    if (!at("desk").hidden) take([...event.dataTransfer.files]);
  });
}

function bindReaderFirst() {
  at("reader-first").checked = remembered.get("reader-first") === "on";
  at("reader-first").addEventListener("change", () => {
    remembered.set("reader-first", readsFirst() ? "on" : "off");
    if (current && current.stage === "done" && current.explanation === null) answer(current);
  });
}

async function enter(state) {
  at("model").textContent = state.model;
  at("gate").hidden = state.may_ask;
  at("desk").hidden = !state.may_ask;
  pane.takesFeedback = state.feedback;
  if (!state.may_ask) return;
  studies.restore(await ask("/v1/samples"));
  draw();
}

function bindGate() {
  at("gate").addEventListener("submit", async (event) => {
    event.preventDefault();
    at("gate-problem").textContent = "";
    try {
      await enter(await ask("/v1/session", { method: "POST", headers: { Authorization: `Bearer ${at("token").value}` } }));
    } catch (error) {
      at("gate-problem").textContent = error.status === 401 ? "This is not the right token." : error.message;
    }
  });
}

studies.addEventListener("change", ({ detail: study }) => {
  draw();
  if (study === current && study.stage === "done") answer(study);
});
studies.addEventListener("pixels", ({ detail: study }) => { if (study === current) showPixels(study); });

const tools = makeTools(viewer, { toggleEvidence: () => selection.toggle(), toggleCells: () => viewer.showCells(!viewer.evidence.cells) });
bindTheme();
bindFiles();
bindReaderFirst();
bindGate();
bindPointers(viewer, tools.isMoving);
bindKeys({ viewer, selection, tools, shortcuts, step, help: makeHelp(shortcuts) });
ask("/v1/session").then(enter).catch((error) => {
  at("problem").hidden = false;
  at("problem").textContent = error.message;
});
