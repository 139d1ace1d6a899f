// The words of an explanation: states, stages and names, in one place.

export const NO_FINDING = "No Finding";
/** A probability against its threshold. */
export const STATE_WORDS = { present: "high", uncertain: "indeterminate", absent: "low" };
/** A model without a classifier only states or does not. */
export const STATED_WORDS = { present: "stated", uncertain: "hedged", absent: "not stated" };
/** Short enough for one line of the list: an entry that grows or shrinks would push the others from under the pointer. */
export const STAGE_WORDS = {
  new: "not read yet", sending: "being sent", waiting: "waiting", reading: "being read",
  done: "read", failed: "not read",
};
export const STATUS_SENTENCES = {
  new: "", sending: "Sending the film …", waiting: "The film is decoded and waits for the model …",
  reading: "The model reads the film …", done: "The model has read the film.", failed: "",
};

/** A change of the model may bring other samples under the same numbers. */
export const OTHER_SAMPLES = "The server has other samples by now: load the page again.";
export const OTHER_MODEL = "Another model answers by now, so that its readings cannot be compared with this one: delete the result, then read the film again.";

/** As `explain/sides.py` has it: stands beside a model's words where the film may be mirrored or turned. */
export const SIDES_IN_DOUBT = "It is not certain which side of this film is the patient's right: “left” and “right” in the model's words may be the wrong way round.";

/** The name of an observation inside a sentence. */
export const inProse = (name) => (name === "Pleural Other" ? "other pleural abnormality" : name.toLowerCase());

export const named = (item) => (item.side ? `${inProse(item.name)} (${item.side})` : inProse(item.name));

export const wordOf = (item) => (item.probability === null ? STATED_WORDS : STATE_WORDS)[item.state];

const pad = (number) => String(number).padStart(2, "0");

/** A time in the reader's own zone, to the minute. */
export function shownTime(text) {
  const time = new Date(text);
  return `${time.getFullYear()}-${pad(time.getMonth() + 1)}-${pad(time.getDate())} ${pad(time.getHours())}:${pad(time.getMinutes())}`;
}
