// The films of this tab and what becomes of each. Only ids and names are remembered, here and nowhere else.

import { Refused, ask, askPixels, follow, sendFile } from "./api.js";
import { remembered } from "./dom.js";

/** Refusals of the file itself; 410 where there is no file any more. */
const FINAL = [400, 410, 413, 415];
const GONE = "This film is not on the server any more (results are deleted after an hour). Open it again.";
const UNREADABLE = "This file cannot be read: it is a folder, or was moved, changed or deleted. Open it again.";
/** Of six connections that a browser opens to a server: an open stream holds one for as long as a film waits. */
const MAX_FOLLOWED = 2;

/** Lets so many in at a time; the others wait in their order. */
class Door {
  constructor(room) { Object.assign(this, { room, waiting: [] }); }

  async within(act) {
    if (this.room > 0) this.room -= 1;
    else await new Promise((resolve) => this.waiting.push(resolve));
    try {
      return await act();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.room += 1;
    }
  }
}

/** One film: an upload or a sample. `stage` as in STAGE_WORDS; `problem` is a sentence. */
export class Study {
  constructor({ name, sample = null, file = null, isDicom = false, jobId = null }) {
    Object.assign(this, { name, sample, file, isDicom, jobId });
    this.stage = "new";
    this.problem = null;
    this.isFinal = false;  // whether sending it again would be in vain
    this.explanation = null;
    this.provenance = null;
    this.marks = null;
    this.draft = {};  // marks that are not committed yet
    this.altered = this.own = null;  // the slider's picture, and the film that it stands before
    this.wasSeen = false;  // whether a blinded comparison came too late
    this.isShown = false;  // whether the server's pixels are on show
    this.isDrawn = false;  // whether its thumbnail is
    this.thumbnail = document.createElement("canvas");
    this.thumbnail.width = this.thumbnail.height = 40;
    this.giveUp = new AbortController();
  }
}

/** Tells "change" (a study moved on; event.detail is the study) and "pixels" (its pixels can be asked for). */
export class Studies extends EventTarget {
  constructor() {
    super();
    this.samples = [];
    this.uploads = [];
    this.known = parsed(remembered.get("studies"));  // now: whatever is sent before `restore` is remembered in its place
    this.sending = Promise.resolve();
    this.followed = new Door(MAX_FOLLOWED);
  }

  get all() { return [...this.uploads, ...this.samples]; }

  /** Samples on offer, and the uploads that this tab had before it was loaded again. */
  restore(samples) {
    const known = this.known;
    const before = new Map(known.filter((one) => one.sample !== null).map((one) => [one.sample, one.jobId]));
    this.samples = samples.map(({ number, name }) => new Study({ name, sample: number, jobId: before.get(number) ?? null }));
    const here = new Set(this.uploads.map((study) => study.jobId));  // a film may be sent before the samples are known
    this.uploads.push(...known.filter((one) => one.sample === null && !here.has(one.jobId)).map((one) => new Study(one)));
  }

  remember() {
    const known = this.all.filter((study) => study.jobId).map(({ name, sample, isDicom, jobId }) => ({ name, sample, isDicom, jobId }));
    remembered.set("studies", JSON.stringify(known));
  }

  add(study) {
    this.uploads.unshift(study);
    this.tell("change", study);
  }

  tell(kind, study) { this.dispatchEvent(new CustomEvent(kind, { detail: study })); }

  move(study, stage) {
    study.stage = stage;
    this.tell("change", study);
  }

  /** Take a study to its end: send it if need be, follow it, say what went wrong. One at a time is sent. */
  async read(study) {
    if (["sending", "waiting", "reading", "done"].includes(study.stage)) return;
    const { signal } = study.giveUp;
    study.problem = null;
    this.move(study, "sending");
    try {
      if (!(await this.isKnown(study))) await this.send(study, signal);
      this.tell("pixels", study);
      this.move(study, "waiting");
      const told = (stage) => { if (stage in { waiting: 1, reading: 1 } && stage !== study.stage) this.move(study, stage); };
      await this.followed.within(() => follow(study.jobId, told, signal));
      this.move(study, "done");
    } catch (error) {
      if (error.name !== "AbortError") this.fail(study, error);
    }
  }

  /** Say what went wrong. Where nobody answered the film may still be there: it stays known, to be asked for or deleted. */
  fail(study, error) {
    study.problem = error.message;
    study.isFinal = FINAL.includes(error.status);
    if (error.status && study.jobId) {
      ask(`/v1/results/${study.jobId}`, { method: "DELETE" }).catch(() => {});  // gone already, or ends by itself
      study.jobId = null;
    }
    this.remember();
    this.move(study, "failed");
  }

  /** Whether the server still has a film that this tab sent earlier. */
  async isKnown(study) {
    if (!study.jobId) return false;
    try {
      await ask(`/v1/jobs/${study.jobId}`);
      return true;
    } catch (error) {
      if (error.status === 404) return false;
      throw error;
    }
  }

  async send(study, signal) {
    const turn = this.sending.then(() => this.post(study, signal));
    this.sending = turn.catch(() => {});
    study.jobId = (await turn).id;
    this.remember();
  }

  async post(study, signal) {
    if (study.sample !== null) return ask(`/v1/samples/${study.sample}/explain`, { method: "POST", signal });
    if (!study.file) throw new Refused(GONE, 410);
    await study.file.slice(0, 1).arrayBuffer().catch(() => { throw new Refused(UNREADABLE, 410); });
    return sendFile(study.file, signal);
  }

  pixels(study) { return askPixels(study.jobId); }

  /** The model's answer; asked for only when it is to be shown. */
  async explain(study) {
    if (!study.explanation) {
      const [explanation, provenance] = await Promise.all([
        ask(`/v1/results/${study.jobId}`), ask(`/v1/results/${study.jobId}/provenance`),
      ]);
      Object.assign(study, { explanation, provenance });
    }
    return study.explanation;
  }

  /** Forget a film here and on the server. A sample goes back to "not read". */
  async remove(study) {
    study.giveUp.abort();
    if (study.jobId) await ask(`/v1/results/${study.jobId}`, { method: "DELETE" }).catch((error) => { if (error.status !== 404) throw error; });
    if (study.sample === null) this.uploads = this.uploads.filter((one) => one !== study);
    else this.samples = this.samples.map((one) => (one === study ? new Study({ name: study.name, sample: study.sample }) : one));
    this.remember();
    this.tell("change", study);
  }
}

function parsed(text) {
  try { return JSON.parse(text || "[]"); } catch { return []; }
}
