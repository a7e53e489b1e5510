// Small values that survive a reload; of a browser that keeps nothing, as long as the page is open.

const PREFIX = "keras_sd.";
const inMemory = new Map();

let storage = null;
try {
  storage = window.localStorage;
} catch {
  storage = null;
}

/** Whether values survive a reload. */
export const keeps = storage !== null;

/** The value of a name; `otherwise` where there is none, or what is kept is damaged. */
export function read(name, otherwise = null) {
  const text = storage ? storage.getItem(PREFIX + name) : inMemory.get(name);
  if (text === null || text === undefined) return otherwise;
  try {
    return JSON.parse(text);
  } catch {
    remove(name);
    return otherwise;
  }
}

/** Keeps a value; false where the browser has no room for it. */
export function write(name, value) {
  const text = JSON.stringify(value);
  try {
    if (storage) storage.setItem(PREFIX + name, text);
    else inMemory.set(name, text);
    return true;
  } catch {
    return false;
  }
}

/** Forgets a value. */
export function remove(name) {
  if (storage) storage.removeItem(PREFIX + name);
  inMemory.delete(name);
}

/** The names that begin so. */
export function names(start) {
  const all = storage
    ? Object.keys(storage)
        .filter((each) => each.startsWith(PREFIX))
        .map((each) => each.slice(PREFIX.length))
    : [...inMemory.keys()];
  return all.filter((each) => each.startsWith(start));
}
