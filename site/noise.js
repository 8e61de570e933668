// How far speech stands above the noise around it: e2v_port/prosody/noise.py in JavaScript.

import { quantile } from "./speech.js";

const WINDOW = 512; // samples; this and the rest as in noise.py
const MOST = 60; // dB
const LEAST_SAMPLES = 1600;
const QUIETEST = 0.02;
const SMOOTHED = 3; // frames
const SPOKEN = 25; // dB
const LEAST = 1e-13;

const HANN = Float64Array.from({ length: WINDOW }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / (WINDOW - 1)));
const SCALE = 2 / WINDOW / HANN.reduce((sum, value) => sum + value * value, 0);

/**
 * Returns the signal-to-noise ratio of speech in dB, 0 to 60; null for less than 0.1 s.
 *
 * @param {Object} table From the Python package: `hop` in samples, the first bin of each band (`edges`), and how far the
 *   quietest frames of steady noise lie below its mean in each (`correction`).
 */
export function signalToNoise(waveform, { hop, edges, correction }) {
  if (waveform.length < LEAST_SAMPLES) return null;
  const bands = smoothed(bandPowers(waveform, hop, edges));
  const quietest = edges.map((_, band) => quantile(bands.map((frame) => frame[band]), QUIETEST));
  const noise = quietest.reduce((sum, power, band) => sum + Math.max(power * correction[band], LEAST), 0);
  const powers = bands.map((frame) => frame.reduce((sum, power) => sum + power, 0));
  const levels = powers.map((power) => 10 * Math.log10(Math.max(power, LEAST)));
  const loud = quantile([...levels], 0.95) - SPOKEN;
  const spoken = powers.filter((_, i) => levels[i] >= loud);
  const speech = spoken.reduce((sum, power) => sum + power, 0) / spoken.length;
  return 10 * Math.log10(Math.min(Math.max(speech / noise - 1, 1), 10 ** (MOST / 10)));
}

/** Returns the power in each band of each frame. */
function bandPowers(waveform, hop, edges) {
  const frames = [];
  const [real, imaginary] = [new Float64Array(WINDOW), new Float64Array(WINDOW)];
  for (let at = 0; at + WINDOW <= waveform.length; at += hop) {
    for (let i = 0; i < WINDOW; i++) real[i] = waveform[at + i] * HANN[i];
    imaginary.fill(0);
    transform(real, imaginary);
    frames.push(edges.map((edge, band) => {
      let power = 0;
      const end = edges[band + 1] ?? WINDOW / 2 + 1;
      for (let i = edge; i < end; i++) power += real[i] ** 2 + imaginary[i] ** 2;
      return power * SCALE;
    }));
  }
  return frames;
}

function smoothed(frames) {
  return frames.slice(SMOOTHED - 1).map((_, i) => frames[i].map((_, band) => {
    let sum = 0;
    for (let next = i; next < i + SMOOTHED; next++) sum += frames[next][band];
    return sum / SMOOTHED;
  }));
}

/** A Fourier transform in place, of a length that is a power of two (Cooley and Tukey 1965). */
function transform(real, imaginary) {
  const length = real.length;
  for (let i = 1, j = 0; i < length; i++) {
    let bit = length >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let size = 2; size <= length; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const [cosine, sine] = [Math.cos((2 * Math.PI * k) / size), -Math.sin((2 * Math.PI * k) / size)];
      for (let a = k; a < length; a += size) {
        const b = a + size / 2;
        const [x, y] = [real[b] * cosine - imaginary[b] * sine, real[b] * sine + imaginary[b] * cosine];
        [real[b], imaginary[b]] = [real[a] - x, imaginary[a] - y];
        real[a] += x;
        imaginary[a] += y;
      }
    }
  }
}
