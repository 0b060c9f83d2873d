// A page that shows something unfinished fetches itself again and takes over what has changed.
// With the ETag the server answers 304 while nothing has; nothing is asked while nobody looks (a hidden tab).

const ACTIVE = 1000;
const SLOWEST = 5000;
const IDLE = 10000;

const region = document.querySelector("#live");
const announcer = document.querySelector("#announcer");
const offline = document.querySelector("#offline");
let etag = null;
let pause = ACTIVE;
let timer = null;
let asking = false;

/** Times in the reader's own zone; the server writes them in UTC. */
export function localise(root) {
  for (const time of root.querySelectorAll("time")) {
    const moment = new Date(time.dateTime);
    time.title = time.textContent;
    time.textContent = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  }
}

/** Ask now rather than when it is due: something was sent or cancelled. */
export function lookNow() {
  pause = ACTIVE;
  clearTimeout(timer);
  return look();
}

async function look() {
  if (asking) return;
  asking = true;
  try {
    const headers = etag ? { "If-None-Match": etag } : {};
    const response = await fetch(location.href, { headers, cache: "no-store" });
    offline.hidden = response.status < 500;
    if (response.status === 200) take(response, await response.text());
    else pause = Math.min(pause * 1.5, SLOWEST);
  } catch {
    // No connection: said to the reader, and tried again below.
    offline.hidden = false;
    pause = SLOWEST;
  } finally {
    asking = false;
  }
  plan();
}

function take(response, text) {
  const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("#live");
  if (fresh === null) {
    endSession();
    return;
  }
  etag = response.headers.get("ETag");
  pause = ACTIVE;
  const spoken = news(fresh);
  swap(document.adoptNode(fresh));
  if (spoken.length) announcer.textContent = spoken.join(". ");
}

/** The session is over. What is shown goes with it; files that were chosen but not sent yet stay. */
function endSession() {
  region.dataset.live = "done";
  if (document.querySelector("#chosen:not([hidden])") === null) {
    // The server knows where to send us, and where we wanted to be.
    location.reload();
    return;
  }
  region.replaceChildren();
  document.querySelector("#ended").hidden = false;
}

function keyed(root) {
  return new Map([...root.querySelectorAll("[data-key]")].map((part) => [part.dataset.key, part]));
}

function news(fresh) {
  const before = keyed(region);
  return [...keyed(fresh)]
    .filter(([key, part]) => before.has(key) && before.get(key).dataset.say !== part.dataset.say)
    .map(([, part]) => part.dataset.say);
}

function swap(fresh) {
  const focused = region.contains(document.activeElement) ? document.activeElement : null;
  const before = keyed(region);
  localise(fresh);
  for (const [key, part] of keyed(fresh)) {
    const known = before.get(key);
    if (known?.dataset.version && known.dataset.version === part.dataset.version) part.replaceWith(known);
  }
  region.replaceChildren(...fresh.childNodes);
  region.dataset.live = fresh.dataset.live;
  document.dispatchEvent(new Event("swapped"));
  if (focused) keepFocus(focused);
}

/** The reader stays where they were: on the same control, or its successor, or else on the region. */
function keepFocus(focused) {
  const successors = [...region.querySelectorAll("a, button")];
  const same = (one) => (focused.id ? one.id === focused.id : focused.href && one.href === focused.href);
  const again = focused.isConnected ? focused : successors.find(same);
  (again ?? region).focus({ preventScroll: true });
}

function plan() {
  clearTimeout(timer);
  const state = region.dataset.live;
  if (state === "done" || document.hidden) return;
  timer = setTimeout(look, state === "idle" ? IDLE : pause);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (region.dataset.live !== "done") lookNow();
});
localise(document);
plan();
