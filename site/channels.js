// Several channels -> one, as e2v_port/audio/channels.py: their mean; where they cancel each other, the louder one.

const RATE = 16_000;
const SILENCE = (2 / 2 ** 15) * 1.01; // range of samples that are zero or one 16-bit step off it
const SPAN = RATE / 4; // samples that are compared at a time
const SHORT = RATE / 1000; // samples averaged for the comparison
const CANCELS = 0.1; // energy of the mix over that of channels that have nothing in common
const ENDS = 0.5;
const QUIET = 1e-4; // of the energy

/** Returns {waveform, silent, notes} of the channels of a clip at 16 kHz. */
export function mix(channels) {
  const silent = channels.map(isSilent);
  if (silent.every(Boolean)) {
    const where = channels.length > 1 ? " in any channel" : "";
    return { waveform: channels[0], silent: true, notes: [{ kind: "silence", text: `silence: no sound above the last bit${where}` }] };
  }
  if (channels.length === 1) return { waveform: channels[0], silent: false, notes: [] };
  const waveform = channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
  const { cancelled, taken, loudest } = replaceCancelled(waveform, channels);
  const notes = [];
  if (cancelled) {
    const where = cancelled < waveform.length ? ` where they do, for ${time(cancelled)} of ${time(waveform.length)} s` : "";
    notes.push({ kind: "channels_cancel", text: `the channels cancel each other when mixed: ${named([...taken])} used${where}` });
  }
  const most = Math.max(...loudest);
  const unheard = channels.map((_, i) => silent[i] || loudest[i] <= QUIET * most);
  const [without, used] = [true, false].map((value) => channels.map((_, i) => i).filter((i) => unheard[i] === value));
  if (without.length && used.length) {
    notes.push({ kind: "silent_channel", text: `${named(without)} silent: only ${named(used)} used` });
    if (!cancelled) waveform.forEach((sample, i) => (waveform[i] = (sample * channels.length) / used.length));
  }
  return { waveform, silent: false, notes };
}

function isSilent(channel) {
  let [lowest, highest] = [Infinity, -Infinity];
  for (const sample of channel) {
    if (sample < lowest) lowest = sample;
    if (sample > highest) highest = sample;
  }
  return !(highest - lowest > SILENCE);
}

/** Puts the louder channel where the mix of all would cancel, in place. */
function replaceCancelled(waveform, channels) {
  const taken = new Set();
  const loudest = channels.map(() => 0);
  const recent = new Float64Array(channels.length + 1); // energy of each channel and of the mix in about the last span
  let [most, instead, cancelled] = [0, null, 0];
  for (let from = 0; from < waveform.length; from += SPAN) {
    const to = Math.min(from + SPAN, waveform.length);
    const low = channels.map((channel) => averages(channel, from, to));
    const offsets = low.map((values) => values.reduce((sum, value) => sum + value, 0) / values.length);
    channels.forEach((channel, i) => {
      let squares = 0;
      for (let at = from; at < to; at++) squares += channel[at] ** 2;
      loudest[i] = Math.max(loudest[i], squares / (to - from) - offsets[i] ** 2);
    });
    low.forEach((values, i) => values.forEach((_, at) => (values[at] -= offsets[i])));
    const mixed = low[0].map((_, at) => low.reduce((sum, values) => sum + values[at], 0) / channels.length);
    [...low, mixed].forEach((values, i) => {
      recent[i] = recent[i] * 0.25 ** ((to - from) / SPAN) + values.reduce((sum, value) => sum + value * value, 0) * SHORT;
    });
    const each = [...recent.subarray(0, -1)];
    most = Math.max(most, ...each);
    if (Math.max(...each) > QUIET * most) {
      const ratio = (recent.at(-1) * channels.length ** 2) / each.reduce((sum, energy) => sum + energy, 0);
      if (instead === null && ratio < CANCELS) instead = each.indexOf(Math.max(...each));
      else if (ratio > ENDS) instead = null;
    }
    if (instead === null) continue;
    waveform.set(channels[instead].subarray(from, to), from);
    taken.add(instead);
    cancelled += to - from;
  }
  return { cancelled, taken, loudest };
}

/** Returns the mean of each millisecond between two samples; of less than one, the samples. */
function averages(channel, from, to) {
  const count = Math.floor((to - from) / SHORT);
  if (!count) return Float64Array.from(channel.subarray(from, to));
  return Float64Array.from({ length: count }, (_, i) => {
    let sum = 0;
    for (let at = from + i * SHORT; at < from + (i + 1) * SHORT; at++) sum += channel[at];
    return sum / SHORT;
  });
}

const time = (samples) => (samples / RATE).toFixed(1);

/** Returns `channel 1 is` or `channels 1, 2 and 3 are`, of channels counted from 0. */
function named(channels) {
  const numbers = channels.map((i) => i + 1);
  if (numbers.length === 1) return `channel ${numbers[0]} is`;
  return `channels ${numbers.slice(0, -1).join(", ")} and ${numbers.at(-1)} are`;
}
