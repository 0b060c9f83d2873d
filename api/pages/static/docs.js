// Swagger UI, served by us. Its validator badge would ask a stranger's server about our document: off.
const place = document.querySelector("#swagger");
const FORM = "multipart/form-data";
const NAMELESS = [
  ["textarea", "Request body"],
  ["#servers", "Server"],
  [".close-modal", "Close"],
  [".copy-to-clipboard button", "Copy"],
  [".examples-select-element", "Examples"],
];

// What of its markup a screen reader or a keyboard stumbles over, mended where it is made.
function accessible({ React }) {
  const h = React.createElement;
  return {
    components: {
      // The page has an introduction of its own.
      InfoContainer: () => null,
      // A link inside of the button that opens an operation: one control in another.
      DeepLink: ({ text }) => h("span", null, text),
    },
  };
}

/** Names and stops for what Swagger UI draws without them; it draws anew at every click. */
function mend() {
  for (const area of place.querySelectorAll("pre, .model-box, .body-param__example")) area.tabIndex = 0;
  for (const row of place.querySelectorAll("tr[data-property-name], tr[data-param-name]")) {
    const name = row.dataset.propertyName ?? row.dataset.paramName;
    for (const field of row.querySelectorAll(":is(input, select, textarea):not([aria-label])")) {
      if (!field.labels.length) field.setAttribute("aria-label", name);
    }
  }
  for (const [selector, name] of NAMELESS) {
    for (const one of place.querySelectorAll(`${selector}:not([aria-label])`)) one.setAttribute("aria-label", name);
  }
  // Named "Apply credentials" where "Authorize" is to be read.
  for (const button of place.querySelectorAll(".modal-btn[aria-label]")) button.removeAttribute("aria-label");
}

/** The document as it is tried: forms before other bodies, as most requests send files, and their examples filled in. */
function readyToTry(described) {
  for (const operations of Object.values(described.paths)) {
    const content = operations.post?.requestBody?.content;
    if (!content?.[FORM]) continue;
    operations.post.requestBody.content = { [FORM]: filledIn(content[FORM], described.components.schemas), ...content };
  }
  return described;
}

/** Swagger UI takes a form's values from its fields, and none from the examples of the whole. */
function filledIn(form, schemas) {
  const [example] = Object.values(form.examples ?? {});
  const named = form.schema.$ref?.split("/").at(-1);
  const schema = structuredClone(named ? schemas[named] : form.schema);
  for (const [name, value] of Object.entries(example?.value ?? {})) {
    if (name !== "files" && schema.properties[name]) schema.properties[name].default = value;
  }
  return { ...form, schema };
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

new MutationObserver(mend).observe(place, { childList: true, subtree: true });

const answer = await fetch(place.dataset.document);
window.SwaggerUIBundle({
  spec: readyToTry(await answer.json()),
  domNode: place,
  deepLinking: true,
  validatorUrl: null,
  defaultModelsExpandDepth: -1,
  plugins: [accessible],
  // Who is signed in can try requests without a key.
  requestInterceptor: (request) => {
    const token = document.querySelector('meta[name="csrf-token"]')?.content;
    if (token) request.headers["X-CSRF-Token"] = token;
    return request;
  },
});
