// What to do with the files that somebody drops or chooses: one recording and, perhaps, its transcript.

const TRANSCRIPTS = /\.(rttm|srt|vtt|csv|tsv|jsonl?|ctm|textgrid|txt)$|^(.*\.)?segments$/i;

/**
 * Returns {recording, transcript, left}: what to analyze, and in words what is left out; or {problem}, a sentence, if
 * there is nothing to analyze.
 */
export function sorted(files) {
  const transcripts = files.filter(({ name }) => TRANSCRIPTS.test(name));
  const recordings = files.filter((file) => !transcripts.includes(file));
  if (!files.length) return { problem: "That is not a file. Drop a recording from a folder, or choose one." };
  if (!recordings.length) {
    return { problem: `${names(transcripts)} is a transcript. Drop it together with its recording.` };
  }
  const extra = [...recordings.slice(1), ...transcripts.slice(1)];
  const left = extra.length ? `One recording at a time: ${names(extra)} ${extra.length > 1 ? "are" : "is"} left out.` : "";
  return { recording: recordings[0], transcript: transcripts[0], left };
}

const names = (files) => files.map(({ name }) => name).join(", ");
