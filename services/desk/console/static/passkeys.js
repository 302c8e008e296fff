// A form that a passkey answers: the console is asked for a challenge, the browser for the passkey, and the form is sent
// with what it says. Without this script, or a browser that can do it, such forms stay hidden.
"use strict";

const REFUSED = {
  InvalidStateError: "There is a passkey for you on this device already.",
  NotAllowedError: "That was stopped, or it took too long. Nothing happened.",
  SecurityError: "This browser allows no passkey at this address.",
};

function bytesOf(text) {
  const plain = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
  return Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
}

function textOf(buffer) {
  const plain = String.fromCharCode(...new Uint8Array(buffer));
  return btoa(plain).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

async function challengeOf(form) {
  const fields = new URLSearchParams();
  if (form.elements.csrf) fields.set("csrf", form.elements.csrf.value);
  const answer = await fetch(form.dataset.ask, { method: "POST", body: fields, headers: { Accept: "application/json" } });
  if (!answer.ok || !(answer.headers.get("content-type") || "").startsWith("application/json")) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    throw new Error(page.querySelector(".problem, .card > p")?.textContent || "The console did not answer. Load the page again.");
  }
  return answer.json();
}

async function answerOf(form) {
  const asked = await challengeOf(form);
  asked.challenge = bytesOf(asked.challenge);
  for (const known of asked.excludeCredentials || []) known.id = bytesOf(known.id);
  if (form.dataset.passkey === "create") {
    asked.user.id = bytesOf(asked.user.id);
    const made = await navigator.credentials.create({ publicKey: asked });
    return { ...named(made), response: { clientDataJSON: textOf(made.response.clientDataJSON), attestationObject: textOf(made.response.attestationObject) } };
  }
  const shown = await navigator.credentials.get({ publicKey: asked });
  const said = shown.response;
  const response = { clientDataJSON: textOf(said.clientDataJSON), authenticatorData: textOf(said.authenticatorData), signature: textOf(said.signature) };
  if (said.userHandle) response.userHandle = textOf(said.userHandle);
  return { ...named(shown), response };
}

function named(credential) {
  return { id: credential.id, rawId: textOf(credential.rawId), type: credential.type };
}

async function send(form) {
  const button = form.querySelector("button");
  const problem = form.querySelector("[role=alert]");
  problem.hidden = true;
  button.disabled = true;
  try {
    if (location.origin !== form.dataset.origin) throw new Error(`Passkeys work at ${form.dataset.origin}, and not at this address.`);
    form.elements.answer.value = JSON.stringify(await answerOf(form));
    form.submit();
  } catch (error) {
    problem.textContent = REFUSED[error.name] || error.message;
    problem.hidden = false;
    button.disabled = false;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  if (!window.PublicKeyCredential) return;
  for (const shown of document.querySelectorAll("form[data-passkey], [data-with-passkeys]")) shown.hidden = false;
  for (const instead of document.querySelectorAll("[data-without-passkeys]")) instead.hidden = true;
});

document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-passkey]")) return;
  event.preventDefault();
  send(event.target);
});
