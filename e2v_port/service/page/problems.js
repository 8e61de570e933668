// What went wrong, as a sentence for the person in front of the page. The service's own line is meant for programs.

const SENTENCES = {
  audio: "This file could not be read as a recording. It may be damaged, or of a kind that the service does not know.",
  segments: "The transcript does not fit its recording, or could not be read.",
  context: "The service could not use what was said before. Start over.",
  not_enrolled: "The service replies to enrolled speakers only.",
  off: "Emotion analysis is off, and a reply depends on it. Turn it on first.",
  no_replies: "This service does not reply. Whoever runs it needs to start it with a model for that.",
  empty: "The file is empty. Record or export it again.",
  too_large: "The file is too large for this service. Send a shorter part, or a compressed copy such as MP3 or Opus.",
  too_long: "The recording is too long for this service. Cut it into parts.",
  timeout: "The upload was too slow, and the service stopped waiting. Try again, or send a smaller file.",
  overloaded: "The service is busy. Try again in a moment.",
  unavailable: "The service is still loading its models, or loading them again. Try again in a moment.",
  history: "The service cannot write its history. Whoever runs it needs to look at its log.",
  token: "This service asks for a token, and the one given is not right.",
  host: "This service answers its own computer only. Open this page there as localhost or 127.0.0.1.",
  origin: "This page is not the service's own. Open the address of the service itself.",
  internal: "The service failed. Its log says why.",
  gone: "The service does not answer. Check that it is running, then try again.",
  cut: "The service closed the connection before the upload was complete. The file may be too large.",
  unreadable: "The file could not be read. It may be a folder, or may have been moved or changed.",
  refused: "The service did not accept the live connection. Try again in a moment.",
  lost: "The connection to the service was lost.",
  stopping: "The service is shutting down.",
  behind: "Listening stopped: the service could not keep up, and was more than 30 s behind.",
  late: "The service did not finish in time.",
  stream: "The service could not use the sound of this microphone.",
};

const PROXY = { 413: "too_large", 502: "gone", 503: "overloaded", 504: "gone" }; // answers without a kind, by their status

/** The sentence for a kind of error; a general one for kinds that this page does not know. */
export function sentence(kind, status) {
  const code = status ? ` (${status})` : "";
  return SENTENCES[kind ?? PROXY[status]] ?? `The service could not answer this request${code}.`;
}
