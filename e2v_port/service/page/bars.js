// Probabilities as bars with their numbers beside them: readable without the picture.

import { html, percent } from "./dom.js";

export class Bars {
  /** `names` in order, each with its colour. */
  constructor(names, colourOf) {
    this.rows = new Map(names.map((name) => [name, row(name, colourOf(name))]));
    this.list = html("ul", { class: "bars" }, ...[...this.rows.values()].map((row) => row.item));
  }

  /** Shows {name: share}; null for nothing. The share `most` stands out; a bar of `full` fills its place. */
  show(shares, most, full = 1) {
    for (const [name, { item, bar, number }] of this.rows) {
      const share = shares?.[name] ?? 0;
      bar.style.transform = `scaleX(${share / full})`;
      number.textContent = shares ? percent(share) : "–";
      item.classList.toggle("most", shares !== null && share === most);
    }
  }
}

function row(name, colour) {
  const bar = html("span", { class: "bar" });
  const number = html("span", { class: "number" });
  const track = html("span", { class: "track", "aria-hidden": "true" }, bar);
  return { item: html("li", { colour }, html("span", { class: "name" }, name), track, number), bar, number };
}
