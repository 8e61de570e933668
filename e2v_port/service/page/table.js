// All segments as a table: what the pictures show, for eyes and readers that do without them.

import { html, percent } from "./dom.js";
import { title } from "./timeline.js";
import { uncertain } from "./taxonomy.js";

const QUALITIES = { normal: "", low_confidence: "short", too_short: "too short", no_speech: "no speech" };

export function table(segments) {
  const all = [["", "No."], ["", "From"], ["", "To"], ["speaker", "Speaker"], ["", "Sounds"], ["", "Confidence"], ["", "Quality"], ["", "Arousal"], ["", "Dominance"], ["", "Valence"], ["text", "Text"]];
  const columns = all.filter(([needs]) => !needs || segments.some((segment) => segment[needs]));
  const derived = segments.some(({ emotion }) => emotion?.avd_from === "labels");
  const caption = derived ? "Times in seconds. Arousal, dominance and valence, 0 to 1, are derived from the labels, not measured." : "Times in seconds; arousal, dominance and valence from 0 to 1.";
  const head = html("thead", {}, html("tr", {}, ...columns.map(([, name]) => html("th", { scope: "col" }, name))));
  const body = html("tbody", {}, ...segments.map((segment, i) => row(segment, i, columns.map(([, name]) => name))));
  return html("table", {}, html("caption", {}, caption), head, body);
}

function row(segment, i, columns) {
  const { emotion } = segment;
  const values = emotion?.avd_scores;
  const cells = {
    "No.": i + 1,
    From: segment.start.toFixed(2),
    To: segment.end.toFixed(2),
    Speaker: segment.speaker,
    Sounds: title(segment),
    Confidence: emotion?.confidence == null ? "" : `${percent(emotion.confidence)}${uncertain(emotion) ? ", uncertain" : ""}`,
    Quality: QUALITIES[segment.quality],
    Arousal: values?.arousal.toFixed(2),
    Dominance: values?.dominance.toFixed(2),
    Valence: values?.valence.toFixed(2),
    Text: segment.text,
  };
  const doubtful = !emotion || uncertain(emotion);
  return html("tr", doubtful ? { class: "doubtful" } : {}, ...columns.map((name) => html("td", {}, cells[name] ?? "")));
}
