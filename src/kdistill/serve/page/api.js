// The server's answers, and its refusals as sentences that say what to do.

/** A refusal: `message` is a sentence for the reader, `status` 0 where nobody answered. */
export class Refused extends Error {
  constructor(message, status, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function reasonOf(answer) {
  try {
    const detail = (await answer.json()).detail;
    return typeof detail === "string" ? detail : "";
  } catch {
    return "";
  }
}

function sentence(status, reason, wait) {
  const said = reason ? reason[0].toUpperCase() + reason.slice(1) : "";
  switch (status) {
    case 401: return "The server wants its access token. Load this page again and enter it.";
    case 404: return said ? `${said}.` : "This film is not there any more. Send it again.";
    case 408: return "The film took too long to arrive. Send it again.";
    case 413: return `This file is ${reason || "too large"}. No film of that size is taken.`;
    case 415: return said || "This file is no film that can be read here.";
    case 429: return `The server is full: too many films wait. Send it again in ${wait || 5} seconds.`;
    case 503: return said ? `${said}.` : "The model cannot be asked at the moment. Send it again.";
    default: return said ? `${said}.` : `The server answered ${status}. Try again.`;
  }
}

async function fetched(path, options) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is it still running?", 0);
  }
  if (answer.ok) return answer;
  const wait = answer.headers.get("Retry-After");
  throw new Refused(sentence(answer.status, await reasonOf(answer), wait), answer.status, wait && Number(wait));
}

/** Ask for JSON (null where the answer is empty). Throws `Refused`. */
export async function ask(path, options = {}) {
  const answer = await fetched(path, options);
  return answer.status === 204 ? null : answer.json();
}

/** Send a file; the job that reads it. The file's name is not sent. */
export const sendFile = (file, signal) =>
  ask("/v1/explain", { method: "POST", body: file, signal, headers: { "Content-Type": "application/octet-stream" } });

/** Pixels of a job's film: {head, values}. Where full depth is not kept any more, the 8-bit picture. */
export async function askPixels(id, kind = "full") {
  try {
    const answer = await fetched(`/v1/results/${id}/pixels?kind=${kind}`);
    const head = JSON.parse(answer.headers.get("X-Pixels"));
    return { head, values: new Uint16Array(await answer.arrayBuffer()) };
  } catch (error) {
    if (kind === "full" && error.status === 404) return askPixels(id, "display");
    throw error;
  }
}

const ENDS = {
  failed: "The model failed on this film. Send it again.",
  expired: "The film waited longer than the server allows. Send it again.",
};

/** Follow a job to its end; each stage is told. Throws `Refused` where it ends without a result. */
export function follow(id, onStage, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const source = new EventSource(`/v1/jobs/${id}/events`);
    const stop = (how, what) => { source.close(); how(what); };
    signal.addEventListener("abort", () => stop(reject, new DOMException("given up", "AbortError")));
    source.addEventListener("stage", (event) => {
      const { stage } = JSON.parse(event.data);
      onStage(stage);
      if (stage === "done") stop(resolve);
      else if (stage in ENDS) stop(reject, new Refused(ENDS[stage], 503));
    });
    source.onerror = () => stop(reject, new Refused("The connection to the server was lost. Send the film again.", 0));
  });
}
