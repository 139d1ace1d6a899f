// The film with a finding taken away. Nothing is offered here yet.

/** Mount into an empty element: {sample, explanation, ask, onReading}; `onReading(explanation)` shows another reading. */
export function mountCounterfactual(element, { sample, explanation, ask, onReading }) {
  void [element, sample, explanation, ask, onReading];
}
