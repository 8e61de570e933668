// Requests to the service.

import { sentence } from "./problems.js";

const LONGEST_NAME = 255; // characters that the service takes

/** An error of the service, or on the way to it: a sentence, and the line of the service as `details`. */
export class ServiceError extends Error {
  constructor({ kind, message = "" }, status = 0) {
    super(sentence(kind, status));
    Object.assign(this, { kind, status, details: message });
  }
}

/** The token of the service: kept until the tab is closed, and never part of an address. */
export const token = {
  get: () => sessionStorage.getItem("token"),
  set: (value) => sessionStorage.setItem("token", value),
  /** The token as the protocol of a WebSocket, whose names allow few characters: base64url without padding. */
  protocols: () => {
    if (!token.get()) return [];
    const bytes = String.fromCharCode(...new TextEncoder().encode(token.get()));
    return [`e2v.token.${btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`];
  },
};

function authorization() {
  return token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
}

/** Returns the JSON in a text; null if there is none, perhaps because a proxy answered. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const failure = (status, text) => new ServiceError(parsed(text)?.error ?? {}, status);

async function request(method, path, body) {
  const headers = { ...authorization(), ...(body && { "Content-Type": "application/json" }) };
  const options = { method, headers, body: body && JSON.stringify(body) };
  const response = await fetch(path, options).catch(() => {
    throw new ServiceError({ kind: "gone" });
  });
  const text = await response.text();
  const answer = response.ok && parsed(text);
  if (!answer) throw failure(response.status, text);
  return answer;
}

/** Returns what the service offers besides judgements: {words, replies}; nothing while its models are being loaded. */
export const offers = () => request("GET", "/readyz").catch(() => ({}));
export const taxonomy = () => request("GET", "/v1/taxonomy");
export const config = () => request("GET", "/v1/config/emotion");
export const enableEmotion = (enabled) => request("PUT", "/v1/config/emotion", { enabled });

/** Returns the example, four synthesized sentences. */
export async function example(signal) {
  const response = await fetch("/page/example.flac", { signal }).catch((error) => {
    throw signal.aborted ? error : new ServiceError({ kind: "gone" });
  });
  return new File([await response.blob()], "example.flac");
}

/** Sends a recording and its segments, if given. `onSent` gets the share sent so far, 0 to 1. */
export function analyze(file, segments, onSent, signal) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest(); // fetch does not report upload progress
    const name = [...file.name].slice(0, LONGEST_NAME).join("");
    call.open("POST", `/v1/analyze?name=${encodeURIComponent(name)}`);
    for (const [name, value] of Object.entries(authorization())) call.setRequestHeader(name, value);
    call.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    call.onload = () => {
      const answer = call.status === 200 && parsed(call.responseText);
      return answer ? resolve(answer) : reject(failure(call.status, call.responseText));
    };
    call.onerror = async () => {
      const alive = await fetch("/healthz").then((response) => response.ok, () => false);
      const readable = await file.slice(0, 1).arrayBuffer().then(() => true, () => false);
      reject(new ServiceError({ kind: !readable ? "unreadable" : alive ? "cut" : "gone" }));
    };
    call.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => call.abort());
    if (segments) {
      const form = new FormData();
      form.append("file", file);
      form.append("segments", segments);
      call.send(form);
    } else {
      call.setRequestHeader("Content-Type", "application/octet-stream"); // the service detects the format
      call.send(file);
    }
  });
}

/**
 * Sends a remark, with what was said before, and returns the whole reply. `onPart` gets the name and the content of each
 * part before it: `tone`, then `text` for each piece.
 */
export async function reply(recording, context, options, onPart, signal) {
  const form = new FormData();
  form.append("file", recording);
  form.append("context", JSON.stringify(context));
  const headers = { ...authorization(), Accept: "text/event-stream" };
  const lost = (kind) => (error) => {
    throw signal.aborted ? error : new ServiceError({ kind });
  };
  const sent = fetch(`/v1/reply?${new URLSearchParams(options)}`, { method: "POST", headers, body: form, signal });
  const response = await sent.catch(lost("gone"));
  if (!response.ok) throw failure(response.status, await response.text());
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { done, value } = await reader.read().catch(lost("lost"));
    if (done) throw new ServiceError({ kind: "lost" });
    const events = (text + value).split("\n\n");
    text = events.pop(); // not complete yet
    for (const event of events) {
      const [, name, data] = event.match(/^event: (\w+)\ndata: (.*)$/);
      const content = JSON.parse(data);
      if (name === "error") throw new ServiceError(content.error, content.status);
      if (name === "done") return content;
      onPart(name, content);
    }
  }
}
