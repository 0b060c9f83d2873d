import { lookNow } from "./live.js";
import { ofSession, problemOf, signedIn, signInAgain, token, told } from "./problem.js";

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
    let answer = await post(button.dataset.cancel);
    if (ofSession(answer.status, answer.text) && (await signedIn())) answer = await post(button.dataset.cancel);
    complain(problem, answer);
  } catch {
    problem.textContent = "The server does not answer. Try again.";
  }
  button.disabled = false;
  await lookNow();
}

async function post(url) {
  const response = await fetch(url, { method: "POST", headers: { "X-CSRF-Token": token() } });
  return { status: response.status, text: await response.text() };
}

function complain(problem, { status, text }) {
  if (ofSession(status, text)) {
    problem.replaceChildren(...signInAgain("You are signed out. ", " again, then cancel."));
  } else if (status >= 300 && status !== 409) {
    // 409: it has ended meanwhile, which the page is about to show.
    problem.textContent = told(problemOf(status, text));
  }
}

document.addEventListener("swapped", wire);
wire();
