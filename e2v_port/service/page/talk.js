// A conversation: how each remark sounded, what the service replied, and that reply read aloud.

import { $, html } from "./dom.js";
import { say } from "./feedback.js";
import * as service from "./service.js";
import { label, likeliest } from "./words.js";

const REMEMBERED = 8; // turns that the next reply knows of
const LONGEST_TURN = 500; // characters that the service takes

export class Conversation {
  /** `words` is whether the service reads the words of a remark. */
  constructor(taxonomy, words) {
    Object.assign(this, { taxonomy, words, context: [], voice: new Voice() });
  }

  /** Stops reading aloud. */
  hush() {
    this.voice.stop();
  }

  /** Forgets and removes all turns. */
  startOver() {
    this.hush();
    this.context = [];
    $("turns").replaceChildren();
    $("conversation").hidden = true;
  }

  /** Sends a remark, and shows its tone and the reply as they come. A turn without a whole reply is not remembered. */
  async answer(run, recording) {
    const reply = html("p", { class: "reply" });
    const turn = html("div", { class: "turn" }, html("p", { class: "heard" }, "…"), reply);
    this.begin(turn);
    const on = {
      tone: (heard) => this.hear(turn, heard),
      text: ({ text }) => (reply.textContent += text),
    };
    const options = { aloud: $("aloud").checked, words: this.words };
    try {
      const whole = await service.reply(recording, this.context, options, (name, part) => on[name]?.(part), run.signal);
      reply.textContent = whole.reply;
      reply.hidden = !whole.reply;
      for (const { text } of whole.notes) turn.append(html("p", { class: "muted" }, text));
      const said = [["user", whole.words], ["assistant", whole.reply]].filter(([, content]) => content);
      const turns = said.map(([role, content]) => ({ role, content: content.slice(0, LONGEST_TURN) }));
      this.context = [...this.context, ...turns].slice(-REMEMBERED);
      const problem = $("aloud").checked && whole.reply ? this.voice.say(whole) : "";
      say({ status: problem });
    } catch (error) {
      if (reply.textContent) turn.append(html("p", { class: "muted" }, "The reply ended here."));
      else turn.remove();
      throw error;
    } finally {
      $("turns").setAttribute("aria-busy", "false");
    }
  }

  begin(turn) {
    document.body.classList.add("answered");
    $("conversation").hidden = false;
    $("turns").setAttribute("aria-busy", "true"); // read by screen readers once it is complete
    $("turns").append(turn);
    $("conversation").scrollIntoView({ block: "nearest" });
    say({ status: "Listening to your voice …" });
  }

  hear(turn, { tone, unclear, words }) {
    const [heard] = turn.children;
    const primary = tone && likeliest(tone);
    const notes = unclear ? ["uncertain"] : [];
    const emotion = tone && { primary, confidence: tone[primary], e2v_scores: tone, notes };
    heard.textContent = emotion ? `Your voice sounds ${label({ emotion })}` : "No speech was heard";
    if (emotion && !unclear) heard.style.setProperty("--color", this.taxonomy.color(primary));
    if (words) heard.after(html("blockquote", {}, words));
    say({ status: "Replying …" });
  }
}

/** Reads replies aloud: what the service has spoken, or with a voice of this device. */
class Voice {
  constructor() {
    window.speechSynthesis?.getVoices(); // a browser begins to load them when first asked
  }

  /** Reads a reply, in the manner that fits the tone it answers; returns a sentence if that is not possible. */
  say({ reply, prosody, audio }) {
    this.stop();
    if (audio) {
      const bytes = Uint8Array.from(atob(audio), (letter) => letter.charCodeAt(0));
      this.player = new Audio(URL.createObjectURL(new Blob([bytes], { type: "audio/wav" })));
      this.player.play().catch(() => {}); // stopped, or a browser that waits for a click
      return "";
    }
    // Other voices send the words to their maker.
    const voice = window.speechSynthesis?.getVoices().find(({ localService, lang }) => localService && lang.startsWith("en"));
    if (!voice) return "Neither the service nor this browser has a voice: the reply is not read aloud.";
    const { rate, pitch, volume } = prosody;
    speechSynthesis.speak(Object.assign(new SpeechSynthesisUtterance(reply), { voice, lang: voice.lang, rate, pitch, volume }));
    return "";
  }

  stop() {
    window.speechSynthesis?.cancel();
    if (!this.player) return;
    this.player.pause();
    URL.revokeObjectURL(this.player.src);
    this.player = null;
  }
}
