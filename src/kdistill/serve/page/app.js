"use strict";
(function () {
  const at = (id) => document.getElementById(id);
  const WORDS = { sending: "Sending the image", waiting: "Waiting for the model", reading: "The model reads it", done: "Done", failed: "The model failed on this image", expired: "It waited too long" };
  let latest = 0;
  let whatIf = null;

  async function ask(path, options) {
    const answer = await fetch(path, { credentials: "same-origin", ...options });
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    let why = `The server answered ${answer.status}.`;
    try { why = (await answer.json()).detail || why; } catch (_) { /* no JSON: the status says it */ }
    const wait = answer.headers.get("Retry-After");
    throw new Error(wait ? `${why} (in ${wait} s)` : why);
  }

  function stage(name) {
    const list = at("stages");
    for (const item of list.children) item.className = "";
    const item = document.createElement("li");
    item.textContent = WORDS[name];
    item.className = name === "done" ? "" : "now";
    list.append(item);
  }

  function begin() {
    latest += 1;
    at("stages").replaceChildren();
    at("problem").textContent = "";
    close();  // an old answer must not stand beside a new image's name or error
    return latest;
  }

  function close() {
    if (whatIf !== null) whatIf.close();
    whatIf = null;
    at("what-if").hidden = true;
    at("read").removeAttribute("src");
    at("page").hidden = true;
    at("page").removeAttribute("src");
    at("tools").hidden = true;
    at("empty").hidden = false;
  }

  function press(chosen) {
    for (const button of at("samples").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button === chosen));
  }

  function follow(job, turn) {
    return new Promise((resolve, reject) => {
      const source = new EventSource(`/v1/jobs/${job.id}/events`);
      source.addEventListener("stage", (event) => {
        const state = JSON.parse(event.data);
        if (turn !== latest) { source.close(); resolve(null); return; }
        stage(state.stage);
        if (state.stage === "done") { source.close(); resolve(state); }
        else if (state.stage === "failed" || state.stage === "expired") { source.close(); reject(new Error(`${WORDS[state.stage]}. Send it again.`)); }
      });
      source.onerror = () => { source.close(); reject(new Error("The connection was lost. Send it again.")); };
    });
  }

  function link(id, job, kind, shown) { at(id).href = `/v1/results/${job.id}/${kind}`; at(id).hidden = !shown; }

  function show(job, title, isDicom, sample) {
    at("empty").hidden = true;
    at("tools").hidden = false;
    at("shown").textContent = title;
    link("json", job, "json", true); link("pdf", job, "pdf", true); link("fhir", job, "fhir", true);
    link("sr", job, "dicom-sr", isDicom); link("sc", job, "dicom-sc", isDicom);
    at("page").hidden = false;
    at("page").src = `/v1/results/${job.id}/html`;
    at("truth").hidden = true;
    at("reveal").hidden = sample === null;
    at("reveal").setAttribute("aria-expanded", "false");
    at("reveal").onclick = () => reveal(sample);
    at("forget").onclick = () => forget(job);
    offerWhatIf(job, sample, latest);
  }

  async function offerWhatIf(job, sample, turn) {
    const { mountCounterfactual } = await import("/page/counterfactual.js");
    const explanation = await ask(`/v1/results/${job.id}`);
    if (turn !== latest) return;
    const onReading = (read, pixels, step) => {
      at("read").src = pixels;
      const item = read.observations.find((one) => one.name === step.observation);
      at("read-as").textContent = `${read.study_id}: ${item.probability}`;
    };
    whatIf = mountCounterfactual(at("counterfactual"), { sample, resultId: job.id, explanation, ask, onReading });
    at("what-if").hidden = false;
  }

  async function reveal(sample) {
    const turn = latest;
    const known = await ask(`/v1/samples/${sample}/truth`);
    if (turn !== latest) return;
    const names = known.present === null ? "not known" : known.present.join(", ") || "nothing";
    at("truth").textContent = `Present: ${names}.\nReport: ${known.report || "none"}`;
    at("truth").hidden = false;
    at("reveal").setAttribute("aria-expanded", "true");
  }

  async function forget(job) {
    const turn = latest;
    await ask(`/v1/results/${job.id}`, { method: "DELETE" });
    if (turn !== latest) return;
    close();
    press(null);
    at("stages").replaceChildren();
  }

  async function run(start, title, isDicom, sample) {
    const turn = begin();
    try {
      stage("sending");
      const state = await follow(await start(), turn);
      if (state !== null) show(state, title, isDicom, sample);
    } catch (error) {
      if (turn === latest) { at("stages").replaceChildren(); at("problem").textContent = error.message; }
    }
  }

  async function isDicom(file) {
    return new TextDecoder("latin1").decode(await file.slice(128, 132).arrayBuffer()) === "DICM";
  }

  async function send(file) {
    press(null);
    const headers = { "Content-Type": "application/octet-stream" };
    await run(() => ask("/v1/explain", { method: "POST", body: file, headers }), file.name, await isDicom(file), null);
  }

  function offer(samples) {
    at("samples-section").hidden = samples.length === 0;
    at("samples").replaceChildren(...samples.map((sample) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = sample.name;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        press(button);
        run(() => ask(`/v1/samples/${sample.number}/explain`, { method: "POST" }), sample.name, false, sample.number);
      });
      const item = document.createElement("li");
      item.append(button);
      return item;
    }));
  }

  async function open(state) {
    at("model").textContent = state.model;
    at("gate").hidden = state.may_ask;
    at("desk").hidden = !state.may_ask;
    if (state.may_ask) offer(await ask("/v1/samples"));
  }

  const drop = at("drop");
  at("file").addEventListener("change", () => { if (at("file").files[0]) send(at("file").files[0]); at("file").value = ""; });
  drop.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); at("file").click(); } });
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  drop.addEventListener("dragover", () => drop.classList.add("over"));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { drop.classList.remove("over"); if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]); });
  at("gate").addEventListener("submit", async (event) => {
    event.preventDefault();
    at("problem").textContent = "";
    try { await open(await ask("/v1/session", { method: "POST", headers: { Authorization: `Bearer ${at("token").value}` } })); }
    catch (error) { at("token").setCustomValidity(error.message); at("token").reportValidity(); at("token").setCustomValidity(""); }
  });
  ask("/v1/session").then(open).catch((error) => { at("desk").hidden = false; at("problem").textContent = error.message; });
})();
