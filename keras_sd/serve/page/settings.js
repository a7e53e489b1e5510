// The form: its choices from what the server has, its values as a request, and back.

import { Problem } from "./api.js";
import { byId, clearErrors, make } from "./dom.js";
import { formatSpec, parseSpec, split } from "./specs.js";
import * as store from "./store.js";

// Those of a run that begins at a picture, and of one with a mask.
export const OF_START = ["strength", "steps_mode"];
export const OF_MASK = ["only_masked", "padding", "mask_blur", "num_resamples", "keep_unmasked"];
const SPECS = ["sampler", "schedule"];
const STRENGTH = 0.6;
// Those that have their fields in another way: the browser brings a picture to its size.
const ELSEWHERE = ["guidance_interval", "resize", "mask_convention"];

let info = null;

const named = () => [...byId("form").querySelectorAll("[name]")].filter((each) => each.id);
const ofPage = () => [...document.querySelectorAll("[data-page]")];

/** Puts what the server has into the form, then what was there when the page was left. */
export function fill(found) {
  info = found;
  for (const kind of SPECS) {
    const options = found[`${kind}s`].map((each) => make("option", { value: each.name, text: each.display_name }));
    byId(kind).replaceChildren(...options);
    byId(kind).addEventListener("change", () => showSettings(kind, {}));
  }
  const styles = found.prompt_styles.map((each) => make("option", { value: each, text: each }));
  byId("prompt_style").replaceChildren(...styles);
  byId("others-help").textContent = `As name=value, ...: ${withoutField().join(", ")}.`;
  byId("num_steps").max = found.limits.steps;
  byId("batch_size").max = found.limits.images;
  fillSizes();
  apply({});
  byId("strength").value = STRENGTH;
  byId("brush-size").value = Math.round(found.width / 5);
  byId("brush-size").max = Math.max(32, Math.round(found.width / 2));
  bring();
  byId("form").addEventListener("input", (event) => {
    clearErrors(event.target);
    changed();
  });
  byId("form").addEventListener("change", changed);
  changed();
}

/** After a value was set by the page. */
export function changed() {
  keep();
  const chosen = byId("sampler").selectedOptions[0]?.textContent ?? "";
  byId("brief").textContent = `${byId("width").value} × ${byId("height").value} · ${byId("num_steps").value} steps · ${chosen}`;
  const size = `${byId("width").value}x${byId("height").value}`;
  byId("size").value = size;
  if (byId("size").selectedIndex < 0) byId("size").value = "own";
  byId("strength-shown").textContent = byId("strength").value;
  byId("brush-size-shown").textContent = byId("brush-size").value;
  byId("refine-brief").textContent = byId("refine").checked ? `${byId("refine_scale").value} times` : "";
  byId("form").dispatchEvent(new CustomEvent("settled"));
}

/** The settings as fields of a request, without a picture: what is empty is left to the model. */
export function request() {
  const body = {};
  for (const field of named()) {
    const { name, type, value } = field;
    if (OF_START.includes(name) || OF_MASK.includes(name) || value === "") continue;
    if (SPECS.includes(name)) body[name] = spec(name);
    else if (type === "number") body[name] = numberOf(field);
    else body[name] = value;
  }
  if (body.seed !== undefined) body.seed = seedOf(body.seed);
  const [low, high] = ["interval_low", "interval_high"].map((id) => byId(id).value);
  if (low !== "" || high !== "") {
    if (low === "" || high === "") {
      throw new Problem("", { fields: { guidance_interval: "Give both ends, or none." } });
    }
    body.guidance_interval = [Number(low), Number(high)];
  }
  return { ...body, ...others() };
}

/** Settings that have no field of their own: few need them, as those of SDXL. */
function withoutField() {
  const fields = new Set([...named().map((each) => each.name), ...ELSEWHERE]);
  return Object.keys(info.defaults).filter((name) => !fields.has(name));
}

/** What is written in the field for these. */
function others() {
  const found = {};
  for (const part of split(byId("others").value).filter((each) => each.trim())) {
    const [, name, value] = /^\s*(\w+)\s*=\s*(.+?)\s*$/.exec(part) ?? [];
    if (!withoutField().includes(name)) {
      const message = name ? `${name} is none of them.` : `“${part.trim()}” is no name=value.`;
      throw new Problem("", { fields: { others: message } });
    }
    try {
      found[name] = JSON.parse(value);
    } catch {
      found[name] = value; // a word, without its quotes
    }
  }
  return found;
}

/** The errors of fields, those of settings without one at the field for these. */
export function placed(errors) {
  const own = info ? new Set(withoutField()) : new Set();
  return Object.fromEntries(Object.entries(errors).map(([name, message]) => [own.has(name) ? "others" : name, message]));
}

/** Some settings of the form by name. */
export function some(names) {
  const body = {};
  for (const name of names) {
    const field = byId(name);
    if (field.type === "checkbox") body[name] = field.checked;
    else if (field.value !== "") body[name] = field.type === "select-one" ? field.value : numberOf(field);
  }
  return body;
}

function numberOf(field) {
  if (field.validity.badInput) {
    throw new Problem("", { fields: { [field.name || field.id]: "This is no number." } });
  }
  return Number(field.value);
}

/** A seed as the string of digits that it is; they may be longer than numbers of JavaScript. */
function seedOf(text) {
  const digits = text.trim();
  if (!/^\d{1,20}$/.test(digits)) {
    throw new Problem("", { fields: { seed: "A seed is a whole number from 0 to 2^64 - 1." } });
  }
  return digits;
}

/**
 * Sets the form to a request's settings; what these do not say is the model's own.
 *
 * @returns what the form has no place for: sentences.
 */
export function apply(settings) {
  const told = { ...info.defaults, seed: "", prompt: "", negative_prompt: "", first_image: "", ...settings };
  const left = [];
  for (const field of named()) {
    const value = told[field.name];
    if (SPECS.includes(field.name)) left.push(...applySpec(field.name, value));
    else if (field.type === "checkbox") field.checked = Boolean(value);
    else if (field.type === "radio" || (field.name === "strength" && value === null)) continue;
    else field.value = value ?? "";
  }
  const [low, high] = told.guidance_interval ?? ["", ""];
  byId("interval_low").value = low;
  byId("interval_high").value = high;
  const more = withoutField().filter((name) => JSON.stringify(told[name]) !== JSON.stringify(info.defaults[name]));
  byId("others").value = more.map((name) => `${name}=${JSON.stringify(told[name])}`).join(", ");
  return left;
}

function applySpec(kind, value) {
  const field = byId(kind);
  field.querySelector("option[data-own]")?.remove();
  if (Array.isArray(value) || (value && typeof value === "object")) {
    // Timesteps of one's own have no name: they are an entry of the list as long as it is theirs.
    const text = JSON.stringify(value);
    field.append(make("option", { value: text, text: `of the picture (${[value].flat().length})`, "data-own": true }));
    field.value = text;
    showSettings(kind, {});
    return [];
  }
  const { name, settings } = parseSpec(value ?? info.defaults[kind]);
  const bare = name.includes(":") && !has(kind, name) ? name.split(":").at(-1) : name;
  if (!has(kind, bare)) {
    field.value = parseSpec(info.defaults[kind]).name;
    showSettings(kind, {});
    return [`The ${kind} “${name}” is not installed here.`];
  }
  field.value = bare;
  showSettings(kind, settings);
  return [];
}

const has = (kind, name) => info[`${kind}s`].some((each) => each.name === name);

/** "ddim:eta=0.5" of the form's sampler or schedule. */
export function spec(kind) {
  const field = byId(kind);
  if (field.selectedOptions[0]?.dataset.own !== undefined) return JSON.parse(field.value);
  const given = [...byId(`${kind}-settings`).querySelectorAll("[data-setting]")];
  return formatSpec(field.value, Object.fromEntries(given.map((each) => [each.dataset.setting, each.value.trim()])));
}

/** A field for each setting that the sampler, or schedule, has of its own. */
function showSettings(kind, values) {
  const box = byId(`${kind}-settings`);
  const found = info[`${kind}s`].find((each) => each.name === byId(kind).value)?.settings ?? [];
  const fields = found.map((each) => {
    const id = `${kind}-${each.name}`;
    const choices = each.choices ?? (each.type === "bool" ? ["True", "False"] : null);
    const value = values[each.name] ?? "";
    const usual = typeof each.default === "boolean" ? (each.default ? "True" : "False") : each.default;
    const attributes = { id, "data-setting": each.name, autocomplete: "off" };
    const field = choices
      ? make(
          "select",
          attributes,
          make("option", { value: "", text: `${usual} (its own)` }),
          ...choices.map((choice) => make("option", { value: choice, text: choice })),
        )
      : make("input", { ...attributes, type: "text", placeholder: `${usual}` });
    field.value = value;
    return make("div", { class: "field" }, make("label", { for: id, text: each.name }), field);
  });
  box.replaceChildren(box.firstElementChild, ...fields);
  box.hidden = !fields.length;
}

// --- sizes ------------------------------------------------------------------------------

const SHAPES = [
  ["Square", 1],
  ["Portrait 3:4", 3 / 4],
  ["Portrait 2:3", 2 / 3],
  ["Tall 9:16", 9 / 16],
  ["Landscape 4:3", 4 / 3],
  ["Landscape 3:2", 3 / 2],
  ["Wide 16:9", 16 / 9],
];

function fillSizes() {
  const { height, width, limits } = info;
  const sizes = new Map([[`${width}x${height}`, `The model's own · ${width} × ${height}`]]);
  const whole = (side) => Math.max(Math.round(side / 8), 1) * 8;
  for (const [name, shape] of SHAPES) {
    const [across, down] = [whole(Math.sqrt(width * height * shape)), whole(Math.sqrt((width * height) / shape))];
    if (!sizes.has(`${across}x${down}`)) sizes.set(`${across}x${down}`, `${name} · ${across} × ${down}`);
  }
  if (4 * width * height <= limits.pixels) {
    sizes.set(`${2 * width}x${2 * height}`, `Twice as large · ${2 * width} × ${2 * height}`);
  }
  const options = [...sizes].map(([value, text]) => make("option", { value, text }));
  byId("size").replaceChildren(...options, make("option", { value: "own", text: "Another size" }));
  // "input" comes before the form hears of it, which shows the size that the numbers say.
  byId("size").addEventListener("input", () => {
    if (byId("size").value === "own") {
      byId("width").focus();
      return;
    }
    [byId("width").value, byId("height").value] = byId("size").value.split("x");
  });
  byId("swap").addEventListener("click", () => {
    [byId("width").value, byId("height").value] = [byId("height").value, byId("width").value];
    changed();
  });
}

// --- what stays when the page is left ---------------------------------------------------

function keep() {
  const values = {};
  for (const field of [...named(), ...ofPage()]) {
    if (field.type === "radio") {
      if (field.checked) values[field.name] = field.value;
    } else if (SPECS.includes(field.name)) values[field.id] = spec(field.name);
    else if (field.type === "checkbox") values[field.id] = field.checked;
    else if (field.multiple) values[field.id] = [...field.selectedOptions].map((each) => each.value);
    else values[field.id] = field.value;
  }
  store.write("form", { model: info.model.name, values });
}

/** Of another model the texts alone: its steps and sizes mean nothing here. */
function bring() {
  const { model, values = {} } = store.read("form", {});
  for (const field of [...named(), ...ofPage()]) {
    const value = values[field.type === "radio" ? field.name : field.id];
    if (value === undefined || (model !== info.model.name && !field.id.endsWith("prompt"))) continue;
    if (field.type === "radio") field.checked = field.value === value;
    else if (SPECS.includes(field.name)) applySpec(field.name, value);
    else if (field.type === "checkbox") field.checked = value;
    else if (field.multiple) for (const each of field.options) each.selected = value.includes(each.value);
    else field.value = value;
  }
}

/** Which parts are open stays, too. */
export function keepParts() {
  const open = store.read("open", {});
  for (const part of document.querySelectorAll("details[data-keep]")) {
    part.open = open[part.id] ?? false;
    part.addEventListener("toggle", () => {
      store.write("open", { ...store.read("open", {}), [part.id]: part.open });
    });
  }
}
