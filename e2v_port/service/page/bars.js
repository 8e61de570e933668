// Probabilities as bars, each with its name and its number: readable without the picture.

import { html, percent } from "./dom.js";

export class Bars {
  /** Shows `names` in this order, each in its color. */
  constructor(names, colorOf) {
    this.rows = new Map(names.map((name) => [name, row(name, colorOf(name))]));
    this.list = html("ul", { class: "bars" }, ...[...this.rows.values()].map((row) => row.item));
  }

  /** Shows {name: probability}, or dashes for null. The row `marked` stands out; a bar of `full` fills its track. */
  show(probabilities, marked, full = 1) {
    for (const [name, { item, bar, number }] of this.rows) {
      const probability = probabilities?.[name] ?? 0;
      bar.style.transform = `scaleX(${probability / full})`;
      number.textContent = probabilities ? percent(probability) : "–";
      item.classList.toggle("marked", probabilities !== null && name === marked);
    }
  }
}

function row(name, color) {
  const bar = html("span", { class: "bar" });
  const number = html("span", { class: "number" });
  const track = html("span", { class: "track", "aria-hidden": "true" }, bar);
  return { item: html("li", { tint: color }, html("span", { class: "name" }, name), track, number), bar, number };
}
