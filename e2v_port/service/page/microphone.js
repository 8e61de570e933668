// The microphone as blocks of samples, and those as 16-bit PCM, which needs no codec on either side.

import { ServiceError } from "./service.js";
import { unlessAborted } from "./state.js";

export const BLOCK_SECONDS = 0.05; // short enough for a level that moves with the voice

const REASONS = {
  NotAllowedError: "This page may not use the microphone: allow it in the address bar, then try again",
  NotFoundError: "No microphone found: connect one, then try again",
  NotReadableError: "The microphone cannot be read: another program may be using it",
};

/**
 * Calls `onBlock` with a Float32Array of samples, -1 to 1, every 50 ms, until the signal aborts or `stop` is called. Calls
 * `onEnd` with the reason if the microphone ends by itself. A permission that comes after the abort opens nothing.
 */
export async function openMicrophone(signal, onBlock, onEnd) {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers allow the microphone only on localhost or over https: open this page that way");
  }
  // The browser's processing is made for calls and changes how a voice sounds.
  const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const asked = navigator.mediaDevices.getUserMedia({ audio }).then((stream) => {
    if (signal.aborted) close(stream);
    return stream;
  });
  const stream = await unlessAborted(asked, signal).catch((error) => {
    if (error.name === "AbortError" && signal.aborted) throw error;
    throw new Error(REASONS[error.name] ?? `The microphone cannot be used: ${error.message}`);
  });
  const context = new AudioContext();
  let open = true;
  const stop = () => {
    open = false;
    close(stream);
    if (context.state !== "closed") context.close();
  };
  const lost = (why) => open && onEnd(why);
  signal.addEventListener("abort", stop);
  try {
    const loaded = context.audioWorklet.addModule(new URL("microphone-worklet.js", import.meta.url)).catch(() => {
      throw new ServiceError({ kind: "gone" });
    });
    await unlessAborted(loaded, signal);
    await unlessAborted(context.resume(), signal);
    const samples = Math.round(context.sampleRate * BLOCK_SECONDS);
    const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0, processorOptions: { samples } });
    recorder.port.onmessage = ({ data }) => open && onBlock(data);
    context.createMediaStreamSource(stream).connect(recorder);
  } catch (error) {
    stop();
    throw error;
  }
  for (const track of stream.getTracks()) {
    track.onended = () => lost("The microphone was disconnected");
    if (track.readyState === "ended") track.onended();
  }
  context.onstatechange = () => context.state === "running" || lost("The browser stopped the microphone");
  return {
    samplingRate: context.sampleRate,
    stop,
    /** Whether its switch or the system silences it. */
    get muted() {
      return stream.getTracks().some((track) => track.muted);
    },
  };
}

function close(stream) {
  for (const track of stream.getTracks()) track.stop();
}

export function peak(samples) {
  let most = 0;
  for (const sample of samples) most = Math.max(most, Math.abs(sample));
  return most;
}

export function pcm(samples) {
  const bytes = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((sample, i) => bytes.setInt16(2 * i, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true));
  return bytes.buffer;
}

/** Returns a WAV file with one channel. */
export function wav(blocks, samplingRate) {
  const parts = blocks.map(pcm);
  const size = parts.reduce((sum, part) => sum + part.byteLength, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + size, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true); // bytes of the format
  head.setUint16(20, 1, true); // PCM
  head.setUint16(22, 1, true); // channels
  head.setUint32(24, samplingRate, true);
  head.setUint32(28, 2 * samplingRate, true); // bytes per second
  head.setUint16(32, 2, true); // bytes per sample
  head.setUint16(34, 16, true); // bits per sample
  text(36, "data");
  head.setUint32(40, size, true);
  return new File([head, ...parts], "recording.wav", { type: "audio/wav" });
}
