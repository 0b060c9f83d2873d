// What the server made of a request, in words: links to what it made, and the names of what it refused.

import { told } from "./problem.js";

/** Links of their own up to so many studies; more are a page of their own. */
const LINKED = 50;

export function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** A name of any script and direction, which keeps to itself. */
export function described(name) {
  return element("bdi", name);
}

/** The elements that tell of a new job or batch; `names` are those of the files that were sent. */
export function describe(made, names) {
  return made.object === "batch" ? ofBatch(made, names) : ofJob(made, names);
}

async function ofJob(job, names) {
  const text = element("p", "Sent: ");
  text.append(described(names[0]), names.length > 1 ? ` and ${names.length - 1} more. ` : ". ");
  text.append(element("a", "See this job", { href: `/jobs/${job.id}` }));
  return [text, ...refusals(await brokenFiles(job), names)];
}

/** Files of the study that cannot be classified, though others can. */
async function brokenFiles(job) {
  const answer = await fetch(`/v1/studies/${job.study_id}`);
  if (!answer.ok) return [];
  const { images } = await answer.json();
  return images.filter((image) => image.problem);
}

async function ofBatch(batch, names) {
  const { total, rejected } = batch.counts;
  const what = batch.group_by === "file" ? "files are now studies of their own" : "studies were taken in";
  const text = element("p", `Sent: ${total - rejected} of ${total} ${what}. `);
  text.append(element("a", "See this batch", { href: `/batches/${batch.id}` }));
  const links = total <= LINKED ? await linked(batch) : [];
  return [text, ...links, ...refusals(rejected ? await rejections(batch) : [], names)];
}

/** A link to each study of a batch. */
async function linked(batch) {
  const lines = await linesOf(batch.results_url);
  if (!lines.length) return [];
  const list = element("ul", "", { class: "made" });
  for (const { item, member, job } of lines) {
    const entry = element("li", "");
    const link = element("a", "", { href: `/jobs/${job.id}` });
    link.append(described(member ?? `Item ${item}`));
    entry.append(link);
    list.append(entry);
  }
  return [list];
}

/** The files of a batch that became no job, as a refused request names them. */
async function rejections(batch) {
  const lines = await linesOf(batch.errors_url);
  return lines.filter(({ status }) => status === "rejected").map(({ item, member, problem }) => ({ file: item, file_name: member, problem }));
}

async function linesOf(url) {
  const answer = await fetch(`${url}?format=ndjson`);
  const text = answer.ok ? (await answer.text()).trim() : "";
  return text ? text.split("\n").map(JSON.parse) : [];
}

/** Each refused file by its name, with the reason. */
export function refusals(list, names) {
  if (!list.length) return [];
  const made = element("ul", "", { class: "refused" });
  for (const item of list) {
    const entry = element("li", "");
    entry.append(described(item.file_name ?? names?.[item.file] ?? `Item ${item.file}`), `: ${told(item.problem ?? item)}`);
    made.append(entry);
  }
  return [made];
}
