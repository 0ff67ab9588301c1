// What every page does: the theme, times that pass, and a question before something is ended.
"use strict";

const theme = document.getElementById("theme");
theme.addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const chosen = dark ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  document.cookie = `mimo_theme=${chosen}; path=/; max-age=31536000; samesite=strict`;
});

addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

// What took long to type is sent once, and only where the service answers and knows who asks: else it would be gone.
let asked;
addEventListener("submit", async (event) => {
  const { target: form, submitter } = event;
  if (!("careful" in form.dataset)) return;
  if (form === asked) {
    asked = null;
    return;
  }
  event.preventDefault();
  if (form.dataset.sent) return;
  form.dataset.sent = "yes";
  if (await answers()) {
    asked = form;
    form.requestSubmit(submitter);
  } else delete form.dataset.sent;
});
addEventListener("pageshow", () => { // Somebody went back to it.
  for (const form of document.querySelectorAll("[data-sent]")) delete form.dataset.sent;
});

async function answers() {
  try {
    const { status } = await fetch("/approvals/count", { cache: "no-store" });
    trouble(status === 401 ? SIGNED_OUT : "");
    return status !== 401;
  } catch {
    trouble("The service cannot be reached. Nothing was sent; what you typed is still here.");
    return false;
  }
}

const SIGNED_OUT = "You are signed out. What you typed is still here.";
function trouble(text) {
  const place = document.getElementById("trouble");
  place.hidden = !text;
  if (place.dataset.text === text) return; // Nothing is announced twice.
  place.dataset.text = place.textContent = text;
  if (text !== SIGNED_OUT) return;
  const there = Object.assign(document.createElement("a"), { href: "/sign-in", target: "_blank", textContent: "Sign in" });
  place.append(" ", there, " in another tab, and go on here.");
}

addEventListener("keydown", (event) => {
  const { form } = event.target;
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !form) return;
  if (!form.querySelector("[type=submit]:disabled")) form.requestSubmit(); // Chosen images are not read yet.
});

// Chosen images go with the form's other fields, as text; it is sent once they are read.
addEventListener("change", async (event) => {
  const { files, form, dataset } = event.target;
  if (!dataset.images) return;
  const bytes = [...files].reduce((sum, file) => sum + file.size, 0);
  event.target.setCustomValidity(files.length > 4 || bytes > 1.5e6 ? "Choose up to four images, 1.5 MB together." : "");
  event.target.reportValidity();
  tell(event.target);
  const send = form.querySelector("[type=submit]");
  send.disabled = true;
  for (const old of form.querySelectorAll(`[name^="${dataset.images}_"]`)) old.remove();
  for (const [number, file] of [...files].entries()) {
    const field = Object.assign(document.createElement("input"), { type: "hidden", name: `${dataset.images}_${number}` });
    field.value = await new Promise((read) => {
      const reader = new FileReader();
      reader.onload = () => read(reader.result);
      reader.onerror = () => read("");
      reader.readAsDataURL(file);
    });
    form.append(field);
  }
  send.disabled = false;
});

function tell({ files, labels: [label] }) {
  if (files.length) label.dataset.chosen = files.length;
  else delete label.dataset.chosen;
}

// Images that are pasted or dropped into a message are chosen with it.
for (const kind of ["paste", "drop"]) {
  addEventListener(kind, (event) => {
    const input = event.target.form?.querySelector("[data-images]");
    const files = (event.clipboardData || event.dataTransfer)?.files;
    if (!input || ![...files || []].some((file) => file.type.startsWith("image/"))) return;
    event.preventDefault();
    input.files = files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

// What is sent is gone from the form, with what was read of it.
addEventListener("reset", (event) => {
  const input = event.target.querySelector("[data-images]");
  if (!input) return;
  for (const old of event.target.querySelectorAll(`[name^="${input.dataset.images}_"]`)) old.remove();
  setTimeout(() => tell(input)); // It is empty after this.
});

function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function ago(seconds) {
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`;
  return null; // Days do not pass while one looks.
}

function tick() {
  for (const place of document.querySelectorAll("[data-since]")) {
    place.textContent = duration(Math.max(0, (Date.now() - Date.parse(place.dataset.since)) / 1000));
  }
  for (const place of document.querySelectorAll("time[datetime]")) {
    const text = ago((Date.now() - Date.parse(place.dateTime)) / 1000);
    if (text && text !== place.textContent) place.textContent = text;
  }
}
tick();
setInterval(tick, 1000);

// A link from another site comes without the cookie; asked again from here, the browser sends it.
const signIn = document.getElementById("sign-in");
if (signIn && !signIn.querySelector(".error")) {
  fetch(location.href).then((answer) => { if (answer.redirected) location.replace(signIn.dataset.next); });
}

addEventListener("htmx:afterRequest", (event) => {
  const { elt: form, successful, xhr } = event.detail;
  if (successful || xhr.status === 401) trouble(successful ? "" : SIGNED_OUT);
  const said = form.querySelector("[data-said]");
  if (!said) return;
  if (successful) form.reset();
  said.textContent = successful ? "Sent." : "It could not be sent; try again.";
});
