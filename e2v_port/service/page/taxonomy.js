// The emotions and labels of the service's taxonomy, and their colors.

import { likeliest } from "./words.js";

export class Taxonomy {
  constructor({ emotions, labels }) {
    this.groups = emotions.groups;
    this.emotions = emotions.emotions;
    this.classes = labels.classes;
    this.meanings = labels.label_sets.emotion2vec.labels; // label -> class
    this.plutchik = labels.label_sets.plutchik.labels; // sector of the wheel -> class
    this.colors = Object.fromEntries(this.emotions.map((emotion) => [emotion.name, emotion.colour]));
  }

  /** The class of a label; undefined for labels that only one model uses. */
  meaning(label) {
    return this.meanings[label];
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
