// Pictures in the browser: canvases, sizes, Lanczos, and the text in PNG files.

/** A canvas of a size, with a brush. */
export function canvasOf(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return { canvas, brush: canvas.getContext("2d", { willReadFrequently: true }) };
}

/** A picture file as a canvas, on white where it is transparent. */
export async function opened(blob) {
  const bitmap = await createImageBitmap(blob);
  const { canvas, brush } = canvasOf(bitmap.width, bitmap.height);
  brush.fillStyle = "#fff";
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

/** The bytes of a canvas as a PNG file. */
export function fileOf(canvas) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture is too large for this browser."))), "image/png");
  });
}

/** Base64 without a prefix, of a canvas as a PNG file or of a file. */
export async function base64(source) {
  if (source instanceof HTMLCanvasElement) return source.toDataURL("image/png").split(",")[1];
  const bytes = new Uint8Array(await source.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}

/** A part of a canvas. */
export function cut(source, x, y, width, height) {
  const { canvas, brush } = canvasOf(width, height);
  brush.drawImage(source, x, y, width, height, 0, 0, width, height);
  return canvas;
}

/** A picture with more at its sides, where its edges go on. */
export function extended(source, { left, right, top, bottom }) {
  const { width, height } = source;
  const { canvas, brush } = canvasOf(width + left + right, height + top + bottom);
  brush.imageSmoothingEnabled = false;
  const columns = [[0, 1, 0, left], [0, width, left, width], [width - 1, 1, left + width, right]];
  const rows = [[0, 1, 0, top], [0, height, top, height], [height - 1, 1, top + height, bottom]];
  for (const [x, w, toX, toW] of columns) {
    for (const [y, h, toY, toH] of rows) {
      if (toW && toH) brush.drawImage(source, x, y, w, h, toX, toY, toW, toH);
    }
  }
  return canvas;
}

/** A canvas in another size, by Lanczos' window of three. */
export function resized(source, width, height) {
  if (source.width === width && source.height === height) return source;
  const from = source.getContext("2d").getImageData(0, 0, source.width, source.height).data;
  const across = lines(from, source.width, source.height, width, 4, source.width * 4, 4, width * 4);
  const both = lines(across, source.height, width, height, width * 4, 4, width * 4, 4);
  const { canvas, brush } = canvasOf(width, height);
  brush.putImageData(new ImageData(new Uint8ClampedArray(both), width, height), 0, 0);
  return canvas;
}

/** Each line of `many`, from `length` to `wanted` pixels; steps are from pixel to pixel and line to line. */
function lines(from, length, many, wanted, step, line, toStep, toLine) {
  const to = new Float32Array(wanted * many * 4);
  const scale = Math.max(length / wanted, 1); // a smaller picture is the mean of more pixels
  for (let i = 0; i < wanted; i += 1) {
    const centre = ((i + 0.5) * length) / wanted;
    const first = Math.max(Math.ceil(centre - 3 * scale - 0.5), 0);
    const last = Math.min(Math.floor(centre + 3 * scale - 0.5), length - 1);
    const weights = [];
    for (let j = first; j <= last; j += 1) weights.push(window3((j + 0.5 - centre) / scale));
    const sum = weights.reduce((one, other) => one + other, 0);
    for (let k = 0; k < many; k += 1) {
      for (let c = 0; c < 4; c += 1) {
        let value = 0;
        for (let j = first; j <= last; j += 1) value += weights[j - first] * from[j * step + k * line + c];
        to[i * toStep + k * toLine + c] = value / sum;
      }
    }
  }
  return to;
}

function window3(x) {
  if (x === 0) return 1;
  if (Math.abs(x) >= 3) return 0;
  return (3 * Math.sin(Math.PI * x) * Math.sin((Math.PI * x) / 3)) / (Math.PI * x) ** 2;
}

/** The largest size of a shape within a number of pixels; its sides are multiples of 8. */
export function within(width, height, pixels) {
  const scale = Math.min(Math.sqrt(pixels / (width * height)), 1);
  const side = (length) => Math.max(Math.floor((length * scale) / 8) * 8, 8);
  return { width: side(width), height: side(height) };
}

/** A picture brought to a size: "stretch", "crop" or "pad", as `keras_sd.image.fit` names them. */
export function fitted(source, width, height, how) {
  if (how === "stretch") return resized(source, width, height);
  const scales = [width / source.width, height / source.height];
  const scale = how === "crop" ? Math.max(...scales) : Math.min(...scales);
  const [across, down] = [source.width, source.height].map((side) => Math.max(Math.round(side * scale), 1));
  const scaled = resized(source, across, down);
  const [x, y] = [Math.floor((width - across) / 2), Math.floor((height - down) / 2)];
  if (how === "crop") return cut(scaled, -x, -y, width, height);
  return extended(scaled, { left: x, right: width - across - x, top: y, bottom: height - down - y });
}

/** A PNG file with the text of another one: how it was made is not lost when it is enlarged. */
export async function withTextOf(file, other) {
  const [to, from] = await Promise.all([file, other].map(async (each) => new Uint8Array(await each.arrayBuffer())));
  const texts = [...chunks(from)].filter(([kind]) => ["tEXt", "iTXt", "zTXt"].includes(kind));
  const [, , end] = [...chunks(to)][0]; // behind the header
  const parts = [to.slice(0, end), ...texts.map(([, start, stop]) => from.slice(start, stop)), to.slice(end)];
  return new Blob(parts, { type: "image/png" });
}

function* chunks(bytes) {
  const view = new DataView(bytes.buffer);
  const isPng = bytes.length > 8 && view.getUint32(0) === 0x89504e47;
  for (let at = 8; isPng && at + 12 <= bytes.length; ) {
    const end = at + 12 + view.getUint32(at);
    if (end > bytes.length) return;
    yield [String.fromCharCode(...bytes.subarray(at + 4, at + 8)), at, end];
    at = end;
  }
}
