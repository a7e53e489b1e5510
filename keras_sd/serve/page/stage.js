// What is seen while pictures are drawn, and when they are done.

import { byId, counted, duration, make } from "./dom.js";
import * as work from "./work.js";

let open = () => {};
let urls = [];
let shown = null; // the job whose previews are in the tiles

/** @param show is called with a record when its picture is clicked. */
export function begin(show) {
  open = show;
}

/** A request that is under way. */
export function showJob(job) {
  if (byId("tiles").classList.contains("grid")) {
    showProgress(job);
    return;
  }
  const count = job.settings.batch_size ?? 1;
  if (shown !== job) {
    // The last pictures stay until there is something to see of the next ones.
    if (!job.previews.length && byId("tiles").childElementCount) {
      showProgress(job);
      return;
    }
    shown = job;
    tiles(Array.from({ length: count }, () => blank(job)));
  }
  job.previews.forEach((each, i) => {
    let image = byId("tiles").children[i];
    if (!image) return;
    if (image.tagName !== "IMG") {
      const fresh = make("img", { class: "preview", alt: `Preview of picture ${i + 1}` });
      image.replaceWith(fresh);
      image = fresh;
    }
    image.src = `data:image/png;base64,${each}`;
  });
  showProgress(job);
}

function blank({ settings }) {
  const each = make("div", { class: "blank" });
  each.style.aspectRatio = `${settings.width ?? 1} / ${settings.height ?? 1}`;
  return each;
}

function tiles(elements, kind = elements.length === 1 ? "one" : "") {
  for (const each of urls) URL.revokeObjectURL(each);
  urls = [];
  byId("tiles").className = kind;
  byId("tiles").replaceChildren(...elements);
  byId("empty").hidden = true;
}

function showProgress(job) {
  const { state, step, total, position, note, left } = job;
  byId("progress").hidden = job.over;
  const bar = byId("bar");
  if (state === "running" && total) Object.assign(bar, { value: step, max: total });
  else bar.removeAttribute("value");
  byId("progress-text").textContent = stateText(job);
  byId("left").textContent = state === "running" && left !== null && !note && position === 0 ? `${duration(left)} left` : "";
}

/** What a request is doing. */
export function stateText({ state, step, total, position, note }) {
  if (note) return note[0].toUpperCase() + note.slice(1);
  if (state === "held") return "Handing in";
  if (state === "waiting") return position ? `Waiting, ${counted(position, "request")} before it` : "Waiting";
  if (state === "running") return total ? `Step ${step} of ${total}` : "Beginning";
  return "Fetching";
}

/** Pictures that are done. */
export function showRecords(records) {
  shown = null;
  byId("progress").hidden = true;
  const buttons = records.map((record) => {
    const url = URL.createObjectURL(record.blob);
    const alt = record.settings.prompt || "A picture without a prompt";
    const image = make("img", { src: url, alt });
    return [url, make("button", { type: "button", "aria-label": `Open: ${alt}`, onclick: () => open(record) }, image)];
  });
  tiles(buttons.map(([, button]) => button));
  urls = buttons.map(([url]) => url);
}

/** A grid that is being made. */
export function showCanvas(canvas) {
  shown = null;
  tiles([canvas], "grid");
}

/** Nothing is under way any more. */
export function rest() {
  shown = null;
  byId("progress").hidden = true;
  const unfinished = byId("tiles").querySelector(".blank, .preview");
  if (unfinished) tiles([]);
  byId("empty").hidden = byId("tiles").childElementCount > 0;
}

/** The requests that are under way, where there are several. */
export function showQueue(stop) {
  const jobs = work.open();
  const list = byId("queue");
  const wanted = jobs.filter((each) => !each.ofGrid);
  list.hidden = jobs.length < 2 || !wanted.length;
  if (list.hidden) {
    list.replaceChildren();
    return;
  }
  const there = new Map([...list.children].map((each) => [each.job, each]));
  const rows = wanted.map((job) => there.get(job) ?? row(job, stop));
  for (const each of rows) {
    each.classList.toggle("watched", each.job === work.inSight());
    each.querySelector(".count").textContent = stateText(each.job);
  }
  if (rows.length !== list.childElementCount || rows.some((each, i) => each !== list.children[i])) {
    list.replaceChildren(...rows); // only then, since it takes the focus from a button
  }
}

function row(job, stop) {
  const what = job.settings.prompt || "Without a prompt";
  const each = make(
    "li",
    {},
    make("span", { class: "what", text: what }),
    make("span", { class: "count" }),
    make("button", { type: "button", text: "Stop", "aria-label": `Stop: ${what}`, onclick: () => stop(job) }),
  );
  each.job = job;
  return each;
}
