// The recording from left to right: its waveform on a canvas, and over it a button for each segment.

import { clock, html, percent } from "./dom.js";
import { uncertain } from "./taxonomy.js";

const BAR = 3; // pixels, the gap included
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600]; // s between two marks of the axis

export class Timeline {
  /** `onPlay` gets the number of a segment, `onSeek` seconds. */
  constructor(root, taxonomy, { onPlay, onSeek }) {
    this.taxonomy = taxonomy;
    this.canvas = html("canvas", { "aria-hidden": "true" });
    this.buttons = html("div", { class: "segments", role: "toolbar", "aria-label": "Segments: arrow keys choose, Enter plays" });
    this.head = html("div", { class: "head", hidden: "" });
    this.axis = html("div", { class: "axis", "aria-hidden": "true" });
    this.field = html("div", { class: "field" }, this.canvas, this.buttons, this.head);
    root.replaceChildren(this.field, this.axis);
    this.segments = [];
    this.peaks = null;
    this.from = 0;
    this.to = 1;

    this.field.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) return onPlay([...this.buttons.children].indexOf(button));
      const { left, width } = this.field.getBoundingClientRect();
      return onSeek(this.from + ((event.clientX - left) / width) * (this.to - this.from));
    });
    // One stop for the Tab key, however many segments there are.
    this.buttons.addEventListener("keydown", (event) => {
      const all = [...this.buttons.children];
      const at = all.indexOf(event.target);
      const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[event.key];
      if (at < 0 || !all[next]) return;
      event.preventDefault();
      all[at].tabIndex = -1;
      all[next].tabIndex = 0;
      all[next].focus();
    });
    new ResizeObserver(() => this.draw()).observe(this.field);
    const recolour = () => {
      this.colours = null;
      this.draw();
    };
    new MutationObserver(recolour).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  }

  /** `peaks` is {values, step}: the largest sample, 0 to 1, of each `step` seconds; null for what cannot be decoded. */
  show(segments, peaks, from, to) {
    Object.assign(this, { segments, peaks });
    // Buttons stay where they are, so that the one in focus does not lose it while a live session goes on.
    while (this.buttons.children.length > segments.length) this.buttons.lastChild.remove();
    while (this.buttons.children.length < segments.length) this.buttons.append(html("button", { type: "button", tabindex: -1 }));
    segments.forEach((segment, i) => this.dress(this.buttons.children[i], segment, i));
    if (segments.length && ![...this.buttons.children].some((button) => button.tabIndex === 0)) this.buttons.children[0].tabIndex = 0;
    this.colours = null;
    this.view(from, to);
  }

  /** Shows another stretch of the same. */
  view(from, to) {
    Object.assign(this, { from, to });
    this.field.style.setProperty("--from", from);
    this.field.style.setProperty("--span", to - from);
    const step = STEPS.find((step) => (to - from) / step <= 10) ?? 7200;
    const marks = [];
    for (let at = Math.ceil(from / step) * step; at <= to - 0.02 * (to - from); at += step) {
      const mark = html("span", {}, clock(at));
      mark.style.left = this.left(at);
      marks.push(mark);
    }
    this.axis.replaceChildren(...marks);
    this.draw();
  }

  dress(button, segment, i) {
    const { emotion } = segment;
    const said = title(segment);
    const kind = !emotion ? "unjudged" : uncertain(emotion) ? "doubtful" : "judged";
    button.className = `${kind}${segment.final === false ? " partial" : ""}`;
    button.style.setProperty("--colour", this.taxonomy.colourOf(emotion));
    button.style.setProperty("--start", segment.start);
    button.style.setProperty("--end", segment.end);
    const sure = emotion?.confidence == null ? "" : `, ${percent(emotion.confidence)}${uncertain(emotion) ? ", uncertain" : ""}`;
    button.setAttribute("aria-label", `Segment ${i + 1}, ${clock(segment.start)} to ${clock(segment.end)}: ${said}${sure}`);
    button.title = `${said}${sure}`;
    button.replaceChildren(html("span", {}, emotion ? said : ""));
  }

  left(seconds) {
    return `${(100 * (seconds - this.from)) / (this.to - this.from)}%`;
  }

  select(current) {
    [...this.buttons.children].forEach((button, i) => {
      if (i === current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }

  moveTo(seconds) {
    this.head.hidden = seconds < this.from || seconds > this.to;
    this.head.style.left = this.left(seconds);
  }

  draw() {
    const { width, height } = this.field.getBoundingClientRect();
    const scale = window.devicePixelRatio;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    this.colours ??= [...this.buttons.children].map((button) => getComputedStyle(button).borderTopColor);
    const seconds = (this.to - this.from) / width;
    let at = 0; // the segment at or behind this bar
    for (let bar = 0; bar < width; bar += BAR) {
      const start = this.from + bar * seconds;
      while (at < this.segments.length - 1 && this.segments[at].end < start) at++;
      const segment = this.segments[at];
      const inside = segment && segment.start <= start && start < segment.end;
      const level = this.peaks ? loudest(this.peaks, start, start + BAR * seconds) : 0;
      const half = Math.max(Math.sqrt(level) * (height / 2 - 16), 0.75); // the root shows quiet speech too
      pen.fillStyle = inside ? this.colours[at] : style.color;
      pen.fillRect(bar, height / 2 + 4 - half, BAR - 1, 2 * half);
    }
  }
}

/** What is said of a segment, or why nothing is. */
export function title({ emotion, quality, speaker }) {
  if (emotion) return emotion.compound ?? emotion.primary ?? emotion.octant ?? "judged";
  if (quality === "too_short") return "too short to judge";
  if (quality === "no_speech") return "no speech heard";
  return speaker ? `${speaker} is not enrolled: not analysed` : "not analysed";
}

/** What the timeline needs of a recording; null where the browser cannot decode it. */
export async function peaksOf(file, bars = 4000) {
  try {
    // Decoding at a low rate keeps a recording of an hour small in memory; no one sees the difference.
    const audio = await new OfflineAudioContext(1, 1, 8000).decodeAudioData(await file.arrayBuffer());
    const samples = audio.getChannelData(0);
    const size = Math.max(1, Math.ceil(samples.length / bars));
    const values = [];
    for (let at = 0; at < samples.length; at += size) {
      let most = 0;
      for (let i = at; i < Math.min(at + size, samples.length); i++) most = Math.max(most, Math.abs(samples[i]));
      values.push(most);
    }
    const loud = Math.max(...values, 1e-3);
    return { values: values.map((value) => value / loud), step: size / audio.sampleRate };
  } catch {
    return null;
  }
}

function loudest({ values, step }, from, to) {
  let most = 0;
  for (let i = Math.floor(from / step); i < Math.max(to / step, Math.floor(from / step) + 1) && i < values.length; i++) {
    most = Math.max(most, values[i] ?? 0);
  }
  return most;
}
