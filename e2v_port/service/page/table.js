// All segments as a table: everything the pictures show, as text.

import { html, percent } from "./dom.js";
import { compound, derived, look, reasons, shade, title } from "./words.js";

const QUALITIES = { too_short: "too short", no_speech: "no speech", not_enrolled: "not enrolled" };

// Column name -> content of its cell. The optional columns are left out where every cell would be empty.
const COLUMNS = {
  "No.": (_, i) => i + 1,
  From: ({ start }) => start.toFixed(2),
  To: ({ end }) => end.toFixed(2),
  Speaker: ({ speaker }) => speaker,
  Channel: ({ channel }) => channel,
  Emotion: (segment) => title(segment),
  Confidence: ({ emotion }) => (emotion?.confidence == null ? "" : percent(emotion.confidence)),
  Shade: ({ emotion }) => shade(emotion) && `${shade(emotion).name} ${percent(shade(emotion).probability)}`,
  Compound: ({ emotion }) => compound(emotion),
  Quality: (segment) => QUALITIES[segment.quality] ?? reasons(segment).join(", "),
  Arousal: ({ emotion }) => emotion?.avd_scores?.arousal.toFixed(2),
  Dominance: ({ emotion }) => emotion?.avd_scores?.dominance.toFixed(2),
  Valence: ({ emotion }) => emotion?.avd_scores?.valence.toFixed(2),
  Text: ({ text }) => text,
};
const OPTIONAL = ["Speaker", "Channel", "Shade", "Compound", "Text"];

export function table(segments) {
  const columns = Object.entries(COLUMNS).filter(([name, cell]) => !OPTIONAL.includes(name) || segments.some(cell));
  const scale = segments.some(({ emotion }) => derived(emotion)) ? "derived from the labels, not measured" : "from 0 to 1";
  const shades = columns.some(([name]) => name === "Shade") ? " A shade's number is its probability if the label is right." : "";
  const caption = `Times in seconds. Arousal, dominance and valence: ${scale}.${shades}`;
  const head = html("thead", {}, html("tr", {}, ...columns.map(([name]) => html("th", { scope: "col" }, name))));
  const body = html("tbody", {}, ...segments.map((segment, i) => row(segment, i, columns)));
  return html("table", {}, html("caption", {}, caption), head, body);
}

function row(segment, i, columns) {
  const cells = columns.map(([name, cell]) => html("td", name === "Text" ? { class: "text" } : {}, cell(segment, i) ?? ""));
  return html("tr", { class: look(segment.emotion) }, ...cells);
}
