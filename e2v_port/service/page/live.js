// A live session over the WebSocket: samples go out at the pace of the connection, judged segments come back.

import { pcm } from "./microphone.js";
import { ServiceError, token } from "./service.js";

const MOST_BUFFERED = 1; // s of audio in the browser's buffer; the rest waits here, where it can be counted
const MOST_WAITING = 30; // s; a service with this much backlog will not catch up
const LONGEST_END = 30; // s to wait for the last segments
const LIVE = { audio: "stream" }; // kinds whose sentence speaks of a file

export class Live {
  /**
   * Connects until the signal aborts. `onEvent` gets the judged segments and the notes. `ready` resolves with the service's greeting.
   * `closed` resolves with null after a regular end, otherwise with the error; it never rejects.
   */
  constructor(samplingRate, signal, onEvent) {
    this.samplingRate = samplingRate;
    this.waiting = [];
    this.sent = this.processed = 0; // samples
    this.opened = this.ended = this.endSent = false;
    this.ready = new Promise((resolve, reject) => Object.assign(this, { greet: resolve, refuse: reject }));
    this.closed = new Promise((resolve) => (this.settle = resolve));
    const address = new URL("/v1/stream", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    // A browser can set no header here, and a URL is written to logs: the token goes as a protocol.
    this.socket = new WebSocket(address, ["e2v", ...token.protocols()]);
    const start = { type: "start", sampling_rate: samplingRate, format: "s16le", channels: 1, speaker: null };
    this.socket.onopen = () => this.socket.send(JSON.stringify(start));
    this.socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "error") return this.close(new ServiceError({ ...event.error, kind: LIVE[event.error.kind] ?? event.error.kind }));
      if (event.type === "done") return this.close(this.endSent ? null : new ServiceError({ kind: "stopping" }));
      if (event.type === "ready") this.opened = this.greet(event) ?? true;
      else if (event.type === "ack") this.processed = event.samples;
      else onEvent(event);
      return this.send();
    };
    this.socket.onclose = () => this.close(new ServiceError({ kind: this.opened ? "lost" : "refused" }));
    signal.addEventListener("abort", () => this.close(signal.reason));
  }

  /** Seconds of audio that the service has not processed yet. */
  get backlog() {
    const waiting = this.waiting.reduce((sum, samples) => sum + samples.length, 0);
    return (this.sent + waiting - this.processed) / this.samplingRate;
  }

  push(samples) {
    if (this.ended) return;
    this.waiting.push(samples);
    this.send();
    if (this.backlog > MOST_WAITING) this.close(new ServiceError({ kind: "behind" }));
  }

  /** Ends the session; `closed` follows once the last segment has arrived. */
  end() {
    if (this.ended) return;
    this.ended = true;
    this.timer = setTimeout(() => this.close(new ServiceError({ kind: "late" })), LONGEST_END * 1000);
    this.send();
  }

  send() {
    if (!this.opened || this.socket.readyState !== WebSocket.OPEN) return;
    while (this.waiting.length && this.socket.bufferedAmount < MOST_BUFFERED * this.samplingRate * 2) {
      const samples = this.waiting.shift();
      this.socket.send(pcm(samples));
      this.sent += samples.length;
    }
    if (!this.ended || this.endSent) return;
    if (this.waiting.length) {
      setTimeout(() => this.send(), 100); // no further block will trigger this
    } else {
      this.endSent = true;
      this.socket.send(JSON.stringify({ type: "end" }));
    }
  }

  close(error) {
    clearTimeout(this.timer);
    this.ended = true;
    this.socket.onclose = this.socket.onmessage = null;
    this.socket.close();
    this.refuse(error);
    this.settle(error);
  }
}
