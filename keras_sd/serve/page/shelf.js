// Pictures that stay in this browser (IndexedDB); where it keeps nothing, as long as the page is open.

const NAME = "keras_sd";
let opened = null;
const inMemory = new Map();

function database() {
  opened ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open(NAME, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("pictures", { keyPath: "key" });
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
  return opened;
}

async function within(mode, act) {
  const transaction = (await database()).transaction("pictures", mode);
  const asked = act(transaction.objectStore("pictures"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(asked?.result);
    transaction.onabort = () => reject(transaction.error);
    transaction.onerror = () => reject(transaction.error);
  });
}

/** All of them, newest first. */
export async function all() {
  let kept = [];
  try {
    kept = await within("readonly", (shelf) => shelf.getAll());
  } catch {
    kept = [];
  }
  return [...kept, ...inMemory.values()].sort((one, other) => other.made - one.made);
}

/** Keeps one; false where it stays only as long as the page is open. */
export async function put(record) {
  try {
    await within("readwrite", (shelf) => shelf.put(record));
    return true;
  } catch {
    inMemory.set(record.key, record);
    return false;
  }
}

/** Takes one away. */
export async function remove(key) {
  if (inMemory.delete(key)) return;
  await within("readwrite", (shelf) => shelf.delete(key));
}

/** Takes all away. */
export async function clear() {
  inMemory.clear();
  await within("readwrite", (shelf) => shelf.clear());
}
