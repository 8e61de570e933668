// What the page reports about its own work: status, errors, progress, and the question for the token.

import { $, clock } from "./dom.js";
import { token } from "./service.js";

/** Shows a status or an error. `details` is the line of the service, for those who want it. */
export function say({ status = "", error = "", details = "" }) {
  $("status").textContent = status;
  $("error").hidden = !error;
  $("error-text").textContent = error;
  $("error-more").hidden = !details;
  $("error-more").open = false;
  $("error-details").textContent = details;
}

/** Runs a task that asks the service. Shows its error, or asks for the token if that is missing. */
export async function asking(task) {
  say({});
  try {
    return await task();
  } catch (error) {
    if (error.name === "AbortError") error.message && say({ status: error.message });
    else if (error.status === 401) askForToken(error, task);
    else say({ error: error.message, details: error.details });
    return undefined;
  }
}

function askForToken(error, task) {
  if (token.get() !== null) say({ error: error.message });
  $("token-form").hidden = false;
  $("token").focus();
  $("token-form").onsubmit = (event) => {
    event.preventDefault();
    token.set($("token").value);
    $("token").value = "";
    $("token-form").hidden = true;
    asking(task);
  };
}

/** Shows the share of a recording that has been sent, 0 to 1. */
export function showProgress(share, name) {
  if (share < 1) $("progress").value = share;
  else {
    $("progress").removeAttribute("value"); // the time that the models take is unknown
    say({ status: `Analyzing ${name} …` });
  }
}

/** Shows the level of the microphone, 0 to 1, the time it has been open, and what is wrong with it, if anything. */
export function showLevel(level, seconds, problem) {
  $("level").style.transform = `scaleX(${Math.sqrt(level)})`;
  $("clock").textContent = clock(seconds);
  $("problem").textContent = problem;
}

/** Says whether the service stores what it judges, live speech included. */
export function showStored(history) {
  $("stored").hidden = !history;
}
