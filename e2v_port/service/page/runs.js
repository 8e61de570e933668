// The three things that the page does: analyze a recording, make one with the microphone, and listen to a live voice.

import { clock } from "./dom.js";
import { say, showLevel, showProgress } from "./feedback.js";
import { Hearing } from "./hearing.js";
import { Live } from "./live.js";
import { BLOCK_SECONDS, openMicrophone, peak, wav } from "./microphone.js";
import * as service from "./service.js";
import { label } from "./words.js";

const VIEW = 30; // s of a live session that are visible
const BEHIND = 2; // s that the service may need without a word
const MUTED = "The microphone is muted";

/** Sends a recording with its transcript, if there is one, and returns the answer. */
export async function analyze(run, recording, transcript) {
  say({ status: `Sending ${recording.name} …` });
  return service.analyze(recording, transcript, (share) => showProgress(share, recording.name), run.signal);
}

/** Records until the user stops it, or for so many seconds, and returns the recording. */
export async function record(run, longest = Infinity) {
  const blocks = [];
  const microphone = await openMicrophone(
    run.signal,
    (samples) => {
      blocks.push(samples);
      showLevel(peak(samples), blocks.length * BLOCK_SECONDS, microphone.muted ? MUTED : "");
      if (blocks.length * BLOCK_SECONDS >= longest) run.stop();
    },
    (why) => run.stop(why),
  );
  run.enter("recording");
  say({ status: "Recording" });
  const why = await run.untilStopped();
  microphone.stop();
  if (!blocks.length) throw new Error(`${why || "Stopped"} before there was any sound. Nothing was recorded.`);
  return { recording: wav(blocks, microphone.samplingRate), why };
}

/**
 * Judges a voice while it speaks, and shows the results, until the user stops it or the service ends it. `onReady` gets
 * what the service says about itself before it hears anything.
 */
export async function listen(run, results, onReady) {
  const hearing = new Hearing(BLOCK_SECONDS);
  const view = () => [Math.max(0, hearing.duration - VIEW), Math.max(VIEW, hearing.duration)];
  let live = null;
  const microphone = await openMicrophone(
    run.signal,
    (samples) => {
      if (!live || live.ended) return;
      hearing.duration += samples.length / microphone.samplingRate;
      hearing.peaks.values.push(peak(samples));
      live.push(samples);
      if (run.state !== "live") return;
      const late = live.backlog > BEHIND ? `${live.backlog.toFixed(0)} s behind` : "";
      showLevel(peak(samples), hearing.duration, microphone.muted ? MUTED : late);
      results.timeline.view(...view());
    },
    (why) => run.stop(why),
  );
  live = new Live(microphone.samplingRate, run.signal, (event) => {
    hearing.receive(event);
    if (event.type === "note") return results.note(hearing);
    results.hear(hearing, event, ...view());
    if (event.type === "final") say({ status: `Segment ${hearing.finals.length}: ${label(event.segment)}` });
  });
  onReady(await live.ready.catch(whyRefused));
  run.enter("live");
  results.begin(hearing, ...view());
  say({ status: "Listening" });

  const stopped = run.untilStopped();
  const why = await Promise.race([stopped, live.closed.then(() => "")]);
  microphone.stop();
  run.enter("finishing");
  say({ status: "Judging the last words …" });
  live.end();
  finish(results, hearing, await live.closed, why);
}

/** A browser does not say why a connection was refused: an ordinary request does, and the page may ask for a token. */
async function whyRefused(error) {
  await service.config();
  throw error;
}

/** Shows a session that is over; after an `error`, the ongoing speech stays as it was judged last. */
function finish(results, hearing, error, why) {
  if (!error) hearing.ongoing = [];
  results.end(hearing, Math.max(10, hearing.duration), error ? "nothing was judged" : "no speech found");
  const judged = hearing.answer().segments.length;
  const facts = `${judged} ${judged === 1 ? "segment" : "segments"} in ${clock(hearing.duration)}`;
  if (error?.name === "AbortError") say({ status: `Stopped before the last words were judged: ${facts}` });
  else if (!error) say({ status: why ? `${why}. What was heard until then is shown: ${facts}` : `Stopped: ${facts}` });
  else {
    const rest = judged ? `What was judged until then is shown: ${facts}.` : "No speech had been judged until then.";
    say({ error: `${error.message.replace(/\.?$/, ".")} ${rest}`, details: error.details });
  }
}
