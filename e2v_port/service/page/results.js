// The answer of the service in all its views, and the segment that is selected in them.

import { Bars } from "./bars.js";
import { $, clock, html } from "./dom.js";
import { Plane } from "./plane.js";
import { SegmentCard } from "./segment.js";
import { table } from "./table.js";
import { Timeline } from "./timeline.js";
import { Wheel } from "./wheel.js";
import { derived, doubtful } from "./words.js";

export class Results {
  constructor(taxonomy, player) {
    this.player = player;
    this.answer = null;
    this.peaks = null;
    this.current = -1; // index of the selected segment
    this.timeline = new Timeline($("timeline"), taxonomy, {
      onPlay: (i) => {
        this.select(i);
        player.playSegment(this.answer.segments[i]);
      },
      onChoose: (i) => this.select(i),
      onSeek: (seconds) => player.seek(seconds),
    });
    this.card = new SegmentCard($("now"), taxonomy);
    this.wheel = new Wheel($("wheel"), $("wheel-note"), taxonomy);
    this.plane = new Plane($("plane"), taxonomy);
    this.emotions = new Emotions($("emotions"), $("emotions-note"), taxonomy);
    $("raw").addEventListener("toggle", () => this.showJson());
  }

  /** Shows an answer, with the timeline from one time to another, in seconds; `latest` is the end of a live voice. */
  show(answer, from, to, latest = false) {
    this.answer = answer;
    $("results").hidden = false;
    document.body.classList.add("answered");
    $("clip").textContent = answer.file;
    const stored = { off: "not stored", stored: "stored in the history" }[answer.history] ?? answer.history;
    $("clip-facts").textContent = [clock(answer.duration), stored].filter(Boolean).join(" · ");
    $("summary").textContent = [answer.context?.replace(/^\[|\]$/g, ""), answer.reason].filter(Boolean).join(": ");
    this.note(answer);
    this.timeline.show(answer.segments, this.peaks, from, to, latest);
    this.plane.show(answer.segments);
    $("table").replaceChildren(table(answer.segments));
    const unmeasured = answer.segments.some(({ emotion }) => derived(emotion));
    $("plane-from").hidden = !unmeasured;
    $("plane-note").textContent = unmeasured ? "Derived from the labels, not measured: the mean position of the emotions that these can mean." : "";
    const limited = ({ limited_to: labels }) => (labels ? `, limited to ${labels.join(", ")}` : "");
    const models = answer.models.map((model) => `${model.name} (${model.kind}, ${model.runtime}, ${model.licence}${limited(model)})`);
    if (models.length) $("models").textContent = `Models: ${models.join("; ")}`;
    this.showJson();
  }

  /** Draws the waveform, which arrives after the answer. */
  showPeaks(peaks) {
    this.peaks = peaks;
    this.timeline.show(this.answer.segments, peaks, 0, this.answer.duration);
    this.timeline.select(this.current);
  }

  /** Begins to show a live session. */
  begin(hearing, from, to) {
    this.live = false; // whether a judgement has been shown
    this.player.hide();
    this.peaks = hearing.peaks;
    this.show(hearing.answer(), from, to, true);
    this.timeline.moveTo(-1);
    this.select(-1);
  }

  /**
   * Shows what has been heard. The card follows the windows of ongoing speech, whose labels are steadied; a segment
   * that ends changes it only if it is the first to be judged.
   */
  hear(hearing, { type, segment }, from, to) {
    this.show(hearing.answer(), from, to, true);
    const last = this.answer.segments.length - 1;
    if (this.timeline.hasFocus) this.select(this.current); // somebody is looking at a segment
    else if (type === "partial" || !this.live) this.select(last);
    else this.timeline.select(-1);
    this.live ||= segment.emotion !== null;
  }

  /** Shows what is to be known about the sound. */
  note({ notes }) {
    $("notes").replaceChildren(...notes.map(({ text }) => html("li", {}, text)));
  }

  /** Shows a whole session. */
  end(hearing, to, reason) {
    this.show(hearing.answer(reason), 0, to);
    this.select(this.answer.segments.length - 1);
  }

  select(i) {
    this.current = i;
    const segment = this.answer.segments[i];
    const emotion = segment?.emotion ?? null;
    this.timeline.select(i);
    this.wheel.show(emotion);
    this.plane.select(i, emotion);
    this.emotions.show(emotion);
    if (!segment) {
      $("now-place").textContent = "";
      $("now").replaceChildren(html("p", { class: "headline none" }, this.answer.reason ?? "no speech yet"));
      return;
    }
    const speaker = segment.speaker ? ` · ${segment.speaker}` : "";
    const times = `${segment.start.toFixed(1)} to ${segment.end.toFixed(1)} s`;
    $("now-place").textContent = `${i + 1} of ${this.answer.segments.length} · ${times}${speaker}`;
    this.card.show(segment);
  }

  /** Follows playback: selects the segment at a time, in seconds. In a pause, the last one stays selected. */
  follow(seconds) {
    this.timeline.moveTo(seconds);
    const at = this.answer.segments.findIndex(({ start, end }) => start <= seconds && seconds < end);
    if (at >= 0 && at !== this.current) this.select(at);
  }

  showJson() {
    if ($("raw").open && this.answer) $("json").textContent = JSON.stringify(this.answer, null, 2);
  }
}

/** The 26 emotions by group. The shade of the headline is marked, never another emotion. */
class Emotions {
  constructor(root, note, taxonomy) {
    this.note = note;
    this.bars = taxonomy.groups.map(({ name, title }) => {
      const members = taxonomy.emotions.filter((emotion) => emotion.group === name).map((emotion) => emotion.name);
      const bars = new Bars(members, (member) => taxonomy.colors[member]);
      root.append(html("div", {}, html("h3", {}, title), bars.list));
      return bars;
    });
  }

  show(emotion) {
    const distribution = emotion?.distribution ?? null;
    const longest = distribution ? Math.max(...Object.values(distribution)) : 1;
    for (const bars of this.bars) bars.show(distribution, emotion && !doubtful(emotion) ? emotion.shade?.name : undefined, longest);
    this.note.textContent = emotion ? emotionsNote(emotion) : "";
  }
}

function emotionsNote(emotion) {
  const { primary, shade, distribution } = emotion;
  if (!distribution) return "not available: the labels of this model map to none of them";
  return `probabilities over all labels${shade && !doubtful(emotion) ? `; marked: the shade of “${primary}”` : ""}`;
}
