// What pages cannot do by themselves: times in the reader's zone, questions before what cannot be undone, all boxes at once.
"use strict";

const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const short = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });
const days = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

function localise(root) {
  for (const element of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    element.title = `${full.format(at)} · ${at.toISOString()}`;
    const thisYear = at.getFullYear() === new Date().getFullYear();
    element.textContent = "day" in element.dataset ? days.format(at) : (thisYear ? short : full).format(at);
  }
}

// A field of a time is in the reader's zone, and what it stands for is not.
const local = (at) => new Date(at.getTime() - at.getTimezoneOffset() * 6e4).toISOString().slice(0, 16);

document.addEventListener("DOMContentLoaded", () => {
  localise(document);
  for (const field of document.querySelectorAll("input[data-at]")) {
    const at = new Date(field.dataset.at);
    if (!Number.isNaN(at.getTime())) field.value = local(at);
  }
  const narrow = window.matchMedia("(max-width: 52rem)");
  const fold = () => { for (const menu of document.querySelectorAll("details.menu")) menu.open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();
});
document.addEventListener("htmx:afterSwap", (event) => localise(event.target.parentElement || document));

// What is asked for again and again does not take away what somebody is at: a link with the focus, words they have marked.
document.addEventListener("htmx:beforeRequest", (event) => {
  const live = event.target.closest?.("[data-live]");
  if (!live) return;
  const marked = getSelection();
  const busy = live !== document.activeElement && live.contains(document.activeElement);
  if (busy || (marked && !marked.isCollapsed && live.contains(marked.anchorNode))) event.preventDefault();
});

// Figures that stand still say so.
const still = (is) => (event) => {
  const said = event.target.closest?.("[data-live]") && document.querySelector("[data-still]");
  if (!said) return;
  if (is && said.hidden) said.querySelector("time").textContent = short.format(Date.now());
  said.hidden = !is;
};
for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) document.addEventListener(name, still(true));
document.addEventListener("htmx:afterSwap", still(false));

document.addEventListener("submit", (event) => {
  const form = event.target;
  const question = event.submitter?.dataset.confirm || form.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

// What is sent is changed, and not the form: whoever comes back to it finds it as they left it.
document.addEventListener("formdata", ({ target: form, formData }) => {
  for (const field of form.querySelectorAll("input[type=datetime-local]")) {
    if (field.value) formData.set(field.name, new Date(field.value).toISOString());
  }
  if (form.method === "get") for (const [name, value] of [...formData]) if (!value) formData.delete(name);
});

document.addEventListener("change", (event) => {
  const all = event.target.closest("[data-all]");
  if (!all) return;
  for (const box of document.querySelectorAll(`input[name="${all.dataset.all}"]`)) box.checked = all.checked;
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button || !navigator.clipboard) return;
  navigator.clipboard.writeText(button.dataset.copy).then(() => { button.textContent = "copied"; });
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, select, textarea")) return;
  const find = document.querySelector(".find input");
  if (find) { event.preventDefault(); find.focus(); }
});
