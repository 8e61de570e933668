// The page: starts a run for a chosen, dropped, recorded or live voice, and shows its results.

import { refusal, showState } from "./controls.js";
import { $ } from "./dom.js";
import { asking, say, showStored } from "./feedback.js";
import { Player } from "./player.js";
import { Results } from "./results.js";
import { analyze, listen, record } from "./runs.js";
import * as service from "./service.js";
import { onState, run, running } from "./state.js";
import { EmotionSwitch } from "./switch.js";
import { Conversation } from "./talk.js";
import { Taxonomy } from "./taxonomy.js";
import { peaksOf } from "./timeline.js";
import { sorted } from "./uploads.js";

const LONGEST_WAVEFORM = 1800; // s; a browser decodes a file as a whole: half a gigabyte for one of this length
const LONGEST_REMARK = 29.5; // s; the service takes 30 s

const player = new Player((seconds) => results.follow(seconds));
const emotion = new EmotionSwitch(() => results?.answer?.emotion_enabled);
let results = null; // made once the taxonomy has arrived
let conversation = null; // as well

onState(showState);
// A recording exists nowhere else: the browser asks before it is left.
addEventListener("beforeunload", (event) => running()?.kind === "record" && event.preventDefault());
addEventListener("pagehide", () => running()?.cancel("")); // also closes the microphone of a page that the browser keeps

/** Returns the results, which need the taxonomy of the service. */
async function ready() {
  if (results) return results;
  const [table, config, offers] = await Promise.all([service.taxonomy(), service.config(), service.offers()]);
  const taxonomy = new Taxonomy(table);
  results ??= new Results(taxonomy, player);
  conversation ??= new Conversation(taxonomy, offers.words);
  $("talk").hidden = !offers.replies;
  showService(config.enabled, config.history);
  return results;
}

function showService(enabled, history) {
  emotion.show(enabled);
  showStored(history);
}

/** Starts a run, unless one is on: then says why not. */
function start(kind, name, state, task) {
  if (refused()) return;
  $("save").hidden = true;
  asking(() => refused() || run(kind, name, state, task)); // asked again once there is a token
}

function refused() {
  if (running()) say({ status: refusal(running()) });
  return running() !== null;
}

// --- a recording

function upload(files) {
  if (refused()) return;
  const { recording, transcript, left, problem } = sorted(files);
  if (problem) say({ error: problem });
  else start("choose", recording.name, "analyzing", async (mine) => {
    await ready();
    show(recording, await analyze(mine, recording, transcript), left);
  });
}

function show(recording, answer, ...remarks) {
  results.peaks = null;
  results.show(answer, 0, answer.duration);
  results.select(Math.max(0, answer.segments.findIndex((segment) => segment.emotion)));
  player.load(recording, answer.duration);
  player.moveTo(0);
  emotion.show(answer.emotion_enabled);
  const judged = answer.segments.filter((segment) => segment.emotion).length;
  const { total, receive } = answer.timings; // the total includes the time that the upload took, where there is one
  const upload = receive === undefined ? "" : `, after ${receive.toFixed(2)} s of upload`;
  const times = `in ${(total - (receive ?? 0)).toFixed(2)} s${upload}`;
  say({ status: [`${judged} of ${answer.segments.length} segments judged ${times}.`, ...remarks].filter(Boolean).join(" ") });
  $("clip").scrollIntoView({ block: "nearest" });
  drawWaveform(recording, answer);
}

/** Draws the waveform under the segments once the browser has decoded it; the answer is shown before. */
async function drawWaveform(recording, answer) {
  if (answer.duration > LONGEST_WAVEFORM) return;
  const peaks = await peaksOf(recording);
  if (results.answer === answer) results.showPeaks(peaks);
}

$("choose").addEventListener("click", () => refused() || $("file").click());
$("file").addEventListener("change", () => {
  upload([...$("file").files]);
  $("file").value = ""; // allows choosing the same file again
});
$("example").addEventListener("click", () =>
  start("example", "example.flac", "analyzing", async (mine) => {
    await ready();
    const recording = await service.example(mine.signal);
    show(recording, await analyze(mine, recording));
  }),
);
$("cancel").addEventListener("click", () => running()?.cancel());

for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dragging"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  upload([...event.dataTransfer.files]);
});

// The space bar plays and stops; on a control or in a table that scrolls, it keeps its own meaning.
document.addEventListener("keydown", (event) => {
  const taken = event.target.closest("button, a, summary, dialog, [role=region], input:not([type=range])");
  if (event.key !== " " || event.ctrlKey || event.altKey || event.metaKey || taken || !player.ready) return;
  event.preventDefault();
  if (!event.repeat) player.toggle();
});

// --- the microphone

function onToggle(kind, task) {
  $(kind).addEventListener("click", ({ detail }) => {
    if (detail > 1) return; // the second click of a double click: whoever makes one wants to start or stop, not both
    const mine = running();
    if (mine?.kind === kind && mine.state === "opening") mine.cancel();
    else if (mine?.kind === kind && (mine.state === "recording" || mine.state === "live")) mine.stop();
    else start(kind, "The recording", "opening", task);
  });
}

onToggle("record", async (mine) => {
  player.stop();
  await ready();
  const { recording, why } = await record(mine);
  mine.enter("analyzing");
  try {
    show(recording, await analyze(mine, recording), why && `${why}: this is what was recorded until then.`);
  } catch (error) {
    offer(recording);
    throw error;
  }
});
onToggle("live", async (mine) => {
  player.stop();
  const onReady = ({ emotion_enabled: enabled, history }) => showService(enabled, history);
  await listen(mine, await ready(), onReady);
});

onToggle("talk", async (mine) => {
  player.stop();
  await ready();
  conversation.hush();
  const { recording } = await record(mine, LONGEST_REMARK);
  mine.enter("answering");
  await conversation.answer(mine, recording);
});
$("aloud").addEventListener("change", () => $("aloud").checked || conversation.hush());
$("forget").addEventListener("click", () => {
  if (refused()) return;
  conversation.startOver();
  say({ status: "The conversation is forgotten." });
  $("talk").focus();
});

/** Offers a recording that could not be analyzed: it exists nowhere else. */
function offer(recording) {
  URL.revokeObjectURL($("save").href);
  $("save").href = URL.createObjectURL(recording);
  $("save").hidden = false;
}

// --- the JSON

$("copy").addEventListener("click", async () => {
  const copied = await navigator.clipboard?.writeText($("json").textContent).then(() => true, () => false);
  if (!copied) getSelection().selectAllChildren($("json")); // there is no clipboard over plain http
  $("copy").textContent = copied ? "Copied" : "Selected: press Ctrl+C";
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
});

// --- the theme

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
const showTheme = () => $("theme").setAttribute("aria-pressed", isDark());
$("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  showTheme();
});
dark.addEventListener("change", showTheme);
showTheme();

asking(ready);
