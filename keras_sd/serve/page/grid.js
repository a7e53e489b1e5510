// A grid over two settings: single requests, whose pictures are put together on a canvas.

import { Problem } from "./api.js";
import { byId, make } from "./dom.js";
import * as pixels from "./pixels.js";
import { split } from "./specs.js";
import * as work from "./work.js";

const AT_ONCE = 3; // requests: others want their turn, too
const MOST = 144; // pictures of a grid
const LONGEST = 8192; // pixels of a side, which every browser draws
const GAP = 6;
const LINE = 20; // pixels of a line of text
const FONT = "15px system-ui, sans-serif";

const NUMBERS = {
  num_steps: "Steps",
  guidance_scale: "Guidance",
  seed: "Seed",
  strength: "Strength",
  clip_skip: "Clip skip",
  guidance_rescale: "Guidance rescale",
};
const NAMES = { sampler: "Sampler", schedule: "Schedule" };
const AXES = { "": "Nothing", ...NUMBERS, ...NAMES, words: "Words of the prompt" };

let info = null;

/** Makes the fields of both axes. */
export function begin(found) {
  info = found;
  byId("axes").replaceChildren(...["x", "y"].flatMap(fieldsOf));
}

/** After what was kept is back in the form. */
export function refresh() {
  for (const axis of ["x", "y"]) showAxis(axis);
}

function fieldsOf(axis) {
  const name = axis === "x" ? "Columns" : "Rows";
  const options = Object.entries(AXES).map(([value, text]) => make("option", { value, text }));
  const choice = make("select", { id: `${axis}_axis`, "data-page": true }, ...options);
  choice.addEventListener("change", () => showAxis(axis));
  const text = make("input", { id: `${axis}_values`, type: "text", autocomplete: "off", "data-page": true, "aria-describedby": `${axis}_help` });
  const field = (id, label, control) => make("div", { class: "field across", id: `${id}-field` }, make("label", { for: id, text: label }), control);
  const lists = Object.keys(NAMES).map((kind) => {
    const each = info[`${kind}s`].map(({ name: value, display_name }) => make("option", { value, text: display_name }));
    const list = make("select", { id: `${axis}_${kind}s`, multiple: true, "data-page": true }, ...each);
    return field(`${axis}_${kind}s`, `${name}: ${NAMES[kind].toLowerCase()}s`, list);
  });
  const values = field(`${axis}_values`, `${name}: values`, text);
  values.append(make("p", { class: "help", id: `${axis}_help` }));
  return [field(`${axis}_axis`, name, choice), values, ...lists];
}

function showAxis(axis) {
  const kind = byId(`${axis}_axis`).value;
  byId(`${axis}_values-field`).hidden = !(kind in NUMBERS || kind === "words");
  for (const each of Object.keys(NAMES)) byId(`${axis}_${each}s-field`).hidden = kind !== each;
  byId(`${axis}_help`).textContent =
    kind === "words" ? "The first is looked for in the prompts, the others take its place: cat, dog, fox" : "5, 10, 20, or 5-20 (+5), or 1-10 [4] for four of them";
}

/** The values of a line: "5, 10-20 (+5), 1-3". */
export function numbers(text, whole) {
  const found = [];
  for (const part of split(text).map((each) => each.trim()).filter(Boolean)) {
    const range = /^(-?[\d.]+)\s*-\s*(-?[\d.]+)\s*(?:\(\s*\+?([\d.]+)\s*\)|\[\s*(\d+)\s*\])?$/.exec(part);
    if (!range) {
      if (!/^-?\d+(\.\d+)?$/.test(part)) throw new Error(`“${part}” is no number`);
      found.push(whole ? part : Number(part));
      continue;
    }
    const [first, last] = [Number(range[1]), Number(range[2])];
    const count = range[4] ? Number(range[4]) : null;
    const step = count ? (last - first) / Math.max(count - 1, 1) : Number(range[3] ?? 1);
    const many = count ?? Math.floor((last - first) / step + 1e-9) + 1;
    if (!(many >= 1 && many <= MOST && step >= 0)) throw new Error(`“${part}” is no range of numbers`);
    for (let i = 0; i < many; i += 1) {
      const value = Number((first + i * step).toFixed(6));
      found.push(whole ? `${Math.round(value)}` : value);
    }
  }
  return found;
}

const WHOLE = ["num_steps", "clip_skip", "seed"];

/** One axis: its name, the words for its values, and how each changes a request. */
function axisOf(axis, body) {
  const kind = byId(`${axis}_axis`).value;
  const wrong = (id, message) => new Problem("", { fields: { [id]: message } });
  if (!kind) return { name: "", values: [""], change: [(each) => each] };
  if (kind in NAMES) {
    const chosen = [...byId(`${axis}_${kind}s`).selectedOptions];
    if (!chosen.length) throw wrong(`${axis}_${kind}s`, "Choose some of them.");
    return {
      name: NAMES[kind],
      values: chosen.map((each) => each.textContent),
      change: chosen.map((each) => (request) => ({ ...request, [kind]: each.value })),
    };
  }
  const text = byId(`${axis}_values`).value;
  if (kind === "words") {
    const words = split(text).map((each) => each.trim()).filter(Boolean);
    const texts = `${body.prompt ?? ""}\n${body.negative_prompt ?? ""}`;
    if (words.length < 2) throw wrong(`${axis}_values`, "Give a word of the prompt, and others for its place.");
    if (!texts.includes(words[0])) throw wrong(`${axis}_values`, `“${words[0]}” is not in the prompts.`);
    const put = (request, word) => {
      const changed = { ...request };
      for (const name of ["prompt", "negative_prompt"]) if (changed[name]) changed[name] = changed[name].replaceAll(words[0], word);
      return changed;
    };
    return { name: "Words", values: words, change: words.map((word) => (request) => put(request, word)) };
  }
  if (kind === "strength" && !body.image) throw wrong(`${axis}_axis`, "A strength needs a picture to start from.");
  let values = [];
  try {
    values = numbers(text, WHOLE.includes(kind));
  } catch (error) {
    throw wrong(`${axis}_values`, `${error.message}.`);
  }
  if (!values.length) throw wrong(`${axis}_values`, "Give some values.");
  const sent = (value) => (kind === "seed" ? value : Number(value));
  return { name: NUMBERS[kind], values: values.map(String), change: values.map((value) => (request) => ({ ...request, [kind]: sent(value) })) };
}

/** The requests of a grid; all have one seed, so that they differ by the two settings alone. */
export function plan(body) {
  const seed = body.seed ?? `${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const base = { ...body, seed, batch_size: 1 };
  const axes = [axisOf("x", base), axisOf("y", base)];
  if (axes.every((each) => !each.name)) throw new Problem("", { fields: { x_axis: "Choose what the columns are." } });
  const [across, down] = axes;
  const cells = down.change.flatMap((second, y) => across.change.map((first, x) => ({ x, y, body: second(first(base)) })));
  if (cells.length > MOST) throw new Problem("", { fields: { x_values: `A grid has at most ${MOST} pictures, not ${cells.length}.` } });
  return { base, axes, cells };
}

/** A grid in the making. */
export class Grid {
  /**
   * @param planned of `plan`.
   * @param drawn is called with each job that is done.
   */
  constructor({ base, axes, cells }, drawn) {
    Object.assign(this, { base, axes, cells, drawn, done: 0, failed: null, stopped: false, open: new Set() });
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "The grid so far");
    this.size = null;
  }

  /** Draws all of it; resolves when nothing of it is under way any more. */
  async run(told) {
    const waiting = [...this.cells];
    const worker = async () => {
      for (let cell; (cell = waiting.shift()) && !this.stopped; ) {
        const job = work.submit(cell.body, { ofGrid: true });
        this.open.add(job);
        await job.ended;
        this.open.delete(job);
        if (job.state === "done") {
          this.done += 1;
          await this.#put(cell, job.pictures[0]);
          await this.drawn(job);
        } else if (!this.stopped) {
          this.failed ??= job.problem;
          this.stop();
        }
        told(this);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  }

  stop() {
    this.stopped = true;
    for (const each of this.open) work.stop(each);
  }

  async #put({ x, y }, { blob }) {
    const picture = await pixels.opened(blob);
    if (!this.size) this.#begin(picture);
    const { brush, left, top } = this;
    const { width, height } = this.size;
    brush.drawImage(picture, left + x * (width + GAP), top + y * (height + GAP), width, height);
  }

  /** The canvas, when the size of the pictures is known; small ones are drawn larger. */
  #begin(picture) {
    const [across, down] = this.axes;
    const [columns, rows] = [across.values.length, down.values.length];
    const wanted = Math.max(1, Math.floor(192 / Math.max(picture.width, picture.height)));
    const most = Math.min((LONGEST - 400) / (columns * picture.width), (LONGEST - 400) / (rows * picture.height));
    const scale = Math.min(wanted, most);
    this.size = { width: Math.round(picture.width * scale), height: Math.round(picture.height * scale) };
    const { width, height } = this.size;
    const measure = document.createElement("canvas").getContext("2d");
    measure.font = FONT;
    const longest = Math.max(...down.values.map((each) => measure.measureText(each).width), down.name ? measure.measureText(down.name).width : 0);
    this.left = down.name ? Math.min(Math.ceil(longest) + 24, 260) : GAP;
    this.top = across.name ? 2 * LINE + 14 : GAP;
    this.canvas.width = this.left + columns * (width + GAP);
    this.canvas.height = this.top + rows * (height + GAP);
    this.brush = this.canvas.getContext("2d");
    this.#label(columns, rows, width, height);
  }

  #label(columns, rows, width, height) {
    const { brush, canvas, left, top } = this;
    const [across, down] = this.axes;
    brush.fillStyle = "#fff";
    brush.fillRect(0, 0, canvas.width, canvas.height);
    Object.assign(brush, { font: FONT, textBaseline: "middle", textAlign: "center", fillStyle: "#5a5a68" });
    brush.fillText(across.name, left + (columns * (width + GAP)) / 2, 16, canvas.width - left);
    brush.textAlign = "right";
    if (down.name) brush.fillText(down.name, left - 12, top - 14, left - 16);
    brush.fillStyle = "#1c1c22";
    across.values.forEach((each, x) => {
      brush.textAlign = "center";
      brush.fillText(each, left + x * (width + GAP) + width / 2, top - 14, width);
    });
    down.values.forEach((each, y) => {
      brush.textAlign = "right";
      brush.fillText(each, left - 12, top + y * (height + GAP) + height / 2, left - 16);
    });
    brush.fillStyle = "#eeeef2";
    for (let x = 0; x < columns; x += 1) {
      for (let y = 0; y < rows; y += 1) brush.fillRect(left + x * (width + GAP), top + y * (height + GAP), width, height);
    }
  }

  /** What is there of it, as a record of the gallery. */
  async record() {
    if (!this.size) return null;
    const axes = this.axes.filter((each) => each.name).map(({ name, values }) => ({ name, values }));
    const { image, mask, ...settings } = this.base;
    return {
      key: `grid-${Date.now()}`,
      kind: "grid",
      settings: { ...settings, ...(image ? { starts: true } : {}), ...(mask ? { masked: true } : {}) },
      axes,
      blob: await pixels.fileOf(this.canvas),
      width: this.canvas.width,
      height: this.canvas.height,
    };
  }
}
