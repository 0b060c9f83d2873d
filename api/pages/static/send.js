import { lookNow } from "./live.js";
import { problemOf, token } from "./problem.js";

const $ = (selector) => document.querySelector(selector);
const form = $("#send");
const input = $("#files");
const drop = $("#drop");
const LISTED = 8;
const PICTURES = /^image\/(png|jpeg)$/;
let files = [];
let attempt = null;
let upload = null;

form.hidden = false;

function size(bytes) {
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(bytes / 1e3, 0.1).toFixed(1)} kB`;
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function choose(list) {
  files = [...list];
  attempt = null;
  for (const picture of document.querySelectorAll("#chosen-list img")) URL.revokeObjectURL(picture.src);
  $("#chosen").hidden = files.length === 0;
  $("#grouping").hidden = files.length < 2;
  const total = size(files.reduce((sum, file) => sum + file.size, 0));
  $("#chosen-count").textContent = files.length === 1 ? `1 file, ${total}` : `${files.length} files, ${total}`;
  const lines = files.slice(0, LISTED).map(line);
  if (files.length > LISTED) lines.push(element("li", `and ${files.length - LISTED} more`));
  $("#chosen-list").replaceChildren(...lines);
  clearProblems();
}

function line(file) {
  const made = element("li", "");
  if (PICTURES.test(file.type)) {
    made.append(element("img", "", { src: URL.createObjectURL(file), alt: "", width: 40, height: 40 }));
  }
  made.append(element("span", file.name), element("small", size(file.size)));
  return made;
}

function clearProblems() {
  for (const place of document.querySelectorAll(".field-problem")) place.textContent = "";
  input.removeAttribute("aria-invalid");
  $("#outcome").replaceChildren();
}

function complain(field, message) {
  const place = $(`#${field}-problem`) ?? $("#files-problem");
  place.textContent = message;
  if (place.id === "files-problem") input.setAttribute("aria-invalid", "true");
  (form.querySelector(`[name="${field}"]:checked`) ?? input).focus();
}

/** What the server would refuse after a long upload, refused before it. */
function wrongHere(chosen) {
  if (!files.length) return ["files", "Choose at least one file first."];
  const pictures = files.filter((file) => file.type.startsWith("image/"));
  const each = chosen.get("grouping") === "each" && files.length > 1;
  if (!chosen.get("modality") && (each ? pictures.length : pictures.length === files.length)) {
    return ["modality", "Say whether this is an X-ray or a CT: only DICOM files say so themselves."];
  }
  if (chosen.get("classifier") === "ensemble" && chosen.get("modality") === "ct") {
    return ["classifier", "The ensemble classifies X-rays only. Choose the binary classifier for CT."];
  }
  return null;
}

function request() {
  const chosen = new FormData(form);
  const body = new FormData();
  for (const field of ["classifier", "modality", "priority"]) {
    if (chosen.get(field)) body.append(field, chosen.get(field));
  }
  for (const file of files) body.append("files", file, file.name);
  const each = chosen.get("grouping") === "each" && files.length > 1;
  return { url: each ? "/v1/batches" : "/v1/jobs", body };
}

/** The same key for the same choice: sent again after a broken connection, it does not make a second job. */
function idempotencyKey(choice) {
  if (attempt?.choice !== choice) {
    const random = crypto.getRandomValues(new Uint8Array(16));
    attempt = { choice, key: [...random].map((byte) => byte.toString(16).padStart(2, "0")).join("") };
  }
  return attempt.key;
}

// XMLHttpRequest, because fetch does not tell how much of a body has gone out.
function post(url, body, key) {
  return new Promise((resolve, reject) => {
    upload = new XMLHttpRequest();
    upload.open("POST", url);
    upload.setRequestHeader("X-CSRF-Token", token());
    upload.setRequestHeader("Idempotency-Key", key);
    upload.upload.addEventListener("progress", (event) => showProgress(event.loaded, event.total));
    upload.addEventListener("load", () => resolve(upload));
    upload.addEventListener("error", () => reject(new Error("The connection broke. Try again: nothing is done twice.")));
    upload.addEventListener("abort", () => reject(new Error("Stopped. Nothing was sent.")));
    upload.send(body);
  });
}

function showProgress(loaded, total) {
  $("#progress-bar").value = loaded / total;
  $("#progress-text").textContent = loaded < total ? `${size(loaded)} of ${size(total)}` : "Sent; being stored";
}

function busy(on) {
  $("#submit").disabled = on;
  $("#stop").hidden = !on;
  $("#progress").hidden = !on;
  $("#progress-bar").value = 0;
  $("#progress-text").textContent = "";
}

async function send(event) {
  event.preventDefault();
  clearProblems();
  const wrong = wrongHere(new FormData(form));
  if (wrong) {
    complain(...wrong);
    return;
  }
  const { url, body } = request();
  const choice = JSON.stringify([url, ...["classifier", "modality", "priority"].map((field) => body.get(field))]);
  const names = files.map((file) => file.name);
  busy(true);
  try {
    const answer = await post(url, body, idempotencyKey(choice));
    if (answer.status >= 300) refuse(problemOf(answer.status, answer.responseText), names);
    else await accept(JSON.parse(answer.responseText), names);
  } catch (error) {
    complain("files", error.message);
  } finally {
    busy(false);
  }
}

async function accept(answer, names) {
  input.value = "";
  choose([]);
  const text = element("p", "");
  let refused = [];
  if (answer.object === "batch") {
    const { total, rejected } = answer.counts;
    text.textContent = `Sent: ${total - rejected} of ${total} files are now jobs of their own.`;
    if (rejected) refused = await rejections(answer);
  } else {
    text.append("Sent. ", element("a", "See this job", { href: `/jobs/${answer.id}` }));
  }
  $("#outcome").replaceChildren(text, ...refusals(refused, names));
  lookNow();
}

/** The files of a batch that became no job, as a refused request names them. */
async function rejections(batch) {
  const answer = await fetch(`${batch.errors_url}?format=ndjson`);
  const lines = answer.ok ? (await answer.text()).trim().split("\n").map(JSON.parse) : [];
  return lines.filter((line) => line.status === "rejected").map(({ item, problem }) => ({ file: item, problem }));
}

function refuse(problem, names) {
  const [first] = problem.errors;
  complain(first?.field ?? "files", first?.message ?? `${problem.title}. ${problem.detail}`);
  $("#outcome").replaceChildren(...refusals(problem.files, names));
}

function refusals(list, names) {
  if (!list.length) return [];
  const lines = list.map((item) => {
    const { title, detail } = item.problem ?? item;
    return element("li", `${names[item.file]}: ${title}. ${detail}`);
  });
  const made = element("ul", "", { class: "refused" });
  made.append(...lines);
  return [made];
}

input.addEventListener("change", () => choose(input.files));
$("#clear").addEventListener("click", () => {
  input.value = "";
  choose([]);
  input.focus();
});
$("#stop").addEventListener("click", () => upload?.abort());
form.addEventListener("submit", send);
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  input.value = "";
  choose(event.dataTransfer.files);
});
// A file dropped beside the zone would replace the page in the browser.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
// A browser may bring back the files of before a reload, without an event.
choose(input.files);
