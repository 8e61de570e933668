// The emotions and labels of the service's taxonomy, and their colors.

import { likeliest } from "./words.js";

/** Case does not matter, except for single letters. */
const spelling = (label) => (label.length > 1 ? label.toLowerCase() : label);

/** The classes of all labels; without single letters that mean one thing in one set and another in the next. */
function meanings(sets) {
  const found = {};
  for (const [label, name] of sets.flatMap((set) => Object.entries(set.labels))) (found[spelling(label)] ??= new Set()).add(name);
  return Object.fromEntries(Object.entries(found).flatMap(([label, names]) => (names.size === 1 ? [[label, ...names]] : [])));
}

export class Taxonomy {
  constructor({ emotions, labels }) {
    this.groups = emotions.groups;
    this.emotions = emotions.emotions;
    this.classes = labels.classes;
    this.meanings = meanings(Object.values(labels.label_sets)); // label -> class
    this.plutchik = labels.label_sets.plutchik.labels; // sector of the wheel -> class
    this.colors = Object.fromEntries(this.emotions.map((emotion) => [emotion.name, emotion.colour]));
  }

  /** The class of a label; undefined for labels that no set has. */
  meaning(label) {
    return this.meanings[spelling(label)];
  }

  /** The color of a label: that of the emotion it most probably means; gray for unknown labels. */
  color(label) {
    const weights = this.classes[this.meaning(label)]?.weights;
    return this.colors[weights ? likeliest(weights) : "neutral"];
  }

  /** The color of a segment: that of its label, also where it is in doubt, which has a look of its own. */
  colorOf(emotion) {
    if (!emotion) return "var(--doubt)";
    if (emotion.primary) return this.color(emotion.primary);
    return emotion.distribution ? this.colors[likeliest(emotion.distribution)] : "var(--accent)";
  }
}
