// Follows a task's log. The last event that was received is kept here and named at every new connection, so a lost one
// costs no event. Entries come as HTML that the server escaped; they are added in pieces, so that typing and scrolling
// go on while ten thousand of them arrive.
"use strict";

const SILENCE_MS = 45000; // The server says something every 15 s; a connection that says nothing is dead.
const LONGEST_WAIT_MS = 15000;
const DRAFT_CHARS = 1200; // So much of the end of an answer that is being written is shown.

const log = document.getElementById("log");
const connection = document.getElementById("connection");
const writing = document.getElementById("writing");
const newest = document.getElementById("newest");
const waiting = [];
const shown = {};
let after = Number(log.dataset.after);
let source, silence, retry, wait = 500, over = false, adding = false, unfolded = false;

function connect() {
  const query = new URLSearchParams({ after });
  if (log.dataset.run) query.set("run", log.dataset.run);
  source = new EventSource(`${log.dataset.live}?${query}`);
  source.addEventListener("open", heard);
  source.addEventListener("beat", heard);
  source.addEventListener("entries", (message) => {
    heard();
    const { last, html } = JSON.parse(message.data);
    if (last <= after) return;
    after = last;
    waiting.push(html);
    writing.replaceChildren(); // What was written is among them, or goes on with the next piece.
    if (!adding) add();
  });
  source.addEventListener("item.delta", (message) => {
    heard();
    write(JSON.parse(message.data));
  });
  source.addEventListener("state", (message) => {
    heard();
    for (const [id, html] of Object.entries(JSON.parse(message.data))) replace(id, html);
  });
  source.addEventListener("end", () => {
    heard();
    stop();
    over = true;
    document.getElementById("say")?.remove();
  });
  source.addEventListener("error", lost);
  listen();
}

function heard() {
  connection.textContent = "";
  wait = 500;
  listen();
}

function listen() {
  clearTimeout(silence);
  silence = setTimeout(lost, SILENCE_MS);
}

function stop() {
  clearTimeout(silence);
  source.close();
}

// The browser's own way back gives up where the answer is an error, such as a proxy's while the service restarts.
function lost() {
  stop();
  connection.textContent = "The connection is lost; trying again. Nothing will be missing.";
  clearTimeout(retry);
  retry = setTimeout(connect, wait);
  wait = Math.min(wait * 2, LONGEST_WAIT_MS);
}

// A machine that goes to sleep or changes its network knows before the connection does.
addEventListener("offline", () => { if (!over) lost(); });
addEventListener("online", () => {
  wait = 500;
  if (!over) lost();
});

function add() {
  adding = true;
  const html = waiting.shift();
  if (html === undefined) {
    adding = false;
    return;
  }
  const following = atEnd();
  const chunk = document.createElement("div");
  chunk.className = "chunk";
  chunk.innerHTML = html;
  if (unfolded) unfold(chunk, true);
  if (chunk.childElementCount) {
    chunk.classList.toggle("single", chunk.childElementCount < 5);
    log.append(chunk);
    if (following) scrollTo(0, document.documentElement.scrollHeight);
    else newest.hidden = false;
  }
  setTimeout(add); // Whatever the user did meanwhile comes first.
}

function write(piece) {
  const following = atEnd();
  let draft = writing.querySelector(`[data-run="${CSS.escape(piece.run_id)}"]`);
  if (!draft) {
    draft = document.createElement("p");
    draft.dataset.run = piece.run_id;
    writing.append(draft);
  }
  draft.textContent = piece.kind === "restart" ? "" : (draft.textContent + piece.text).slice(-DRAFT_CHARS);
  if (following) scrollTo(0, document.documentElement.scrollHeight);
}

function atEnd() {
  const page = document.documentElement;
  return page.scrollTop > 0 && page.scrollHeight - page.clientHeight - page.scrollTop < 80;
}

function replace(id, html) {
  if (shown[id] === html) return; // Nothing is announced twice, and the focus stays where it is.
  shown[id] = html;
  document.getElementById(id).innerHTML = html;
}

newest.addEventListener("click", () => {
  scrollTo(0, document.documentElement.scrollHeight);
  newest.hidden = true;
});
addEventListener("scroll", () => { if (atEnd()) newest.hidden = true; }, { passive: true });

function unfold(place, open) {
  for (const part of place.querySelectorAll("details")) part.open = open;
}
function unfoldFrom(chunk, open) {
  if (!chunk || open !== unfolded) return;
  unfold(chunk, open);
  setTimeout(() => unfoldFrom(chunk.nextElementSibling, open)); // One piece at a time, as they came.
}
document.getElementById("unfold").addEventListener("click", (event) => {
  unfolded = !unfolded;
  unfoldFrom(log.firstElementChild, unfolded);
  event.target.setAttribute("aria-pressed", unfolded);
  event.target.textContent = unfolded ? "Fold all" : "Unfold all";
});

connect();
