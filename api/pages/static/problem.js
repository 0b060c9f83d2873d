// A refusal in words, whatever answered: the server's problem+json, a proxy in between, or nobody.

/** {title, detail, errors, files} of an answer that is not 2xx. */
export function problemOf(status, text) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy's own error page: its status is all that there is to say.
  }
  return {
    title: body.title ?? `The server answered ${status}`,
    detail: body.detail ?? "",
    errors: body.errors ?? [],
    files: body.files ?? body.rejected ?? [],
  };
}

/** A problem in words; its detail is left out where it says no more than the title. */
export function told({ title, detail }) {
  return !detail || detail.replace(/\.$/, "") === title ? `${title}.` : `${title}: ${detail}`;
}

/** The token that a session's changes carry. */
export function token() {
  return document.querySelector('meta[name="csrf-token"]').content;
}

/** Whether somebody is signed in; takes over the token of a session that was begun in another tab meanwhile. */
export async function signedIn() {
  const answer = await fetch("/", { cache: "no-store" });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.querySelector('meta[name="csrf-token"]');
  if (fresh === null || page.querySelector("#live") === null) return false;
  document.querySelector('meta[name="csrf-token"]').content = fresh.content;
  return true;
}

/** Whether a refusal says that the session is over, or is another one than the page's. */
export function ofSession(status, text) {
  return status === 401 || (status === 403 && text.includes("#foreign-request"));
}

/** Offers to sign in again, in another tab: this one keeps what was chosen. */
export function signInAgain(before, after) {
  const link = document.createElement("a");
  Object.assign(link, { href: "/", target: "_blank", rel: "noopener", textContent: "Sign in" });
  return [before, link, after];
}
