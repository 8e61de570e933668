// The page: what is chosen, recorded or heard live goes to the service, and its answer is shown and played.

import { Bars } from "./bars.js";
import { $, clock, html } from "./dom.js";
import { Live } from "./live.js";
import { openMicrophone, peak, wav } from "./microphone.js";
import { Plane } from "./plane.js";
import { SegmentCard } from "./segment.js";
import * as service from "./service.js";
import { table } from "./table.js";
import { Taxonomy } from "./taxonomy.js";
import { Timeline, peaksOf } from "./timeline.js";
import { Wheel } from "./wheel.js";

const SEGMENT_FILES = /\.(rttm|srt|vtt|csv|json)$/i;
const LIVE_VIEW = 30; // s of a live session that are in sight
const LONGEST_WAVEFORM = 1800; // s; a browser decodes a file as a whole, half a gigabyte for this long a one

const audio = new Audio();
let views; // what draws, from the time the taxonomy is there
let answer = null;
let peaks = null;
let current = -1; // the segment that is shown
let until = null; // s: where playing stops, when one segment is played
let calling = null; // aborts the request on its way
let microphone = null; // of a recording or a live session

// --- the service

/** Runs something that asks the service; says what went wrong, and asks for the token where that is it. */
async function asking(task) {
  say({});
  try {
    return await task();
  } catch (error) {
    if (error.name === "AbortError") calling ?? say({ status: "Cancelled" }); // else another recording took its place
    else if (error.status === 401) askForToken(error.message, task);
    else say({ error: error.message });
    return undefined;
  }
}

function say({ status = "", error = "" }) {
  $("status").textContent = status;
  $("error").textContent = error;
  $("error").hidden = !error;
}

function askForToken(message, task) {
  const wrong = service.token.get() !== null;
  if (wrong) say({ error: message });
  $("token-form").hidden = false;
  $("token").focus();
  $("token-form").onsubmit = (event) => {
    event.preventDefault();
    service.token.set($("token").value);
    $("token").value = "";
    $("token-form").hidden = true;
    asking(task);
  };
}

async function start() {
  const [data, enabled] = await Promise.all([service.taxonomy(), service.emotionEnabled()]);
  const taxonomy = new Taxonomy(data);
  const groups = taxonomy.groups.map(({ name, title }) => {
    const members = taxonomy.emotions.filter((emotion) => emotion.group === name).map((emotion) => emotion.name);
    return { title, bars: new Bars(members, (member) => taxonomy.colours[member]) };
  });
  $("emotions").replaceChildren(...groups.map(({ title, bars }) => html("div", {}, html("h3", {}, title), bars.list)));
  views = {
    timeline: new Timeline($("timeline"), taxonomy, { onPlay: playSegment, onSeek: seek }),
    segment: new SegmentCard($("now"), taxonomy),
    wheel: new Wheel($("wheel"), $("wheel-note"), taxonomy),
    plane: new Plane($("plane"), taxonomy),
    groups,
  };
  showSwitch(enabled);
}

function showSwitch(enabled) {
  $("switch").disabled = false;
  $("switch").setAttribute("aria-checked", enabled);
  $("switch-state").textContent = enabled ? "on" : "off";
  $("results").classList.toggle("off", !enabled);
  $("off").hidden = enabled;
  $("off").textContent = `Emotion is switched off: nothing is analysed${answer?.emotion_enabled ? ", and what is shown is from before" : ""}.`;
}

// --- a recording

async function analyze(files) {
  const recording = files.find((file) => !SEGMENT_FILES.test(file.name)) ?? files[0];
  const segments = files.find((file) => file !== recording && SEGMENT_FILES.test(file.name));
  if (!recording) return;
  await asking(async () => {
    calling?.abort(new DOMException("another recording", "AbortError"));
    const mine = (calling = new AbortController());
    busy(true);
    say({ status: `Sending ${recording.name} …` });
    try {
      if (!views) await start();
      load(recording, await service.analyze(recording, segments, (share) => progress(share, recording), mine.signal));
    } finally {
      if (calling === mine) {
        calling = null;
        busy(false);
      }
    }
  });
}

function progress(share, recording) {
  if (share < 1) $("progress").value = share;
  else {
    $("progress").removeAttribute("value"); // how long the models take is not known beforehand
    say({ status: `Listening to ${recording.name} …` });
  }
}

function busy(is) {
  $("busy").hidden = !is;
  $("main").setAttribute("aria-busy", is);
  if (is) $("progress").value = 0;
}

function load(recording, found) {
  stopPlaying();
  URL.revokeObjectURL(audio.src);
  audio.src = URL.createObjectURL(recording);
  $("player").hidden = false;
  $("player-note").textContent = "";
  $("play").disabled = false;
  $("seek").max = found.duration;
  peaks = null;
  present(found, 0, found.duration);
  select(Math.max(0, found.segments.findIndex((segment) => segment.emotion)));
  moveTo(0);
  showSwitch(found.emotion_enabled);
  const judged = found.segments.filter((segment) => segment.emotion).length;
  say({ status: `${judged} of ${found.segments.length} segments judged in ${found.timings.total.toFixed(2)} s` });
  $("clip").scrollIntoView({ block: "nearest" });
  drawWaveform(recording, found);
}

/** Behind the segments, as soon as the browser has decoded it: the answer does not wait for that. */
async function drawWaveform(recording, found) {
  if (found.duration > LONGEST_WAVEFORM) return;
  const decoded = await peaksOf(recording);
  if (answer !== found) return;
  peaks = decoded;
  views.timeline.show(found.segments, peaks, 0, found.duration);
  views.timeline.select(current);
}

// --- what is shown

function present(found, from, to) {
  answer = found;
  $("results").hidden = false;
  document.body.classList.add("answered");
  $("clip").textContent = found.file;
  const kept = { off: "not stored", stored: "stored in the history" }[found.history] ?? found.history;
  $("clip-facts").textContent = [clock(found.duration), kept].filter(Boolean).join(" · ");
  $("summary").textContent = [found.context?.replace(/^\[|\]$/g, ""), found.reason].filter(Boolean).join(": ");
  views.timeline.show(found.segments, peaks, from, to);
  views.plane.show(found.segments);
  $("table").replaceChildren(table(found.segments));
  const derived = found.segments.some(({ emotion }) => emotion?.avd_from === "labels");
  $("plane-from").hidden = !derived;
  $("plane-from").textContent = "derived";
  $("plane-note").textContent = derived ? "Not measured but derived from the labels: where the emotions lie that these can mean." : "";
  const models = found.models.map((model) => `${model.name} (${model.kind}, ${model.runtime}, ${model.licence})`);
  if (models.length) $("models").textContent = `Models: ${models.join("; ")}`;
  if ($("raw").open) showJson();
}

function select(i) {
  current = i;
  const segment = answer.segments[i];
  const emotion = segment?.emotion ?? null;
  views.timeline.select(i);
  views.wheel.show(emotion);
  views.plane.select(i, emotion);
  const shares = emotion?.distribution ?? null;
  const most = shares && Math.max(...Object.values(shares));
  for (const { bars } of views.groups) bars.show(shares, most, most ?? 1);
  $("emotions-note").textContent = shares ? "bars relative to the likeliest" : emotion ? "the labels of this model mean none of them" : "";
  if (!segment) {
    $("now-place").textContent = "";
    $("now").replaceChildren(html("p", { class: "headline none" }, answer.reason ?? "nothing heard yet"));
    return;
  }
  const who = segment.speaker ? ` · ${segment.speaker}` : "";
  $("now-place").textContent = `${i + 1} of ${answer.segments.length} · ${segment.start.toFixed(1)} to ${segment.end.toFixed(1)} s${who}`;
  views.segment.show(segment);
}

function showJson() {
  $("json").textContent = JSON.stringify(answer, null, 2);
}

// --- playing

function moveTo(seconds) {
  $("seek").value = seconds;
  $("seek").setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(answer.duration)}`);
  $("time").textContent = `${clock(seconds)} / ${clock(answer.duration)}`;
  views.timeline.moveTo(seconds);
  const under = answer.segments.findIndex((segment) => segment.start <= seconds && seconds < segment.end);
  if (under >= 0 && under !== current) select(under); // in a pause the last one stays
}

function seek(seconds) {
  until = null;
  audio.currentTime = seconds;
  moveTo(seconds);
}

function playSegment(i) {
  select(i);
  if ($("player").hidden || $("play").disabled) return;
  const { start, end } = answer.segments[i];
  seek(start);
  until = end;
  play();
}

function play() {
  audio.play().catch(() => {}); // what cannot be played raises an error event, which tells
}

function stopPlaying() {
  audio.pause();
  until = null;
}

function follow() {
  if (audio.paused) return;
  if (until !== null && audio.currentTime >= until) {
    moveTo(Math.max(0, until - 0.001)); // still in the segment that was played
    stopPlaying();
    return;
  }
  moveTo(audio.currentTime);
  requestAnimationFrame(follow);
}

audio.addEventListener("play", () => {
  $("play").classList.add("playing");
  $("play").setAttribute("aria-label", "Pause");
  requestAnimationFrame(follow);
});
audio.addEventListener("pause", () => {
  $("play").classList.remove("playing");
  $("play").setAttribute("aria-label", "Play");
});
audio.addEventListener("error", () => {
  $("play").disabled = true;
  $("player-note").textContent = "This browser cannot play this format";
});
$("play").addEventListener("click", () => {
  if (!audio.paused) return stopPlaying();
  until = null;
  return play();
});
$("seek").addEventListener("input", () => seek(Number($("seek").value)));

// --- the microphone

function listening(button, on, words) {
  button.setAttribute("aria-pressed", on);
  button.textContent = words;
  for (const other of ["choose", "record", "live", "example"]) if ($(other) !== button) $(other).disabled = on;
  $("meter").hidden = !on;
  $("behind").textContent = "";
}

function showLevel(samples, seconds) {
  $("level").style.transform = `scaleX(${Math.sqrt(peak(samples))})`;
  $("clock").textContent = clock(seconds);
}

async function record() {
  if (microphone) return microphone.finish();
  const blocks = [];
  return asking(async () => {
    stopPlaying();
    const { samplingRate, stop } = await openMicrophone(
      (samples) => {
        blocks.push(samples);
        showLevel(samples, (blocks.length * samples.length) / samplingRate);
      },
      () => microphone?.finish(),
    );
    listening($("record"), true, "Stop and analyse");
    microphone = {
      finish() {
        microphone = null;
        stop();
        listening($("record"), false, "Record");
        analyze([wav(blocks, samplingRate)]);
      },
    };
  });
}

async function listenLive() {
  if (microphone) return microphone.finish();
  return asking(async () => {
    stopPlaying();
    if (!views) await start();
    const heard = { file: "Microphone, live", duration: 0, emotion_enabled: true, reason: null, models: [], segments: [] };
    const finals = [];
    let live = null;
    peaks = { values: [], step: 0.05 };
    const view = () => [Math.max(0, heard.duration - LIVE_VIEW), Math.max(LIVE_VIEW, heard.duration)];
    const { samplingRate, stop } = await openMicrophone(
      (samples) => {
        if (live.ended) return;
        heard.duration += samples.length / samplingRate;
        peaks.values.push(peak(samples));
        showLevel(samples, heard.duration);
        live.push(samples);
        $("behind").textContent = live.behind > 2 ? `${live.behind.toFixed(0)} s behind` : "";
        views.timeline.view(...view());
      },
      () => microphone?.finish(),
    );
    const end = (problem) => {
      stop();
      microphone = null;
      listening($("live"), false, "Listen live");
      heard.segments = [...finals];
      heard.reason = finals.length ? null : "no speech found";
      present(heard, 0, Math.max(10, heard.duration));
      select(finals.length - 1);
      say(problem ? { error: problem } : { status: `Stopped: ${finals.length} segments in ${clock(heard.duration)}` });
    };
    const onEvent = ({ type, segment }) => {
      if (type === "final") {
        finals.push(segment);
        say({ status: `Segment ${finals.length}: ${segment.emotion?.primary ?? segment.quality}` });
      }
      heard.segments = type === "final" ? [...finals] : [...finals, segment];
      present(heard, ...view());
      select(heard.segments.length - 1);
    };
    live = new Live(samplingRate, onEvent, end);
    microphone = {
      finish() {
        stop();
        $("live").disabled = true;
        say({ status: "Finishing …" });
        live.end();
      },
    };
    $("player").hidden = true;
    listening($("live"), true, "Stop");
    present(heard, ...view());
    views.timeline.moveTo(-1);
    select(-1);
    say({ status: "Listening" });
  });
}

// --- everything else that can be pressed

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  analyze([...$("file").files]);
  $("file").value = ""; // so that the same file can be chosen again
});
$("record").addEventListener("click", record);
$("live").addEventListener("click", listenLive);
$("example").addEventListener("click", () =>
  asking(async () => {
    const response = await fetch("/page/example.flac");
    analyze([new File([await response.blob()], "example.flac")]);
  }),
);
$("cancel").addEventListener("click", () => calling?.abort(new DOMException("cancelled", "AbortError")));
$("copy").addEventListener("click", async () => {
  const copied = await navigator.clipboard?.writeText($("json").textContent).then(() => true, () => false);
  if (!copied) getSelection().selectAllChildren($("json")); // no clipboard over plain http
  $("copy").textContent = copied ? "Copied" : "Selected: press Ctrl+C";
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
});
$("raw").addEventListener("toggle", () => $("raw").open && showJson());

$("switch").addEventListener("click", () =>
  asking(async () => {
    const wanted = $("switch").getAttribute("aria-checked") !== "true";
    const enabled = await service.enableEmotion(wanted);
    showSwitch(enabled);
    say({ status: enabled ? "Emotion is on" : "Emotion is off" });
  }),
);

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
  if (microphone) say({ status: "Stop first, then drop a recording" });
  else analyze([...event.dataTransfer.files]);
});

asking(start);
