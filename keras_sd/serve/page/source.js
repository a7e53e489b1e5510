// The picture to start from: opened, fitted, extended, and the part of it that is painted.

import { Problem } from "./api.js";
import { byId, clearErrors, say } from "./dom.js";
import { Mask } from "./mask.js";
import * as pixels from "./pixels.js";
import { changed, OF_MASK, OF_START, some } from "./settings.js";

const SIDES = ["left", "right", "top", "bottom"];

let info = null;
let mask = null;
let original = null; // a canvas: as it was opened, or extended

const picture = () => byId("start-picture");
const paints = () => document.querySelector("[name=start_mode]:checked").value === "paint";

/** @param guarded makes a listener whose errors are shown. */
export function begin(found, guarded) {
  info = found;
  mask = new Mask(byId("mask"), byId("ring"), showTools);
  for (const each of document.querySelectorAll("[name=start_mode]")) each.addEventListener("change", showMode);
  byId("fit").addEventListener("change", refit);
  for (const id of ["width", "height", "size"]) {
    byId(id).addEventListener("change", () => byId("fit").value !== "keep" && refit());
  }
  byId("swap").addEventListener("click", () => byId("fit").value !== "keep" && refit());
  byId("start-remove").addEventListener("click", remove);
  byId("extend").addEventListener("click", guarded(extend));
  byId("brush-size").addEventListener("input", () => {
    mask.size = Number(byId("brush-size").value);
    mask.refresh();
  });
  const tools = { undo: () => mask.undo(), redo: () => mask.redo(), invert: () => mask.invert(), clear: () => mask.clear() };
  for (const [name, act] of Object.entries(tools)) byId(`mask-${name}`).addEventListener("click", act);
  for (const [name, erases] of [["brush", false], ["eraser", true]]) {
    byId(`mask-${name}`).addEventListener("click", () => {
      mask.erases = erases;
      mask.refresh();
      showTools();
    });
  }
  if (found.model.inpainting) choose("paint"); // such a model needs a mask
  if (!found.model.image_to_image) byId("part-start").hidden = true;
  mask.size = Number(byId("brush-size").value);
  showMode();
}

/** Whether a picture is there. */
export const there = () => original !== null;

/** Takes a picture, a file or a canvas. */
export async function use(source, mode = null) {
  let canvas = source;
  if (!(source instanceof HTMLCanvasElement)) {
    try {
      canvas = await pixels.opened(source);
    } catch {
      throw new Problem("This is no picture that the browser can open.");
    }
  }
  original = canvas;
  const { width, height } = pixels.within(canvas.width, canvas.height, info.limits.pixels);
  const large = width < canvas.width - 7 || height < canvas.height - 7;
  byId("fit").value = large ? "crop" : "keep";
  if (mode) choose(mode);
  byId("part-start").open = true;
  refit();
  byId("part-start").scrollIntoView({ block: "nearest" });
  byId(paints() ? "mask" : "strength").focus();
  const told = `${canvas.width} × ${canvas.height}`;
  say(large ? `The picture is ${told}, larger than is drawn here: it is cropped to width and height.` : `The run starts from a picture of ${told}.`);
}

function choose(mode) {
  for (const each of document.querySelectorAll("[name=start_mode]")) each.checked = each.value === mode;
}

/** Brings the picture to its size, and begins the mask anew. */
function refit() {
  if (!original) return;
  const how = byId("fit").value;
  let shown = original;
  if (how === "keep") {
    const { width, height } = pixels.within(original.width, original.height, info.limits.pixels);
    const scales = width < original.width - 7 || height < original.height - 7;
    const [x, y] = [Math.floor((original.width - width) / 2), Math.floor((original.height - height) / 2)];
    shown = scales ? pixels.fitted(original, width, height, "crop") : pixels.cut(original, x, y, width, height);
  } else {
    const [width, height] = ["width", "height"].map((id) => Math.max(Math.round(Number(byId(id).value) / 8) * 8, 8));
    shown = pixels.fitted(original, width, height, how);
  }
  show(shown);
  mask.begin(shown.width, shown.height);
  showMode();
}

function show(canvas) {
  Object.assign(picture(), { width: canvas.width, height: canvas.height });
  picture().getContext("2d").drawImage(canvas, 0, 0);
  byId("fit-brief").textContent = byId("start-brief").textContent = `${canvas.width} × ${canvas.height}`;
}

function showMode() {
  byId("start-none").hidden = there();
  byId("start-there").hidden = !there();
  for (const id of ["mask", "brush-tools", "part-masking"]) byId(id).hidden = !paints();
  if (!paints()) byId("ring").hidden = true;
  showTools();
  changed();
}

function showTools() {
  byId("mask-brush").setAttribute("aria-pressed", !mask.erases);
  byId("mask-eraser").setAttribute("aria-pressed", mask.erases);
  byId("mask-undo").disabled = !mask.strokes.length;
  byId("mask-redo").disabled = !mask.undone.length;
  byId("brush-size").value = Math.round(mask.size);
  byId("brush-size-shown").textContent = Math.round(mask.size);
  clearErrors(byId("mask"));
}

function remove() {
  original = null;
  byId("start-brief").textContent = "";
  showMode();
  byId("start-open").focus();
}

function extend() {
  const sides = Object.fromEntries(SIDES.map((side) => [side, Math.round(Number(byId(`extend_${side}`).value) / 8) * 8]));
  if (!Object.values(sides).some((each) => each > 0)) {
    say("Give a side some pixels first.");
    byId("extend_left").focus();
    return;
  }
  const width = picture().width + sides.left + sides.right;
  const height = picture().height + sides.top + sides.bottom;
  if (width * height > info.limits.pixels) {
    throw new Problem("", {
      fields: { extend_left: `The picture would be ${width} × ${height}; at most ${info.limits.pixels} pixels are drawn here.` },
    });
  }
  original = pixels.extended(picture(), sides);
  byId("fit").value = "keep";
  choose("paint");
  mask.extend(sides);
  show(original);
  showMode();
  byId("strength").value = 1; // what is new has nothing in it that is to be kept
  for (const side of SIDES) byId(`extend_${side}`).value = 0;
  changed();
  say(`The picture is ${width} × ${height} now; what is new will be painted.`);
}

/** The size of the picture; null without one. */
export const size = () => (there() ? { width: picture().width, height: picture().height } : null);

/** The fields of a request that starts here, `{}` without a picture. */
export async function fields() {
  if (!there()) return {};
  const found = { image: await pixels.base64(picture()), ...some(OF_START) };
  if (!paints()) return found;
  if (!mask.painted) {
    throw new Problem("", { fields: { mask: "Nothing is painted: paint the part that is to change, or redraw all." } });
  }
  return { ...found, ...some(OF_MASK), mask: await pixels.base64(mask.whole()) };
}
