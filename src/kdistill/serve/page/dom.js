// Elements made from data. Text always goes in as text: nothing that a model or a file says is ever parsed as HTML.

// A name, not an address: nothing is loaded from it.
const SVG = ["http:", "", "www.w3.org", "2000", "svg"].join("/");

export const at = (id) => document.getElementById(id);

/** Control and bidirectional marks made visible, so that text cannot hide or turn round what stands beside it. */
export function plain(value) {
  return String(value).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : plain(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : plain(child));
  }
  return node;
}

/** An HTML element: el("p", {class: "soft", onclick: f}, "text", otherElement). */
export const el = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

/** An SVG element. */
export const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

export function button(text, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes }, text);
}

/** A titled section of the reading. */
export function section(id, title, ...children) {
  const heading = el("h2", { id: `${id}-title` }, title);
  return el("section", { id, "aria-labelledby": `${id}-title`, class: "card" }, heading, ...children);
}

const store = (kind) => (kind === "local" ? localStorage : sessionStorage);

/** What this tab (or, with "local", this browser) remembers; one that forbids it just forgets. */
export const remembered = {
  get(name, kind = "tab") { try { return store(kind).getItem(`kdistill.${name}`); } catch { return null; } },
  set(name, value, kind = "tab") { try { store(kind).setItem(`kdistill.${name}`, value); } catch { /* forgotten */ } },
};
