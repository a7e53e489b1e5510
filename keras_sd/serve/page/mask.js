// The mask: painted with a brush, by pointer or keys, on a canvas of the picture's own pixels.

const COLOUR = "#ff2d88"; // of what is painted; the canvas lies half transparent over the picture

/** A brush on a canvas. What was painted is a list of strokes, so that each can be undone. */
export class Mask {
  /**
   * @param canvas over the picture.
   * @param ring shows where the brush is, and how large.
   * @param changed is called after each stroke.
   */
  constructor(canvas, ring, changed) {
    Object.assign(this, { canvas, ring, changed, size: 16, erases: false });
    this.base = null;
    this.strokes = [];
    this.undone = [];
    this.stroke = null;
    this.at = { x: 0, y: 0 };
    this.brush = canvas.getContext("2d", { willReadFrequently: true });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => this.#lift());
    canvas.addEventListener("pointercancel", () => this.#lift());
    canvas.addEventListener("pointerleave", () => this.#hideRing());
    canvas.addEventListener("focus", () => this.#showRing());
    canvas.addEventListener("blur", () => {
      this.#lift();
      this.#hideRing();
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("keyup", (event) => event.code === "Space" && this.#lift());
  }

  /** Begins anew, for a picture of this size. */
  begin(width, height, base = null) {
    Object.assign(this.canvas, { width, height });
    Object.assign(this, { base, strokes: [], undone: [], stroke: null });
    this.at = { x: width / 2, y: height / 2 };
    this.#again();
  }

  /** How many pixels are painted. */
  get painted() {
    const { data } = this.brush.getImageData(0, 0, this.canvas.width, this.canvas.height);
    let count = 0;
    for (let i = 3; i < data.length; i += 4) count += data[i] > 127;
    return count;
  }

  /** A canvas of black and white: white is painted. */
  whole() {
    const { width, height } = this.canvas;
    const found = Object.assign(document.createElement("canvas"), { width, height });
    const pixels = this.brush.getImageData(0, 0, width, height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data.fill(pixels.data[i + 3] > 127 ? 255 : 0, i, i + 3);
      pixels.data[i + 3] = 255;
    }
    found.getContext("2d").putImageData(pixels, 0, 0);
    return found;
  }

  /** The mask on a larger canvas, whose new sides are painted. */
  extend({ left, right, top, bottom }) {
    const { width, height } = this.canvas;
    const larger = document.createElement("canvas");
    Object.assign(larger, { width: width + left + right, height: height + top + bottom });
    const brush = larger.getContext("2d");
    brush.fillStyle = COLOUR;
    brush.fillRect(0, 0, larger.width, larger.height);
    brush.clearRect(left, top, width, height);
    brush.drawImage(this.canvas, left, top);
    this.begin(larger.width, larger.height, larger);
  }

  undo() {
    if (this.strokes.length) this.undone.push(this.strokes.pop());
    this.#again();
  }

  redo() {
    if (this.undone.length) this.strokes.push(this.undone.pop());
    this.#again();
  }

  invert() {
    this.#add({ kind: "invert" });
  }

  clear() {
    this.#add({ kind: "clear" });
  }

  /** After the size or the tool was changed. */
  refresh() {
    this.ring.classList.toggle("erases", this.erases);
    if (!this.ring.hidden) this.#showRing();
  }

  #add(stroke) {
    this.strokes.push(stroke);
    this.undone = [];
    this.#draw(stroke);
    this.changed();
  }

  #again() {
    const { width, height } = this.canvas;
    this.brush.globalCompositeOperation = "source-over";
    this.brush.clearRect(0, 0, width, height);
    if (this.base) this.brush.drawImage(this.base, 0, 0);
    for (const each of this.strokes) this.#draw(each);
    this.changed();
  }

  #draw({ kind, erases, size, points }) {
    const { brush } = this;
    const { width, height } = this.canvas;
    brush.fillStyle = brush.strokeStyle = COLOUR;
    if (kind === "clear") {
      brush.clearRect(0, 0, width, height);
      return;
    }
    if (kind === "invert") {
      brush.globalCompositeOperation = "source-out";
      brush.fillRect(0, 0, width, height);
      return;
    }
    brush.globalCompositeOperation = erases ? "destination-out" : "source-over";
    Object.assign(brush, { lineWidth: size, lineCap: "round", lineJoin: "round" });
    brush.beginPath();
    brush.arc(points[0].x, points[0].y, size / 2, 0, 2 * Math.PI);
    brush.fill(); // a line without length is not drawn
    brush.beginPath();
    brush.moveTo(points[0].x, points[0].y);
    for (const { x, y } of points) brush.lineTo(x, y);
    brush.stroke();
  }

  // --- the pointer ----------------------------------------------------------------------

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.canvas.width,
      y: ((event.clientY - box.top) / box.height) * this.canvas.height,
    };
  }

  #down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.at = this.#place(event);
    this.#touch();
  }

  #move(event) {
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) {
      this.at = this.#place(each);
      if (this.stroke) this.#drag();
    }
    this.#showRing();
  }

  #touch() {
    this.stroke = { kind: "stroke", erases: this.erases, size: this.size, points: [{ ...this.at }] };
    this.undone = [];
    this.#draw(this.stroke);
  }

  #drag() {
    const before = this.stroke.points.at(-1);
    this.stroke.points.push({ ...this.at });
    this.#draw({ ...this.stroke, points: [before, this.at] });
  }

  #lift() {
    if (!this.stroke) return;
    this.strokes.push(this.stroke);
    this.stroke = null;
    this.changed();
  }

  #showRing() {
    const scale = this.canvas.clientWidth / this.canvas.width;
    this.ring.hidden = false;
    this.ring.style.left = `${this.at.x * scale}px`;
    this.ring.style.top = `${this.at.y * scale}px`;
    this.ring.style.width = this.ring.style.height = `${this.size * scale}px`;
  }

  #hideRing() {
    if (document.activeElement !== this.canvas || !this.canvas.matches(":focus-visible")) this.ring.hidden = true;
  }

  // --- keys -----------------------------------------------------------------------------

  #key(event) {
    const control = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    const far = event.shiftKey ? this.size : Math.max(this.size / 4, 1);
    const moves = { arrowleft: [-far, 0], arrowright: [far, 0], arrowup: [0, -far], arrowdown: [0, far] };
    if (control && key === "z") this[event.shiftKey ? "redo" : "undo"]();
    else if (control && key === "y") this.redo();
    else if (control || event.altKey) return;
    else if (moves[key]) this.#step(...moves[key]);
    else if (event.code === "Space") {
      if (!this.stroke) this.#touch();
    } else if (key === "x") this.erases = !this.erases;
    else if (key === "[") this.size = Math.max(this.size * 0.8, 1);
    else if (key === "]") this.size = this.size * 1.25;
    else if (key === "i") this.invert();
    else return;
    event.preventDefault();
    this.refresh();
    this.changed();
  }

  #step(x, y) {
    this.at = {
      x: Math.min(Math.max(this.at.x + x, 0), this.canvas.width),
      y: Math.min(Math.max(this.at.y + y, 0), this.canvas.height),
    };
    if (this.stroke) this.#drag();
    this.#showRing();
  }
}
