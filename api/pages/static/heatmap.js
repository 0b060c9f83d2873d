// The heatmap's switch stays as it was set, on every image and job: the server draws it as this cookie says.
const YEAR = 365 * 24 * 3600;

document.addEventListener("change", ({ target }) => {
  if (target.id !== "show-heatmap") return;
  document.cookie = `heatmap=${target.checked ? "on" : "off"}; path=/; max-age=${YEAR}; SameSite=Lax`;
});

// A page that the browser kept, and shows again on "back", was drawn before the last change.
window.addEventListener("pageshow", () => {
  const box = document.querySelector("#show-heatmap");
  if (box) box.checked = !document.cookie.split("; ").includes("heatmap=off");
});
