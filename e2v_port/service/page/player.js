// Playback of a recording: the play button, the slider and the clock.

import { $, clock } from "./dom.js";

export class Player {
  /** `onMove` gets the position in seconds whenever it changes. */
  constructor(onMove) {
    this.onMove = onMove;
    this.audio = new Audio();
    this.duration = 0;
    this.until = null; // s; where playback of a single segment stops
    this.audio.addEventListener("play", () => this.showPlaying(true));
    this.audio.addEventListener("pause", () => this.showPlaying(false));
    this.audio.addEventListener("error", () => {
      $("play").disabled = true;
      $("player-note").textContent = "This browser cannot play this format";
    });
    $("play").addEventListener("click", () => this.toggle());
    $("seek").addEventListener("input", () => this.seek(Number($("seek").value)));
  }

  load(recording, duration) {
    this.stop();
    URL.revokeObjectURL(this.audio.src);
    this.audio.src = URL.createObjectURL(recording);
    this.duration = duration;
    $("player").hidden = false;
    $("player-note").textContent = "";
    $("play").disabled = false;
    $("seek").max = duration;
  }

  /** Removes the recording: a live voice cannot be played. */
  hide() {
    this.stop();
    $("player").hidden = true;
  }

  /** Whether there is a recording that the browser can play. */
  get ready() {
    return this.duration > 0 && !$("player").hidden && !$("play").disabled;
  }

  toggle() {
    if (this.audio.paused) this.play(null);
    else this.stop();
  }

  playSegment({ start, end }) {
    if (!this.ready) return;
    this.seek(start);
    this.play(end);
  }

  play(until) {
    this.until = until;
    this.audio.play().catch(() => {}); // the error event reports it
  }

  stop() {
    this.audio.pause();
    this.until = null;
  }

  seek(seconds) {
    this.until = null;
    this.audio.currentTime = seconds;
    this.moveTo(seconds);
  }

  /** Shows a position. */
  moveTo(seconds) {
    $("seek").value = seconds;
    $("seek").setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(this.duration)}`);
    $("time").textContent = `${clock(seconds)} / ${clock(this.duration)}`;
    this.onMove(seconds);
  }

  showPlaying(playing) {
    $("play").classList.toggle("playing", playing);
    $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    if (playing) requestAnimationFrame(() => this.follow());
  }

  follow() {
    if (this.audio.paused) return;
    if (this.until !== null && this.audio.currentTime >= this.until) {
      this.moveTo(Math.max(0, this.until - 0.001)); // still within the segment
      this.stop();
      return;
    }
    this.moveTo(this.audio.currentTime);
    requestAnimationFrame(() => this.follow());
  }
}
