// Asks the server, and shows what comes of it
const at = (id) => document.getElementById(id);
const MARKS = { "<think>": "‹", "</think>": "›", "<end>": "■" };
const state = { models: [], asked: null, tokens: [], prompt: "", edits: [], editing: null, chosen: null, result: null, abort: null, hunt: null, sight: null, head: 0, looking: false, busy: false };

// what the server says
function sent(path, more = {}) {
  const key = at("key").value;
  return fetch(path, { ...more, headers: { ...more.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) } });
}

async function post(path, body, abort) {
  const answer = await sent(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: abort?.signal,
  });
  if (!answer.ok) {
    if (answer.status === 401) at("key-box").hidden = false;
    const { error, detail } = await answer.json().catch(() => ({}));
    const again = answer.headers.get("Retry-After");
    const hint = error?.hint || (again ? `try again in ${again} s` : "");
    throw Object.assign(new Error(error?.message || detail || `the server answers ${answer.status}`), { hint });
  }
  return answer;
}

// server-sent events: fetch can post, which EventSource cannot
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const name = /^event: (.*)$/m.exec(part), data = /^data: (.*)$/m.exec(part);
      if (name && data) yield [name[1], JSON.parse(data[1])];
    }
  }
}

function percent(share) {
  if (share > 0.9999) return ">99.99%";
  if (share < 0.0005) return "<0.1%";
  return `${(100 * share).toFixed(share > 0.99 ? 2 : 1)}%`;
}

function failed(error) {
  if (error.name === "AbortError") return;
  at("about").textContent = "";
  at("verdict").className = "failed";
  at("verdict").replaceChildren(make("span", sentence(error.message), { class: "wrong" }));
  if (error.hint) at("verdict").append(make("p", sentence(error.hint)));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

// asking, and going on from a text
async function ask(line, { model = at("model").value, before = [], prompt = "", was = null } = {}) {
  state.abort?.abort();
  const abort = new AbortController(), paper = at("thought");
  // what is below stays where it is until all is there
  paper.style.minHeight = `${Math.min(paper.offsetHeight, 320)}px`;
  Object.assign(state, { abort, asked: was ? state.asked : line, tokens: [...before], result: null, chosen: null, editing: null, sight: null, prompt });
  busy(true);
  at("verdict").textContent = at("kept").textContent = "";
  at("about").textContent = "\u00a0";
  at("problem").removeAttribute("aria-invalid");
  showTokens();
  showOther();
  const temperature = Number(at("temperature").value);
  const body = { expressions: [line], stream: true, temperature, seed: temperature ? Number(at("seed").value) : 0 };
  if (model) body.model = model;
  try {
    for await (const [name, data] of events(await post("/v1/solve", body, abort))) {
      if (name === "token") {
        state.tokens.push({ ...data, fresh: true });
        later();
      } else if (name === "result") {
        state.result = data;
      } else if (name === "error") {
        throw Object.assign(new Error(data.message), { hint: data.hint });
      }
    }
    showResult(was);
  } catch (error) {
    failed(error);
  } finally {
    if (state.abort === abort) {
      busy(false);
      paper.style.minHeight = "";
      if (!solved()) showOther();
    }
  }
}

let slow;
function busy(on) {
  clearTimeout(slow);
  state.busy = on;
  if (on) slow = setTimeout(() => { at("stop").hidden = false; }, 300);
  else at("stop").hidden = true;
}

let waiting = false;
function later() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    if (state.result) return;
    showTokens();
    at("about").textContent = `${state.tokens.length} tokens so far`;
  });
}

function showResult(was) {
  const result = state.result;
  if (!result) return;
  if (result.error) {
    const { message, hint, position } = result.error, line = at("problem");
    showTokens();
    const where = position !== undefined && !was && !/position/.test(message) ? ` (character ${position + 1})` : "";
    failed(Object.assign(new Error(message + where), { hint }));
    if (!was) line.setAttribute("aria-invalid", "true");
    if (position !== undefined && !was && document.activeElement === line) line.setSelectionRange(position, position + 1);
    return;
  }
  state.prompt = `${result.text.split("=")[0]}=`;
  showTokens();
  const said = result.answer === null ? "no number" : result.answer;
  const verdict = make("span", result.correct ? "✓ right" : `✗ wrong: it is ${result.expected}`, { class: result.correct ? "right" : "wrong" });
  const number = make("span", `${result.expression} = ${said} `, { class: "number" });
  at("verdict").className = result.expression.length + said.length > 60 ? "long" : "";
  at("verdict").replaceChildren(number, verdict);
  if (was && !was.error) {
    const before = was.answer === null ? "no number" : was.answer;
    const chance = Number(at("temperature").value) ? " Mind that at this temperature chance has a part in it." : "";
    const follows = before === said ? `The answer does not follow your change: it is ${said}, as before.` : `The answer follows your change: before, it was ${before}.`;
    at("verdict").append(make("p", follows + chance));
  }
  const notes = [`Model ${result.model}`, `${percent(result.confidence)} sure of what it wrote`];
  notes.push({ draft: "the true text was tried first, and each token is the model's own first choice", steps: "written token by token" }[result.decoding] || "the true text as far as it is the model's own, then token by token");
  if (result.finish_reason === "length") notes.push("cut off, since it came to no end");
  if (result.unseen.length) notes.push(`it was never trained on ${result.unseen.join(", or ")}`);
  if (result.stated) notes.push(`you said ${result.stated.answer}: that is ${result.stated.true ? "true" : "not true"}`);
  at("about").textContent = `${notes.join("; ")}.`;
  showOther();
  if (state.looking) look();
}

// browsers allow the clipboard on https and on this machine alone
async function copy(text, said, else_) {
  try {
    await navigator.clipboard.writeText(text);
    at(said).textContent = "Copied.";
  } catch {
    at(said).textContent = else_();
  }
}

// a search for wrong answers
async function hunt() {
  const abort = state.hunt = new AbortController(), started = performance.now();
  const count = Number(at("count").value);
  const body = { kind: at("kind").value, task: at("task").value, digits: Number(at("digits").value), count, seed: Math.floor(Math.random() * 2 ** 31) };
  const model = at("hunted").value || bestFor(body.task, body.digits);
  if (model) body.model = model;
  at("wrong").replaceChildren();
  at("found").textContent = "";
  at("tally").textContent = "Searching …";
  at("done").value = 0;
  at("hunt-stop").hidden = at("done").hidden = false;
  at("hunt-go").disabled = true;
  try {
    for await (const [name, data] of events(await post("/v1/hunt", body, abort))) {
      if (name === "wrong") {
        const item = make("li"), link = make("a", data.expression, { href: `#q=${encodeURIComponent(data.expression)}&m=${encodeURIComponent(model || "")}` });
        item.append(link, ` it says ${data.answer === null ? "no number" : data.answer}, true is ${data.expected}`);
        at("wrong").append(item);
      } else if (name === "progress" || name === "done") {
        const rate = data.tried / ((performance.now() - started) / 1000);
        at("done").value = name === "done" ? 1 : data.tried / count;
        const [low, high] = data.interval95.map((share) => (share > 0.99 && share < 1 ? percent(share) : share.toLocaleString("en", { style: "percent", maximumSignificantDigits: 2 })));
        const bound = `. Of all such problems ${data.wrong ? `${low} to ${high}` : `at most ${high}`} are wrong, with 95% confidence.`;
        at("tally").replaceChildren(make("span", `${data.wrong.toLocaleString("en")} wrong`, { class: data.wrong ? "wrong" : "right" }), ` of ${data.tried.toLocaleString("en")}, by ${model || "the first model"}, ${Math.round(rate).toLocaleString("en")} a second${bound}${data.wrong > 50 ? " The first 50 are listed." : ""}${name === "done" && data.tried < count ? (body.kind === "edge" ? " There are no more." : " The others did not fit this model.") : ""}`);
        // a screen reader hears the end alone
        if (name === "done") at("found").textContent = `The search has ended: ${data.wrong.toLocaleString("en")} wrong of ${data.tried.toLocaleString("en")}.`;
      } else if (name === "error") {
        throw new Error(data.message);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") at("found").textContent = "The search has been stopped.";
    else {
      at("found").textContent = sentence(error.message);
      at("tally").replaceChildren(make("span", sentence(error.message), { class: "wrong" }), ` ${error.hint ? sentence(error.hint) : ""}`);
    }
  } finally {
    at("hunt-stop").hidden = true;
    at("hunt-go").disabled = false;
  }
}

// who has learned a task, with numbers that long if there is one
function bestFor(task, digits) {
  const able = state.models.filter((one) => one.meta.task.split(",").includes(task));
  return (able.find((one) => one.meta.max_digits >= digits) || able.sort((a, b) => b.meta.max_digits - a.meta.max_digits)[0])?.id;
}

// from programs
function snippets() {
  const here = location.origin, model = at("model").value || state.models[0]?.id || "arithmetic", line = at("problem").value || "12*34";
  const json = JSON.stringify({ expressions: [line] }), quoted = JSON.stringify(line);
  return {
    curl: `curl ${here}/v1/solve -H 'Content-Type: application/json' \\\n  -d '${json.replaceAll("'", "'\\''")}'`,
    Python: `import json, urllib.request\n\nbody = json.dumps({"expressions": [${quoted}]}).encode()\nasked = urllib.request.Request("${here}/v1/solve", body, {"Content-Type": "application/json"})\nfor result in json.load(urllib.request.urlopen(asked))["results"]:\n    print(result.get("answer"), result.get("steps"))`,
    "openai (Python)": `from openai import OpenAI\n\nclient = OpenAI(base_url="${here}/v1", api_key="none")\nfound = client.chat.completions.create(model="${model}", messages=[{"role": "user", "content": ${quoted}}])\nprint(found.choices[0].message.content)`,
    "llm (extra-openai-models.yaml)": `- model_id: ${model}\n  model_name: ${model}\n  api_base: ${here}/v1`,
    JavaScript: `const answer = await fetch("${here}/v1/solve", {\n  method: "POST",\n  headers: { "Content-Type": "application/json" },\n  body: JSON.stringify({ expressions: [${quoted}] }),\n});\nconsole.log((await answer.json()).results);`,
  };
}

function showSnippet() {
  at("snippet").textContent = snippets()[at("client").value];
  at("copied").textContent = "";
}

// what is seen stands in the address, so that it can be sent to a friend
function remember() {
  const parts = new URLSearchParams({ q: state.asked ?? at("problem").value, m: at("model").value });
  if (Number(at("temperature").value)) {
    parts.set("t", at("temperature").value);
    parts.set("s", at("seed").value);
  }
  for (const edit of state.edits) parts.append("e", edit);
  history.replaceState(null, "", `#${parts}`);
}

async function recall() {
  const parts = new URLSearchParams(location.hash.slice(1)), model = parts.get("m") || "";
  at("problem").value = parts.get("q");
  at("model").value = [...at("model").options].some((option) => option.value === model) ? model : "";
  at("temperature").value = Number(parts.get("t")) || 0;
  if (/^\d{1,10}$/.test(parts.get("s") || "")) at("seed").value = parts.get("s");
  showWarmth();
  state.edits = [];
  showSnippet();
  await ask(parts.get("q"));
  for (const edit of parts.getAll("e")) {
    const [, place, text] = /^(\d{1,5}):(.*)$/.exec(edit) || [];
    if (!canChange(Number(place)) || Number(place) > state.tokens.length) break;
    try {
      await goOn(Number(place), tokensOf(text));
    } catch { break; }
  }
}

function showWarmth() {
  at("warmth").textContent = at("temperature").value;
  at("seed-box").hidden = !Number(at("temperature").value);
}

function submit() {
  if (!at("seed").checkValidity() || at("seed").value === "") at("seed").value = 1;
  Object.assign(state, { asked: at("problem").value, edits: [] });
  remember();
  showSnippet();
  return ask(state.asked);
}

async function begin() {
  at("ask-form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  at("stop").addEventListener("click", () => {
    state.abort?.abort();
    busy(false);
    at("verdict").textContent = "Stopped.";
    at("problem").focus();
  });
  at("temperature").addEventListener("input", showWarmth);
  for (const id of ["temperature", "seed", "model"]) at(id).addEventListener("change", submit);
  at("again").addEventListener("click", () => { at("seed").value = Math.floor(Math.random() * 2 ** 31); submit(); });
  for (const button of document.querySelectorAll(".examples button")) {
    button.addEventListener("click", () => { at("problem").value = button.textContent; at("model").value = ""; submit(); });
  }
  for (const id of ["thought", "sight"]) at(id).addEventListener("keydown", arrows);
  at("look").addEventListener("click", look);
  at("save").addEventListener("click", save);
  at("link").addEventListener("click", () => { remember(); copy(location.href, "kept", () => "The address of this page is the link."); });
  at("hunt").addEventListener("submit", (event) => { event.preventDefault(); hunt(); });
  at("hunt-stop").addEventListener("click", () => state.hunt?.abort());
  for (const name of Object.keys(snippets())) at("client").append(make("option", name));
  at("client").addEventListener("change", showSnippet);
  at("copy").addEventListener("click", () => copy(at("snippet").textContent, "copied", () => {
    getSelection().selectAllChildren(at("snippet"));
    return "Selected: copy it with the keyboard.";
  }));
  window.addEventListener("hashchange", () => {
    if (asks()) { recall(); at("ask").scrollIntoView(); } else remember(); // which section it was is not kept
  });
  at("key").value = sessionStorage.getItem("key") || "";
  at("key").addEventListener("change", () => { sessionStorage.setItem("key", at("key").value); start(); });
  showOther();
  await start();
}

const asks = () => new URLSearchParams(location.hash.slice(1)).has("q");

async function start() {
  try {
    let answer = await sent("/v1/models");
    while (answer.status === 503) { // a server that has just been started reads its models
      at("verdict").textContent = "The server is reading its models.";
      await new Promise((done) => { setTimeout(done, 500); });
      answer = await sent("/v1/models");
    }
    state.models = (await answer.json()).data || [];
    at("model").length = at("hunted").length = 1;
    at("task").replaceChildren();
    for (const { id, meta } of state.models) {
      at("model").append(make("option", `${id} (${meta.task.replaceAll(",", ", ")})`, { value: id }));
      at("hunted").append(make("option", id, { value: id }));
    }
    for (const name of new Set(state.models.flatMap((one) => one.meta.task.split(",")))) at("task").append(make("option", name));
  } catch { /* the first question will say what is wrong */ }
  showSnippet();
  if (asks()) await recall(); else await ask(at("problem").value);
}

begin();
