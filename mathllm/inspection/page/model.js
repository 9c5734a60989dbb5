// The model, in plain JavaScript: the same forward pass as mathllm/interp/forward.py, and the coordinates of the formats
// whose problems can be typed. No library; runs in a page and in Node.
"use strict";

const END = 15, THINK = 13, END_THINK = 14, EQUALS = 12, MINUS = 11, PLUS = 10;

function readModel(data) {
  const bytes = Uint8Array.from(atob(data.weights), (character) => character.charCodeAt(0));
  const floats = new Float32Array(bytes.buffer);
  const tensors = {};
  for (const [name, [offset, shape]] of Object.entries(data.tensors)) {
    const size = shape.reduce((product, length) => product * length, 1);
    tensors[name] = { shape, values: floats.subarray(offset, offset + size) };
  }
  const lookup = {};
  for (const [axis, values] of Object.entries(data.model.values)) lookup[axis] = new Map(values.map((value, i) => [value, i]));
  return { ...data.model, tensors, lookup };
}

// coordinates as numbers of rows in the tables; a value that these do not have is an error
function located(model, told) {
  const found = {};
  for (const [axis, rows] of Object.entries(model.lookup)) {
    found[axis] = told[axis].map((value) => {
      if (!rows.has(value)) throw new Error(`the page has no table for ${axis} ${value}`);
      return rows.get(value);
    });
  }
  return found;
}

// y (rows, outputs) of x (rows, inputs) and a weight (outputs, inputs)
function linear(x, rows, weight) {
  const [outputs, inputs] = weight.shape, w = weight.values;
  const y = new Float32Array(rows * outputs);
  for (let row = 0; row < rows; row++) {
    for (let o = 0; o < outputs; o++) {
      let sum = 0;
      for (let i = 0, a = row * inputs, b = o * inputs; i < inputs; i++) sum += x[a + i] * w[b + i];
      y[row * outputs + o] = sum;
    }
  }
  return y;
}

function normed(model, x, rows, name) {
  const width = x.length / rows, weight = model.tensors[name + ".weight"].values;
  const bias = model.tensors[name + ".bias"];
  const y = new Float32Array(x.length);
  for (let row = 0; row < rows; row++) {
    const at = row * width;
    let mean = 0;
    if (bias) {
      for (let i = 0; i < width; i++) mean += x[at + i] / width;
    }
    let square = 0;
    for (let i = 0; i < width; i++) square += (x[at + i] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / width + model.epsilon);
    for (let i = 0; i < width; i++) y[at + i] = (x[at + i] - mean) * scale * weight[i] + (bias ? bias.values[i] : 0);
  }
  return y;
}

// of the normal distribution, to 1e-7 (W. J. Cody's rational form, as in Numerical Recipes' erfc)
function gelu(x) {
  const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + 0.5 * z);
  const series = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277];
  let sum = 0;
  for (let i = series.length - 1; i >= 0; i--) sum = sum * t + series[i];
  const erfc = t * Math.exp(-z * z + sum);
  return x * (x >= 0 ? 1 - erfc / 2 : erfc / 2);
}

function activated(model, x, rows, block) {
  const up = linear(x, rows, model.tensors[block + "feed_forward.up.weight"]);
  const gate = model.tensors[block + "feed_forward.gate.weight"];
  if (gate) {
    const gates = linear(x, rows, gate);
    return up.map((value, i) => value * gates[i] / (1 + Math.exp(-gates[i])));
  }
  return up.map(model.activation === "gelu" ? gelu : (value) => (value > 0 ? value * value : 0));
}

// What every token's coordinates add: vectors, rotations, biases; tables by axis, see page.py
function added(model, ids, told) {
  const width = model.hidden, rows = ids.length, table = model.tensors.embedding.values;
  const x = new Float32Array(rows * width), base = model.tensors.embed.values;
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < width; i++) x[row * width + i] = table[ids[row] * width + i] + base[i];
    for (const axis of Object.keys(model.lookup)) {
      const vectors = model.tensors["embed." + axis], place = told[axis][row];
      if (!vectors) continue;
      for (let i = 0; i < width; i++) x[row * width + i] += vectors.values[place * width + i];
    }
  }
  return x;
}

function turned(model, x, rows, heads, told) {
  for (const axis of Object.keys(model.lookup)) {
    const turns = model.tensors["turn." + axis];
    if (!turns) continue;
    const half = model.head_width / 2;
    for (let row = 0; row < rows; row++) {
      const place = told[axis][row];
      for (let head = 0; head < heads; head++) {
        for (let i = 0; i < half; i++) {
          const at = (row * heads + head) * model.head_width + 2 * i, from = (place * half + i) * 2;
          const cos = turns.values[from], sin = turns.values[from + 1], a = x[at], b = x[at + 1];
          x[at] = a * cos - b * sin;
          x[at + 1] = a * sin + b * cos;
        }
      }
    }
  }
}

function biasOf(model, layer, head, query, key, told) {
  let sum = 0;
  for (const [axis, keyAxis] of model.bias_axes) {
    const { shape, values } = model.tensors["bias." + axis];
    const [, heads, size] = shape;
    sum += values[((layer * heads + head) * size + told[axis][query]) * size + told[keyAxis][key]];
  }
  return sum;
}

function attention(model, x, rows, layer, told, edits, number, kept) {
  const { heads, kv_heads: shared, head_width: width } = model, block = `blocks.${layer}.attention.`;
  const qkv = linear(x, rows, model.tensors[block + "qkv.weight"]);
  const per = heads + 2 * shared;
  const part = (first, count) => {
    const found = new Float32Array(rows * count * width);
    for (let row = 0; row < rows; row++) {
      found.set(qkv.subarray((row * per + first) * width, (row * per + first + count) * width), row * count * width);
    }
    return found;
  };
  const q = part(0, heads), k = part(heads, shared), v = part(heads + shared, shared);
  if (model.qk_norm) {
    for (const vectors of [q, k]) {
      for (let at = 0; at < vectors.length; at += width) {
        let square = 0;
        for (let i = 0; i < width; i++) square += vectors[at + i] ** 2;
        const scale = 1 / Math.sqrt(square / width + model.epsilon);
        for (let i = 0; i < width; i++) vectors[at + i] *= scale;
      }
    }
  }
  turned(model, q, rows, heads, told);
  turned(model, k, rows, shared, told);
  const z = new Float32Array(rows * heads * width), pattern = [];
  for (let head = 0; head < heads; head++) {
    const name = `L${number}H${head}`, off = edits.off.has(name), lines = [];
    const group = Math.floor(head / (heads / shared));
    for (let query = 0; query < rows; query++) {
      const weights = new Float32Array(query + 1);
      let most = -Infinity;
      for (let key = 0; key <= query; key++) {
        let score = 0;
        const a = (query * heads + head) * width, b = (key * shared + group) * width;
        for (let i = 0; i < width; i++) score += q[a + i] * k[b + i];
        weights[key] = score * model.scale + biasOf(model, layer, head, query, key, told);
        if (edits.hidden.has(`${name} ${key}`) && key !== query) weights[key] = -Infinity;
        most = Math.max(most, weights[key]);
      }
      let total = 0;
      for (let key = 0; key <= query; key++) total += weights[key] = Math.exp(weights[key] - most);
      for (let key = 0; key <= query; key++) weights[key] /= total;
      lines.push(weights);
      if (off) continue;
      for (let key = 0; key <= query; key++) {
        for (let i = 0; i < width; i++) {
          z[(query * heads + head) * width + i] += weights[key] * v[(key * shared + group) * width + i];
        }
      }
    }
    pattern.push(lines);
  }
  kept.patterns.push(pattern);
  return linear(z, rows, model.tensors[block + "out.weight"]);
}

function feedForward(model, x, rows, layer, edits, number) {
  const block = `blocks.${layer}.`, post = activated(model, x, rows, block);
  const inner = post.length / rows;
  if (edits.off.has(`L${number}MLP`)) post.fill(0);
  for (const name of edits.off) {
    const found = /^L(\d+)N(\d+)$/.exec(name);
    if (found && Number(found[1]) === number && Number(found[2]) < inner) {
      for (let row = 0; row < rows; row++) post[row * inner + Number(found[2])] = 0;
    }
  }
  return linear(post, rows, model.tensors[block + "feed_forward.down.weight"]);
}

const NOTHING_OFF = { off: new Set(), hidden: new Set() };

// Logits of every token, [T][16], with the logits that each depth would give (lens) and all attention patterns.
// `told` has the coordinates of the tokens by axis; edits.off names heads (L0H1), layers (L0MLP) and neurons (L0N12)
// that are set to zero, edits.hidden keys that a head does not see ("L0H1 3").
function forward(model, ids, told, edits = NOTHING_OFF) {
  const rows = ids.length, coordinates = located(model, { ...told, index: ids.map((_, row) => row) });
  const embedded = added(model, ids, coordinates), kept = { patterns: [] }, streams = [];
  const add = (one, other) => one.map((value, i) => value + other[i]);
  let x = embedded;
  streams.push(x);
  for (let number = 0; number < model.layers * model.loops; number++) {
    const layer = number % model.layers, block = `blocks.${layer}.`;
    if (number && layer === 0) x = add(x, embedded);
    x = add(x, attention(model, normed(model, x, rows, block + "attention_norm"), rows, layer, coordinates, edits, number, kept));
    streams.push(x);
    x = add(x, feedForward(model, normed(model, x, rows, block + "feed_forward_norm"), rows, layer, edits, number));
    streams.push(x);
  }
  const head = model.tensors.head || model.tensors.embedding;
  const split = (flat) => Array.from({ length: rows }, (_, row) => flat.slice(row * 16, row * 16 + 16));
  const lens = streams.map((stream) => split(linear(normed(model, stream, rows, "final_norm"), rows, head)));
  return { logits: lens[lens.length - 1], lens, patterns: kept.patterns };
}

// Problems that can be typed: what they are, as tokens, with their true answers

const OPERATORS = { "+": [PLUS], "-": [MINUS], "*": [PLUS, PLUS] };

function digitsOf(text, unitsFirst) {
  const digits = Array.from(text, Number);
  return unitsFirst ? digits.reverse() : digits;
}

// {task, ids, told, answer} of a text, or a string that says why it is none
function readProblem(text, data) {
  const folded = text.replace(/\s/g, "").replace(/[×·]/g, "*").replace(/[−–]/g, "-").replace(/=$/, "");
  const parts = folded.split(/([+*-])/);
  const chain = data.tasks.includes("chain");
  if (parts.length < (chain ? 1 : 3) || !parts.every((part, i) => (i % 2 ? part in OPERATORS : /^\d+$/.test(part)))) {
    return `this is no problem that I know; try ${data.examples[0].problem}`;
  }
  const numbers = parts.filter((_, i) => i % 2 === 0), operators = parts.filter((_, i) => i % 2);
  if (chain) {
    if (numbers.some((number) => number.length > 1)) return "the numbers of a chain have one digit each";
    const factor = operators.findIndex((operator, i) => operator === "*" && !["1", "3", "7", "9"].includes(numbers[i + 1]));
    if (factor >= 0) return `a chain multiplies by 1, 3, 7 or 9 alone, not by ${numbers[factor + 1]}`;
  } else {
    const name = { "+": "addition", "-": "subtraction", "*": "multiplication" }[operators[0]];
    if (numbers.length !== 2 || !data.tasks.includes(name)) {
      return `this model was trained on ${data.tasks.join(", ")}, of two numbers here`;
    }
    if (numbers.some((number) => number.length > 24)) return "the page has room for numbers of 24 digits";
    if (numbers.some((number) => /^0\d/.test(number))) return "leave out leading zeros";
  }
  const ids = [];
  parts.forEach((part, i) => ids.push(...(i % 2 ? OPERATORS[part] : digitsOf(part, data.units_first))));
  ids.push(EQUALS);
  if (ids.length >= data.room) return `there is room for ${data.room} tokens, and the problem alone takes ${ids.length}`;
  return { ids, numbers, operators, chain, answer: trueAnswer(numbers, operators, chain) };
}

function trueAnswer(numbers, operators, chain) {
  if (!chain) {
    const [a, b] = numbers.map(BigInt);
    return String(operators[0] === "+" ? a + b : operators[0] === "-" ? a - b : a * b);
  }
  let state = Number(numbers[0]);
  operators.forEach((operator, i) => {
    const digit = Number(numbers[i + 1]);
    state = (operator === "+" ? state + digit : operator === "-" ? state - digit + 10 : state * digit) % 10;
  });
  return String(state);
}

// Where the tokens of such a text stand, and what may come next: the followers of mathllm/formats, for one text
function follow(problem, ids, data) {
  const prompt = problem.ids.length - 1, place = [], segment = [];
  let number = 0;
  for (let i = 0; i < prompt; i++) {
    const digit = ids[i] < 10;
    if (problem.chain) {
      number += digit ? 1 : 0;
      place.push(Math.max(digit ? number - 1 : number, 1));
    } else if (digit) {
      let first = i, last = i;
      while (first > 0 && ids[first - 1] < 10) first--;
      while (ids[last + 1] < 10) last++;
      place.push(data.units_first ? i - first + 1 : last - i + 1);
    } else {
      place.push(0);
    }
    segment.push(0);
  }
  const follower = problem.chain ? stepsFollower(problem) : data.thinks ? columnFollower(problem) : answerFollower();
  const choices = new Array(prompt).fill(null); // what may come behind each token
  for (let i = prompt; i < ids.length; i++) {
    place.push(follower.push(ids[i]));
    segment.push(1);
    choices.push(follower.allowed());
  }
  const own = (values) => values.map((value, i) => (i <= prompt ? (i < prompt ? value : 0) : values[i - 1]));
  return { told: { place, segment, own_place: own(place), own_segment: own(segment) }, choices };
}

const ANYTHING = () => null;

function answerFollower() {
  let written = 0, ended = false;
  return {
    push(id) {
      if (id < 10) written++;
      ended = ended || id === END;
      return ended ? 0 : written + 1;
    },
    allowed: ANYTHING,
  };
}

function columnFollower(problem) {
  const difference = problem.operators[0] === "-";
  let equals = 0, since = 0, answering = false, written = 0, announced = 0, ended = false;
  let highest = 1, nonzero = false, ten = false;
  return {
    push(id) {
      const isEquals = id === EQUALS, closing = id === END_THINK && !answering;
      since = isEquals ? 0 : since + 1;
      if (difference) {
        const at = Math.min(since, 5), wanted = [null, MINUS, 1, 0, null, null][at];
        if (ten && at === 4 && id < 10) nonzero = false;
        if (at === 1) nonzero = id !== 0;
        ten = (wanted !== null && id === wanted && (ten || at === 1)) || (ten && at > 3);
        if (nonzero && (isEquals || closing)) highest = Math.max(highest, equals - 1);
        if (closing) announced = highest;
      } else if (closing) {
        announced = Math.max(equals + since - 3, 0);
      }
      answering = answering || closing;
      const place = answering ? 0 : equals;
      if (isEquals) equals++;
      if (!answering) return place;
      if (id < 10) written++;
      ended = ended || id === END;
      return ended ? place : Math.max(announced - written, 0);
    },
    allowed: ANYTHING,
  };
}

function stepsFollower(problem) {
  const length = problem.operators.length;
  let here = -1, answering = false, over = false;
  return {
    push(id) {
      here++;
      answering = answering || id === END_THINK;
      over = over || id === END;
      if (over) return 0;
      if (id === END_THINK) return length + 1;
      return answering ? 0 : Math.min(Math.max(here, 0), length + 1);
    },
    allowed() {
      if (here === 0) return (id) => id === THINK;
      if (here <= length) return (id) => id < 10;
      return here === length + 1 ? (id) => id === END_THINK : null;
    },
  };
}

// The text that a model writes for a problem, greedily, as far as there is room. `forced` are tokens that it does not
// choose itself, by column.
function solve(model, problem, data, edits = NOTHING_OFF, forced = new Map()) {
  const ids = [...problem.ids];
  let found = null, choices = [];
  while (ids[ids.length - 1] !== END && ids.length < data.room) {
    const followed = follow(problem, ids, data);
    // what babbles on gets to places that the page has no tables for: there it is cut
    const beyond = ([axis, values]) => model.lookup[axis] && !values.every((value) => model.lookup[axis].has(value));
    if (found && Object.entries(followed.told).some(beyond)) break;
    choices = followed.choices;
    found = forward(model, ids, followed.told, edits);
    const best = likeliest(found.logits[ids.length - 1], choices[ids.length - 1]);
    ids.push(forced.has(ids.length) ? forced.get(ids.length) : best);
  }
  return { ids, choices, ...found };
}

function likeliest(logits, allowed) {
  let best = -1;
  for (let id = 0; id < 16; id++) {
    if ((!allowed || allowed(id)) && (best < 0 || logits[id] > logits[best])) best = id;
  }
  return best;
}

if (typeof module !== "undefined") module.exports = { readModel, readProblem, follow, forward, solve };
