
// The page: what is asked, what is switched off, and what is shown of it
if (typeof document !== "undefined") {
  const data = JSON.parse(document.getElementById("data").textContent);
  const model = data.model ? readModel(data) : null;
  const at = (id) => document.getElementById(id);
  // what the page shows now: the problem (typed, or an example), what is off, what was put in, the token looked at
  const state = { problem: null, example: null, off: new Set(), hidden: new Set(), forced: new Map(), chosen: null, found: null };

  const token = (id) => data.vocabulary[id];

  // of the tokens that may come, if not all may
  function probabilities(all, allowed = null) {
    const logits = Array.from(all, (value, id) => (!allowed || allowed(id) ? value : -Infinity));
    const most = Math.max(...logits), powers = logits.map((value) => Math.exp(value - most));
    const total = powers.reduce((sum, value) => sum + value, 0);
    return powers.map((value) => value / total);
  }

  // what part of the text a column is of: one word, also the class that colours it
  function partOf(ids, column) {
    const equals = ids.indexOf(EQUALS);
    if (column < equals) {
      const operator = ids.findIndex((id) => id > 9);
      return ids[column] > 9 ? "operator" : column < operator ? "first" : "second";
    }
    if (column === equals) return "operator";
    const closing = ids.lastIndexOf(END_THINK), opening = ids.indexOf(THINK);
    return opening >= 0 && column >= opening && (closing < 0 || column <= closing) ? "thought" : "answer";
  }

  function compute() {
    const edits = { off: state.off, hidden: state.hidden };
    if (state.problem) {
      state.found = { ...solve(model, state.problem, data, edits, state.forced), prompt: state.problem.ids.length };
    } else {
      // an example is read as it should be: a token that is put in changes what comes behind it to the reader alone
      const ids = state.example.ids.map((id, column) => (state.forced.has(column) ? state.forced.get(column) : id));
      const shown = ids.slice(0, -1), told = {};
      for (const [axis, values] of Object.entries(state.example.told)) told[axis] = values.slice(0, -1);
      state.found = { ids, ...forward(model, shown, told, edits), prompt: state.example.prompt, gold: state.example.ids };
    }
    const last = state.found.ids.length - 1;
    if (state.chosen === null || state.chosen > last || state.chosen < state.found.prompt) {
      state.chosen = Math.min(state.found.prompt + (data.thinks ? 1 : 0), last);
    }
    show();
  }

  function said(column) {
    const shares = probabilities(state.found.logits[column - 1], (state.found.choices || [])[column - 1]);
    return { best: shares.indexOf(Math.max(...shares)), share: shares[state.found.ids[column]], shares };
  }

  function verdict() {
    const { ids, prompt } = state.found;
    if (state.example) {
      let wrong = 0;
      for (let column = prompt; column < ids.length; column++) wrong += said(column).best !== state.example.ids[column];
      const text = wrong ? `wrong: ${wrong} of ${ids.length - prompt} tokens would be others` : `right: all ${ids.length - prompt} tokens`;
      return [text, wrong === 0];
    }
    const ended = ids[ids.length - 1] === END, start = Math.max(ids.lastIndexOf(END_THINK), ids.indexOf(EQUALS)) + 1;
    let digits = ids.slice(start, ended ? -1 : undefined), sign = "";
    if (digits[0] === MINUS) [sign, digits] = ["-", digits.slice(1)];
    if (data.units_first) digits = digits.reverse();
    const answer = ended && digits.length && digits.every((id) => id < 10) ? sign + digits.join("") : null;
    if (!ended) return [`it comes to no end: the text is cut behind ${ids.length} tokens`, false];
    const right = answer === state.problem.answer;
    if (right) return [`right: ${answer}`, true];
    return [`wrong: it says ${answer === null ? "no number" : answer}, true is ${state.problem.answer}`, false];
  }

  function show() {
    const { ids, prompt } = state.found, [text, right] = verdict();
    at("verdict").replaceChildren(make("span", text, { class: right ? "right" : "wrong" }));
    at("text").replaceChildren(
      ...ids.map((id, column) => {
        const part = partOf(ids, column), written = column >= prompt;
        const { best, share } = written ? said(column) : { best: id, share: null };
        const other = best !== id;
        const percent = written ? (share > 0.9995 ? "100%" : `${(100 * share).toFixed(0)}%`) : "";
        const about = `${token(id)} ${percent}, ${part}` + (other ? `; the model would say ${token(best)}` : "");
        const button = make("button", `${token(id)} `, {
          type: "button", class: part + (other ? " other" : ""), "aria-label": about, title: about,
          "aria-pressed": String(column === state.chosen),
        });
        button.append(make("small", percent || "\u00a0"));
        button.disabled = !written;
        button.addEventListener("click", () => { state.chosen = column; show(); at("text").children[column].focus(); });
        return button;
      }),
    );
    showChange();
    showLooks();
    showLens();
  }

  function showChange() {
    const column = state.chosen, label = make("label", `In the place of token ${column + 1} `, { for: "other" });
    const select = make("select", "", { id: "other" });
    select.append(make("option", "what it says itself", { value: "" }));
    data.vocabulary.forEach((name, id) => select.append(make("option", name, { value: id })));
    select.value = state.forced.has(column) ? state.forced.get(column) : "";
    select.addEventListener("change", () => {
      if (select.value === "") state.forced.delete(column);
      else state.forced.set(column, Number(select.value));
      compute();
      at("other").focus();
    });
    const top = said(column).shares.map((share, id) => [share, id]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    const likely = top.map(([share, id]) => `${token(id)} ${(100 * share).toFixed(1)}%`).join(", ");
    at("change").replaceChildren(label, select, make("span", ` (likeliest: ${likely})`, { class: "hint" }));
  }

  function showLooks() {
    const query = state.chosen - 1, { ids, patterns } = state.found, rows = [];
    at("looked").textContent = `Weights before token ${state.chosen + 1}, ${token(ids[state.chosen])}, was written. Choose a weight to hide that token from that head.`;
    patterns.forEach((heads, layer) => heads.forEach((lines, head) => {
      const name = `L${layer}H${head}`;
      rows.push([name + (state.off.has(name) ? " (off)" : ""), Array.from(lines[query], (weight, key) => {
        const edge = `${name} ${key}`, hidden = state.hidden.has(edge);
        const itself = key === query;
        const seen = hidden ? "×" : weight >= 0.005 ? weight.toFixed(2) : "·";
        const about = `${seen} from ${name} on token ${key + 1}, ${token(ids[key])}${hidden ? ": hidden" : ""}`;
        const cell = heat(weight, "", about);
        const button = make("button", seen, { type: "button", class: "bare", "aria-label": about, "aria-pressed": String(hidden), "data-edge": edge });
        button.disabled = itself; // a token always sees itself
        button.addEventListener("click", () => {
          if (hidden) state.hidden.delete(edge); else state.hidden.add(edge);
          compute();
          const again = at("looks").querySelector(`[data-edge="${edge}"]`);
          if (again) again.focus();
        });
        cell.append(button);
        return cell;
      })]);
    }));
    const columns = ids.slice(0, query + 1).map((id, key) => `${token(id)}`);
    at("looks").replaceChildren(table("heads and the tokens so far", columns, rows));
  }

  function showLens() {
    const { ids, lens, prompt } = state.found, columns = [];
    for (let column = prompt; column < ids.length; column++) columns.push(column);
    const names = lens.map((_, depth) => (depth === 0 ? "embedding" : `L${(depth - 1) >> 1} ${depth % 2 ? "attention" : "feed-forward"}`));
    const rows = lens.map((logits, depth) => [names[depth], columns.map((column) => {
      const shares = probabilities(logits[column - 1], (state.found.choices || [])[column - 1]), best = shares.indexOf(Math.max(...shares));
      return heat(shares[best], token(best), `${(100 * shares[best]).toFixed(1)} percent`);
    })]);
    at("lens").replaceChildren(table("behind each part, the likeliest next token", columns.map((column) => token(ids[column])), rows));
  }

  function showParts() {
    const boxes = [];
    for (let layer = 0; layer < model.layers * model.loops; layer++) {
      const set = make("fieldset");
      set.append(make("legend", `Layer ${layer}`));
      const names = Array.from({ length: model.heads }, (_, head) => `L${layer}H${head}`).concat(`L${layer}MLP`);
      for (const name of names) {
        const label = make("label"), box = make("input", "", { type: "checkbox", "data-part": name });
        box.checked = !state.off.has(name);
        box.addEventListener("change", () => {
          if (box.checked) state.off.delete(name); else state.off.add(name);
          compute();
        });
        label.append(box, name);
        set.append(label);
      }
      boxes.push(set);
    }
    at("parts").replaceChildren(...boxes);
  }

  function showReport() {
    at("about").textContent = data.about;
    at("claims").replaceChildren(...data.claims.map((claim) => {
      const item = make("li");
      item.append(make("span", claim.strength, { class: "strength" }), claim.text, make("small", claim.evidence));
      return item;
    }));
    if (!data.claims.length) at("claims").replaceWith(make("p", "Nothing: none of the measurements allows it, of this model."));
    for (const sheet of data.tables) {
      const rows = sheet.rows.map((name, row) => [name, sheet.values[row].map((share, column) => (
        share === null ? make("td") : heat(share, share === 1 ? "1" : share.toFixed(2), `${name}, ${sheet.columns[column]}`)
      ))]);
      const wide = make("div", "", { class: "wide", tabindex: "0", role: "group", "aria-label": sheet.title });
      wide.append(table(sheet.note, sheet.columns, rows));
      at("tables").append(make("h3", sheet.title), wide);
    }
  }

  function ask(text) {
    const problem = readProblem(text, data);
    if (typeof problem === "string") {
      at("verdict").textContent = problem;
      return;
    }
    Object.assign(state, { problem, example: null, forced: new Map(), hidden: new Set(), chosen: null });
    compute();
  }

  function example(number) {
    if (data.typed && typeof readProblem(data.examples[number].problem, data) !== "string") {
      at("problem").value = data.examples[number].problem;
      ask(data.examples[number].problem);
      return;
    }
    Object.assign(state, { problem: null, example: data.examples[number], forced: new Map(), hidden: new Set(), chosen: null });
    compute();
  }

  showReport();
  if (!model) {
    for (const id of ["ask", "parts", "looks", "lens"]) at(id).closest("section").hidden = true;
  } else {
    data.examples.forEach((one, number) => at("example").append(make("option", one.problem, { value: number })));
    at("example").addEventListener("change", () => example(Number(at("example").value)));
    at("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(at("problem").value); });
    at("neurons").addEventListener("change", () => {
      for (const name of [...state.off].filter((one) => one.includes("N"))) state.off.delete(name);
      const unknown = [];
      for (const name of at("neurons").value.toUpperCase().split(/[\s,;]+/).filter(Boolean)) {
        const [, layer, neuron] = /^L(\d+)N(\d+)$/.exec(name) || [null, Infinity, Infinity];
        const there = Number(layer) < model.layers * model.loops && Number(neuron) < model.tensors["blocks.0.feed_forward.up.weight"].shape[0];
        if (there) state.off.add(name); else unknown.push(name);
      }
      at("unknown").textContent = unknown.length ? `There is no neuron ${unknown.join(", ")}.` : "";
      compute();
    });
    at("all-on").addEventListener("click", () => {
      state.off.clear();
      state.hidden.clear();
      at("neurons").value = "";
      showParts();
      compute();
    });
    if (!data.typed) {
      for (const element of at("ask").querySelectorAll("#problem, button, label[for=problem]")) element.remove();
      at("ask").querySelector("label").textContent = "An example";
    }
    showParts();
    example(Math.min(2, data.examples.length - 1));
    at("example").value = Math.min(2, data.examples.length - 1);
  }
}
