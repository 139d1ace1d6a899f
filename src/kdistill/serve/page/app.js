// The reading room: puts its parts together. Films come in here and go to the server, the viewer and the reading.

import { ask } from "./api.js";
import { Comparing } from "./compare.js";
import { previewOf } from "./dicom_preview.js";
import { at, remembered } from "./dom.js";
import { filmOf, greyOf, thumbnail } from "./film.js";
import { bindGate } from "./gate.js";
import { makeHelp } from "./help.js";
import { bindFiles } from "./intake.js";
import { bindKeys } from "./keys.js";
import { bindPointers } from "./pointer.js";
import { ReadingPane } from "./reading.js";
import { Selection } from "./selection.js";
import { Studies, Study } from "./studies.js";
import { bindTheme } from "./theme.js";
import { makeTools } from "./tools.js";
import { Twin } from "./twin.js";
import { Viewer } from "./viewer.js";
import { Worklist } from "./worklist.js";

const studies = new Studies(), selection = new Selection();
const viewer = new Viewer(at("stage"), at("canvas"));
const shortcuts = { on: remembered.get("keys") !== "off" };
const pane = new ReadingPane(viewer, selection, { retry: (study) => retry(study), remove: (study) => remove(study), commit: (study, marks) => commit(study, marks), alter: (study, url) => showAltered(study, url), compare: (study) => compare(study, false) });
const comparing = new Comparing(viewer, new Twin(viewer, at("stage-b"), at("canvas-b")), selection, pane, { back: (study) => answerAlone(study), again: (study, blinded) => compare(study, blinded) });
const worklist = new Worklist((study) => open(study), (study) => remove(study));
let current = null, served = "";

const readsFirst = () => at("reader-first").checked;
/** Whether two answers have to be shown under no name: asked for, and none of them has been seen under one. */
const isBlind = (study) => at("blinded").checked && !at("blinded-switch").hidden && study.explanation === null;
/** Whether the model has to be silent about a study: the reader has asked to go first and has not committed. */
const isSilent = (study) => readsFirst() && study.marks === null && study.explanation === null;

function draw() {
  worklist.draw(studies, current);
  pane.status(current);
}

async function open(study) {
  if (study === current && !study.problem) return;
  leave(study);
  draw();
  if (study.problem) return;
  if (study.jobId && study.stage !== "new") showPixels(study);
  else if (study.file) preview(study);
  if (["new", "failed"].includes(study.stage)) studies.read(study);
  else if (study.stage === "done") answer(study);
}

/** Nothing of the film before stays on show; `next` is what comes, or null. */
function leave(next) {
  if (current) Object.assign(current, { altered: null, own: null, isShown: false });
  current = next;
  comparing.close();
  pane.clear();
  leaveEmpty();
  at("model").textContent = served;
}

function leaveEmpty() {
  viewer.close();
  note(null);
  at("empty").hidden = current !== null;  // one whose pixels are still to come is open
}

/** A first look from the file itself, while the server has not decoded it. */
async function preview(study) {
  const found = await previewOf(study.file);
  if (!found || study !== current || study.isShown || study.problem) return;
  viewer.show(found.head, found.values, study.name);
  note("Preview from the file; the server has not read it yet.");
}

async function showPixels(study) {
  const { jobId } = study;
  try {
    const { head, values } = await studies.pixels(study);
    if (study !== current || study.jobId !== jobId) return;
    const film = filmOf(head, values);
    study.isShown = true;
    if (study.altered) Object.assign(study.own, { film, window: { low: film.low, high: film.high } });
    else showFilm(study, film);
    thumbnail(film, study.thumbnail);
    study.isDrawn = true;
    draw();
  } catch (error) {
    if (study === current && study.jobId === jobId) note(error.message);
  }
}

function showFilm(study, film) {
  viewer.put(film, study.name, true);
  note(film.head.kind === "display" ? "Full depth is not kept any more for this film: 8 bits at reduced size." : null);
}

/**
 * The picture of a slider's step in place of the film; null: the film again, in the window that was set before.
 * The film itself is kept here for as long: nothing that comes late can take the place of what the slider shows.
 */
async function showAltered(study, url) {
  if (study !== current) return;
  study.altered = url;
  if (url === null) {
    const own = study.own;
    study.own = null;
    if (own && own.film) {
      showFilm(study, own.film);
      viewer.setWindow(own.window);
    } else if (own) leaveEmpty();
    return;
  }
  study.own ??= { film: viewer.film, window: viewer.window };
  const grey = await greyOf(url).catch(() => null);
  if (study !== current || study.altered !== url) return;  // the slider has moved on
  note(grey ? "An altered film: the slider beside it says how." : "The altered film cannot be shown: what you see is not what was read.");
  if (!grey) return;
  viewer.show(grey.head, grey.values, `${study.name}, altered`, true);
  viewer.setWindow({ low: grey.head.low, high: grey.head.high });
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
  if (isBlind(study)) {
    if (await compare(study, true)) return;
    study.wasSeen = true;
  }
  await answerAlone(study);
}

/** One model's answer; after a comparison, too. */
async function answerAlone(study) {
  const back = comparing.isOpen;
  try {
    await studies.explain(study);
    draw();  // the list says where there is no answer
    if (study !== current) return;
    comparing.close();
    at("model").textContent = study.explanation.model;  // whoever answers by now, this is whose answer it is
    pane.answer(study);
    if (back) at("reading").focus();  // the button that was pressed has gone
  } catch (error) {
    studies.fail(study, error);
  }
}

/** Both models' answers; false where an answer has been seen, so that nothing can be blinded any more. */
async function compare(study, blinded) {
  if (study.altered) await showAltered(study, null);
  const hadFocus = document.activeElement !== document.body;
  try {
    await comparing.open(study, blinded);
    if (study === current && hadFocus && document.activeElement === document.body) at("reading").focus();
    return true;
  } catch (error) {
    if (study !== current) return true;
    if (blinded && error.status === 409) return false;
    if (error.status === 404) {
      leave(study);
      studies.fail(study, error);
    } else comparing.fail(study, error, blinded);
    return true;
  }
}

/** From one answer to two, and back once the names are known. */
function toggleComparison() {
  if (comparing.isOpen) {
    if (comparing.isNamed) answerAlone(current);
  } else if (pane.against && current && current.explanation && current.stage === "done") compare(current, false);
}

async function commit(study, marks) {
  study.marks = marks;
  await answer(study);
  if (study === current) at("reading").focus();
}

function retry(study) {
  Object.assign(study, { problem: null, explanation: null, stage: "new" });
  leave(null);
  open(study);
  at("reading").focus();  // the button that was pressed has gone
}

async function remove(study) {
  try {
    await studies.remove(study);
  } catch (error) {
    study.problem = error.message;
    draw();
    return;
  }
  if (study === current) leave(null);
  draw();
  if (document.activeElement === document.body) at("file").focus();  // the button that was pressed has gone
}

async function take(files) {
  await entered;  // what the server offers is known by then, feedback among it
  for (const file of files) {
    const start = await file.slice(128, 132).arrayBuffer().catch(() => new ArrayBuffer(0));  // a folder, or gone: said when sent
    const isDicom = new TextDecoder("latin1").decode(start) === "DICM";
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

function bindReaderFirst() {
  at("reader-first").checked = remembered.get("reader-first") === "on";
  at("reader-first").addEventListener("change", () => {
    remembered.set("reader-first", readsFirst() ? "on" : "off");
    if (current && current.stage === "done" && current.explanation === null) answer(current);
  });
}

/** Whether a second model is there to compare with; blinding needs a place for the preference. */
async function offerComparison(state) {
  const { against } = await ask("/v1/model").catch(() => ({ against: null }));
  pane.against = against;
  at("blinded-switch").hidden = !(against && state.feedback);
  at("blinded").checked = remembered.get("blinded") === "on";
}

function bindBlinded() {
  at("blinded").addEventListener("change", () => {
    remembered.set("blinded", at("blinded").checked ? "on" : "off");
    if (current && current.stage === "done" && (comparing.isOpen ? !comparing.isNamed : current.explanation === null)) answer(current);
  });
}

async function enter(state) {
  served = state.model;
  at("model").textContent = served;
  at("gate").hidden = state.may_ask;
  at("desk").hidden = !state.may_ask;
  pane.takesFeedback = state.feedback;
  if (!state.may_ask) return;
  await offerComparison(state);
  const samples = await ask("/v1/samples").catch((error) => error);
  studies.restore(Array.isArray(samples) ? samples : []);
  draw();
  if (!Array.isArray(samples)) complain(samples);
}

function complain(error) {
  at("problem").hidden = false;
  at("problem").textContent = error.message;
}

studies.addEventListener("change", ({ detail: study }) => {
  draw();
  if (study === current && study.stage === "done" && studies.all.includes(study)) answer(study);  // else it has been deleted
});
studies.addEventListener("pixels", ({ detail: study }) => { if (study === current) showPixels(study); });

const tools = makeTools(viewer, { toggleEvidence: () => selection.toggle(), toggleCells: () => viewer.showCells(!viewer.evidence.cells) });
bindTheme();
bindFiles(take);
bindReaderFirst();
bindBlinded();
bindGate(enter);
bindPointers(viewer, tools.isMoving);
bindPointers(viewer, tools.isMoving, at("stage-b"));
bindKeys({ viewer, selection, tools, shortcuts, step, help: makeHelp(shortcuts), compare: toggleComparison });
const entered = ask("/v1/session").then(enter).catch(complain);
