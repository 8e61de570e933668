// The emotion wheel: Plutchik's eight sectors in three rings. The sector is the headline's, the ring its intensity.

import { percent, svg } from "./dom.js";
import { doubtful, headline, rivals } from "./words.js";

// Sector by sector, clockwise from the top. The words are Plutchik's (1980), from intense, inside, to mild, outside;
// the highlighted cell hides its word, which may not be the label.
// `like` names the emotion whose color the sector has: that of the label, so that a segment and its sector look alike.
const SECTORS = [
  { name: "Joy", words: ["ecstasy", "joy", "serenity"], like: "happy" },
  { name: "Trust", words: ["admiration", "trust", "acceptance"], like: "calm" },
  { name: "Fear", words: ["terror", "fear", "apprehension"], like: "anxious" },
  { name: "Surprise", words: ["amazement", "surprise", "distraction"], like: "excited" },
  { name: "Sadness", words: ["grief", "sadness", "pensiveness"], like: "sad" },
  { name: "Disgust", words: ["loathing", "disgust", "boredom"], like: "frustrated" },
  { name: "Anger", words: ["rage", "anger", "annoyance"], like: "angry" },
  { name: "Anticipation", words: ["vigilance", "anticipation", "interest"], like: "impatient" },
];

// The measured intensity of the voice selects the ring. Without a measurement it is the middle one.
const RINGS = { high: 0, moderate: 1, mild: 2, low: 2 };
const RING_NAMES = ["intense", "moderate", "mild"];
const UNMEASURED = 1;

const RADII = [58, 94, 130, 166];

/**
 * Returns {sector, ring}, or sector -1 for the hub: neutral, labels without a sector, and segments without a label.
 * Only the label decides the sector, so that the wheel never shows another emotion than the headline.
 */
export function place(emotion, taxonomy) {
  const meaning = emotion.primary === null ? undefined : taxonomy.meaning(emotion.primary);
  const name = meaning && Object.keys(taxonomy.plutchik).find((sector) => taxonomy.plutchik[sector] === meaning);
  const sector = SECTORS.findIndex((sector) => sector.name.toLowerCase() === name?.toLowerCase());
  return { sector, ring: RINGS[emotion.intensity] ?? UNMEASURED };
}

export class Wheel {
  constructor(root, note, taxonomy) {
    this.note = note;
    this.taxonomy = taxonomy;
    this.cells = SECTORS.map((sector, i) => [0, 1, 2].map((ring) => this.cell(sector, i, ring)));
    this.hub = svg("circle", { r: RADII[0] - 3, class: "hub" });
    this.headword = svg("text", { class: "headword", y: -2 });
    this.first = svg("text", { class: "sure", y: 18 });
    this.second = svg("text", { class: "sure", y: 33 });
    const names = SECTORS.map((sector, i) => curved(sector.name, i, 179, "name"));
    this.picture = svg("svg", { viewBox: "-194 -194 388 388", role: "img", class: "wheel" });
    this.picture.append(...this.cells.flat(), ...names.flat(), this.hub, this.headword, this.first, this.second);
    root.replaceChildren(this.picture);
    this.show(null);
  }

  cell(sector, i, ring) {
    const group = svg("g", { class: "cell", tint: this.taxonomy.colors[sector.like] });
    group.append(svg("path", { d: sectorPath(i, RADII[ring], RADII[ring + 1]) }));
    group.append(...curved(sector.words[ring], i, (RADII[ring] + RADII[ring + 1]) / 2, ring ? "word" : "word inner"));
    return group;
  }

  /** Shows the emotion of a segment, or nothing for null. */
  show(emotion) {
    const { sector, ring } = emotion ? place(emotion, this.taxonomy) : { sector: -1, ring: 0 };
    const unclear = Boolean(emotion) && doubtful(emotion);
    this.cells.forEach((cells, i) => cells.forEach((cell, j) => cell.classList.toggle("current", i === sector && j === ring)));
    this.picture.classList.toggle("doubtful", unclear);
    this.hub.classList.toggle("current", Boolean(emotion) && sector < 0);
    const word = !emotion ? "–" : unclear ? "unclear" : headline(emotion);
    this.headword.textContent = word;
    this.headword.classList.toggle("long", word.length > 9);
    const sure = emotion?.confidence == null ? "" : percent(emotion.confidence);
    const [first, second = ""] = unclear ? rivals(emotion).split(/(?<= or) /) : [sure];
    this.first.textContent = first;
    this.second.textContent = second;

    const where = sector < 0 ? "in the hub" : `${SECTORS[sector].name}, ${RING_NAMES[ring]}`;
    const words = [emotion && headline(emotion), unclear ? "" : sure, where].filter(Boolean).join(", ");
    this.picture.setAttribute("aria-label", `Emotion wheel: ${emotion ? words : "nothing to show"}`);
    this.note.textContent = emotion ? note(emotion, sector) : "";
  }
}

function note(emotion, sector) {
  if (!emotion.primary) return "In the hub: no model that gives labels is loaded.";
  if (sector < 0) return "In the hub: the label is none of the eight.";
  return emotion.intensity ? `Ring: measured intensity (${emotion.intensity}).` : "Middle ring: no intensity measured.";
}

function point(radius, degrees) {
  const angle = (degrees * Math.PI) / 180;
  return `${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`;
}

function sectorPath(i, inner, outer) {
  const from = -112.5 + 45 * i + 0.6;
  const to = from + 45 - 1.2;
  return `M${point(inner + 1, from)}L${point(outer - 1, from)}A${outer - 1} ${outer - 1} 0 0 1 ${point(outer - 1, to)}L${point(inner + 1, to)}A${inner + 1} ${inner + 1} 0 0 0 ${point(inner + 1, from)}Z`;
}

/** Text along the arc through the middle of a sector; upright in the lower half too. */
function curved(text, i, radius, kind) {
  const below = i >= 3 && i <= 5;
  const id = `wheel-${i}-${radius}`;
  const middle = -90 + 45 * i;
  const r = radius + (below ? 4 : -4); // radius of the baseline, so that the letters are centered
  const [from, to] = below ? [middle + 60, middle - 60] : [middle - 60, middle + 60];
  const arc = svg("path", { id, d: `M${point(r, from)}A${r} ${r} 0 0 ${below ? 0 : 1} ${point(r, to)}`, fill: "none" });
  const along = svg("textPath", { href: `#${id}`, startOffset: "50%" }, text);
  return [arc, svg("text", { class: kind }, along)];
}
