// Asks the server, and shows what comes of it
const at = (id) => document.getElementById(id);
const MARKS = { "<think>": "‹", "</think>": "›", "<end>": "■" };
const state = { models: [], asked: null, tokens: [], put: null, chosen: null, result: null, abort: null, hunt: null, sight: null };

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
    const said = error?.message || detail || `the server answers ${answer.status}`;
    throw new Error(said + (error?.hint ? `: ${error.hint}` : "") + (again ? ` (again in ${again} s)` : ""));
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
  return `${(100 * share).toFixed(share > 0.99 ? 2 : 1)}%`;
}

function failed(error) {
  if (error.name === "AbortError") return;
  at("verdict").replaceChildren(make("span", error.message, { class: "wrong" }));
}

// asking, and going on from a text
async function ask(line, { model = at("model").value, before = [], prompt = "" } = {}) {
  state.abort?.abort();
  const abort = new AbortController();
  Object.assign(state, { abort, asked: line, tokens: [...before], result: null, chosen: null, sight: null, prompt });
  busy(true);
  at("verdict").textContent = at("about").textContent = "";
  showTokens();
  showOther();
  showSight();
  const body = { expressions: [line], stream: true, temperature: Number(at("temperature").value), seed: Math.floor(Math.random() * 2 ** 31) };
  if (model) body.model = model;
  try {
    for await (const [name, data] of events(await post("/v1/solve", body, abort))) {
      if (name === "token") {
        state.tokens.push({ ...data, fresh: true });
        later();
      } else if (name === "result") {
        state.result = data;
      } else if (name === "error") {
        throw new Error(data.message);
      }
    }
    showResult();
  } catch (error) {
    failed(error);
  } finally {
    if (state.abort === abort) busy(false);
  }
}

function busy(on) {
  at("stop").hidden = !on;
}

let waiting = false;
function later() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; showTokens(); });
}

// operators of two tokens, which are shown as one
const PAIRS = { "++": "*", "--": "/", "-+": "%" };
const spelled = (step) => step.replaceAll("*", "++").replaceAll("/", "--").replaceAll("%", "-+");

// the text: a step a line, indented by the thoughts that it is in
function linesOf(tokens, steps) {
  const left = steps.map(spelled), lines = [];
  let line = { places: [], depth: 0, step: -1 }, depth = 0, text = "";
  const end = () => {
    if (line.places.length) lines.push(line);
    line = { places: [], depth, step: -1 };
    text = "";
  };
  tokens.forEach(({ token }, place) => {
    if (token === "</think>") { depth -= 1; end(); }
    line.places.push(place);
    if (token in MARKS) {
      if (token === "<think>") { depth += 1; if (text) end(); }
      line.depth = depth;
      return;
    }
    text += token;
    const step = steps.length - left.length;
    if (left[0] === text) { left.shift(); line.step = step; end(); }
  });
  end();
  return lines;
}

function showTokens() {
  const result = state.result && !state.result.error ? state.result : null;
  const rows = linesOf(state.tokens, result?.steps || []).map(({ places, depth, step }) => {
    const row = make("div", "", { class: depth === 0 ? "line answer" : depth > 1 ? "line deep" : "line" }), spans = make("span");
    for (let number = 0; number < places.length; number++) {
      const [place, next] = [places[number], places[number + 1]], behind = state.tokens[place - 1]?.token;
      // behind a sign or a = two signs are no operator
      const pair = /^(\d|<\/?think>)?$/.test(behind ?? "") && next !== undefined ? PAIRS[state.tokens[place].token + state.tokens[next].token] : undefined;
      spans.append(tokenOf(place, pair));
      number += pair ? 1 : 0;
    }
    row.append(spans, make("span", (step >= 0 && result?.words?.[step]) || "", { class: "said" }));
    return row;
  });
  for (const token of state.tokens) token.fresh = false;
  at("thought").replaceChildren(...rows);
  if (!state.result) at("thought").scrollTop = at("thought").scrollHeight;
}

function tokenOf(place, pair) {
  const token = state.tokens[place], mark = MARKS[token.token], shares = [token, ...(pair ? [state.tokens[place + 1]] : [])].map((one) => one.p);
  const share = shares.includes(undefined) ? undefined : Math.min(...shares);
  const other = token.top?.find(([name]) => name !== token.token);
  const sure = share === undefined ? "put in by you" : percent(share);
  const about = `${pair ? `${pair}, of two tokens` : token.token}, ${sure}` + (other && share !== undefined ? `; else ${other[0]}, ${percent(other[1])}` : "");
  const kind = share === undefined ? " put" : share < 0.9 ? " unsure" : share < 0.999 ? " less" : "";
  const button = make("button", mark || pair || token.token, {
    type: "button", class: "token" + kind + (mark ? " mark" : "") + (token.fresh ? " fresh" : ""),
    title: about, "aria-label": about, "aria-pressed": String(state.chosen === place),
  });
  button.addEventListener("click", () => choose(place));
  return button;
}

function showResult() {
  const result = state.result;
  if (!result) return;
  showTokens();
  if (result.error) {
    const caret = result.error.position !== undefined ? ` (at character ${result.error.position + 1})` : "";
    failed(new Error(result.error.message + caret + (result.error.hint ? `: ${result.error.hint}` : "")));
    return;
  }
  const said = result.answer === null ? "no number" : result.answer;
  const verdict = make("span", result.correct ? "right" : `wrong: it is ${result.expected}`, { class: result.correct ? "right" : "wrong" });
  at("verdict").replaceChildren(make("span", `${result.expression} = ${said} `, { class: "number" }), verdict);
  const notes = [`${result.model}, confidence ${percent(result.confidence)}`];
  notes.push({ draft: "the true text was tried first: the model writes exactly it", steps: "written token by token" }[result.decoding] || "the true text as far as the model writes it, then token by token");
  if (result.unseen.length) notes.push(`it has never seen ${result.unseen.join(", or ")}`);
  if (result.stated) notes.push(`you said ${result.stated.answer}: that is ${result.stated.true ? "true" : "not true"}`);
  at("about").textContent = `${notes.join("; ")}.`;
  state.prompt = `${result.text.split("=")[0]}=`;
  showOther();
}

// another token in the place of one
function choose(place) {
  state.chosen = place;
  showTokens();
  at("thought").querySelector("[aria-pressed=true]")?.focus();
  showOther();
  showSight();
}

function showOther() {
  const box = at("other"), place = state.chosen;
  if (place === null || !state.result || state.result.error) {
    box.replaceChildren(make("span", state.result && !state.result.error ? "Choose a token of the working above." : "Ask something first.", { class: "hint" }));
    return;
  }
  const label = make("label", `In the place of ${state.tokens[place].token}, token ${place + 1}, `, { for: "token" });
  const select = make("select", "", { id: "token" });
  for (const name of "0123456789+-=".split("").concat("<think>", "</think>", "<end>")) select.append(make("option", name, { value: name }));
  select.value = state.tokens[place].top?.find(([name]) => name !== state.tokens[place].token)?.[0] || "9";
  const go = make("button", "and go on", { type: "button" });
  go.addEventListener("click", () => {
    const before = [...state.tokens.slice(0, place), { token: select.value }];
    const prompt = state.prompt, model = state.result.model;
    ask(prompt + before.map((token) => token.token).join(""), { model, before, prompt });
  });
  box.replaceChildren(label, select, go);
}

// where heads look
async function look() {
  if (!state.result || state.result.error) { at("looked").textContent = "Ask something first."; return; }
  at("look").disabled = true;
  try {
    const text = state.prompt + state.tokens.map((token) => token.token).join("").replace("<end>", "");
    const found = await (await post("/v1/explain", { text, model: state.result.model })).json();
    const bytes = Uint8Array.from(atob(found.attention.data), (letter) => letter.charCodeAt(0));
    state.sight = { ...found, bytes, head: 0 };
    showHeads();
  } catch (error) {
    at("looked").textContent = error.message;
  } finally {
    at("look").disabled = false;
  }
}

const weight = (head, query, key) => {
  const length = state.sight.tokens.length;
  return state.sight.bytes[(head * length + query) * length + key] / 255;
};

function showHeads() {
  const [layers, heads, length] = state.sight.attention.shape, boxes = [];
  const style = getComputedStyle(document.documentElement).getPropertyValue("--heat").split(",").map(Number);
  for (let head = 0; head < layers * heads; head++) {
    const name = `L${Math.floor(head / heads)}H${head % heads}`;
    const button = make("button", "", { type: "button", role: "radio", "aria-checked": String(head === state.sight.head), tabindex: head === state.sight.head ? "0" : "-1", "aria-label": `Head ${name}` });
    const canvas = make("canvas", "", { width: length, height: length, "aria-hidden": "true" });
    const context = canvas.getContext("2d"), image = context.createImageData(length, length);
    for (let cell = 0; cell < length * length; cell++) {
      const share = state.sight.bytes[head * length * length + cell];
      image.data.set([...style, share], 4 * cell);
    }
    context.putImageData(image, 0, 0);
    button.append(canvas, make("span", name));
    button.addEventListener("click", () => pick(head));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: heads, ArrowLeft: -1, ArrowUp: -heads }[event.key];
      if (!step) return;
      event.preventDefault();
      pick((head + step + layers * heads) % (layers * heads), true);
    });
    boxes.push(button);
  }
  at("heads").style.setProperty("--heads", heads);
  at("heads").replaceChildren(...boxes);
  showSight();
}

function pick(head, focus = true) {
  state.sight.head = head;
  [...at("heads").children].forEach((button, number) => {
    button.setAttribute("aria-checked", String(number === head));
    button.tabIndex = number === head ? 0 : -1;
    if (number === head && focus) button.focus();
  });
  showSight();
}

function showSight() {
  if (!state.sight) { at("heads").replaceChildren(); at("sight").replaceChildren(); at("looked").textContent = ""; return; }
  const { tokens, prompt_tokens: prompt, head, attention } = state.sight, heads = attention.shape[1];
  const last = tokens.length - 1, query = state.chosen === null ? last : Math.min(prompt + state.chosen - 1, last);
  const next = query < last ? tokens[query + 1] : "what comes next";
  at("looked").textContent = `Head L${Math.floor(head / heads)}H${head % heads}, before ${next} is written (choose a token in the working to see another).`;
  const cells = tokens.slice(0, query + 1).map((token, key) => heat(weight(head, query, key), weight(head, query, key) >= 0.005 ? weight(head, query, key).toFixed(2) : "·", `${token}, ${weight(head, query, key).toFixed(2)}`));
  at("sight").replaceChildren(table("weights, by token", tokens.slice(0, query + 1), [["weight", cells]]));
}

// a search for wrong answers
async function hunt() {
  const abort = state.hunt = new AbortController(), started = performance.now();
  const count = Number(at("count").value);
  const body = { kind: at("kind").value, task: at("task").value, digits: Number(at("digits").value), count, seed: Math.floor(Math.random() * 2 ** 31) };
  const model = at("model").value || bestFor(body.task, body.digits);
  if (model) body.model = model;
  at("wrong").replaceChildren();
  at("found").textContent = "";
  at("hunt-stop").hidden = at("done").hidden = false;
  at("hunt-go").disabled = true;
  try {
    for await (const [name, data] of events(await post("/v1/hunt", body, abort))) {
      if (name === "wrong") {
        const item = make("li"), link = make("a", data.expression, { href: `#q=${encodeURIComponent(data.expression)}&m=${encodeURIComponent(model || "")}` });
        item.append(link, `it says ${data.answer === null ? "no number" : data.answer}, true is ${data.expected}`);
        at("wrong").append(item);
      } else if (name === "progress" || name === "done") {
        const rate = data.tried / ((performance.now() - started) / 1000);
        at("done").value = data.tried / count;
        const [low, high] = data.interval95.map((share) => share.toLocaleString("en", { style: "percent", maximumSignificantDigits: 2 }));
        const bound = `. Of all such problems ${data.wrong ? `${low} to ${high}` : `at most ${high}`} are wrong (with 95% confidence)`;
        at("tally").replaceChildren(make("span", `${data.wrong.toLocaleString("en")} wrong`, { class: data.wrong ? "wrong" : "right" }), ` of ${data.tried.toLocaleString("en")}, by ${model || "the first model"}, ${Math.round(rate).toLocaleString("en")} a second${bound}`);
        // a screen reader hears the end alone
        if (name === "done") at("found").textContent = `The search has ended: ${data.wrong.toLocaleString("en")} wrong of ${data.tried.toLocaleString("en")}.`;
      } else if (name === "error") {
        throw new Error(data.message);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") at("found").replaceChildren(make("span", error.message, { class: "wrong" }));
  } finally {
    at("hunt-stop").hidden = at("done").hidden = true;
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

// what was asked stands in the address, so that it can be sent to a friend
function remember() {
  const parts = new URLSearchParams({ q: at("problem").value, m: at("model").value });
  history.replaceState(null, "", `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (!parts.has("q")) return false;
  at("problem").value = parts.get("q");
  const model = parts.get("m") || "";
  at("model").value = [...at("model").options].some((option) => option.value === model) ? model : "";
  ask(parts.get("q"));
  return true;
}

async function begin() {
  at("ask-form").addEventListener("submit", (event) => { event.preventDefault(); remember(); showSnippet(); ask(at("problem").value); });
  at("stop").addEventListener("click", () => { state.abort?.abort(); busy(false); });
  at("temperature").addEventListener("input", () => { at("warmth").textContent = at("temperature").value; });
  for (const button of document.querySelectorAll(".examples button")) {
    button.addEventListener("click", () => { at("problem").value = button.textContent; at("ask-form").requestSubmit(); });
  }
  at("look").addEventListener("click", look);
  at("hunt").addEventListener("submit", (event) => { event.preventDefault(); hunt(); });
  at("hunt-stop").addEventListener("click", () => state.hunt?.abort());
  for (const name of Object.keys(snippets())) at("client").append(make("option", name));
  at("client").addEventListener("change", showSnippet);
  at("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(at("snippet").textContent);
      at("copied").textContent = "copied";
    } catch { // browsers allow that on https and on this machine alone
      getSelection().selectAllChildren(at("snippet"));
      at("copied").textContent = "chosen: copy it with the keyboard";
    }
  });
  window.addEventListener("hashchange", () => { if (recall()) at("ask").scrollIntoView(); });
  at("key").value = sessionStorage.getItem("key") || "";
  at("key").addEventListener("change", () => { sessionStorage.setItem("key", at("key").value); start(); });
  showOther();
  await start();
}

async function start() {
  try {
    state.models = (await (await sent("/v1/models")).json()).data || [];
    at("model").length = 1;
    at("task").replaceChildren();
    for (const { id, meta } of state.models) at("model").append(make("option", `${id} (${meta.task.replaceAll(",", ", ")})`, { value: id }));
    for (const name of new Set(state.models.flatMap((one) => one.meta.task.split(",")))) at("task").append(make("option", name));
  } catch { /* the first question will say what is wrong */ }
  showSnippet();
  if (!recall()) ask(at("problem").value);
}

begin();
