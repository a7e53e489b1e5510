// Requests on their way: handed in one after the other, followed until they end, and found again
// when the page was left in between.

import { call, follow, picture, Problem } from "./api.js";
import * as store from "./store.js";

export const ENDS = ["done", "failed", "cancelled", "expired"];
const POLL = 800; // milliseconds, for requests whose previews nobody sees
const PATIENCE = 5; // seconds until a full queue is asked again, at most

/** A request of this page. */
class Job {
  constructor(body, { then = null, ofGrid = false } = {}) {
    this.body = body;
    this.settings = bare(body);
    this.then = then; // what becomes of its pictures: see refine.js
    this.ofGrid = ofGrid;
    this.id = null;
    this.state = "held"; // here, until the server has it
    this.note = "";
    this.position = 0;
    this.step = 0;
    this.total = 0;
    this.previews = [];
    this.pictures = [];
    this.problem = null;
    this.since = null; // the time and the step that the time left is measured from
    this.began = null;
    this.took = 0; // seconds
    this.ended = new Promise((resolve) => {
      this.end = resolve;
    });
  }

  get over() {
    return ENDS.includes(this.state);
  }

  /** Seconds, or null while they cannot be known: the first step may have to compile. */
  get left() {
    if (!this.since || this.step <= this.since.step) return null;
    const pace = (performance.now() - this.since.time) / (this.step - this.since.step);
    return ((this.total - this.step) * pace) / 1000;
  }
}

/** Settings without the pictures, which are large. */
function bare({ image, mask, ...settings }) {
  return { ...settings, ...(image ? { starts: true } : {}), ...(mask ? { masked: true } : {}) };
}

const jobs = [];
let watched = null;
let stream = null;
let timer = 0;
let pumping = false;
let told = () => {};

/** Calls back at each change of a request. */
export function listen(callback) {
  told = callback;
}

/** Those that are not over, oldest first. */
export const open = () => jobs.filter((each) => !each.over);

/** The one whose previews are shown. */
export const inSight = () => watched;

/** Hands a request in, or holds it until the server has room. */
export function submit(body, options) {
  const job = new Job(body, options);
  jobs.push(job);
  told(job);
  pump();
  return job;
}

/** Stops one: the server ends it before its next step. */
export async function stop(job) {
  if (job.over) return;
  if (!job.id) {
    finish(job, "cancelled");
    return;
  }
  try {
    await call("DELETE", address(job));
    if (job !== watched) await ask(job);
  } catch (problem) {
    if (problem.status === 404) finish(job, "cancelled");
    else finish(job, "failed", problem);
  }
}

/** Shows the previews of this one. */
export function watch(job) {
  watched = job;
  stream?.close();
  stream = null;
  look();
}

const address = (job) => `api/requests/${encodeURIComponent(job.id)}`;

async function pump() {
  if (pumping) return;
  pumping = true;
  try {
    for (;;) {
      const job = jobs.find((each) => each.state === "held");
      if (!job) return;
      try {
        const answer = await call("POST", "api/requests", job.body);
        accepted(job, answer);
      } catch (problem) {
        if (job.over) continue;
        if (problem.retryAfter === null) {
          finish(job, "failed", problem);
          continue;
        }
        job.note = "the queue is full; it is asked again";
        told(job);
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(problem.retryAfter, PATIENCE)));
      }
    }
  } finally {
    pumping = false;
  }
}

function accepted(job, answer) {
  job.id = answer.id;
  job.body = null;
  job.note = "";
  if (job.over) {
    // It was stopped while it was handed in.
    call("DELETE", address(job)).catch(() => {});
    return;
  }
  if (!job.ofGrid) store.write(`running.${job.id}`, { settings: job.settings, then: job.then });
  hold(job);
  take(job, answer.state === "running" ? "step" : answer.state, answer);
  look();
}

const lockOf = (id) => `keras_sd.running.${id}`;

/** A request is of the tab that has its lock, which goes with the tab; over plain http there is none. */
function hold(job) {
  navigator.locks?.request(lockOf(job.id), () => job.ended);
}

/** The locks of other tabs. */
async function held() {
  const locks = await navigator.locks?.query();
  return new Set((locks?.held ?? []).map((each) => each.name));
}

/** Chooses whose events are read, and asks for the state of the others now and then. */
function look() {
  const there = open().filter((each) => each.id);
  if (watched?.over || !there.includes(watched)) {
    stream?.close();
    stream = null;
    watched = there[0] ?? null;
  }
  if (watched && !stream) {
    const job = watched;
    stream = follow(job.id, (kind, event) => {
      if (kind === "closed") closed(job);
      else if (kind === "away") away(job);
      else take(job, kind, event);
    });
    told(job);
  }
  // A browser opens six connections to a server, of all its tabs: so one stream a tab.
  if (!timer && there.length > 1) timer = setTimeout(poll, POLL);
}

async function poll() {
  for (const job of open()) {
    if (!job.id || job === watched) continue;
    try {
      await ask(job);
    } catch (problem) {
      if (problem.status === 404) lost(job);
      else away(job);
    }
  }
  timer = 0;
  look();
}

async function ask(job) {
  const answer = await call("GET", address(job));
  await take(job, answer.state === "running" ? "step" : answer.state, answer);
}

async function take(job, kind, event) {
  if (job.over || job.state === "fetching") return;
  job.note = "";
  if (kind === "waiting") {
    job.state = "waiting";
    job.position = event.position;
  } else if (kind === "step") {
    job.state = "running";
    job.began ??= performance.now();
    Object.assign(job, { step: event.step, total: event.total });
    if (job.step > 0) job.since ??= { time: performance.now(), step: job.step };
    if (event.preview) job.previews = event.preview;
  } else if (kind === "done") {
    job.state = "fetching";
    told(job);
    await fetched(job, event);
    return;
  } else {
    const problem = kind === "cancelled" ? null : new Problem(event.detail ?? kind);
    finish(job, kind, problem);
    return;
  }
  told(job);
}

async function fetched(job, { images, request }) {
  try {
    for (const each of images) {
      const blob = await picture(each.url);
      job.pictures.push({ ...each, key: `${job.id}/${job.pictures.length}`, blob, request });
    }
  } catch (problem) {
    finish(job, "failed", problem);
    return;
  }
  finish(job, "done");
}

function finish(job, state, problem = null) {
  if (job.over) return;
  job.took = job.began === null ? 0 : (performance.now() - job.began) / 1000;
  Object.assign(job, { state, problem, body: null, previews: [] });
  jobs.splice(jobs.indexOf(job), 1);
  if (job.id) store.remove(`running.${job.id}`);
  if (job === watched) {
    stream?.close();
    stream = null;
    watched = null;
  }
  job.end(job);
  told(job);
  look();
}

/** Its events are refused: where the server knows it still, they are asked for again. */
async function closed(job) {
  try {
    await ask(job);
  } catch (problem) {
    if (problem.status === 404) lost(job);
    else away(job);
  }
  if (job.over) return;
  await new Promise((resolve) => setTimeout(resolve, POLL));
  if (job === watched) watch(job);
}

function away(job) {
  job.note = "the server does not answer; it is asked again";
  told(job);
}

function lost(job) {
  finish(job, "failed", new Problem("The server has forgotten this request: it was started anew, perhaps."));
}

/** Requests of before a reload: those that the server still knows, and no other tab, go on here. */
export async function find() {
  const elsewhere = await held();
  const names = store.names("running.").filter((each) => !elsewhere.has(`keras_sd.${each}`));
  if (!names.length) return [];
  const { requests } = await call("GET", "api/requests");
  const known = new Map(requests.map((each) => [each.id, each]));
  const found = [];
  for (const name of names) {
    const answer = known.get(name.slice("running.".length));
    const { settings = {}, then = null } = store.read(name, {});
    if (!answer) {
      store.remove(name);
      continue;
    }
    const job = new Job({}, { then });
    Object.assign(job, { settings, id: answer.id, body: null, state: "waiting" });
    jobs.push(job);
    found.push(job);
    hold(job);
    take(job, answer.state === "running" ? "step" : answer.state, answer);
  }
  look();
  return found;
}

/** When the page is left: pictures of a grid are for nobody any more. */
export function leave() {
  for (const job of open()) {
    if (job.ofGrid && job.id) fetch(address(job), { method: "DELETE", keepalive: true });
  }
}

/** Whether leaving the page loses something that was asked for. */
export const losesSomething = () => open().some((each) => each.ofGrid || !each.id);
