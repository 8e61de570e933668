// The words for a segment. Where the service has noted doubt, no label stands alone, and no number stands next to two.

import { percent } from "./dom.js";

const NO_EMOTION = ["other", "unknown"];
const namesNone = (label) => NO_EMOTION.includes(label.toLowerCase());
const ALSO = 0.5; // a second label is named if it has at least this share of the first one's probability, as in the library

/** Whether the service has noted doubt about the label. The page avoids its word: "uncertain" is an emotion, too. */
export const doubtful = (emotion) => emotion.notes.includes("uncertain");

/** How a segment is drawn: `judged`, `doubtful` or `unjudged`. */
export function look(emotion) {
  if (!emotion) return "unjudged";
  return doubtful(emotion) ? "doubtful" : "judged";
}

/**
 * What stands for a judged segment: the model's label, or the octant where no model gives labels. `confidence` is the
 * probability of the label, so an octant has none.
 */
export function headline(emotion) {
  return doubtful(emotion) ? `unclear: ${rivals(emotion)}` : (emotion.primary ?? emotion.octant ?? "judged");
}

/** What a doubtful voice may sound like: "angry or disgusted", "perhaps angry". */
export function rivals({ primary, e2v_scores: scores }) {
  const others = Object.keys(scores ?? {}).filter((name) => name !== primary && !namesNone(name));
  const second = likeliest(scores, others);
  const names = [primary, second && scores[second] >= ALSO * scores[primary] ? second : null];
  const named = names.filter((name) => name && !namesNone(name));
  if (named.length > 1) return named.join(" or ");
  return named.length ? `perhaps ${named[0]}` : "no emotion stands out";
}

/** The headline of a segment, or why there is none. */
export function title({ emotion, quality, speaker }) {
  if (emotion) return headline(emotion);
  if (quality === "too_short") return "too short to judge";
  if (quality === "no_speech") return "no speech";
  return speaker ? `${speaker} is not enrolled: not analyzed` : "not analyzed";
}

/** The title of a segment with the confidence, where that belongs to a single label. */
export function label(segment) {
  const { emotion } = segment;
  return emotion?.confidence == null || doubtful(emotion) ? title(segment) : `${title(segment)}, ${percent(emotion.confidence)}`;
}

/** One or two letters for a segment, where there is no room for a word: unlike for each label. "?" is doubt. */
export function initials({ emotion }) {
  if (!emotion) return "–";
  if (doubtful(emotion)) return "?";
  const word = emotion.primary ?? emotion.octant ?? "?";
  const alike = Object.keys(emotion.e2v_scores ?? {}).some((name) => name !== word && name[0] === word[0]);
  return word.slice(0, alike ? 2 : 1);
}

/** One entry, {segment, words}, for each kind of segment that is shown: each label, doubt, and no judgement. */
export function legend(segments) {
  const entries = new Map();
  for (const segment of segments) {
    const kind = look(segment.emotion);
    const words = { judged: segment.emotion && headline(segment.emotion), doubtful: "unclear", unjudged: "not judged" }[kind];
    if (!entries.has(words)) entries.set(words, { segment, words });
  }
  return [...entries.values()];
}

/** How often which label has been heard: "2 angry, 1 neutral, 4 unclear"; "" without a judged segment. */
export function tally(segments) {
  const counts = new Map();
  for (const { emotion } of segments) {
    const word = emotion && (doubtful(emotion) ? "unclear" : headline(emotion));
    if (word) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return [...counts].map(([word, count]) => `${count} ${word}`).join(", ");
}

/** The shade of the headline, {name, probability}; null where it only repeats the label, or that is in doubt. */
export function shade(emotion) {
  return emotion?.shade && !doubtful(emotion) && emotion.shade.name !== emotion.primary.toLowerCase() ? emotion.shade : null;
}

/** The compound of a label that is not in doubt; null without one. */
export function compound(emotion) {
  return emotion && !doubtful(emotion) ? emotion.compound : null;
}

const REASONS = { short: "short", noisy: "noisy", overlap: "two voices at once" };

/** Why the judgement of a segment is less certain than others: "short", "noisy", "two voices at once". */
export function reasons({ emotion, quality }) {
  const found = Object.keys(REASONS).filter((note) => emotion?.notes.includes(note)).map((note) => REASONS[note]);
  return found.length || quality !== "low_confidence" ? found : ["short"];
}

/** Whether the dimensions are derived from the labels rather than measured in the voice. */
export const derived = (emotion) => Boolean(emotion?.avd_from?.startsWith("labels"));

/** The name with the highest probability, of some; undefined for none. */
export function likeliest(probabilities, names = Object.keys(probabilities)) {
  return names.reduce((best, name) => (best === undefined || probabilities[name] > probabilities[best] ? name : best), undefined);
}
