/**
 * The part of the header that all pages share: the connection status, and below it the reason if
 * there is none.
 *
 * @module
 */

const WORDS = {
  connecting: "Connecting",
  connected: "Connected",
  reconnecting: "Reconnecting",
  rejected: "Rejected",
  closed: "Disconnected",
};

const TRANSPORTS = { webtransport: "WebTransport", websocket: "WebSocket", http: "HTTP" };

/** Close code for a server that was silent for too long. */
const TIMED_OUT = 4408;

const pill = document.getElementById("status");
const line = document.getElementById("outage");
const name = child(pill, "name", "status-name");
const detail = child(pill, "detail", "status-transport");
const why = child(line, "why");
const soon = child(line, "soon");
const button = document.createElement("button");

name.role = why.role = "status";
soon.ariaHidden = "true";
button.type = "button";
button.textContent = "Try now";
line.append(button);

let retryAt = 0;
let ticking;

/**
 * Shows the status of a Skein client, with all changes.
 *
 * @param client The client.
 * @param waits A sentence about the user's input while there is no connection.
 * @returns {() => void} Hides the status, and stops following.
 */
export function followStatus(client, waits = "") {
  const ended = new AbortController();
  button.addEventListener("click", () => client.retryNow(), { signal: ended.signal });
  let sentence = "";
  const unsubscribe = client.status.subscribe((status) => {
    const { cause, transport, fallback } = status;
    if (status.name === "connected") sentence = "";
    else if (cause !== undefined) sentence = reasonOf(status);
    const isAgain = status.name === "connecting" && sentence !== "";
    showStatus({
      ...status,
      name: isAgain ? "reconnecting" : status.name,
      detail: nameOf(transport),
      title: fallback && `Not over ${nameOf(fallback.transport)}: ${fallback.error.message}`,
      why: sentence === "" ? "" : `${sentence} ${waits}`,
      canRetry: status.name !== "closed",
    });
  });
  return () => {
    unsubscribe();
    ended.abort();
    pill.hidden = line.hidden = true;
  };
}

/**
 * Shows a status.
 *
 * @param state `name` chooses the color, `words` the text, `detail` and its `title` the rest of
 * the pill. `why` is the sentence below the header, with the time of the next attempt, `retryAt`,
 * and with a button if the page `canRetry`.
 */
export function showStatus(state) {
  const { why: sentence = "", title = "", canRetry = false } = state;
  pill.hidden = false;
  pill.dataset.name = state.name;
  put(name, state.words ?? WORDS[state.name]);
  put(detail, state.detail ?? "");
  if (title === "") detail.removeAttribute("title");
  else if (detail.title !== title) detail.title = title;
  line.hidden = sentence === "";
  line.classList.toggle("over", state.name === "rejected" || state.name === "closed");
  put(why, sentence.trim());
  button.hidden = !canRetry;
  retryAt = state.retryAt ?? 0;
  tick();
}

/** Calls a function when the user wants the next attempt now. */
export function onRetry(act) {
  button.addEventListener("click", act);
}

/** Returns the display name of a transport. */
export function nameOf(transport) {
  return TRANSPORTS[transport] ?? transport ?? "";
}

/** Describes why there is no connection. */
function reasonOf({ name, cause }) {
  const { by, code, kind, reason } = cause;
  const because = reason ? `: ${reason}` : "";
  if (name === "rejected") return `The server rejected this page${because}.`;
  if (name === "closed" && by === "local") return "This page closed its connection.";
  if (!navigator.onLine) return "This device is offline.";
  if (kind === "unavailable") return `The server is unavailable${because}.`;
  if (by === "remote") return `The server closed the connection${because}.`;
  if (by === "network" || code === TIMED_OUT) return "The server does not respond.";
  return `The connection failed${because}.`;
}

/** Counts down to the next attempt. */
function tick() {
  const seconds = Math.ceil((retryAt - Date.now()) / 1_000);
  put(soon, seconds > 0 ? `Next attempt in ${seconds} s` : "");
  if (seconds > 0) ticking ??= setInterval(tick, 250);
  else if (ticking !== undefined) ticking = clearInterval(ticking);
}

/** Finds or adds a part of an element. */
function child(parent, className, id = "") {
  const element = document.createElement("span");
  element.className = className;
  if (id !== "") element.id = id;
  if (parent.firstChild?.nodeType === Node.TEXT_NODE) parent.textContent = "";
  // The space separates the words for text readers; the layout ignores it.
  parent.append(element, " ");
  return element;
}

/** Changes text only if it differs, so that screen readers announce only changes. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
