// What the service's taxonomy says of labels and of the 26 emotions.

export class Taxonomy {
  constructor({ emotions, labels }) {
    this.groups = emotions.groups;
    this.emotions = emotions.emotions;
    this.classes = labels.classes;
    this.meanings = labels.label_sets.emotion2vec.labels; // label -> class
    this.plutchik = labels.label_sets.plutchik.labels; // joy -> class
    this.colours = Object.fromEntries(this.emotions.map((emotion) => [emotion.name, emotion.colour]));
  }

  /** The class of a label; undefined for labels of a model of one's own. */
  meaning(label) {
    return this.meanings[label];
  }

  /** Of a label: the colour of the emotion it most probably means; grey for what is not known. */
  colour(label) {
    const weights = this.classes[this.meaning(label)]?.weights;
    return this.colours[weights ? likeliest(weights) : "neutral"];
  }

  /** Of what is said of a segment. */
  colourOf(emotion) {
    if (!emotion || uncertain(emotion)) return "var(--doubt)";
    return emotion.primary ? this.colour(emotion.primary) : this.colours[likeliest(emotion.distribution)];
  }
}

export function likeliest(shares) {
  return Object.keys(shares).reduce((best, name) => (shares[name] > shares[best] ? name : best));
}

export const uncertain = (emotion) => emotion.notes.includes("uncertain");
