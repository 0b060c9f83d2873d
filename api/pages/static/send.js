// The form that sends files: what was chosen, what it becomes, and what the server made of it.
import { groupings, ofDrop, ofInput, picturesIn, plan, sorted } from "./choose.js";
import { lookNow } from "./live.js";
import { describe, described, element, refusals } from "./outcome.js";
import { ofSession, problemOf, signedIn, signInAgain, told } from "./problem.js";
import { forget, post, stop } from "./upload.js";

const $ = (selector) => document.querySelector(selector);
const form = $("#send");
const input = $("#files");
const folder = $("#folder");
const drop = $("#drop");
const LISTED = 8;
const THUMBNAIL = /^image\/(png|jpeg)$/;
const NOTHING = { archives: [], files: [], leftOut: [], folders: 0, inFolders: false, dicom: 0 };
let chosen = NOTHING;
let choosing = Promise.resolve();

form.hidden = false;
$("#folder-choice").hidden = !("webkitdirectory" in folder);

function size(bytes) {
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(bytes / 1e3, 0.1).toFixed(1)} kB`;
}

/** Take over what was chosen; of two choices that overlap the later one holds. */
function choose(all) {
  choosing = Promise.all([all.length ? sorted(all) : NOTHING, choosing]).then(([found]) => show(found));
  return choosing;
}

function show(found) {
  chosen = found;
  forget();
  showChosen([...chosen.archives, ...chosen.files]);
  showGroupings();
  clearProblems();
}

function showChosen(list) {
  for (const picture of document.querySelectorAll("#chosen-list img")) URL.revokeObjectURL(picture.src);
  $("#chosen").hidden = list.length + chosen.leftOut.length === 0;
  const total = size(list.reduce((sum, { file }) => sum + file.size, 0));
  $("#chosen-count").textContent = list.length === 1 ? `1 file, ${total}` : `${list.length} files, ${total}`;
  const lines = list.slice(0, LISTED).map(line);
  if (list.length > LISTED) lines.push(element("li", `and ${list.length - LISTED} more`));
  $("#chosen-list").replaceChildren(...lines);
  $("#left-out").hidden = chosen.leftOut.length === 0;
  const names = chosen.leftOut.slice(0, LISTED).map(({ path }) => path);
  const more = chosen.leftOut.length > LISTED ? ` and ${chosen.leftOut.length - LISTED} more` : "";
  $("#left-out").textContent = `Left out, as they are no pictures: ${names.join(", ")}${more}`;
}

function line({ file, path }) {
  const made = element("li", "");
  if (THUMBNAIL.test(file.type)) {
    made.append(element("img", "", { src: URL.createObjectURL(file), alt: "", width: 40, height: 40 }));
  }
  made.append(element("bdi", path), element("small", size(file.size)));
  return made;
}

function showGroupings() {
  const possible = groupings(chosen);
  $("#grouping").hidden = possible.length === 0;
  $("#grouping-title").textContent = chosen.archives.length ? "The files in it are" : `These ${chosen.files.length} files are`;
  for (const label of document.querySelectorAll("[data-group]")) {
    label.hidden = !possible.includes(label.dataset.group);
    label.querySelector("input").checked = label.dataset.group === possible[0];
  }
  showPlan();
}

function grouping() {
  return new FormData(form).get("grouping");
}

function showPlan() {
  $("#plan").textContent = plan(chosen, grouping());
}

function clearProblems() {
  for (const place of document.querySelectorAll(".field-problem")) place.textContent = "";
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  $("#outcome").replaceChildren();
}

/** Says what is wrong beside the field, and goes there; `message` is a text, or texts and links. */
function complain(field, message) {
  const place = $(`#${CSS.escape(field)}-problem`) ?? $("#files-problem");
  place.replaceChildren(...[message].flat());
  const there = form.querySelector(`[name="${CSS.escape(field)}"]:checked, [type="text"][name="${CSS.escape(field)}"]`);
  const wrong = there ?? input;
  if (wrong.type !== "radio") wrong.setAttribute("aria-invalid", "true");
  wrong.focus();
}

/** What the server would refuse after a long upload, refused before it. */
function wrongHere(fields) {
  if (!chosen.files.length && !chosen.archives.length) return ["files", "Choose at least one file first."];
  const pictures = picturesIn(chosen);
  const apart = fields.get("grouping") && fields.get("grouping") !== "one";
  if (!fields.get("modality") && pictures && (apart || pictures === chosen.files.length)) {
    return ["modality", "Say whether this is an X-ray or a CT: only DICOM files say so themselves."];
  }
  if (fields.get("classifier") === "ensemble" && fields.get("modality") === "ct") {
    return ["classifier", "The ensemble classifies X-rays only. Choose the binary classifier for CT."];
  }
  return null;
}

const GROUP_BY = { each: "file", folder: "folder", study: "study" };

/** The requests that send what was chosen: one for each archive, and one for all other files. */
function requests() {
  const fields = new FormData(form);
  const asked = ["classifier", "modality", "priority", "external_id"]
    .map((name) => [name, fields.get(name).trim()])
    .filter(([, value]) => value);
  const group = GROUP_BY[fields.get("grouping")];
  const made = chosen.archives.map(({ file, path }) => {
    const query = new URLSearchParams([...asked, ["group_by", group ?? "file"]]);
    return { url: `/v1/batches?${query}`, body: file, type: "application/zip", choice: `${path} ${query}`, names: null };
  });
  if (!chosen.files.length) return made;
  const batch = $("#grouping").hidden || fields.get("grouping") === "one" ? null : group;
  const all = batch ? [...asked, ["group_by", batch]] : asked;
  const body = new FormData();
  for (const [name, value] of all) body.append(name, value);
  for (const { file, path } of chosen.files) body.append("files", file, path);
  const names = chosen.files.map(({ path }) => path);
  return [...made, { url: batch ? "/v1/batches" : "/v1/jobs", body, type: null, choice: JSON.stringify(all), names }];
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
  await choosing;
  clearProblems();
  const wrong = wrongHere(new FormData(form));
  if (wrong) {
    complain(...wrong);
    return;
  }
  busy(true);
  try {
    const made = [];
    for (const request of requests()) {
      const answer = await postSignedIn(request);
      if (answer.status >= 300) {
        refuse(answer, request.names, made);
        return;
      }
      made.push(...(await describe(JSON.parse(answer.text), request.names)));
    }
    await finish(made);
  } catch (error) {
    complain("files", error.message);
  } finally {
    busy(false);
  }
}

/** As `post`; once more when the reader has signed in again in another tab. */
async function postSignedIn(request) {
  const answer = await post(request, showProgress);
  return ofSession(answer.status, answer.text) && (await signedIn()) ? post(request, showProgress) : answer;
}

async function finish(made) {
  input.value = folder.value = "";
  $("#external-id").value = ""; // the next study is another patient's
  await choose([]);
  $("#outcome").replaceChildren(...made);
  lookNow();
}

/** Why a request was refused, below what was sent before it. */
function refuse({ status, text }, names, made) {
  if (ofSession(status, text)) {
    complain("files", signInAgain("You are signed out, and nothing was sent. ", " again, then press Classify: the files stay chosen."));
    return;
  }
  const problem = problemOf(status, text);
  const [first] = problem.errors;
  const named = names?.length === 1 && !first ? [described(names[0]), ": "] : [];
  complain(first?.field ?? "files", [...named, first?.message ?? told(problem)]);
  $("#outcome").replaceChildren(...made, ...refusals(problem.files, names));
}

input.addEventListener("change", () => choose(ofInput(input)));
folder.addEventListener("change", () => choose(ofInput(folder)));
$("#clear").addEventListener("click", () => {
  input.value = folder.value = "";
  choose([]);
  input.focus();
});
$("#stop").addEventListener("click", stop);
$("#grouping").addEventListener("change", showPlan);
form.addEventListener("submit", send);
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  input.value = folder.value = "";
  try {
    await choose(await ofDrop(event.dataTransfer));
  } catch {
    complain("files", "The folder could not be read. Choose its files instead.");
  }
});
// A file dropped beside the zone would replace the page in the browser.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
// A browser may bring back the files of before a reload, without an event.
choose(ofInput(input));
