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

/** The token that a session's changes carry. */
export function token() {
  return document.querySelector('meta[name="csrf-token"]').content;
}
