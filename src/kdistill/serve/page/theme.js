// Dark, light, or as the system is set. The film itself always lies on black.

import { at, remembered } from "./dom.js";

export function bindTheme() {
  const set = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
  };
  const known = remembered.get("theme", "local") || "auto";
  at("theme").value = known;
  set(known);
  at("theme").addEventListener("change", () => {
    set(at("theme").value);
    remembered.set("theme", at("theme").value, "local");
  });
}
