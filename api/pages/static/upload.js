// One request that carries files: its progress, its repetition, and its answer.
import { token } from "./problem.js";

let running = null;
let attempt = null;

/** A new choice of files is a new request: its keys are not those of the one before. */
export function forget() {
  attempt = null;
}

/** The same key for the same choice: sent again after a broken connection, it does not make a second job. */
function idempotencyKey(choice) {
  attempt ??= new Map();
  if (!attempt.has(choice)) {
    const random = crypto.getRandomValues(new Uint8Array(16));
    attempt.set(choice, [...random].map((byte) => byte.toString(16).padStart(2, "0")).join(""));
  }
  return attempt.get(choice);
}

// XMLHttpRequest, because fetch does not tell how much of a body has gone out.
/** {status, text} of a request; `choice` says which one it is, should it be sent again. Error in words. */
export function post({ url, body, type, choice }, onProgress) {
  return new Promise((resolve, reject) => {
    running = new XMLHttpRequest();
    const { upload } = running;
    running.open("POST", url);
    running.setRequestHeader("X-CSRF-Token", token());
    running.setRequestHeader("Idempotency-Key", idempotencyKey(choice));
    if (type) running.setRequestHeader("Content-Type", type);
    upload.addEventListener("progress", (event) => onProgress(event.loaded, event.total));
    running.addEventListener("load", ({ target }) => resolve({ status: target.status, text: target.responseText }));
    running.addEventListener("error", () => reject(new Error("The connection broke. Try again: nothing is done twice.")));
    running.addEventListener("abort", () => reject(new Error("Stopped. Nothing was sent.")));
    running.send(body);
  });
}

/** Break off what is being sent. */
export function stop() {
  running?.abort();
}
