// What the model writes: its lines, a change of a step or a token, and what else could have stood there
// operators of two tokens, which are shown as one
const PAIRS = { "++": "*", "--": "/", "-+": "%" };
const spelled = (step) => step.replaceAll("*", "++").replaceAll("/", "--").replaceAll("%", "-+");

// a text that somebody typed as the model's tokens; an Error says what is none
function tokensOf(text) {
  const found = [], piece = /(<think>|<\/think>|[-0-9+=])|([*/%])|\s/y;
  for (let place = 0; place < text.length; place = piece.lastIndex) {
    piece.lastIndex = place;
    const match = piece.exec(text);
    if (!match) {
      if (text.startsWith("<end>", place)) throw new Error("Leave out <end>: the model could not go on behind it.");
      throw new Error(`Character ${place + 1}, “${String.fromCodePoint(text.codePointAt(place))}”, is none that the model knows: 0 to 9, + - * / % =, <think> and </think>.`);
    }
    found.push(...(match[1] ? [match[1]] : match[2] ? spelled(match[2]) : []));
  }
  return found;
}

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

const solved = () => (state.result && !state.result.error ? state.result : null);
// from where on a text may be changed: it is gone on from where a thought has begun
const thinks = () => state.tokens.findIndex(({ token }) => token === "<think>");
const canChange = (place) => Boolean(solved()) && thinks() >= 0 && place > thinks();

function showTokens() {
  const result = solved(), rows = [];
  if (state.tokens.length || result) rows.push(promptOf(result));
  for (const { places, depth, step } of linesOf(state.tokens, result?.steps || [])) {
    const marks = make("span", "", { class: "marks" }), spans = make("span", "", { class: "tokens" });
    let text = "";
    for (let number = 0; number < places.length; number++) {
      const [place, next] = [places[number], places[number + 1]], behind = state.tokens[place - 1]?.token;
      // behind a sign or a = two signs are no operator
      const pair = /^(\d|<\/?think>)?$/.test(behind ?? "") && next !== undefined ? PAIRS[state.tokens[place].token + state.tokens[next].token] : undefined;
      const mark = state.tokens[place].token in MARKS;
      (mark && !text ? marks : spans).append(tokenOf(place, pair));
      if (!mark) text += pair || state.tokens[place].token;
      number += pair ? 1 : 0;
    }
    const plain = places.filter((place) => !(state.tokens[place].token in MARKS));
    const start = plain[0] ?? places.at(-1) + 1, open = state.editing === start && canChange(start);
    const row = make("div", "", { class: `line${depth === 0 ? " answer" : depth > 1 ? " deep" : ""}${plain.length > 13 ? " big" : ""}` });
    const said = (step >= 0 && result?.words?.[step]) || (depth === 0 && plain.length && result ? saidOf(result) : "") || (!plain.length && depth ? "no step" : "");
    row.append(marks, open ? editOf(start, text) : spans);
    if (said && !open) row.append(make("span", said, { class: "said" }));
    if (canChange(start) && !open) row.append(editButton(start, text, row));
    rows.push(row);
  }
  for (const token of state.tokens) token.fresh = false;
  at("thought").replaceChildren(...rows);
  const buttons = [...at("thought").querySelectorAll("button")];
  // one stop of the Tab key: the arrow keys move inside
  if (state.editing === null) buttons.forEach((button) => { button.tabIndex = -1; });
  if (buttons.length) (at("thought").querySelector("[aria-pressed=true]") || buttons[0]).tabIndex = 0;
  if (!state.result) at("thought").scrollTop = at("thought").scrollHeight;
}

const backwards = (text) => text.replace(/\d+/g, (digits) => [...digits].reverse().join(""));

// the problem, as the model reads it
function promptOf(result) {
  const text = result ? state.prompt : state.prompt || `${state.asked}=`;
  const row = make("div", "", { class: `line given${text.length > 20 ? " big" : ""}` });
  row.append(make("span", "", { class: "marks" }), make("span", text, { class: "tokens" }));
  const turned = result && text !== `${result.expression}=` && text === backwards(`${result.expression}=`);
  row.append(make("span", turned ? "the problem, with units first" : "the problem", { class: "said" }));
  return row;
}

function saidOf({ answer, text }) {
  if (answer === null) return "no number";
  const written = text.split("</think>").at(-1).split("=").at(-1).replace("<end>", "").trim();
  return written === answer ? "the answer" : `the answer, with units first${answer.length > 24 ? "" : `: ${answer}`}`;
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
    title: about, "aria-label": about, "aria-pressed": String(state.chosen === place || (Boolean(pair) && state.chosen === place + 1)),
  });
  button.addEventListener("click", () => choose(place));
  return button;
}

// a step that is rewritten where it stands
function editButton(start, text, row) {
  const button = make("button", "Edit", { type: "button", class: "step-edit", "data-start": start, "aria-label": text ? `Edit the step ${text}` : "Write a step here" });
  const open = () => {
    state.editing = start;
    showTokens();
    at("step-text").select();
  };
  button.addEventListener("click", open);
  row.addEventListener("click", (event) => { if (!event.target.closest("button")) open(); });
  row.classList.add("editable");
  return button;
}

function editOf(start, text) {
  const form = make("form", "", { class: "edit" }), input = make("input", "", { id: "step-text", "aria-label": "The step, rewritten", "aria-describedby": "step-said", autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: "8000" });
  const said = make("p", "Numbers as the model writes them. Enter goes on from here, Escape leaves it as it was.", { id: "step-said", class: "hint" });
  const cancel = make("button", "Cancel", { type: "button" });
  input.value = text;
  const close = () => {
    state.editing = null;
    showTokens();
    at("thought").querySelector(`[data-start="${start}"]`)?.focus();
  };
  cancel.addEventListener("click", close);
  form.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      const tokens = tokensOf(input.value);
      if (tokens.join("") === spelled(text)) close();
      else goOn(start, tokens);
    } catch (error) {
      said.className = "wrong";
      said.textContent = error.message;
      input.setAttribute("aria-invalid", "true");
      input.focus();
    }
  });
  form.append(input, make("button", "Go on from here"), cancel, said);
  return form;
}

// the text up to a place, what was put in there, and what the model writes behind
async function goOn(place, tokens) {
  const was = state.result, { prompt } = state, before = [...state.tokens.slice(0, place), ...tokens.map((token) => ({ token }))];
  state.edits.push(`${place}:${tokens.join("")}`);
  remember();
  await ask(prompt + before.map(({ token }) => token).join(""), { model: was.model, before, prompt, was });
  // the keyboard goes on where it was
  const paper = at("thought");
  if (document.activeElement === document.body) (paper.querySelector(`[data-start="${place}"]`) || paper.querySelector("[tabindex='0']"))?.focus({ preventScroll: true });
}

// another token in the place of one
function choose(place, back = "#thought [aria-pressed=true]") {
  state.chosen = place;
  state.editing = null;
  showTokens();
  showOther();
  showSight();
  document.querySelector(back)?.focus();
}

function showOther() {
  const box = at("other"), place = state.chosen;
  if (place === null || !solved()) {
    const written = solved() ? state.tokens.filter(({ p }) => p !== undefined) : [];
    const least = written.length ? written.reduce((one, other) => (other.p < one.p ? other : one)) : null;
    if (!least) {
      box.replaceChildren(make("p", state.busy ? "\u00a0" : "Ask something first.", { class: "hint" }));
      return;
    }
    const parts = thinks() < 0 ? [make("p", "This model writes the answer at once: there is no thought to change.", { class: "hint" })] : [];
    if (least.p > 0.9999) parts.push(make("p", "It was more than 99.99% sure of every token.", { class: "hint" }));
    else {
      const open = make("button", `It was least sure of ${least.token}: ${percent(least.p)}`, { type: "button" });
      open.addEventListener("click", () => choose(state.tokens.indexOf(least)));
      parts.push(open);
    }
    box.replaceChildren(...parts);
    return;
  }
  const token = state.tokens[place], shares = new Map(token.top || []);
  const head = make("p", `Token ${place + 1} of ${state.tokens.length} is `);
  head.append(make("b", token.token), token.p === undefined ? ", put in by you." : `, ${percent(token.p)} likely. All sixteen:`);
  const list = make("div", "", { class: "others", role: "group", "aria-label": "Tokens to put in its place" });
  for (const name of "0123456789+-=".split("").concat("<think>", "</think>", "<end>")) {
    const share = shares.get(name) || 0, here = name === token.token;
    const sure = token.p === undefined ? "" : percent(share);
    const button = make("button", "", { type: "button", class: here ? "here" : "", "data-token": name, "aria-label": `${here ? "as it is" : "put in"} ${name}${sure && `, ${sure} likely`}` });
    button.append(make("b", name), make("small", sure || "\u00a0"));
    button.style.setProperty("--share", share);
    button.disabled = here || name === "<end>" || !canChange(place);
    button.addEventListener("click", () => goOn(place, [name]));
    list.append(button);
  }
  const why = thinks() < 0 ? "This model writes the answer at once: there is no thought to change." : canChange(place) ? "Click one to put it in, and let the model go on behind it." : "What is behind the beginning of the thought can be changed.";
  box.replaceChildren(head, list, make("p", why, { class: "hint" }));
}
