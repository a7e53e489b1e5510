// A sampler or a schedule with its settings in one line, "ddim:eta=1", as keras_sd writes it.

/** Name and settings; values stay as they are written. */
export function parseSpec(text) {
  const equals = text.indexOf("=");
  const colon = equals < 0 ? -1 : text.lastIndexOf(":", equals);
  if (colon < 0) return { name: text, settings: {} };
  const settings = {};
  for (const part of split(text.slice(colon + 1))) {
    const at = part.indexOf("=");
    settings[part.slice(0, at).trim()] = unquoted(part.slice(at + 1).trim());
  }
  return { name: text.slice(0, colon), settings };
}

/** The line; settings that are "" are left to the sampler. */
export function formatSpec(name, settings) {
  const parts = Object.entries(settings)
    .filter(([, value]) => value !== "")
    .map(([key, value]) => `${key}=${value}`);
  return parts.length ? `${name}:${parts.join(",")}` : name;
}

function unquoted(text) {
  return /^(['"]).*\1$/.test(text) ? text.slice(1, -1) : text;
}

/** Parts between commas that are in no brackets and no quotes. */
export function split(text, comma = ",") {
  const parts = [];
  let part = "";
  let depth = 0;
  let quote = "";
  for (const each of text) {
    if (quote) quote = each === quote ? "" : quote;
    else if (each === '"' || each === "'") quote = each;
    else if ("([{".includes(each)) depth += 1;
    else if (")]}".includes(each)) depth -= 1;
    if (each === comma && !quote && depth <= 0) {
      parts.push(part);
      part = "";
    } else part += each;
  }
  return [...parts, part];
}
