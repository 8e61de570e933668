// One segment in words and numbers.

import { Bars } from "./bars.js";
import { html, percent } from "./dom.js";
import { uncertain } from "./taxonomy.js";
import { title } from "./timeline.js";

const DIMENSIONS = { arousal: ["calm", "activated"], dominance: ["controlled", "in control"], valence: ["unpleasant", "pleasant"] };

export class SegmentCard {
  constructor(root, taxonomy) {
    this.root = root;
    this.taxonomy = taxonomy;
  }

  show(segment) {
    const { emotion, text, quality } = segment;
    if (!emotion) {
      this.root.replaceChildren(html("p", { class: "headline none" }, title(segment)), ...(text ? [quote(text)] : []));
      return;
    }
    const doubtful = uncertain(emotion);
    const parts = [html("p", { class: `headline${doubtful ? " doubtful" : ""}`, colour: this.taxonomy.colourOf(emotion) }, title(segment))];
    if (doubtful) parts[0].prepend(html("span", { class: "perhaps" }, "perhaps "));
    if (text) parts.push(quote(text));
    if (emotion.confidence !== null) parts.push(confidence(emotion.confidence, doubtful));
    parts.push(this.tags(emotion, quality));
    if (emotion.e2v_scores) parts.push(html("h3", {}, "Labels"), this.labels(emotion.e2v_scores));
    if (emotion.avd_scores) {
      const from = emotion.avd_from === "model" ? "measured" : "derived from the labels";
      parts.push(html("h3", {}, "Dimensions ", html("span", { class: "tag" }, from)), dimensions(emotion));
    }
    this.root.replaceChildren(...parts);
  }

  tags(emotion, quality) {
    const tags = [];
    if (emotion.compound && emotion.primary !== emotion.compound) tags.push(`label: ${emotion.primary}`);
    if (quality === "low_confidence" || emotion.notes.includes("short")) tags.push("short, so less sure");
    if (emotion.intensity) tags.push(`${emotion.intensity} intensity`);
    if (emotion.notes.includes("elevated arousal")) tags.push("elevated arousal: an emotion may be missed");
    if (emotion.agreement === "disagree") tags.push("label and valence disagree");
    if (emotion.agreement === "agree") tags.push("label and valence agree");
    if (emotion.octant) tags.push(`octant: ${emotion.octant}`);
    return html("ul", { class: "tags" }, ...tags.map((tag) => html("li", { class: "tag" }, tag)));
  }

  labels(scores) {
    const names = Object.keys(scores).sort((a, b) => scores[b] - scores[a]);
    const bars = new Bars(names, (name) => this.taxonomy.colour(name));
    bars.show(scores, scores[names[0]]);
    return bars.list;
  }
}

function quote(text) {
  return html("blockquote", {}, text);
}

function confidence(share, doubtful) {
  const bar = html("span", { class: "bar" });
  bar.style.transform = `scaleX(${share})`;
  const words = `${percent(share)} confidence${doubtful ? ": uncertain" : ""}`;
  return html("div", { class: `confidence${doubtful ? " doubtful" : ""}` }, html("span", {}, words), html("span", { class: "track", "aria-hidden": "true" }, bar));
}

function dimensions({ avd_scores: values, avd_from: from }) {
  const rows = Object.entries(DIMENSIONS).map(([name, [low, high]]) => {
    const dot = html("span", { class: "dot" });
    dot.style.left = percent(Math.min(Math.max(values[name], 0), 1)).replace(" ", "");
    const scale = html("span", { class: "scale", "aria-hidden": "true", title: `from ${low}, 0, to ${high}, 1` }, dot);
    return html("li", {}, html("span", { class: "name" }, name), scale, html("span", { class: "number" }, values[name].toFixed(2)));
  });
  return html("ul", { class: `bars dimensions ${from}` }, ...rows);
}
