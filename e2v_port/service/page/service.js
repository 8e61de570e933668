// What the page asks the service. Errors carry the service's own line, which names the remedy.

export class ServiceError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem("token"),
  set: (value) => sessionStorage.setItem("token", value),
};

const GONE = `The service at ${location.host} does not answer: see whether it still runs, then try again`;

function authorization() {
  return token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
}

function failure(status, text) {
  let message = `The service answered ${status}`;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // Not from the service itself, perhaps a proxy: the status is all there is to tell.
  }
  return new ServiceError(message, status);
}

async function request(method, path, body) {
  const headers = { ...authorization(), ...(body && { "Content-Type": "application/json" }) };
  const options = { method, headers, body: body && JSON.stringify(body) };
  const response = await fetch(path, options).catch(() => {
    throw new ServiceError(GONE);
  });
  if (!response.ok) throw failure(response.status, await response.text());
  return response.json();
}

export const taxonomy = () => request("GET", "/v1/taxonomy");
export const emotionEnabled = async () => (await request("GET", "/v1/config/emotion")).enabled;
export const enableEmotion = async (enabled) => (await request("PUT", "/v1/config/emotion", { enabled })).enabled;

/** Sends a recording, with its segments if there are any. `onSent` gets the share that is sent, 0 to 1. */
export function analyze(file, segments, onSent, signal) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest(); // fetch does not tell how much of a body is sent
    call.open("POST", `/v1/analyze?name=${encodeURIComponent(file.name)}`);
    for (const [name, value] of Object.entries(authorization())) call.setRequestHeader(name, value);
    call.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    call.onload = () =>
      call.status === 200 ? resolve(JSON.parse(call.responseText)) : reject(failure(call.status, call.responseText));
    call.onerror = async () => {
      const alive = await fetch("/healthz").then((response) => response.ok, () => false);
      const cut = "The service closed the connection before it had the whole recording: perhaps it takes no file of this size";
      reject(new ServiceError(alive ? cut : GONE));
    };
    call.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => call.abort());
    if (segments) {
      const form = new FormData();
      form.append("file", file);
      form.append("segments", segments);
      call.send(form);
    } else {
      call.setRequestHeader("Content-Type", "application/octet-stream"); // what it is, the service finds out
      call.send(file);
    }
  });
}
