// Where heads look, the arrow keys, and the file that keeps what is shown
// where heads look
async function look() {
  if (!solved()) { at("looked").textContent = "Ask something first."; return; }
  at("look").disabled = state.looking = true;
  const result = state.result;
  try {
    const text = state.prompt + state.tokens.map((token) => token.token).join("").replace("<end>", "");
    const found = await (await post("/v1/explain", { text, model: result.model })).json();
    if (state.result !== result) return;
    const bytes = Uint8Array.from(atob(found.attention.data), (letter) => letter.charCodeAt(0));
    const count = found.attention.shape[0] * found.attention.shape[1];
    state.head = Math.min(state.head, count - 1);
    state.sight = { ...found, bytes };
    showHeads();
  } catch (error) {
    state.sight = null;
    showSight();
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
    const name = `L${Math.floor(head / heads)}H${head % heads}`, on = head === state.head;
    const button = make("button", "", { type: "button", role: "radio", "aria-checked": String(on), tabindex: on ? "0" : "-1", "aria-label": `Head ${name}` });
    const canvas = make("canvas", "", { width: length, height: length, "aria-hidden": "true" });
    const context = canvas.getContext("2d"), image = context.createImageData(length, length);
    for (let cell = 0; cell < length * length; cell++) {
      const share = state.sight.bytes[head * length * length + cell];
      image.data.set([...style, share], 4 * cell);
    }
    context.putImageData(image, 0, 0);
    const frame = make("span", "", { class: "frame" });
    frame.append(canvas, make("i"));
    button.append(frame, make("span", name));
    button.addEventListener("click", () => pick(head));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: heads, ArrowLeft: -1, ArrowUp: -heads }[event.key];
      if (!step) return;
      event.preventDefault();
      pick((head + step + layers * heads) % (layers * heads));
    });
    boxes.push(button);
  }
  at("heads").style.setProperty("--heads", heads);
  at("heads").replaceChildren(...boxes);
  showSight();
}

function pick(head) {
  state.head = head;
  [...at("heads").children].forEach((button, number) => {
    button.setAttribute("aria-checked", String(number === head));
    button.tabIndex = number === head ? 0 : -1;
    if (number === head) button.focus();
  });
  showSight();
}

// the text, as a head sees it before a token is written
function showSight() {
  if (!state.sight) { at("heads").replaceChildren(); at("sight").replaceChildren(); at("looked").textContent = ""; return; }
  const { tokens, prompt_tokens: prompt, attention } = state.sight, heads = attention.shape[1], head = state.head;
  const last = tokens.length - 1, query = state.chosen === null ? last : Math.min(prompt + state.chosen - 1, last);
  const next = query < last ? `the ${tokens[query + 1]} of token ${query + 2 - prompt}` : "the end";
  at("looked").textContent = `Head L${Math.floor(head / heads)}H${head % heads}, just before ${next} is written.`;
  // its row, marked beside all pictures
  at("heads").style.setProperty("--row", query / tokens.length);
  at("heads").style.setProperty("--high", 1 / tokens.length);
  at("sight").replaceChildren(...tokens.map((token, key) => {
    const share = key <= query ? weight(head, query, key) : 0, seen = key > query ? "\u00a0" : share >= 0.005 ? share.toFixed(2) : "·";
    const about = key > query ? `${token}, not written yet` : `${token}, weight ${share.toFixed(2)}`;
    const box = make(key < prompt ? "span" : "button", token, { class: key <= query ? "heat" : "", title: about, ...(key < prompt ? {} : { type: "button", "aria-label": about, "aria-pressed": String(key === query + 1) }) });
    box.style.setProperty("--share", share);
    box.append(make("small", seen));
    if (key >= prompt) box.addEventListener("click", () => choose(key - prompt, "#sight [aria-pressed=true]"));
    return box;
  }));
}

// arrow keys among the tokens of the working, and among those that a head looks at
function arrows(event) {
  const buttons = [...event.currentTarget.querySelectorAll("button")], now = buttons.indexOf(document.activeElement);
  if (now < 0 || event.target.closest("form")) return;
  const { left, top } = buttons[now].getBoundingClientRect();
  let best = { Home: 0, End: buttons.length - 1, ArrowRight: now + 1, ArrowLeft: now - 1 }[event.key];
  const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (way) {
    const far = (button) => { const box = button.getBoundingClientRect(); return [(box.top - top) * way, Math.abs(box.left - left)]; };
    const beyond = buttons.map((button) => [button, ...far(button)]).filter(([, down]) => down > 14);
    const near = Math.min(...beyond.map(([, down]) => down));
    best = buttons.indexOf(beyond.filter(([, down]) => down < near + 14).sort((a, b) => a[2] - b[2])[0]?.[0]);
  }
  if (best === undefined) return;
  event.preventDefault();
  if (!buttons[best]) return;
  buttons.forEach((button, number) => { button.tabIndex = number === best ? 0 : -1; });
  buttons[best].focus();
}

// what is shown now as one file, that needs neither this server nor a script
function saved() {
  const page = document.implementation.createHTMLDocument(`${state.result.expression}: mathllm`), { head, body } = page;
  const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules].map((rule) => rule.cssText));
  head.prepend(make("meta", "", { charset: "utf-8" }));
  head.append(
    make("meta", "", { "http-equiv": "Content-Security-Policy", content: "default-src 'none'; img-src data:; style-src 'unsafe-inline'" }),
    make("meta", "", { name: "viewport", content: "width=device-width, initial-scale=1" }),
  );
  // buttons can do nothing there
  const still = (id) => {
    const copy = at(id).cloneNode(true);
    copy.querySelectorAll(".step-edit, form").forEach((one) => one.remove());
    copy.querySelectorAll("canvas").forEach((canvas, number) => {
      const image = make("img", "", { src: at(id).querySelectorAll("canvas")[number].toDataURL(), alt: "" });
      canvas.replaceWith(image);
    });
    copy.querySelectorAll("button").forEach((button) => {
      const box = make("span", "", { class: `${button.className} box`, title: button.title });
      if (button.getAttribute("aria-pressed") === "true" || button.getAttribute("aria-checked") === "true") box.classList.add("chosen");
      if (button.style.length) box.style.cssText = button.style.cssText;
      box.append(...button.childNodes);
      button.replaceWith(box);
    });
    for (const name of ["aria-live", "role"]) copy.removeAttribute(name);
    copy.style.cssText = at(id).style.cssText;
    return copy;
  };
  const rows = state.tokens.map((token, place) => {
    const others = (token.top || []).filter(([name]) => name !== token.token).slice(0, 3).map(([name, share]) => `${name} ${percent(share)}`).join(", ");
    return [`${place + 1}`, [make("td", token.token), token.p === undefined ? make("td", "put in") : heat(token.p, percent(token.p), "its probability"), make("td", others)]];
  });
  const warm = Number(at("temperature").value) ? `, temperature ${at("temperature").value}, seed ${at("seed").value}` : "";
  const main = make("main");
  main.append(make("h1", "mathllm"), still("verdict"), still("about"), make("h2", "Its working"), still("thought"), document.querySelector(".key").cloneNode(true));
  if (state.sight) main.append(make("h2", "Where heads look"), still("heads"), still("looked"), still("sight"));
  main.append(make("h2", "Its tokens"), table("", ["token", "probability", "likeliest others"], rows));
  main.append(make("p", `Saved from ${location.host} on ${new Date().toISOString().slice(0, 10)}${warm}: ${state.result.model}.`, { class: "hint" }));
  body.append(main);
  page.documentElement.lang = "en";
  // this page may hold no style of its own, so that one is put into the text
  const style = `<style>\n${rules.join("\n")}\n.paper { max-height: none; }\n</style></head>`;
  return `<!doctype html>\n${page.documentElement.outerHTML.replace("</head>", () => style)}\n`;
}

function save() {
  if (!solved()) { at("kept").textContent = "Ask something first."; return; }
  const place = URL.createObjectURL(new Blob([saved()], { type: "text/html" }));
  make("a", "", { href: place, download: `mathllm ${state.result.expression.slice(0, 40).replace(/[^-+0-9%]/g, (sign) => ({ "*": "x" })[sign] || "_")}.html` }).click();
  setTimeout(() => URL.revokeObjectURL(place), 10_000);
  at("kept").textContent = "Saved.";
}
