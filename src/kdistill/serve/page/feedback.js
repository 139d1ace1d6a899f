// What a reader says of an answer. Nothing is asked here yet.

/** Mount into an empty element: {resultId, explanation, ask}. */
export function mountFeedback(element, { resultId, explanation, ask }) {
  void [element, resultId, explanation, ask];
}
