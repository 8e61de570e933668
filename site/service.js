// The service of the page in a browser alone: it has the functions of the service's own service.js and takes its place
// in the built site. A recording is decoded here and judged by a worker; neither sends anything anywhere.

import { $ } from "./dom.js";

const RATE = 16_000; // Hz, of the models
const LONGEST = 3600; // s; a browser holds the whole recording in memory, several times while it decodes

/** An error in words for the person in front of the page; `details` is the line of the program that failed. */
export class ServiceError extends Error {
  constructor(message, details = "") {
    super(message);
    this.details = details;
  }
}

/** There is no token: there is nobody to ask for one. */
export const token = { get: () => null, protocols: () => [] };

const address = (name) => new URL(`../judge/${name}`, import.meta.url);
const stored = store();
let judge = null;
start().catch(() => {}); // the first recording reports what went wrong, and tries again

export const taxonomy = async () => (await read(address("taxonomy.json"))).json();
export const offers = async () => ({ words: false, replies: false });
export const config = async () => ({ enabled: true, history: false });

/** Returns the example, four synthesized sentences. */
export async function example(signal) {
  const response = await read(new URL("example.flac", import.meta.url), signal);
  return new File([await response.blob()], "example.flac");
}

/**
 * Judges a recording and returns what the service would answer. `onDone` gets the share that is done, 0 to 1; 1 stands
 * for work of unknown length.
 */
export async function analyze(file, segments, onDone, signal) {
  if (segments) {
    throw new ServiceError("Transcripts are read by the service and the command line, not here. Drop the recording alone.");
  }
  onDone(1);
  const started = performance.now();
  const channels = await decoded(file);
  const decode = (performance.now() - started) / 1000;
  signal.throwIfAborted();
  const worker = await start();
  signal.throwIfAborted();
  const stop = () => {
    worker.terminate();
    judge = null;
  };
  signal.addEventListener("abort", stop);
  try {
    const answer = await ask(worker, { file: file.name, channels }, channels.map(({ buffer }) => buffer), onDone, signal);
    const timings = { decode, ...answer.timings };
    return { emotion_enabled: true, ...answer, timings: { ...timings, total: (performance.now() - started) / 1000 } };
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** Returns the channels of a recording at 16 kHz, each a Float32Array. */
async function decoded(file) {
  const bytes = await file.arrayBuffer().catch((error) => {
    throw new ServiceError("The file could not be read. It may be a folder, or may have been moved or changed.", error.message);
  });
  if (!bytes.byteLength) throw new ServiceError("The file is empty. Record or export it again.");
  const audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes).catch((error) => {
    throw new ServiceError("This browser cannot read this file as a recording. Try it as WAV, FLAC or MP3.", error.message);
  });
  if (audio.duration > LONGEST) {
    throw new ServiceError("The recording is longer than an hour, too long for a browser. Cut it into parts.");
  }
  return Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i).slice());
}

/** Returns the worker with its models, which are loaded once. */
function start() {
  judge ??= stored
    .then(() => {
      const worker = new Worker(address("worker.js"), { type: "module" });
      return ask(worker, null, [], () => {}).then(() => worker);
    })
    .catch((error) => {
      judge = null;
      throw new ServiceError("The models could not be loaded. Connect to the network, then reload the page.", error.message);
    });
  return judge;
}

/** Sends a worker a message and returns its answer. */
function ask(worker, message, transfer, onDone, signal) {
  return new Promise((resolve, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    worker.onerror = (event) => reject(new ServiceError("The analysis failed in this browser.", event.message));
    worker.onmessage = ({ data: { share, answer, problem, details } }) => {
      if (share !== undefined) onDone(share);
      else if (problem) reject(new ServiceError(problem, details));
      else resolve(answer);
    };
    worker.postMessage(message, transfer);
  });
}

async function read(url, signal) {
  const response = await fetch(url, { signal }).catch((error) => {
    throw signal?.aborted ? error : new ServiceError("The page is not complete in this browser: connect to the network, then reload it.", error.message);
  });
  if (!response.ok) throw new ServiceError(`The host of this page lacks ${url.pathname}.`, `status ${response.status}`);
  return response;
}

/** Stores the whole site in the browser, waits until that is done, and says on the page whether it works offline. */
async function store() {
  const kept = await installed().catch(() => false);
  $("offline").textContent = kept
    ? "Stored in this browser: works offline from now on."
    : "Not stored in this browser: the page needs its host again the next time.";
}

async function installed() {
  if (!navigator.serviceWorker) return false; // over plain http, or switched off
  $("offline").textContent = "Loading the models, once …";
  const registration = await navigator.serviceWorker.register(new URL("../cache.js", import.meta.url));
  const coming = registration.active ? null : (registration.installing ?? registration.waiting);
  if (coming) {
    await new Promise((resolve) => {
      coming.onstatechange = () => ["activated", "redundant"].includes(coming.state) && resolve();
    });
  }
  return Boolean(registration.active);
}
