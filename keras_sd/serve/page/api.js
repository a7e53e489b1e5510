// What the page asks the server for. Addresses are relative: the page works behind any name.

/** What the server, or the way to it, said no with. */
export class Problem extends Error {
  constructor(message, { status = 0, fields = {}, retryAfter = null } = {}) {
    super(message);
    this.status = status; // 0: nobody answered
    this.fields = fields; // name -> message
    this.retryAfter = retryAfter; // seconds, of a server that has no room now
  }
}

const LEXEME = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/gs;

/** JSON whose whole numbers may be longer than a number of JavaScript: those become strings. */
export function parse(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  return JSON.parse(text.replace(LEXEME, (each) => (/^-?\d{16,}$/.test(each) ? `"${each}"` : each)));
}

/** JSON of a request, whose seed is a string of digits here, and a number there. */
export function written(value) {
  // Within a string a quote has a backslash before it, so no prompt looks like this.
  return JSON.stringify(value).replace(/"seed":"(\d+)"/g, '"seed":$1');
}

/** An answer of the API. */
export async function call(method, path, body) {
  const answer = await asked(method, path, body);
  return parse(await answer.text());
}

/** A picture of the API. */
export async function picture(url) {
  return (await asked("GET", url.replace(/^\//, ""))).blob();
}

async function asked(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : written(body),
    });
  } catch {
    throw new Problem("The server does not answer. Is it still running?");
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer;
}

async function problemOf(answer) {
  let told = {};
  try {
    told = parse(await answer.text());
  } catch {
    told = {};
  }
  const fields = {};
  for (const each of told.errors ?? []) {
    const name = each.loc.at(-1);
    if (name !== "body") fields[name] = sentence(name, each.msg);
  }
  const wait = Number(answer.headers.get("Retry-After"));
  const message =
    answer.status === 401
      ? "The server wants its token again: reload the page."
      : (told.detail ?? `The server answered ${answer.status}`);
  return new Problem(message, {
    status: answer.status,
    fields,
    retryAfter: answer.status === 503 && wait ? wait : null,
  });
}

/** "is from 1 to 16" is to be read behind the name of its field. */
function sentence(name, message) {
  return message.startsWith(name) ? message : `${name} ${message}`;
}

/** Follows a request; `heard(kind, object)` until it ends, `heard("closed")` where the server refuses. */
export function follow(id, heard) {
  const source = new EventSource(`api/requests/${encodeURIComponent(id)}/events?preview=1`);
  for (const kind of ["waiting", "step", "done", "failed", "cancelled", "expired"]) {
    source.addEventListener(kind, (event) => {
      if (kind !== "waiting" && kind !== "step") source.close();
      heard(kind, parse(event.data));
    });
  }
  source.addEventListener("error", () => {
    // The browser connects again by itself, unless the server refused.
    heard(source.readyState === EventSource.CLOSED ? "closed" : "away", {});
  });
  return source;
}
