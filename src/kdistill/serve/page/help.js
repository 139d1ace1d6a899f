// Keys, and what the words mean.

import { at, button, el, remembered } from "./dom.js";

const KEYS = [
  ["J, K", "next, previous finding"], ["H", "evidence map on or off"], ["C", "the map's cells, not smoothed"], ["Esc", "no finding chosen"],
  ["D, A", "wider, narrower window (less, more contrast)"], ["W, S", "brighter, darker"], ["I", "invert"],
  ["+, −", "larger, smaller"], ["0", "fit"], ["1", "one film pixel on one screen pixel"], ["arrows", "move the film (while it has the focus)"],
  ["M", "drag moves the film, or changes its window"], ["R", "film as it was opened"], ["N, P", "next, previous film"], ["B", "compare two models on this film, or back to one (where the server has two)"], ["?", "this help"],
];
const MOUSE = [
  ["drag", "left and right: width of the window; up and down: brightness"], ["Shift + drag", "move the film (also the middle button, or two fingers)"],
  ["wheel", "zoom to the pointer"], ["double click", "fit"],
];
const MEANINGS = [
  ["high", "the probability is above the finding's threshold, and not close to it"],
  ["indeterminate", "so close to the threshold that a small change of the film could turn the answer round"],
  ["low", "below the threshold; it does not mean that the finding is ruled out"],
  ["evidence map", "the cells that the model's query for this finding attended to; where it looked, not a contour of the finding, and no proof that it looked rightly"],
  ["A, B", "two models' answers about one film; blinded, in an order that is drawn for each film, with the names shown after you have stored which is better"],
  ["no answer", "the model abstained: the film is not one it can read, or every probability is indeterminate"],
  ["R and L", "the patient's right and left, for a film that is stored as it should be; R? and L? where the file or the look of the film says otherwise, or nobody has looked yet"],
];

const list = (pairs, of) => el("dl", { class: "pairs" }, pairs.map(([term, text]) => [el("dt", {}, of(term)), el("dd", {}, text)]));

/** Make the dialog; `shortcuts.on` says whether single keys act. */
export function makeHelp(shortcuts) {
  const dialog = at("help"), box = el("input", { type: "checkbox", id: "single-keys", checked: shortcuts.on });
  box.addEventListener("change", () => { shortcuts.on = box.checked; remembered.set("keys", box.checked ? "on" : "off"); });
  const key = (term) => el("kbd", {}, term);
  dialog.append(
    el("div", { class: "dialog-head" }, el("h2", { id: "help-title" }, "Help"), button("Close", () => dialog.close())),
    el("div", { class: "dialog-body" },
      el("section", {}, el("h3", {}, "Keys"), el("p", {}, el("label", { for: "single-keys" }, box, " Single keys act")), list(KEYS, key),
        el("p", { class: "soft" }, "Tab goes from part to part; arrow keys move inside the findings and the sentences.")),
      el("section", {}, el("h3", {}, "Mouse and touch"), list(MOUSE, key), el("h3", {}, "Words"), list(MEANINGS, (term) => term),
        el("p", { class: "soft" }, "Not for diagnosis, triage or any decision about a patient. This notice cannot be switched off."))));
  at("help-open").addEventListener("click", () => dialog.showModal());
  return dialog;
}
