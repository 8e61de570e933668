// The buttons, meter and title of the page in each state.

import { $ } from "./dom.js";

const IDLE = { record: "Record", live: "Listen live", talk: "Talk" };
const PRESSED = { opening: "Cancel", recording: "Stop and analyze", live: "Stop", finishing: "Finishing …" };
const TALKING = { ...PRESSED, recording: "Stop and get a reply" };
const TITLES = { recording: "Recording", live: "Listening" }; // a tab in the background shows its title alone
const TITLE = document.title;

/** Shows a state and its run. Only the button of the run itself can be used while one is on. */
export function showState(state, run) {
  for (const id of ["choose", "example", "record", "live", "talk"]) {
    const own = run?.kind === id && state in PRESSED;
    const usable = !run || (own && state !== "finishing");
    // Not `disabled`: a button that is refused says why, and the one that was pressed keeps the focus.
    $(id).setAttribute("aria-disabled", !usable);
    if (!(id in IDLE)) continue;
    $(id).setAttribute("aria-pressed", own);
    $(id).textContent = own ? (id === "talk" ? TALKING : PRESSED)[state] : IDLE[id];
  }
  $("meter").hidden = state !== "recording" && state !== "live";
  $("level").style.transform = "scaleX(0)";
  $("clock").textContent = "0:00";
  $("problem").textContent = "";
  const waiting = ["analyzing", "answering", "finishing"].includes(state);
  if ($("busy").hidden && waiting) $("progress").removeAttribute("value");
  $("busy").hidden = !waiting;
  $("main").setAttribute("aria-busy", waiting);
  document.title = TITLES[state] ? `${TITLES[state]} – ${TITLE}` : TITLE;
}

/** Why nothing else can be started during a run. */
export function refusal({ kind, name, state }) {
  if (state === "analyzing") return `${name} is still being analyzed: wait for it, or cancel it`;
  if (state === "answering") return "The reply is still being made: wait for it, or cancel it";
  if (state === "finishing") return "The last words are still being judged: wait for them, or cancel";
  return kind === "live" ? "Stop listening first" : "Stop the recording first";
}
