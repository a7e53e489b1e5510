// How the model reads the prompts: tokens, words that it does not know, and those that it does.

import { call } from "./api.js";
import { byId, make, say } from "./dom.js";
import { changed } from "./settings.js";

const PAUSE = 250; // milliseconds without a key
const WITH_TAGS = ["a1111", "keras_sd"];

// Of a model that says its words, those whose words it has are shown.
const OF_FEW_WORDS = [
  "a 3d render of a rocket on yellow",
  "pixel art of an octopus on light blue",
  "a sticker of a fox on purple",
  "a tiny snail on green",
  "a cat face on a blue background",
  "a rocket on a purple background",
  "a red apple on a yellow background",
  "a mushroom on a green background",
];
const OF_ALL_WORDS = [
  "a lighthouse on a cliff at dawn, oil painting",
  "a bowl of ramen, studio photograph",
  "a fox in a snowy forest, watercolour",
];

let info = null;

/** Begins to count, and fills the list of words. */
export function begin(found) {
  info = found;
  const unread = found.tokens === null;
  for (const id of ["prompt", "negative_prompt"]) {
    let timer = 0;
    const later = (pause) => {
      clearTimeout(timer);
      timer = setTimeout(() => read(id), pause);
    };
    if (unread) continue;
    byId(id).addEventListener("input", () => later(PAUSE));
    byId("form").addEventListener("settled", () => later(PAUSE));
    later(0);
  }
  byId("words-open").hidden = !found.model.words.length;
  byId("words-open").addEventListener("click", () => {
    byId("words-find").value = "";
    showWords();
    byId("words").showModal();
  });
  byId("words-find").addEventListener("input", showWords);
  const adapters = found.adapters ?? [];
  byId("part-adapters").hidden = !adapters.length;
  byId("adapter").replaceChildren(...adapters.map((name) => make("option", { value: name, text: name })));
  byId("adapter-add").addEventListener("click", addAdapter);
}

/** A few prompts that the model can draw. */
export function examples() {
  const known = new Set(info.model.words);
  if (!known.size) return OF_ALL_WORDS;
  const words = (text) => text.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  return OF_FEW_WORDS.filter((each) => words(each).every((word) => known.has(word))).slice(0, 4);
}

const last = {};

async function read(id) {
  const field = byId(id);
  const asked = { prompt: field.value, prompt_style: byId("prompt_style").value };
  asked.num_steps = Math.min(Math.max(Math.round(Number(byId("num_steps").value)) || 20, 1), 1000);
  const key = JSON.stringify(asked);
  if (last[id] === key) return;
  last[id] = key;
  const [count, unknown] = [byId(`${id}-count`), byId(`${id}-unknown`)];
  let told;
  try {
    told = await call("POST", "api/prompt", asked);
  } catch (problem) {
    if (last[id] !== key) return;
    count.textContent = "";
    unknown.textContent = problem.message;
    last[id] = null; // so that the next change asks again, though it be the same text
    return;
  }
  if (last[id] !== key) return; // it was changed meanwhile
  const chunks = told.chunks > 1 ? ` in ${told.chunks} chunks` : "";
  count.textContent = `${told.tokens} of ${told.limit * told.chunks} tokens${chunks}`;
  const notes = [];
  if (told.too_long) notes.push("Too long: shorten it, or choose another grammar of prompts under More.");
  if (told.unknown_words.length) notes.push(`Not known to the model: ${told.unknown_words.join(", ")}`);
  if (told.parts > 1) notes.push(`${told.parts} parts, each guided by itself`);
  if (told.tags.length) notes.push(`Adapters: ${told.tags.join(" ")}`);
  unknown.textContent = notes.join(". ");
}

function showWords() {
  const wanted = byId("words-find").value.trim().toLowerCase();
  const found = info.model.words.filter((each) => each.includes(wanted));
  const buttons = found.map((word) => make("button", { type: "button", text: word, onclick: () => add(word) }));
  byId("words-list").replaceChildren(...(found.length ? buttons : [`No word with “${wanted}”.`]));
}

/** An adapter is a tag, which two of the grammars have. */
function addAdapter() {
  const style = byId("prompt_style");
  if (!WITH_TAGS.includes(style.value)) {
    style.value = WITH_TAGS[0];
    say(`The grammar of the prompts is ${style.value} now, which has adapters.`);
  }
  add(`<lora:${byId("adapter").value}:${byId("adapter_strength").value || 1}>`);
}

function add(word) {
  const field = byId("prompt");
  field.value = `${field.value.trimEnd()} ${word}`.trimStart();
  field.dispatchEvent(new Event("input", { bubbles: true }));
  changed();
}
