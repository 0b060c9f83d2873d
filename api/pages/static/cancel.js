import { lookNow } from "./live.js";
import { problemOf, token } from "./problem.js";

// The button comes and goes with the live region, so it is wired anew after each change.
function wire() {
  const button = document.querySelector("[data-cancel]");
  if (!button) return;
  button.hidden = false;
  button.addEventListener("click", () => cancel(button));
}

async function cancel(button) {
  const problem = document.querySelector("[data-cancel-problem]");
  button.disabled = true;
  try {
    const response = await fetch(button.dataset.cancel, { method: "POST", headers: { "X-CSRF-Token": token() } });
    // 409: it has ended meanwhile, which the page is about to show.
    if (!response.ok && response.status !== 409) {
      const { title, detail } = problemOf(response.status, await response.text());
      problem.textContent = `${title}. ${detail}`;
    }
  } catch {
    problem.textContent = "The server does not answer. Try again.";
  }
  button.disabled = false;
  await lookNow();
}

document.addEventListener("swapped", wire);
wire();
