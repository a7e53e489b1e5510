// Runs before the page is drawn, so that it does not flash in the other colours.
"use strict";

try {
  const theme = JSON.parse(localStorage.getItem("keras_sd.theme"));
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // A browser that keeps nothing: its own theme is taken, and store.js says so where it matters.
}
