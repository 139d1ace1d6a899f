// A list that takes one stop of the Tab key; arrow keys move inside it.

/** Make the nodes that `selector` finds in `list` one stop; `onMove(node)` is told of arrow moves. */
export function rove(list, selector, onMove = () => {}) {
  const nodes = () => [...list.querySelectorAll(selector)];
  const stop = (wanted) => { for (const node of nodes()) node.tabIndex = node === wanted ? 0 : -1; };
  const first = nodes()[0];
  if (first) stop(first);
  list.addEventListener("focusin", (event) => { const node = event.target.closest(selector); if (node) stop(node); });
  list.addEventListener("keydown", (event) => {
    const all = nodes(), now = all.indexOf(event.target.closest(selector));
    const to = { ArrowDown: now + 1, ArrowUp: now - 1, Home: 0, End: all.length - 1 }[event.key];
    if (now < 0 || to === undefined || !all[to] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    all[to].focus();
    onMove(all[to]);
  });
}
