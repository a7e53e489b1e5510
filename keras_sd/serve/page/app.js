// The page: what each button does. The other files know their own part of it alone.

import { call, Problem } from "./api.js";
import { byId, clearErrors, counted, duration, make, say, showErrors, trouble } from "./dom.js";
import * as drop from "./drop.js";
import * as gallery from "./gallery.js";
import * as grid from "./grid.js";
import * as pixels from "./pixels.js";
import * as prompts from "./prompts.js";
import * as refine from "./refine.js";
import * as settings from "./settings.js";
import * as source from "./source.js";
import * as stage from "./stage.js";
import * as store from "./store.js";
import * as work from "./work.js";

let info = null;
let grown = null; // the grid in the making

/** Shows what went wrong next to its field, or else above. */
function failed(problem) {
  if (!(problem instanceof Problem)) {
    trouble(`The page failed: ${problem.message}`);
    throw problem;
  }
  const homeless = showErrors(settings.placed(problem.fields));
  const text = Object.keys(problem.fields).length ? homeless.join(" ") : problem.message;
  if (text) trouble(text);
  else byId("trouble").hidden = true;
}

/** A listener whose errors are shown. */
const guarded =
  (act) =>
  async (...given) => {
    try {
      await act(...given);
    } catch (problem) {
      failed(problem);
    }
  };

/** What the form asks for, with the picture to start from. */
async function asked() {
  clearErrors();
  trouble("");
  const body = { ...settings.request(), ...(await source.fields()) };
  if (body.image) {
    // It is drawn as large as it is; the part around a mask alone has a size of its own.
    if (!body.only_masked) {
      delete body.width;
      delete body.height;
    }
  }
  return body;
}

const generate = guarded(async () => {
  const body = await asked();
  const then = refine.wanted();
  if (then) refine.sizeOf(source.size() ?? body, then, info); // before anything is drawn
  work.submit(body, { then });
  say("Handed in.");
  if (window.matchMedia("(max-width: 820px)").matches) byId("work").scrollIntoView();
});

const drawGrid = guarded(async () => {
  if (grown) return;
  const body = await asked();
  const planned = grid.plan(body);
  grown = new grid.Grid(planned, (job) => (byId("grid_cells").checked ? collect(job) : null));
  byId("grid").disabled = true;
  stage.showCanvas(grown.canvas);
  say(`A grid of ${counted(planned.cells.length, "picture")} is drawn.`);
  const tell = () => {
    byId("grid-count").textContent = `${grown.done} of ${planned.cells.length}`;
  };
  tell();
  try {
    await grown.run(tell);
    const record = await grown.record();
    if (record) await keep({ ...record, made: Date.now(), model: info.model.name });
    if (grown.failed) failed(grown.failed);
    say(grown.stopped ? `The grid was stopped after ${counted(grown.done, "picture")}.` : `The grid is done: ${counted(grown.done, "picture")}.`);
  } finally {
    grown = null;
    byId("grid").disabled = false;
    byId("grid-count").textContent = "";
    changed(null);
  }
});

// --- requests -----------------------------------------------------------------------------

const STATES = {
  cancelled: "Stopped.",
  failed: "It failed.",
  expired: "It took too long.",
};

const ending = new Set();

/** A request has changed. */
function changed(job) {
  if (job?.over) {
    if (!ending.has(job)) {
      ending.add(job);
      guarded(ended)(job).finally(() => ending.delete(job));
    }
  }
  const seen = work.inSight() ?? work.open()[0] ?? null;
  byId("stop").hidden = !work.open().length;
  byId("stop").textContent = work.open().length > 1 ? "Stop this one" : "Stop";
  if (grown) byId("stop").textContent = "Stop the grid";
  if (seen) stage.showJob(seen);
  else if (!ending.size) stage.rest();
  stage.showQueue(work.stop);
  document.title = seen && seen.total ? `${Math.round((100 * seen.step) / seen.total)} % · keras_sd` : "keras_sd";
}

async function ended(job) {
  if (job.state === "done") {
    const records = job.ofGrid ? [] : await collect(job);
    if (records.length) {
      // What came while another one is drawn is in the gallery.
      if (!grown) stage.showRecords(records);
      say(`${counted(records.length, "picture")} in ${duration(job.took)}. Seed ${records[0].settings.seed}.`);
    }
    if (job.then) for (const each of records) await again(each, job.then);
  } else if (!job.ofGrid) {
    say(STATES[job.state]);
    if (job.problem) failed(job.problem);
  }
  if (!work.open().length && job.state !== "done" && !job.ofGrid) stage.rest();
}

/** Its pictures into the gallery. */
async function collect(job) {
  const records = job.pictures.map((picture, i) => {
    const { request } = picture;
    const kept = { ...job.settings };
    for (const name of ["num_steps", "sampler", "schedule", "guidance_scale", "guidance_rescale", "guidance_interval", "prompt_style", "clip_skip"]) {
      if (request[name] !== null) kept[name] = request[name];
    }
    Object.assign(kept, { prompt: request.prompts[i], negative_prompt: request.negative_prompts[i], seed: `${picture.seed}`, first_image: picture.number, batch_size: 1 });
    const { key, blob, width, height } = picture;
    if (!kept.masked) Object.assign(kept, { width, height });
    return { key, made: Date.now() + i, kind: "drawn", settings: kept, width, height, model: info.model.name, blob };
  });
  for (const each of records) await keep(each);
  return records;
}

async function keep(record) {
  if (!(await gallery.add(record))) {
    trouble("The browser keeps no more pictures: this one is here only until the page is closed. Download it.");
  }
}

/** The second pass of a picture. */
async function again(record, how) {
  work.submit(await refine.request(record, how, info));
  say("The second pass was handed in.");
}

function stop() {
  if (grown) {
    grown.stop();
    return;
  }
  const job = work.inSight() ?? work.open()[0];
  if (job) work.stop(job);
}

// --- pictures -----------------------------------------------------------------------------

/** A file that was dropped, pasted or opened. */
const took = guarded(async (file, purpose) => {
  trouble("");
  if (purpose === "start") {
    await source.use(file);
    return;
  }
  if (file.size > 0.7 * info.limits.body) throw new Problem("The file is larger than the server takes.");
  const told = await call("POST", "api/read", { image: await pixels.base64(file) });
  if (!told.found) {
    say("No settings are in this picture.");
    trouble(told.detail ?? "No settings are in this picture.");
    return;
  }
  const left = settings.apply(told.settings);
  settings.changed();
  byId("part-settings").open = true;
  byId("prompt").focus();
  if (told.found.starts || told.found.masked) left.push("It began at a picture, which is not in the file: open that, too.");
  left.push(...(told.found.unread ?? []));
  say(`The settings of the picture, made by ${told.found.program}, are in the form.`);
  if (left.length) trouble(left.join(" "));
});

function useSettings(record, names = null) {
  if (names) {
    for (const name of names) byId(name).value = record.settings[name] ?? "";
  } else {
    const left = settings.apply(record.settings);
    if (left.length) trouble(left.join(" "));
  }
  settings.changed();
}

const closing = (act) =>
  guarded(async (record) => {
    byId("viewer").close();
    await act(record);
  });

const noted = (act) =>
  guarded(async (record) => {
    byId("viewer-status").textContent = "";
    byId("viewer-status").textContent = await act(record);
  });

const drawn = (record) => record.kind !== "grid";
const starts = (record) => drawn(record) && info.model.image_to_image;

const ACTIONS = [
  { name: "Start from it", fits: starts, act: closing((record) => source.use(record.blob, "redraw")) },
  { name: "Paint on it", fits: starts, act: closing((record) => source.use(record.blob, "paint")) },
  {
    name: "Use its settings",
    act: closing((record) => {
      useSettings(record);
      byId("prompt").focus();
      say("Its settings are in the form.");
    }),
  },
  {
    name: "Use its seed",
    fits: drawn,
    act: closing((record) => {
      useSettings(record, ["seed", "first_image"]);
      say(`The seed is ${record.settings.seed}.`);
    }),
  },
  { name: "Second pass", fits: starts, act: closing((record) => again(record, refine.asked())) },
  { name: "Enlarge 2×", fits: drawn, act: noted((record) => enlarge(record, 2)) },
  { name: "Enlarge 4×", fits: drawn, act: noted((record) => enlarge(record, 4)) },
  { name: "Download", act: (record) => drop.download(record.blob, gallery.fileName(record)) },
  {
    name: "Copy picture",
    act: noted(async (record) => {
      if (!navigator.clipboard?.write) throw new Problem("This browser copies pictures on localhost and https alone.");
      await navigator.clipboard.write([new ClipboardItem({ "image/png": record.blob })]);
      return "Copied.";
    }),
  },
  {
    name: "Copy settings",
    act: noted(async (record) => {
      if (!navigator.clipboard) throw new Problem("This browser copies on localhost and https alone.");
      await navigator.clipboard.writeText(gallery.asText(record));
      return "Copied.";
    }),
  },
  {
    name: "Delete",
    act: guarded(async (record) => {
      if (await confirmed("Take this picture out of the gallery?")) await gallery.remove(record);
    }),
  },
];

async function enlarge(record, scale) {
  if (record.width * record.height * scale ** 2 > 2 ** 26) throw new Problem("That is larger than the browser can draw.");
  const larger = await refine.enlarged(record, scale);
  await keep(larger);
  gallery.show(larger);
  return `${larger.width} × ${larger.height}, in the gallery.`;
}

/** Asks a question; true for yes. */
function confirmed(question) {
  const dialog = byId("ask");
  byId("ask-text").textContent = question;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// --- the page itself ----------------------------------------------------------------------

const THEMES = { "": ["◐", "system"], light: ["☀", "light"], dark: ["☾", "dark"] };

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const [sign, name] = THEMES[theme];
  byId("theme").replaceChildren(make("span", { "aria-hidden": "true", text: `${sign} ` }), make("span", { class: "wide-only", text: "Theme: " }), name);
  byId("theme").setAttribute("aria-label", `Theme: ${name}`);
}

function listen() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  byId("stop").addEventListener("click", stop);
  byId("grid").addEventListener("click", drawGrid);
  byId("trouble-close").addEventListener("click", () => trouble(""));
  byId("keys-open").addEventListener("click", () => byId("keys").showModal());
  byId("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(store.read("theme", "")) + 1) % names.length];
    store.write("theme", next);
    showTheme(next);
  });
  byId("dice").addEventListener("click", () => {
    byId("seed").value = byId("first_image").value = "";
    settings.changed();
    say("A new seed each time.");
  });
  byId("reuse").addEventListener("click", () => {
    const record = gallery.newest();
    if (record) useSettings(record, ["seed", "first_image"]);
    say(record ? `The seed is ${record.settings.seed}.` : "There is no picture yet.");
  });
  byId("defaults").addEventListener("click", () => {
    const { prompt, negative_prompt } = settings.request();
    settings.apply({ prompt, negative_prompt });
    settings.changed();
    say("The model's settings are in the form.");
  });
  byId("gallery-clear").addEventListener("click", async () => {
    if (await confirmed("Take all pictures out of the gallery?")) await guarded(gallery.clear)();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      if (!document.querySelector("dialog[open]")) generate();
    } else if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop();
  });
  window.addEventListener("error", (event) => trouble(`The page failed: ${event.message}`));
  window.addEventListener("beforeunload", (event) => {
    if (work.losesSomething()) event.preventDefault();
  });
  window.addEventListener("pagehide", work.leave);
}

function showModel() {
  const { model, backend, version } = info;
  byId("model").textContent = `${model.name} · ${backend}`;
  byId("model").title = `${model.name}, version ${version}${model.license ? `; ${model.license}` : ""}`;
  const chips = prompts.examples().map((text) =>
    make("button", {
      type: "button",
      text,
      onclick: () => {
        byId("prompt").value = text;
        settings.changed();
        generate();
      },
    }),
  );
  byId("examples").replaceChildren(...chips);
}

async function awaitReady() {
  for (let ready = info.ready; !ready; ) {
    byId("warming").hidden = false;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    // Not /ready, whose 503 while it warms up would be an error in the browser's console.
    ready = (await call("GET", "api/info").catch(() => ({ ready: false }))).ready;
  }
  byId("warming").hidden = true;
}

async function begin() {
  showTheme(store.read("theme", ""));
  settings.keepParts();
  info = await call("GET", "api/info");
  grid.begin(info);
  settings.fill(info);
  grid.refresh();
  prompts.begin(info);
  source.begin(info, guarded);
  showModel();
  stage.begin(gallery.show);
  await gallery.begin(ACTIONS);
  drop.begin(took);
  work.listen(changed);
  listen();
  if (!store.keeps) trouble("This browser keeps nothing: settings and pictures go when the page is closed.");
  const found = await work.find();
  if (found.length) say(`${counted(found.length, "request")} of before ${found.length === 1 ? "goes" : "go"} on.`);
  document.documentElement.dataset.begun = "true";
  awaitReady();
}

guarded(begin)();
