// What the page is doing. It does one thing at a time, and every button, drop, key and event asks here first.

const NEXT = {
  idle: ["opening", "analyzing"], // begins a run
  opening: ["recording", "live"], // a microphone, and a connection to the service
  recording: ["analyzing", "answering"],
  live: ["finishing"],
  finishing: [], // the last segments of a live voice are being judged
  analyzing: [],
  answering: [], // a reply to a remark is being made
}; // and from everywhere to idle

let current = null; // the run; null while idle
let show = () => {};

/** Calls `listener` with each new state and its run, null while idle. */
export function onState(listener) {
  show = listener;
  show("idle", null);
}

/** One recording, live session or analysis. It owns what it opens: when it ends, its signal aborts and all of that closes. */
class Run {
  #controller = new AbortController();
  #stop;

  constructor(kind, name) {
    Object.assign(this, { kind, name, state: "idle" });
    this.signal = this.#controller.signal;
    this.stopped = new Promise((resolve) => (this.#stop = resolve));
  }

  /** Goes on to the next state. Throws if the run has ended: nothing may follow then. */
  enter(next) {
    this.signal.throwIfAborted();
    if (!NEXT[this.state].includes(next)) throw new Error(`${this.state} cannot become ${next}`);
    this.state = next;
    show(next, this);
  }

  /** Returns why the run was asked to finish, "" if the user did. Throws if it ends before. */
  untilStopped() {
    return unlessAborted(this.stopped, this.signal);
  }

  /** Asks the run to finish its work. */
  stop(why = "") {
    this.#stop(why);
  }

  /** Ends the run at once. */
  cancel(words = "Canceled") {
    if (current !== this) return;
    current = null;
    this.state = "idle";
    this.#controller.abort(new DOMException(words, "AbortError"));
    show("idle", null);
  }
}

/** The run that is on; null while idle. */
export const running = () => current;

/** Runs a task, which gets its run. Only while idle. */
export async function run(kind, name, first, task) {
  if (current) throw new Error(`${kind} during ${current.kind}`);
  const mine = (current = new Run(kind, name));
  try {
    mine.enter(first);
    return await task(mine);
  } finally {
    mine.cancel("");
  }
}

/** Returns the value of a promise, or throws as soon as the signal aborts. */
export function unlessAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    promise.then(resolve, reject);
  });
}
