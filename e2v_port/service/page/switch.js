// The switch of the service. It holds for everybody who uses the service, so it asks before it turns.

import { $ } from "./dom.js";
import { asking, say } from "./feedback.js";
import * as service from "./service.js";

export class EmotionSwitch {
  /** `isJudged` returns whether the results on the page come from a time when it was on. */
  constructor(isJudged) {
    this.isJudged = isJudged;
    $("switch").addEventListener("click", () => this.ask());
    $("switch-dialog").addEventListener("close", () => $("switch-dialog").returnValue === "turn" && this.turn());
  }

  /** Shows whether emotion analysis is on. */
  show(enabled) {
    this.enabled = enabled;
    $("switch").disabled = false;
    $("switch").setAttribute("aria-checked", enabled);
    $("switch-state").textContent = enabled ? "on" : "off";
    $("results").classList.toggle("off", !enabled);
    $("off").hidden = enabled;
    const older = this.isJudged() ? " The results below are from before." : "";
    $("off").textContent = `Emotion analysis is off.${older}`;
  }

  ask() {
    const to = this.enabled ? "off" : "on";
    $("switch-question").textContent = `Turn emotion analysis ${to} for everyone?`;
    $("switch-turn").textContent = `Turn ${to} for everyone`;
    $("switch-dialog").returnValue = "";
    $("switch-dialog").showModal();
  }

  turn() {
    return asking(async () => {
      const { enabled } = await service.enableEmotion(!this.enabled);
      this.show(enabled);
      say({ status: `Emotion analysis is ${enabled ? "on" : "off"} for everyone who uses this service` });
    });
  }
}
