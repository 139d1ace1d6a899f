// Files that are chosen, or dropped anywhere on the page.

import { at } from "./dom.js";

/** `take`: told of the files, while the desk is open. */
export function bindFiles(take) {
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
