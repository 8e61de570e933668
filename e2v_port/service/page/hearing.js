// What has been heard in a live session: segments that have ended, and the ongoing speech as the windows judged so far.

import { tally } from "./words.js";

const SLIVER = 0.1; // s; a rest of ongoing speech that is shorter was the end of the segment before it

export class Hearing {
  /** @param {number} step Seconds between two peaks of the waveform. */
  constructor(step) {
    this.finals = [];
    this.ongoing = [];
    this.notes = [];
    this.duration = 0;
    this.peaks = { values: [], step };
  }

  /** Takes a message of the service. The label of a window is steadied there, so the latest one holds for its speech. */
  receive({ type, segment, text }) {
    if (type === "note") {
      this.notes.push({ text });
    } else if (type === "final") {
      this.finals.push(segment);
      this.ongoing = this.ongoing
        .map((speech) => ({ ...speech, start: Math.max(speech.start, segment.end) }))
        .filter(({ start, end }) => end - start > SLIVER);
    } else {
      const last = this.ongoing.at(-1);
      if (last && segment.start <= last.end) Object.assign(this.ongoing.at(-1), { ...segment, start: last.start });
      else this.ongoing.push({ ...segment, start: Math.max(segment.start, this.finals.at(-1)?.end ?? 0) });
    }
  }

  /** All of it as an answer of the service. `reason` is why there is none, if nothing was judged. */
  answer(reason = null) {
    const segments = [...this.finals, ...this.ongoing];
    return {
      file: "Live microphone",
      duration: this.duration,
      emotion_enabled: true,
      reason: segments.length ? null : reason,
      context: this.finals.length ? `So far: ${tally(this.finals) || "nothing judged"}` : "",
      notes: this.notes,
      models: [],
      segments,
    };
  }
}
