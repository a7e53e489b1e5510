// Enlarging, and the second pass: a picture is enlarged here, and drawn again from there.

import { Problem } from "./api.js";
import { byId } from "./dom.js";
import * as pixels from "./pixels.js";
import { OF_MASK } from "./settings.js";

/** What the form says of the second pass; null where none is wanted. */
export function wanted() {
  if (!byId("refine").checked) return null;
  return asked();
}

/** The same, whether it is wanted by itself or not. */
export function asked() {
  const number = (id) => {
    const field = byId(id);
    if (!field.checkValidity()) throw new Problem("", { fields: { [id]: `From ${field.min}${field.max ? ` to ${field.max}` : " on"}.` } });
    return field.value === "" ? null : Number(field.value);
  };
  return { scale: number("refine_scale") ?? 2, strength: number("refine_strength") ?? 0.5, steps: number("refine_steps") };
}

/** The size of the second pass of a picture; it may be too large for the server. */
export function sizeOf({ width, height }, { scale }, info) {
  const [across, down] = [width, height].map((side) => Math.round((side * scale) / 8) * 8);
  if (across * down > info.limits.pixels) {
    const message = `The second pass would be ${across} × ${down}; at most ${info.limits.pixels} pixels are drawn here.`;
    throw new Problem(message, { fields: { refine_scale: message } });
  }
  return [across, down];
}

/** The request that draws a picture again, larger. */
export async function request(record, how, info) {
  const source = await pixels.opened(record.blob);
  const [width, height] = sizeOf(source, how, info);
  const { strength, steps } = how;
  const body = { ...record.settings, image: await pixels.base64(pixels.resized(source, width, height)), strength };
  for (const name of ["width", "height", "batch_size", "starts", "masked", ...OF_MASK]) delete body[name];
  if (steps !== null) body.num_steps = steps;
  return body;
}

/** A picture enlarged by Lanczos alone, as a record of the gallery. */
export async function enlarged(record, scale) {
  const source = await pixels.opened(record.blob);
  const larger = pixels.resized(source, source.width * scale, source.height * scale);
  const blob = await pixels.withTextOf(await pixels.fileOf(larger), record.blob);
  return {
    ...record,
    key: `${record.key}@${scale}-${Date.now()}`,
    made: Date.now(),
    kind: `${scale}×`,
    blob,
    width: larger.width,
    height: larger.height,
  };
}
