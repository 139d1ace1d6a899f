"use strict";
(function () {
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const rows = all("#observations .row");
  const says = all(".says");
  const namesOf = (sentence) => sentence.dataset.names.split("|");
  const nameOf = (row) => row.querySelector(".name").firstChild.textContent.trim();
  const toggle = document.getElementById("toggle");
  const invert = document.getElementById("invert");
  const opacity = document.getElementById("opacity");
  let shown = rows.findIndex((row) => row.getAttribute("aria-pressed") === "true");
  let visible = true;

  function draw() {
    for (const node of all(".overlay")) node.hidden = !visible || Number(node.dataset.index) !== shown;
    for (const node of all(".where")) node.hidden = Number(node.dataset.index) !== shown;
    rows.forEach((row, index) => row.setAttribute("aria-pressed", String(index === shown)));
    const name = nameOf(rows[shown]);
    for (const entry of all(".rationale li")) entry.classList.toggle("active", entry.dataset.name === name);
    for (const sentence of says) sentence.classList.toggle("active", namesOf(sentence).includes(name));
    if (toggle) toggle.setAttribute("aria-pressed", String(visible));
  }
  function show(index) { shown = (index + rows.length) % rows.length; visible = true; draw(); }
  function flip() { visible = !visible; draw(); }
  function negative() {
    const on = document.querySelector(".stack").classList.toggle("inverted");
    invert.setAttribute("aria-pressed", String(on));
  }
  rows.forEach((row, index) => row.addEventListener("click", () => show(index)));
  for (const entry of all(".rationale li")) {
    entry.addEventListener("mouseenter", () => {
      const index = rows.findIndex((row) => nameOf(row) === entry.dataset.name);
      if (index >= 0) show(index);
    });
  }
  for (const sentence of says) {
    sentence.addEventListener("click", (event) => {
      event.preventDefault();  // film and bars stay in sight
      const names = namesOf(sentence), next = names[(names.indexOf(nameOf(rows[shown])) + 1) % names.length];
      show(rows.findIndex((row) => nameOf(row) === next));
      rows[shown].scrollIntoView({ block: "nearest" });
    });
  }
  if (toggle) {
    toggle.addEventListener("click", flip);
    invert.addEventListener("click", negative);
    opacity.addEventListener("input", () => {
      for (const node of all(".overlay")) node.style.opacity = String(opacity.value / 100);
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
    if (event.key === "h" || event.key === "H") { if (toggle) flip(); }
    else if (event.key === "i" || event.key === "I") { if (invert) negative(); }
    else if (event.target.classList.contains("row") && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      show(shown + (event.key === "ArrowDown" ? 1 : -1));
      rows[shown].focus();
    }
  });
  if (rows.length) draw();
})();
