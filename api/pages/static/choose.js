// What the reader has chosen or dropped: files, the files of folders, and archives; and what they are going to be.

/** Pictures that are one study unless told otherwise: the views of one examination. More of them are many patients. */
const VIEWS = 4;
const ARCHIVE = /\.zip$/i;
const DICOM = /\.(dcm|dicom|ima)$/i;
const PICTURE = /^image\//;
/** What systems leave in folders, and a DICOM directory, which has no pixels. */
const LITTER = /(^|\/)(\.[^/]*|thumbs\.db|desktop\.ini|__macosx\/.*|dicomdir)$/i;

/** A file and its name with the folders that it came in. */
function found(file, path = file.webkitRelativePath || file.name) {
  return { file, path };
}

/** The files of an input, those of a chosen folder with their paths. */
export function ofInput(input) {
  return [...input.files].map((file) => found(file));
}

/** The files of a drop, and those in its folders. */
export async function ofDrop(transfer) {
  // The entries at once: the browser takes the list away when the event is over.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files].map((file) => found(file, file.name));
  const lists = await Promise.all(entries.map((entry) => ofEntry(entry, "")));
  return lists.flat();
}

async function ofEntry(entry, folder) {
  const path = folder + entry.name;
  if (entry.isFile) return [found(await new Promise((resolve, reject) => entry.file(resolve, reject)), path)];
  const reader = entry.createReader();
  const lists = [];
  // A reader gives a hundred entries at a time, and none when it has given all.
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return lists.flat();
    lists.push(...(await Promise.all(some.map((one) => ofEntry(one, `${path}/`)))));
  }
}

/** {archives, files, leftOut, folders, dicom}: what is sent as it is, what is grouped, and what is not sent. */
export async function sorted(all) {
  const inFolder = ({ path }) => path.includes("/");
  const leftOut = all.filter((one) => inFolder(one) && LITTER.test(one.path));
  const kept = all.filter((one) => !leftOut.includes(one));
  const archives = kept.filter(({ path }) => ARCHIVE.test(path));
  const files = kept.filter((one) => !archives.includes(one));
  const folders = new Set(files.map(({ path }) => path.slice(0, path.lastIndexOf("/") + 1)));
  const dicom = (await Promise.all(files.map(isDicom))).filter((is) => is).length;
  return { archives, files, leftOut, folders: folders.size, inFolders: files.some(inFolder), dicom };
}

/** By its name; without a telling one by its magic (PS3.10, 7.1). */
async function isDicom({ file, path }) {
  if (DICOM.test(path)) return true;
  if (PICTURE.test(file.type) || /\.[a-z]{2,4}$/i.test(path)) return false;
  try {
    return (await file.slice(128, 132).text()) === "DICM";
  } catch {
    return false; // it cannot be read: sending it will say so
  }
}

/** The groupings that make sense for what was chosen; the first is the one that holds unless told otherwise. */
export function groupings({ archives, files, folders, inFolders, dicom }) {
  const many = files.length > 1;
  if (!many && !archives.length) return [];
  const each = ["each"];
  const folder = archives.length || (inFolders && folders < files.length) ? ["folder"] : [];
  const study = archives.length || dicom ? ["study"] : [];
  if (archives.length) return [...each, ...folder, ...study];
  if (dicom === files.length) return ["study", "one", ...each, ...folder];
  const few = files.length <= VIEWS && !inFolders;
  return few ? ["one", ...each, ...folder, ...study] : [...each, "one", ...folder, ...study];
}

/** Whether something of it says its modality only if somebody says it. */
export function picturesIn({ files }) {
  return files.filter(({ file }) => PICTURE.test(file.type)).length;
}

/** What pressing the button will do, as a sentence. */
export function plan({ archives, files, folders }, grouping) {
  const several = (number, one, many) => (number === 1 ? `1 ${one}` : `${number} ${many}`);
  const parts = archives.map(({ path }) => `${path} becomes a batch`);
  if (files.length > 1 || (files.length && archives.length)) {
    const sent = several(files.length, "file", "files");
    const become = {
      one: "one study with one answer",
      each: `${several(files.length, "study", "studies")} with an answer each`,
      folder: several(folders, "study, of its folder", "studies, one for each folder"),
      study: "a study for each DICOM study among them",
    };
    parts.push(`${sent} ${files.length === 1 ? "becomes" : "become"} ${become[grouping] ?? become.each}`);
  }
  return parts.length ? `${parts.join("; ")}.` : "";
}
