// The plane of valence (to the right) and arousal (upward), both 0 to 1: the path of the segments and the current one.

import { svg } from "./dom.js";
import { derived, look } from "./words.js";

const SIZE = 340;
const TRAIL = 3; // segments of the path before the current one that stand out
const LANDMARKS = ["angry", "excited", "happy", "anxious", "sad", "bored", "calm", "content", "neutral"]; // the ones that are named: far enough apart to be legible

const x = (valence) => SIZE * Math.min(Math.max(valence, 0), 1);
const y = (arousal) => SIZE * (1 - Math.min(Math.max(arousal, 0), 1));

export class Plane {
  constructor(root, taxonomy) {
    this.taxonomy = taxonomy;
    this.path = svg("polyline");
    this.trail = svg("polyline", { class: "trail" });
    this.points = svg("g");
    this.now = svg("g", { class: "here" }, svg("circle", { r: 15, class: "halo" }), svg("circle", { r: 7 }));
    this.picture = svg("svg", { viewBox: "-26 -12 378 390", role: "img", class: "plane" });
    this.picture.append(
      svg("rect", { width: SIZE, height: SIZE, rx: 10, class: "field" }),
      svg("path", { d: `M0 ${SIZE / 2}H${SIZE}M${SIZE / 2} 0V${SIZE}`, class: "axes" }),
      ...taxonomy.emotions.map((emotion) => this.landmark(emotion)),
      svg("text", { x: 0, y: SIZE + 22, class: "axis" }, "unpleasant"),
      svg("text", { x: SIZE / 2, y: SIZE + 22, class: "axis middle" }, "valence"),
      svg("text", { x: SIZE, y: SIZE + 22, class: "axis end" }, "pleasant"),
      svg("text", { transform: `translate(-12 ${SIZE}) rotate(-90)`, class: "axis" }, "calm"),
      svg("text", { transform: `translate(-12 ${SIZE / 2}) rotate(-90)`, class: "axis middle" }, "arousal"),
      svg("text", { transform: "translate(-12 0) rotate(-90)", class: "axis end" }, "activated"),
      this.path,
      this.trail,
      this.points,
      this.now,
    );
    root.replaceChildren(this.picture);
  }

  landmark({ name, valence, arousal, colour }) {
    const at = { cx: x((valence + 1) / 2), cy: y(arousal) };
    const mark = svg("g", { class: "landmark", tint: colour }, svg("title", {}, name), svg("circle", { ...at, r: 3 }));
    if (LANDMARKS.includes(name)) mark.append(svg("text", { x: at.cx + 6, y: at.cy + 4 }, name));
    return mark;
  }

  /** Draws the path through all segments that have dimensions. */
  show(segments) {
    this.places = segments.map(({ emotion }) => emotion?.avd_scores && [x(emotion.avd_scores.valence), y(emotion.avd_scores.arousal)]);
    const present = this.places.filter(Boolean);
    this.path.setAttribute("points", present.join(" "));
    this.points.replaceChildren(
      ...segments.flatMap(({ emotion }, i) => {
        if (!this.places[i]) return [];
        const [cx, cy] = this.places[i];
        const kind = derived(emotion) ? "derived" : "measured";
        return [svg("circle", { cx, cy, r: 4.5, class: `${kind} ${look(emotion)}`, tint: this.taxonomy.colorOf(emotion) })];
      }),
    );
    this.picture.setAttribute("aria-label", `Arousal and valence of ${present.length} segments; the numbers are in the table of all segments`);
  }

  /** Moves the large point to a segment. */
  select(i, emotion) {
    const place = this.places[i];
    const before = this.places.slice(0, i + 1).filter(Boolean).slice(-TRAIL - 1);
    this.trail.setAttribute("points", before.join(" "));
    this.now.classList.toggle("absent", !place);
    if (!place) return;
    this.now.style.setProperty("--color", this.taxonomy.colorOf(emotion));
    this.now.classList.toggle("doubtful", look(emotion) === "doubtful");
    this.now.style.transform = `translate(${place[0]}px, ${place[1]}px)`;
  }
}
