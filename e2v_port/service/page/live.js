// A live session over the WebSocket: samples go out as the connection takes them, judged segments come back.

import { pcm } from "./microphone.js";
import { token } from "./service.js";

const MOST_BUFFERED = 1; // s of audio handed to the browser's own buffer; the rest waits here, where it can be counted
const MOST_WAITING = 30; // s; a service that far behind will not catch up, and the page's memory is not endless
const LONGEST_END = 30; // s to wait for the last segments

export class Live {
  /** `onEvent` gets what the service sends; `onClose` gets null after a proper end, else one line that says why. */
  constructor(samplingRate, onEvent, onClose) {
    this.samplingRate = samplingRate;
    this.onClose = onClose;
    this.waiting = [];
    this.sent = this.processed = 0; // samples
    this.ready = this.ended = this.endSent = false;
    const address = new URL("/v1/stream", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    if (token.get()) address.searchParams.set("token", token.get()); // a browser can set no header here
    this.socket = new WebSocket(address);
    const start = { type: "start", sampling_rate: samplingRate, format: "s16le", channels: 1, speaker: null };
    this.socket.onopen = () => this.socket.send(JSON.stringify(start));
    this.socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "error") return this.close(event.error.message);
      if (event.type === "done") return this.close(this.endSent ? null : "The service is stopping: what was judged before is shown");
      if (event.type === "ready") this.ready = true;
      else if (event.type === "ack") this.processed = event.samples;
      else onEvent(event);
      return this.send();
    };
    this.socket.onclose = ({ code, reason }) => {
      const what = this.ready ? "The connection to the service was lost" : "The service does not take a live connection";
      this.close(`${what} (${reason || code})${this.ready ? ": what was judged before is shown" : ""}`);
    };
  }

  /** Seconds of audio that the service has not processed yet. */
  get behind() {
    const waiting = this.waiting.reduce((sum, samples) => sum + samples.length, 0);
    return (this.sent + waiting - this.processed) / this.samplingRate;
  }

  push(samples) {
    if (this.ended) return;
    this.waiting.push(samples);
    this.send();
    if (this.behind > MOST_WAITING) this.close(`The service is more than ${MOST_WAITING} s behind: stopped`);
  }

  /** Says that there is no more; `onClose` follows when the last segment has come. */
  end() {
    if (this.ended) return;
    this.ended = true;
    const late = "The service did not finish in time: what was judged before is shown";
    this.timer = setTimeout(() => this.close(late), LONGEST_END * 1000);
    this.send();
  }

  send() {
    if (!this.ready || this.socket.readyState !== WebSocket.OPEN) return;
    while (this.waiting.length && this.socket.bufferedAmount < MOST_BUFFERED * this.samplingRate * 2) {
      const samples = this.waiting.shift();
      this.socket.send(pcm(samples));
      this.sent += samples.length;
    }
    if (!this.ended || this.endSent) return;
    if (this.waiting.length) {
      setTimeout(() => this.send(), 100); // no further block will come to push the rest out
    } else {
      this.endSent = true;
      this.socket.send(JSON.stringify({ type: "end" }));
    }
  }

  close(message) {
    clearTimeout(this.timer);
    this.ended = true;
    this.socket.onclose = this.socket.onmessage = null;
    this.socket.close();
    this.onClose(message);
  }
}
