// One segment in words and numbers: the headline first, then what refines and supports it.

import { Bars } from "./bars.js";
import { html, percent } from "./dom.js";
import { compound, derived, doubtful, reasons, rivals, shade, title } from "./words.js";

const DIMENSIONS = { arousal: ["calm", "activated"], dominance: ["controlled", "in control"], valence: ["unpleasant", "pleasant"] };

export class SegmentCard {
  constructor(root, taxonomy) {
    this.root = root;
    this.taxonomy = taxonomy;
  }

  show(segment) {
    const { emotion, text } = segment;
    const quoted = text ? [html("blockquote", {}, text)] : [];
    if (!emotion) {
      this.root.replaceChildren(html("p", { class: "headline none" }, title(segment)), ...quoted);
      return;
    }
    const unclear = doubtful(emotion);
    const window = segment.final === false; // its second label changes too often to be read, so it is left out
    const words = unclear && window ? "unclear" : title(segment);
    const headline = html("p", { class: `headline${unclear ? " doubtful" : ""}`, tint: this.taxonomy.colorOf(emotion) }, words);
    const parts = [headline, ...quoted];
    if (unclear && window) parts.push(html("p", { class: "muted" }, rivals({ primary: emotion.primary, e2v_scores: null })));
    if (emotion.confidence !== null) parts.push(confidenceBar(emotion, unclear));
    parts.push(tags(segment), ...refinements(emotion));
    if (emotion.e2v_scores) parts.push(html("h3", {}, "Label scores"), this.labels(emotion));
    if (emotion.avd_scores) parts.push(...dimensions(emotion));
    this.root.replaceChildren(...parts);
  }

  labels({ e2v_scores: scores, primary }) {
    const names = Object.keys(scores).sort((a, b) => scores[b] - scores[a]);
    const bars = new Bars(names, (name) => this.taxonomy.color(name));
    bars.show(scores, primary);
    return bars.list;
  }
}

function confidenceBar({ confidence: value, primary }, unclear) {
  const bar = html("span", { class: "bar" });
  bar.style.transform = `scaleX(${value})`;
  const words = `${percent(value)} confidence${unclear ? ` in “${primary}”` : ""}`;
  return html("div", { class: `confidence${unclear ? " doubtful" : ""}` }, html("span", {}, words), html("span", { class: "track", "aria-hidden": "true" }, bar));
}

function tags(segment) {
  const { notes, intensity, agreement } = segment.emotion;
  const words = reasons(segment).map((reason) => `${reason}: less reliable`);
  if (intensity) words.push(`${intensity} intensity`);
  if (notes.includes("elevated arousal")) words.push("elevated arousal: an emotion may have been missed");
  if (agreement === "disagree") words.push("label and valence disagree");
  if (agreement === "agree") words.push("label and valence agree");
  return html("ul", { class: "tags" }, ...words.map((word) => html("li", { class: "tag" }, word)));
}

/** More precise meanings of the label. Each has a number of its own or none: the confidence is the label's. */
function refinements(emotion) {
  const finer = shade(emotion);
  const rows = [];
  if (finer) rows.push(["shade", `${finer.name} ${percent(finer.probability)}`, "Probability among the emotions that this label can mean"]);
  const refined = compound(emotion);
  if (refined && refined !== emotion.primary) rows.push(["compound", refined, "The label refined by arousal and dominance"]);
  if (!rows.length) return [];
  const list = rows.flatMap(([name, value, help]) => [html("dt", { title: help }, name), html("dd", { class: name }, value)]);
  return [html("h3", {}, `If “${emotion.primary}” is right`), html("dl", { class: "refinements" }, ...list)];
}

function dimensions(emotion) {
  const { avd_scores: values, primary, octant } = emotion;
  const rows = Object.entries(DIMENSIONS).map(([name, [low, high]]) => {
    const dot = html("span", { class: "dot" });
    dot.style.left = percent(Math.min(Math.max(values[name], 0), 1));
    const scale = html("span", { class: "scale", "aria-hidden": "true", title: `0: ${low}, 1: ${high}` }, dot);
    return html("li", {}, html("span", { class: "name" }, name), scale, html("span", { class: "number" }, values[name].toFixed(2)));
  });
  const source = derived(emotion) ? "derived from the labels" : "measured";
  const heading = html("h3", {}, "Dimensions ", html("span", { class: "tag" }, source));
  if (octant && primary) heading.append(" ", html("span", { class: "tag", title: "Mehrabian's name for this region of the three dimensions" }, `octant: ${octant}`));
  return [heading, html("ul", { class: `bars dimensions ${derived(emotion) ? "derived" : "measured"}` }, ...rows)];
}
