// Elements, and what is said to whoever looks or listens.

export const byId = (id) => document.getElementById(id);

/**
 * An element. Attributes whose names begin with "on" are listeners, `text` is its text, true and
 * false set and leave out an attribute.
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Says a short sentence in the line that screen readers read out. */
export function say(text) {
  byId("status").textContent = text;
}

/** Says what went wrong, until it is closed or something else is begun. */
export function trouble(text, ...more) {
  byId("trouble-text").replaceChildren(text, ...more);
  byId("trouble").hidden = !text;
}

/** The errors next to fields: `{name: message}`. Says whether each had its field. */
export function showErrors(errors) {
  clearErrors();
  let first = null;
  const homeless = [];
  for (const [name, message] of Object.entries(errors)) {
    const field = document.querySelector(`[data-field="${CSS.escape(name)}"]`) ?? byId(name);
    if (!field) {
      homeless.push(message);
      continue;
    }
    const id = `${field.id}-error`;
    const note = make("p", { class: "error", id, text: message });
    (field.closest(".field") ?? field).append(note);
    field.setAttribute("aria-invalid", "true");
    const described = field.getAttribute("aria-describedby");
    field.setAttribute("aria-describedby", described ? `${described} ${id}` : id);
    for (let each = field.closest("details"); each; each = each.parentElement.closest("details")) {
      each.open = true;
    }
    first ??= field;
  }
  first?.focus();
  return homeless;
}

/** Takes them away: all, or those of one field. */
export function clearErrors(field = null) {
  for (const note of document.querySelectorAll("p.error")) {
    if (field && note.id !== `${field.id}-error`) continue;
    const of = byId(note.id.replace(/-error$/, ""));
    if (of) {
      of.removeAttribute("aria-invalid");
      const rest = (of.getAttribute("aria-describedby") ?? "").split(" ");
      const left = rest.filter((each) => each && each !== note.id).join(" ");
      if (left) of.setAttribute("aria-describedby", left);
      else of.removeAttribute("aria-describedby");
    }
    note.remove();
  }
}

/** "1 picture", "2 pictures". */
export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** "8 s", "2 min", "1 h 5 min". */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(Math.round(seconds), 1)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
