// Judges recordings: finds the segments of speech, runs the model on each, and answers as the service does.

import * as onnx from "./onnxruntime.js";
import { mix } from "./channels.js";
import { judgement } from "./emotions.js";
import { signalToNoise } from "./noise.js";
import { describeLevel, segmentsOf, SpeechNetwork } from "./speech.js";

const RATE = 16_000;
const SHORTEST = 400; // samples, 25 ms: shorter clips are refused

const file = async (name) => {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: status ${response.status}`);
  return response;
};
const bytes = async (name) => (await file(name)).arrayBuffer();
const loading = load();

async function load() {
  onnx.env.wasm.numThreads = 1; // more would need headers that many hosts cannot send
  onnx.env.wasm.wasmBinary = await bytes("onnxruntime.wasm");
  const open = async (name) => onnx.InferenceSession.create(new Uint8Array(await bytes(name)));
  const [network, model] = [await open("speech.onnx"), await open("model.onnx")];
  const [settings, taxonomy] = await Promise.all([file("settings.json"), file("taxonomy.json")].map(async (each) => (await each).json()));
  const run = (feeds) => network.run(feeds, ["probabilities", "next_state"]);
  return { speech: new SpeechNetwork(run, onnx.Tensor), model, settings, taxonomy };
}

/** Answers `null` once the models are loaded, and {file, channels} with an analysis. */
addEventListener("message", async ({ data }) => {
  try {
    const loaded = await loading;
    postMessage({ answer: data && (await analysis(loaded, data)) });
  } catch (error) {
    postMessage({ problem: error.words ?? "The analysis failed in this browser.", details: error.message });
  }
});

async function analysis({ speech, model, settings, taxonomy }, { file, channels }) {
  const [started, timings] = [performance.now(), {}];
  const since = (from) => (performance.now() - from) / 1000;
  const { waveform, silent, notes } = mix(channels);
  if (waveform.length < SHORTEST) throw refusal("The recording is too short: 25 ms are the least.");
  const rules = settings.settings.segments;
  const segments = silent ? [] : segmentsOf(await speech.probabilities(waveform, rules.max_gain), waveform, rules);
  notes.push(...(await describeLevel(waveform, segments, rules, speech)));
  timings.speech = since(started);

  const judged = performance.now();
  for (const [i, segment] of segments.entries()) {
    postMessage({ share: i / segments.length });
    if (segment.quality === "too_short") continue;
    const samples = waveform.subarray(Math.round(segment.start * RATE), Math.round(segment.end * RATE));
    const scores = await scoresOf(model, samples, settings.labels);
    const about = { duration: samples.length / RATE, snr: signalToNoise(samples, settings.noise) };
    segment.emotion = judgement(scores, about, settings, taxonomy);
    if (segment.quality === "normal" && segment.emotion.notes.includes("noisy")) segment.quality = "low_confidence";
  }
  timings.categorical = since(judged);
  return {
    schema_version: settings.schema_version,
    file,
    duration: waveform.length / RATE,
    reason: segments.some(({ emotion }) => emotion) ? null : unjudged(segments, rules),
    notes,
    context: "", // a line for language models, which the page does not need
    segments,
    boundaries: null,
    models: [settings.model],
    settings: settings.settings,
    timings,
  };
}

/** Returns the probability of each label. */
async function scoresOf(model, samples, labels) {
  const feeds = {
    waveform: new onnx.Tensor("float32", samples, [1, samples.length]),
    samples: new onnx.Tensor("int64", BigInt64Array.of(BigInt(samples.length)), [1]),
  };
  const { probabilities } = await model.run(feeds, ["probabilities"]);
  if (probabilities.data.some(Number.isNaN)) throw refusal("The recording has samples that are no numbers, or beyond full scale.");
  return Object.fromEntries(labels.map((label, i) => [label, probabilities.data[i]]));
}

function unjudged(segments, { min_duration: least }) {
  return segments.length ? `no segment can be judged: ${segments.length} shorter than ${least} s` : "no speech found";
}

/** An error that the person in front of the page can do something about. */
function refusal(words) {
  return Object.assign(new Error(words), { words });
}
