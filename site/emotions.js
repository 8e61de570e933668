// The judgement of a segment from the scores of its labels: e2v_port/emotions in JavaScript, as far as it needs no
// measured dimensions.

const NO_EMOTION = ["other", "unknown"]; // classes of labels that name none

/**
 * Returns the `emotion` object of the service's answer.
 *
 * @param {Object} scores Probability of each label.
 * @param {Object} about `duration` in seconds, and `snr` in dB or null.
 */
export function judgement(scores, { duration, snr }, { settings: { fusion }, label_set: set }, taxonomy) {
  const primary = likeliest(scores);
  const short = duration < fusion.short_seconds;
  const confidence = Math.min(scores[primary], fusion.clip) * (short ? fusion.short_factor : 1);
  const holds = { short, noisy: snr !== null && snr < fusion.noisy, uncertain: unsure(primary, confidence, scores, fusion) };
  const meanings = set === null ? null : new Meanings(taxonomy, set);
  return {
    primary,
    confidence,
    shade: meanings?.shade(primary) ?? null,
    intensity: null,
    valence: null,
    arousal: null,
    compound: null,
    octant: null,
    agreement: null,
    notes: Object.keys(holds).filter((note) => holds[note]),
    sources: ["categorical"],
    e2v_scores: scores,
    avd_scores: meanings?.expected(scores) ?? null,
    avd_from: meanings && "labels",
    distribution: meanings?.distribution(scores) ?? null,
  };
}

const likeliest = (scores) => Object.keys(scores).reduce((best, name) => (scores[name] > scores[best] ? name : best));
const sum = (values) => values.reduce((total, value) => total + value, 0);

/** Whether a label must not be shown as an answer: its confidence or its lead is too small. */
function unsure(label, confidence, scores, { uncertain, lead }) {
  const second = Math.max(0, ...Object.keys(scores).filter((name) => name !== label).map((name) => scores[name]));
  return confidence < uncertain || Math.round((scores[label] - second) * 1e9) / 1e9 <= lead;
}

/** What the labels of a set mean among the 26 emotions: taxonomy.py. */
class Meanings {
  constructor({ emotions, labels }, set) {
    this.emotions = emotions.emotions;
    this.classes = labels.classes;
    const classes = Object.entries(labels.label_sets[set].labels);
    this.labels = Object.fromEntries([...classes.map(([label, name]) => [label.toLowerCase(), name]), ...classes]);
  }

  /** Returns the class of a label, whatever its case. */
  class(label) {
    return this.labels[label] ?? this.labels[label.toLowerCase()];
  }

  /** Returns the probability of each of the 26 emotions. */
  distribution(scores) {
    const masses = Object.fromEntries(this.emotions.map(({ name }) => [name, 0]));
    for (const [label, score] of Object.entries(scores)) {
      const { weights } = this.classes[this.class(label)];
      for (const [name, weight] of Object.entries(weights)) masses[name] += score * weight;
    }
    const total = sum(Object.values(masses));
    return Object.fromEntries(Object.entries(masses).map(([name, mass]) => [name, mass / total]));
  }

  /** Returns the emotion that a label most probably means; null for a label that names none. */
  shade(label) {
    const name = this.class(label);
    if (NO_EMOTION.includes(name)) return null;
    const weights = this.classes[name].weights;
    const best = likeliest(weights);
    return { name: best, probability: weights[best] / sum(Object.values(weights)) };
  }

  /** Returns the mean dimensions of the emotions that the labels can mean, each from 0 to 1. */
  expected(scores) {
    const shares = this.distribution(scores);
    const mean = (value) => sum(this.emotions.map((emotion) => shares[emotion.name] * value(emotion)));
    return {
      arousal: mean(({ arousal }) => arousal),
      dominance: mean(({ dominance }) => dominance),
      valence: mean(({ valence }) => (valence + 1) / 2),
    };
  }
}
