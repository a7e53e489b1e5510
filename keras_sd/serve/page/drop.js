// Pictures that come from elsewhere: dropped, pasted or opened.

import { byId, make } from "./dom.js";

const isPicture = (item) => item.kind === "file" && item.type.startsWith("image/");

let purpose = "start";

/** @param take is called with a file and "start" or "read". */
export function begin(take) {
  const area = byId("dropping");
  let inside = 0; // dragenter and dragleave come for every element
  const end = () => {
    inside = 0;
    area.hidden = true;
  };
  window.addEventListener("dragenter", (event) => {
    if (![...(event.dataTransfer?.items ?? [])].some(isPicture)) return;
    inside += 1;
    area.hidden = false;
    event.preventDefault();
  });
  window.addEventListener("dragleave", () => {
    inside -= 1;
    if (inside <= 0) end();
  });
  window.addEventListener("dragover", (event) => {
    if (area.hidden) return;
    event.preventDefault();
    for (const each of area.children) each.classList.toggle("over", each === event.target);
  });
  window.addEventListener("drop", (event) => {
    const file = [...(event.dataTransfer?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (area.hidden && !file) return; // text that is dropped into a field
    event.preventDefault(); // the browser would leave the page for the file
    const where = event.target.dataset?.drop ?? "start";
    end();
    if (file) take(file, where);
  });
  window.addEventListener("paste", (event) => {
    const item = [...(event.clipboardData?.items ?? [])].find(isPicture);
    if (!item) return;
    event.preventDefault();
    take(item.getAsFile(), "start");
  });
  byId("file").addEventListener("change", () => {
    const [file] = byId("file").files;
    byId("file").value = ""; // so that the same file can be chosen again
    if (file) take(file, purpose);
  });
  for (const [id, what] of [["start-open", "start"], ["start-other", "start"], ["read-open", "read"]]) {
    byId(id).addEventListener("click", () => {
      purpose = what;
      byId("file").click();
    });
  }
}

/** Hands a file to whoever uses the browser. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
