// What was made: thumbnails, and one picture with its settings and what can be done with it.

import { byId, counted, make } from "./dom.js";
import * as shelf from "./shelf.js";

const AT_ONCE = 60;

// What is said in another way, or is of the mask alone.
const UNSAID = ["width", "height", "batch_size", "starts", "masked", "only_masked", "padding", "keep_unmasked"];

// What nobody needs to be told.
const USUAL = { first_image: 0, guidance_rescale: 0, prompt_style: "plain", clip_skip: 1, steps_mode: "run", mask_blur: 0, num_resamples: 1 };

const LABELS = {
  prompt: "Prompt",
  negative_prompt: "Negative prompt",
  seed: "Seed",
  first_image: "Number in its row",
  num_steps: "Steps",
  sampler: "Sampler",
  schedule: "Schedule",
  guidance_scale: "Guidance",
  guidance_rescale: "Guidance rescale",
  guidance_interval: "Guidance interval",
  prompt_style: "Grammar",
  clip_skip: "Clip skip",
  strength: "Strength",
  steps_mode: "Steps are",
  mask_blur: "Blur of the mask",
  num_resamples: "Rounds a step",
};

let records = [];
let shownCount = AT_ONCE;
let current = null;
let actions = [];
const urls = new Map(); // key -> of its blob

/** @param able what can be done with a picture: `{name, act(record), fits(record)}`. */
export async function begin(able) {
  actions = able;
  records = await shelf.all();
  byId("gallery-more").addEventListener("click", () => {
    shownCount += AT_ONCE;
    render();
  });
  byId("viewer-before").addEventListener("click", () => move(-1));
  byId("viewer-after").addEventListener("click", () => move(1));
  byId("viewer").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "ArrowRight") move(1);
  });
  render();
}

/** The newest picture that was drawn. */
export const newest = () => records.find((each) => each.kind !== "grid") ?? null;

/** Whether there is one of this key. */
export const has = (key) => records.some((each) => each.key === key);

/** Takes a picture in; false where it stays only as long as the page is open. */
export async function add(record) {
  if (has(record.key)) return true;
  records.unshift(record);
  render();
  return shelf.put(record);
}

/** Takes one away. */
export async function remove(record) {
  const at = records.indexOf(record);
  records = records.filter((each) => each !== record);
  if (urls.has(record.key)) URL.revokeObjectURL(urls.get(record.key));
  urls.delete(record.key);
  render();
  if (byId("viewer").open) {
    if (records.length) show(records[Math.min(at, records.length - 1)]);
    else byId("viewer").close();
  }
  await shelf.remove(record.key);
}

/** Takes all away. */
export async function clear() {
  records = [];
  for (const each of urls.values()) URL.revokeObjectURL(each);
  urls.clear();
  render();
  await shelf.clear();
}

function urlOf(record) {
  if (!urls.has(record.key)) urls.set(record.key, URL.createObjectURL(record.blob));
  return urls.get(record.key);
}

const altOf = (record) => `${record.kind === "grid" ? "Grid: " : ""}${record.settings.prompt || "without a prompt"}`;

function render() {
  const list = byId("gallery");
  const there = new Map([...list.children].map((each) => [each.dataset.key, each]));
  const items = records.slice(0, shownCount).map((record) => there.get(record.key) ?? item(record));
  list.replaceChildren(...items);
  byId("gallery-count").textContent = records.length ? counted(records.length, "picture") : "";
  byId("gallery-none").hidden = records.length > 0;
  byId("gallery-clear").hidden = !records.length;
  byId("gallery-more").hidden = records.length <= shownCount;
}

function item(record) {
  const image = make("img", { src: urlOf(record), alt: altOf(record), loading: "lazy" });
  const button = make("button", { type: "button", onclick: () => show(record) }, image);
  if (record.kind !== "drawn") button.append(make("span", { class: "mark", text: record.kind }));
  return make("li", { "data-key": record.key }, button);
}

/** Opens a picture. */
export function show(record) {
  current = record;
  const at = records.indexOf(record);
  byId("viewer-picture").src = urlOf(record);
  byId("viewer-picture").alt = altOf(record);
  byId("viewer-place").textContent = `${at + 1} of ${records.length}`;
  byId("viewer-before").disabled = at <= 0;
  byId("viewer-after").disabled = at >= records.length - 1;
  byId("viewer-status").textContent = "";
  byId("viewer-settings").replaceChildren(...told(record).flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
  const buttons = actions
    .filter(({ fits }) => !fits || fits(record))
    .map(({ name, act }) => make("button", { type: "button", text: name, onclick: () => act(current) }));
  byId("viewer-actions").replaceChildren(...buttons);
  if (!byId("viewer").open) byId("viewer").showModal();
}

function move(by) {
  const next = records[records.indexOf(current) + by];
  if (next) show(next);
}

/** Names and values of what a picture was made with. */
function told(record) {
  const { settings } = record;
  const rows = Object.entries(LABELS)
    .filter(([name]) => settings[name] !== undefined && settings[name] !== "" && settings[name] !== USUAL[name])
    .map(([name, label]) => [label, Array.isArray(settings[name]) ? settings[name].join(", ") : `${settings[name]}`]);
  const more = Object.keys(settings).filter((name) => !(name in LABELS) && !UNSAID.includes(name));
  for (const name of more) rows.push([name, JSON.stringify(settings[name])]);
  rows.push(["Size", `${record.width} × ${record.height}`]);
  if (settings.masked) rows.push(["Began at", "a picture and a mask"]);
  else if (settings.starts) rows.push(["Began at", "a picture"]);
  for (const each of record.axes ?? []) rows.push([each.name, each.values.join(", ")]);
  rows.push(["Model", record.model], ["Made", new Date(record.made).toLocaleString()]);
  return rows;
}

/** The settings as lines of text. */
export const asText = (record) => told(record).map(([name, value]) => `${name}: ${value}`).join("\n");

/** A name for its file. */
export function fileName(record) {
  const words = (record.settings.prompt ?? "").toLowerCase().match(/[a-z0-9]+/g) ?? ["picture"];
  const seed = record.kind === "grid" ? "grid" : (record.settings.seed ?? "");
  return `${words.join("-").slice(0, 60)}-${seed}.png`.replace(/-+\./, ".");
}
