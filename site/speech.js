// Where somebody speaks: e2v_port/speech in JavaScript, file by file, with the same numbers.

const RATE = 16_000;
const FRAME = 512; // samples, 32 ms: the frame that silero judges
const CONTEXT = 64; // samples before the frame, which silero sees too
const BLOCK = 512; // frames run at once
const HIDDEN = 128; // units of the LSTM

const toSamples = (seconds) => Math.round(seconds * RATE);

// --- silero.py

/** silero-vad's network as `e2v export --model silero` writes it, over the frames of a waveform. */
export class SpeechNetwork {
  /** @param {Function} run Runs the network on its inputs. @param Tensor Class of the inputs. */
  constructor(run, Tensor) {
    this.run = run;
    this.Tensor = Tensor;
  }

  /** Returns the probability of speech in each frame of 512 samples; frames that are quiet are also heard raised. */
  async probabilities(waveform, maxGain) {
    const count = Math.ceil(waveform.length / FRAME);
    const padded = new Float32Array(CONTEXT + count * FRAME);
    padded.set(waveform, CONTEXT);
    const gain = new Gain(maxGain);
    const found = new Float32Array(count);
    let state = this.start();
    let raised = this.start();
    for (let from = 0; from < count; from += BLOCK) {
      const to = Math.min(from + BLOCK, count);
      const plain = await this.step(padded.subarray(from * FRAME, CONTEXT + to * FRAME), state);
      state = plain.state;
      found.set(plain.probabilities, from);
      for (let i = from; i < to; i++) {
        const frame = padded.subarray(i * FRAME, CONTEXT + (i + 1) * FRAME);
        const factor = gain.next(frame.subarray(CONTEXT));
        if (factor === 1) continue;
        const heard = await this.step(frame.map((sample) => sample * factor), raised);
        raised = heard.state;
        found[i] = Math.max(found[i], heard.probabilities[0]);
      }
    }
    return found;
  }

  start() {
    return new this.Tensor("float32", new Float32Array(2 * HIDDEN), [2, 1, HIDDEN]);
  }

  /** Runs whole frames, with the samples before them, from a state. */
  async step(samples, state) {
    const tensor = (values) => new this.Tensor("float32", values, [1, values.length]);
    const [context, waveform] = [samples.slice(0, CONTEXT), samples.slice(CONTEXT)].map(tensor);
    const results = await this.run({ waveform, context, state });
    return { probabilities: results.probabilities.data, state: results.next_state };
  }
}

// --- level.py

const EXPECTED = -36; // dBFS
const FALL = 2 * 0.032; // dB per frame
const SUSTAINED = 3; // frames
const LEAST_POWER = 1e-12;

function level(frame) {
  let sum = 0;
  for (const sample of frame) sum += sample * sample;
  return 10 * Math.log10(Math.max(sum / frame.length, LEAST_POWER));
}

/** Follows the level of the loudest sound, and says how far each frame is to be raised. */
class Gain {
  constructor(most) {
    this.most = most;
    this.level = -Infinity;
    this.last = Array(SUSTAINED).fill(-Infinity);
  }

  next(frame) {
    const now = level(frame);
    this.last = [...this.last.slice(1), now];
    this.level = Math.max(this.level - FALL, Math.min(...this.last));
    return Math.fround(10 ** (Math.min(Math.max(EXPECTED - Math.max(this.level, now), 0), this.most) / 20));
  }
}

/** Returns a quantile, interpolated as numpy does it. Sorts the values. */
export function quantile(values, share) {
  values.sort((a, b) => a - b);
  const at = share * (values.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, values.length - 1);
  return values[below] + (values[above] - values[below]) * (at - below);
}

// --- rule.py

const MIN_SILENCE = 1600;
const MIN_SPEECH = 4000;
const PAD = 480;
const HYSTERESIS = 0.15;

/** Returns the spans [start, end] in which silero hears speech, in samples. */
function speechSpans(probabilities, samples, settings) {
  const threshold = settings.speech_threshold;
  const fall = Math.max(threshold - HYSTERESIS, 0.01);
  const patience = Math.max(toSamples(settings.max_duration), MIN_SILENCE);
  const spans = [];
  let start = null;
  let silence = null; // where the open span ends, if it stays silent
  probabilities.forEach((probability, i) => {
    const at = i * FRAME;
    if (probability >= threshold) {
      silence = null;
      start ??= at;
    }
    if (start === null) return;
    const falls = probability < fall;
    if (falls) silence ??= at;
    if (silence === null || at - silence < (falls ? MIN_SILENCE : patience)) return;
    if (silence - start > MIN_SPEECH) spans.push([Math.max(start - PAD, 0), silence + PAD]);
    start = silence = null;
  });
  if (start !== null && samples - start > MIN_SPEECH) spans.push([Math.max(start - PAD, 0), samples]);
  return spans;
}

// --- split.py

const WINDOW = 800; // samples: 50 ms every 10 ms, to find a quiet point between two sounds
const HOP = 160;
const HORIZON = 3; // times max_duration

function joinAcrossPauses(spans, pause) {
  const groups = [];
  for (const span of spans) {
    const last = groups.at(-1);
    if (last && span[0] - last.at(-1)[1] < pause) last.push(span);
    else groups.push([span]);
  }
  return groups;
}

function splitLong(spans, waveform, settings) {
  const whole = [spans[0][0], spans.at(-1)[1]];
  if (whole[1] - whole[0] <= toSamples(settings.max_duration)) return [whole];
  const units = joinAcrossPauses(spans, toSamples(settings.split_pause)).map((group) => [group[0][0], group.at(-1)[1]]);
  const pieces = units.flatMap((unit) => cut(unit, waveform, settings));
  const bounds = divide(pieces, settings);
  return bounds.slice(1).map((bound, i) => [pieces[bounds[i]][0], pieces[bound - 1][1]]);
}

function divide(pieces, settings) {
  const horizon = HORIZON * toSamples(settings.max_duration);
  const bounds = [0];
  pieces.forEach(([, end], j) => {
    while (end - pieces[bounds.at(-1)][0] > horizon) {
      bounds.push(bounds.at(-1) + partBounds(pieces.slice(bounds.at(-1), j), settings)[1]);
    }
  });
  const from = bounds.at(-1);
  return [...bounds, ...partBounds(pieces.slice(from), settings).slice(1).map((bound) => from + bound)];
}

/** Returns the best grouping of pieces into parts: the index of the first piece of each, then the number of pieces. */
function partBounds(pieces, settings) {
  const names = ["max_duration", "preferred_duration", "min_duration", "low_confidence"];
  const [longest, preferred, least, low] = names.map((name) => toSamples(settings[name]));
  // The best grouping of the first j pieces: its cost, then the index of the first piece of its last part.
  const best = [[0, 0, 0, 0, 0]];
  pieces.forEach(([, end], j) => {
    let chosen = null;
    for (let i = j; i >= 0; i--) {
      const length = end - pieces[i][0];
      if (length > longest) break;
      const [short, long, count, squares] = best[i];
      const doubtful = (length < least) + (length < low);
      const candidate = [short + doubtful, long + (length > preferred), count + 1, squares + length ** 2, i];
      if (!chosen || isLess(candidate, chosen)) chosen = candidate;
    }
    best.push(chosen);
  });
  const bounds = [pieces.length];
  while (bounds[0]) bounds.unshift(best[bounds[0]][4]);
  return bounds;
}

/** Compares arrays as Python compares tuples. */
function isLess(a, b) {
  const at = a.findIndex((value, i) => value !== b[i]);
  return at >= 0 && a[at] < b[at];
}

function cut([start, end], waveform, settings) {
  const longest = toSamples(settings.max_duration);
  const pieces = [];
  while (end - start > longest) {
    const low = start + Math.floor(longest / 2);
    const high = Math.min(start + longest, end - toSamples(settings.low_confidence));
    const at = quietest(waveform, low, high);
    pieces.push([start, at]);
    start = at;
  }
  return [...pieces, [start, end]];
}

/** Returns the middle of the quietest 50 ms between two samples. */
function quietest(waveform, low, high) {
  let [least, found] = [Infinity, low];
  for (let at = low; at <= high; at += HOP) {
    let energy = 0;
    for (let i = at - WINDOW / 2; i < at + WINDOW / 2; i++) energy += waveform[i] * waveform[i];
    if (energy < least) [least, found] = [energy, at];
  }
  return found;
}

// --- segment.py and detect.py

/** Returns the segments of speech as the service writes them, without their emotions. */
export function segmentsOf(probabilities, waveform, settings) {
  const spans = speechSpans(probabilities, waveform.length, settings);
  const groups = joinAcrossPauses(spans, toSamples(settings.merge_gap));
  return groups.flatMap((group) => splitLong(group, waveform, settings)).map(([start, end]) => ({
    start: seconds(start),
    end: seconds(end),
    quality: qualityOf(end - start, settings),
    speaker: null,
    text: null,
    channel: null,
    emotion: null,
  }));
}

const seconds = (samples) => Math.round((samples / RATE) * 1e7) / 1e7;

function qualityOf(length, { min_duration: least, low_confidence: low }) {
  if (length < toSamples(least)) return "too_short";
  return length < toSamples(low) ? "low_confidence" : "normal";
}

/** Returns a note `quiet` if most of the speech was found only since it was raised; otherwise none. */
export async function describeLevel(waveform, segments, settings, network) {
  if (!segments.length || !settings.max_gain) return [];
  const parts = segments.map(({ start, end }) => [toSamples(start), toSamples(end)]);
  const loudest = quantile(levelsOf(waveform, parts), 0.95);
  if (loudest >= EXPECTED) return [];
  const alone = speechSpans(await network.probabilities(waveform, 0), waveform.length, settings);
  const shared = ([a, b], [c, d]) => Math.max(0, Math.min(b, d) - Math.max(a, c));
  const heard = parts.reduce((sum, part) => sum + alone.reduce((inner, span) => inner + shared(part, span), 0), 0);
  if (2 * heard >= parts.reduce((sum, [start, end]) => sum + end - start, 0)) return [];
  const text = `the speech is ${(EXPECTED - loudest).toFixed(0)} dB too quiet for speech detection and was raised for it: record louder`;
  return [{ kind: "quiet", text }];
}

/** Returns the level of each frame of some parts, joined. */
function levelsOf(waveform, parts) {
  const length = parts.reduce((sum, [start, end]) => sum + end - start, 0);
  const joined = new Float32Array(Math.ceil(length / FRAME) * FRAME);
  let at = 0;
  for (const [start, end] of parts) {
    joined.set(waveform.subarray(start, end), at);
    at += end - start;
  }
  return Array.from({ length: joined.length / FRAME }, (_, i) => level(joined.subarray(i * FRAME, (i + 1) * FRAME)));
}
