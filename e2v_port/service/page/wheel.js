// The emotion wheel: Plutchik's eight sectors, each in three rings.

import { percent, svg } from "./dom.js";
import { likeliest, uncertain } from "./taxonomy.js";

// Sector by sector, clockwise from the top. The words are Plutchik's (1980), from intense, inside, to mild, outside.
// `like` lends its colour: for sectors that a label can mean it is the emotion that gives the label its colour, so that
// a segment and its sector look alike.
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

// Where a judgement stands, see `place`. A compound refines its label and stays in the label's sector, except these,
// whose description in the taxonomy names another: no label of emotion2vec means trust or anticipation.
const COMPOUNDS = {
  excitement: "Anticipation", // "energized happiness, anticipation"
  curiosity: "Anticipation", // "wanting to understand"; the class `anticipating` is first of all `curious`
  focused: "Anticipation", // "attentive, task-oriented": between Plutchik's interest and vigilance
  alert: "Anticipation", // likewise
  calm: "Trust", // "peaceful, grounded"; the class `trusting` holds `calm`
};

// The measured intensity of the voice is the ring. Where none is measured nothing tells the ring, and it is the middle
// one, as the note under the wheel says.
const RINGS = { high: 0, moderate: 1, mild: 2, low: 2 };
const RING_NAMES = ["intense", "moderate", "mild"];
const UNMEASURED = 1;

const RADII = [58, 94, 130, 166];

/** Returns {sector, ring}, the sector's number, or -1 for the hub: neutral, or nothing that the wheel knows. */
export function place(emotion, taxonomy) {
  const ring = RINGS[emotion.intensity] ?? UNMEASURED;
  let name = COMPOUNDS[emotion.compound];
  if (!name && emotion.primary) {
    // The taxonomy has Plutchik's emotions as labels: a label stands in the sector that has the same class.
    const meaning = taxonomy.meaning(emotion.primary);
    name = Object.keys(taxonomy.plutchik).find((sector) => taxonomy.plutchik[sector] === meaning);
  } else if (!name && emotion.distribution) {
    // No label at all, only dimensions: the sector whose class gives the likeliest of the 26 the most weight.
    const likely = likeliest(emotion.distribution);
    const weights = {};
    for (const [sector, meaning] of Object.entries(taxonomy.plutchik)) {
      weights[sector] = taxonomy.classes[meaning].weights[likely] ?? 0;
    }
    const best = likeliest(weights);
    name = weights[best] > 0 ? best : undefined;
  }
  return { sector: SECTORS.findIndex((sector) => sector.name.toLowerCase() === name?.toLowerCase()), ring };
}

export class Wheel {
  constructor(root, note, taxonomy) {
    this.note = note;
    this.taxonomy = taxonomy;
    this.cells = SECTORS.map((sector, i) => [0, 1, 2].map((ring) => this.cell(sector, i, ring)));
    this.hub = svg("circle", { r: RADII[0] - 3, class: "hub" });
    this.said = svg("text", { class: "said", y: -2 });
    this.sure = svg("text", { class: "sure", y: 18 });
    this.doubt = svg("text", { class: "sure", y: 33 });
    const names = SECTORS.map((sector, i) => curved(sector.name, i, 179, "name"));
    this.picture = svg("svg", { viewBox: "-194 -194 388 388", role: "img", class: "wheel" });
    this.picture.append(...this.cells.flat(), ...names.flat(), this.hub, this.said, this.sure, this.doubt);
    root.replaceChildren(this.picture);
    this.show(null);
  }

  cell(sector, i, ring) {
    const group = svg("g", { class: "cell", colour: this.taxonomy.colours[sector.like] });
    group.append(svg("path", { d: sectorPath(i, RADII[ring], RADII[ring + 1]) }));
    group.append(...curved(sector.words[ring], i, (RADII[ring] + RADII[ring + 1]) / 2, ring ? "word" : "word inner"));
    return group;
  }

  /** Shows what is said of a segment; null for nothing. */
  show(emotion) {
    const { sector, ring } = emotion ? place(emotion, this.taxonomy) : { sector: -1, ring: 0 };
    const doubtful = Boolean(emotion) && uncertain(emotion);
    this.cells.forEach((cells, i) =>
      cells.forEach((cell, j) => cell.classList.toggle("current", i === sector && j === ring)),
    );
    this.picture.classList.toggle("doubtful", doubtful);
    this.hub.classList.toggle("current", Boolean(emotion) && sector < 0);
    const said = emotion ? (emotion.compound ?? emotion.primary ?? emotion.octant ?? "") : "–";
    this.said.textContent = said;
    this.said.classList.toggle("long", said.length > 9);
    this.sure.textContent = emotion?.confidence == null ? "" : percent(emotion.confidence);
    this.doubt.textContent = doubtful ? "uncertain" : "";

    if (!emotion) {
      this.picture.setAttribute("aria-label", "Emotion wheel: nothing to show");
      this.note.textContent = "";
      return;
    }
    const where = sector < 0 ? "in the hub" : `${SECTORS[sector].name}, ${RING_NAMES[ring]}`;
    const what = [said, this.sure.textContent, this.doubt.textContent, where].filter(Boolean).join(", ");
    this.picture.setAttribute("aria-label", `Emotion wheel: ${what}`);
    if (sector < 0) this.note.textContent = "In the hub: none of the eight.";
    else if (emotion.intensity) this.note.textContent = `Ring by the measured intensity: ${emotion.intensity}.`;
    else this.note.textContent = "No intensity measured: middle ring.";
  }
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
  const r = radius + (below ? 4 : -4); // the baseline, so that the letters stand in the middle
  const [from, to] = below ? [middle + 60, middle - 60] : [middle - 60, middle + 60];
  const arc = svg("path", { id, d: `M${point(r, from)}A${r} ${r} 0 0 ${below ? 0 : 1} ${point(r, to)}`, fill: "none" });
  const along = svg("textPath", { href: `#${id}`, startOffset: "50%" }, text);
  return [arc, svg("text", { class: kind }, along)];
}
