// The recording from left to right: its waveform on a canvas, with a button over it for each segment. A long recording is
// wider than the page and scrolls, so that its shortest segment is wide enough to touch; an overview then shows it whole.

import { clock, html } from "./dom.js";
import { initials, label, legend, look, title } from "./words.js";

const BAR = 3; // pixels, including the gap
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600]; // s between two marks of the axis
const MARK = 70; // pixels that a mark of the axis needs
const NARROWEST = 18; // pixels of the shortest segment: room for the initials of its label, and for half a fingertip
const WIDEST = 200_000; // pixels of a whole recording
const NEAR = 10; // pixels from a segment within which a click still means it

export class Timeline {
  /** `onPlay` gets the index of a segment, `onChoose` too, without playing it; `onSeek` gets a time in seconds. */
  constructor(root, taxonomy, { onPlay, onChoose, onSeek }) {
    Object.assign(this, { taxonomy, segments: [], peaks: null, from: 0, to: 1, current: -1, zoomed: false });
    this.canvas = html("canvas", { "aria-hidden": "true" });
    this.buttons = html("div", { class: "segments", role: "toolbar", "aria-label": "Segments: use the arrow keys to choose one, Enter to play it" });
    this.head = html("div", { class: "head", hidden: "" });
    this.axis = html("div", { class: "axis", "aria-hidden": "true" });
    this.field = html("div", { class: "field" }, this.canvas, this.buttons, this.head, this.axis);
    this.scroller = html("div", { class: "scroller" }, this.field);
    this.whole = html("canvas", { class: "whole" });
    this.part = html("div", { class: "part" });
    this.overview = html("div", { class: "overview", "aria-hidden": "true", title: "The whole recording" }, this.whole, this.part);
    this.legend = html("ul", { class: "legend", "aria-label": "Legend" });
    root.replaceChildren(this.overview, this.scroller, this.legend);

    this.field.addEventListener("click", (event) => {
      const i = this.hit(event);
      return i < 0 ? onSeek(this.timeAt(this.field, event.clientX)) : onPlay(i);
    });
    this.overview.addEventListener("click", (event) => {
      const at = this.timeAt(this.overview, event.clientX);
      this.scroller.scrollLeft = this.x(at) - this.scroller.clientWidth / 2;
      onSeek(at);
    });
    this.scroller.addEventListener("scroll", () => this.draw());
    // One tab stop, however many segments there are: that of the selected one.
    this.buttons.addEventListener("keydown", (event) => {
      const last = this.segments.length - 1;
      const next = { ArrowLeft: this.current - 1, ArrowRight: this.current + 1, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      if (next < 0 || next > last) return;
      onChoose(next);
      document.activeElement.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
    new ResizeObserver(() => this.resize()).observe(this.scroller);
    const recolor = () => {
      this.colors = null;
      this.draw();
    };
    new MutationObserver(recolor).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
  }

  /**
   * Shows segments between two times, in seconds: all of a recording, or the `latest` part of a live voice, which does
   * not scroll. `peaks` is {values, step}: the largest sample, 0 to 1, of every `step` seconds; null if the browser
   * cannot decode the recording.
   */
  show(segments, peaks, from, to, latest = false) {
    Object.assign(this, { segments, peaks, latest });
    // Buttons are reused, so that the focused one keeps the focus during a live session.
    while (this.buttons.children.length > segments.length) this.buttons.lastChild.remove();
    while (this.buttons.children.length < segments.length) this.buttons.append(html("button", { type: "button", tabindex: -1 }));
    segments.forEach((segment, i) => this.dress(this.buttons.children[i], segment, i));
    this.legend.replaceChildren(...legend(segments).map((entry) => this.legendItem(entry)));
    this.colors = null;
    this.view(from, to);
  }

  /** Shows another part of the recording. */
  view(from, to) {
    Object.assign(this, { from, to });
    this.field.style.setProperty("--from", from);
    this.field.style.setProperty("--span", to - from);
    this.resize();
  }

  /** Makes the field as wide as its shortest segment needs. */
  resize() {
    const width = this.scroller.clientWidth;
    const judged = this.latest ? [] : this.segments.filter(({ emotion }) => emotion);
    const shortest = judged.reduce((least, { start, end }) => Math.min(least, end - start), Infinity);
    const wanted = Math.min(WIDEST, (NARROWEST * (this.to - this.from)) / Math.max(shortest, 0.01));
    this.zoomed = wanted > width;
    this.width = Math.max(width, wanted);
    this.field.style.width = `${this.width}px`;
    this.overview.hidden = !this.zoomed;
    const step = STEPS.find((step) => (step * this.width) / (this.to - this.from) >= MARK) ?? 7200;
    const marks = [];
    for (let at = Math.ceil(this.from / step) * step; this.x(at) <= this.width - MARK / 4; at += step) {
      const mark = html("span", {}, clock(at));
      mark.style.left = this.left(at);
      marks.push(mark);
    }
    this.axis.replaceChildren(...marks);
    this.draw();
  }

  dress(button, segment, i) {
    const { emotion, start, end } = segment;
    button.className = `${look(emotion)}${segment.final === false ? " partial" : ""}`;
    button.style.setProperty("--color", this.taxonomy.colorOf(emotion));
    button.style.setProperty("--start", start);
    button.style.setProperty("--end", end);
    button.setAttribute("aria-label", `Segment ${i + 1}, ${clock(start)} to ${clock(end)}: ${label(segment)}`);
    button.title = label(segment);
    const word = emotion ? title(segment) : "";
    button.replaceChildren(html("span", { class: "word" }, word), html("span", { class: "initials" }, initials(segment)));
  }

  legendItem({ segment, words }) {
    const swatch = html("span", { class: `swatch ${look(segment.emotion)}`, tint: this.taxonomy.colorOf(segment.emotion) }, initials(segment));
    return html("li", {}, swatch, words);
  }

  /** The place of a time in the field, in pixels. */
  x(seconds) {
    return (this.width * (seconds - this.from)) / (this.to - this.from);
  }

  left(seconds) {
    return `${(100 * this.x(seconds)) / this.width}%`;
  }

  timeAt(element, clientX) {
    const { left, width } = element.getBoundingClientRect();
    return this.from + ((clientX - left) / width) * (this.to - this.from);
  }

  /** The index of the segment that a click means: the nearest in time; -1 if none is near. */
  hit({ target, clientX, detail }) {
    const button = target.closest("button");
    const own = button ? [...this.buttons.children].indexOf(button) : -1;
    if (own >= 0 && !detail) return own; // by the keyboard, which has no place
    const at = this.timeAt(this.field, clientX);
    const distance = ({ start, end }) => Math.max(start - at, at - end, 0);
    if (own >= 0 && !distance(this.segments[own])) return own; // the upper one of two that overlap
    const distances = this.segments.map(distance);
    const nearest = distances.indexOf(Math.min(...distances));
    return nearest >= 0 && this.x(this.from + distances[nearest]) <= NEAR ? nearest : -1;
  }

  get hasFocus() {
    return this.buttons.contains(document.activeElement);
  }

  /** Marks the selected segment, which takes the focus from another one. */
  select(current) {
    this.current = current;
    if (this.hasFocus) this.buttons.children[current]?.focus({ preventScroll: true });
    [...this.buttons.children].forEach((button, i) => {
      if (i === current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      button.tabIndex = i === Math.max(current, 0) ? 0 : -1;
    });
  }

  /** Moves the head. The view goes with it if it would leave it, and jumps to it if it is moved far. */
  moveTo(seconds) {
    const { scrollLeft, clientWidth } = this.scroller;
    const [before, now] = [this.at ?? 0, seconds].map((at) => this.x(at) - scrollLeft);
    const seen = (place) => place >= 0 && place <= clientWidth;
    if (!seen(now) && (seen(before) || Math.abs(seconds - this.at) > 1)) this.scroller.scrollLeft += now - clientWidth / 4;
    this.at = seconds;
    this.head.hidden = seconds < this.from || seconds > this.to;
    this.head.style.left = this.left(seconds);
  }

  draw() {
    this.colors ??= [...this.buttons.children].map((button) => getComputedStyle(button).borderTopColor);
    this.drawWaveform();
    if (this.zoomed) this.drawOverview();
  }

  /** Draws the part of the waveform that is in view: the canvas stays in place while the field scrolls. */
  drawWaveform() {
    const { clientWidth: width, scrollLeft } = this.scroller;
    this.canvas.style.width = `${width}px`;
    const height = this.canvas.clientHeight;
    const pen = prepared(this.canvas, width, height);
    const { color } = getComputedStyle(this.canvas);
    const seconds = (this.to - this.from) / this.width;
    let at = 0; // index of the segment at or after this bar
    for (let bar = -scrollLeft % BAR; bar < width; bar += BAR) {
      const start = this.from + (scrollLeft + bar) * seconds;
      while (at < this.segments.length - 1 && this.segments[at].end < start) at++;
      const segment = this.segments[at];
      const inside = segment && segment.start <= start && start < segment.end;
      const level = this.peaks ? loudest(this.peaks, start, start + BAR * seconds) : 0;
      const half = Math.max(Math.sqrt(level) * (height / 2 - 16), 0.75); // the square root makes quiet speech visible
      pen.fillStyle = inside ? this.colors[at] : color;
      pen.fillRect(bar, height / 2 + 4 - half, BAR - 1, 2 * half);
    }
  }

  /** Draws all segments, exactly as wide as they are; doubtful ones half as high, segments without a judgement as a line. */
  drawOverview() {
    const { clientWidth: width, clientHeight: height } = this.overview;
    const pen = prepared(this.whole, width, height);
    const scale = width / (this.to - this.from);
    this.segments.forEach(({ start, end, emotion }, i) => {
      const tall = { judged: height, doubtful: height / 2, unjudged: 2 }[look(emotion)];
      pen.fillStyle = this.colors[i];
      pen.fillRect((start - this.from) * scale, (height - tall) / 2, (end - start) * scale, tall);
    });
    this.part.style.left = `${(100 * this.scroller.scrollLeft) / this.width}%`;
    this.part.style.width = `${(100 * this.scroller.clientWidth) / this.width}%`;
  }
}

/** Returns a pen for a canvas that is cleared, in units of CSS pixels. */
function prepared(canvas, width, height) {
  canvas.width = Math.round(width * window.devicePixelRatio);
  canvas.height = Math.round(height * window.devicePixelRatio);
  const pen = canvas.getContext("2d");
  pen.scale(window.devicePixelRatio, window.devicePixelRatio);
  return pen;
}

/** Returns the peaks of a recording; null if the browser cannot decode it. */
export async function peaksOf(file, bars = 4000) {
  try {
    // A low rate keeps an hour of audio small in memory, with no visible difference.
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
