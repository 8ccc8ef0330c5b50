/**
 * Draws the page. Text from other users is inserted as text, never as HTML.
 *
 * @module
 */
import { elements, put } from "../../shared/elements.js";
import { nameOf, showStatus } from "../../shared/skein.js";
import { hueOf } from "./drawing.js";

/** Texts of the stage without a picture: a heading and a sentence. */
const MESSAGES = {
  connecting: () => ["Connecting", "Waiting for the server."],
  reconnecting: () => ["No connection", "The picture returns automatically."],
  rejected: (_name, why) => ["The server rejected this page", why],
  idle: () => ["No broadcast yet", "Go live here, or in another window."],
  waiting: (name) => [`Waiting for ${name}`, "The picture starts with the broadcast."],
  tuning: (name) => [`Tuning in to ${name}`, "Waiting for the next key frame."],
  stalled: (
    name,
  ) => [
    `No video from ${name}`,
    "The network or the server has stalled. The picture returns automatically.",
  ],
  ended: (name) => [`${name} has ended`, "The picture returns with a new broadcast of this name."],
  unsupported: (_name, why) => ["No video here", why],
};

/** Texts of the badge. */
const WORDS = {
  connecting: "connecting",
  reconnecting: "reconnecting",
  rejected: "rejected",
  idle: "waiting",
  waiting: "waiting",
  tuning: "tuning in",
  live: "live",
  stalled: "stalled",
  ended: "ended",
  unsupported: "not supported",
};

/** Draws the state of the connection. */
export function drawStatus({ name, session, retryAt, error, fallback }) {
  const isOver = name === "rejected" || name === "exhausted" || name === "closed";
  const why = isOver
    ? `The server rejected this page: ${error?.message ?? name}. Reload the page to try again.`
    : name === "reconnecting"
    ? "The server does not respond."
    : "";
  showStatus({
    name: name === "exhausted" ? "closed" : name,
    detail: name === "connected" ? nameOf(session.connection.transport) : "",
    title: name === "connected"
      ? [session.version, fallback && `Not over WebTransport: ${fallback}`].filter(Boolean).join(
        ". ",
      )
      : "",
    why,
    retryAt,
  });
}

/** Draws the stage and its badge. */
export function drawStage({ state, watched, why }) {
  const { stage, "watch-state": badge, picture } = elements;
  const name = watched ?? "";
  stage.dataset.state = badge.dataset.state = state;
  put(badge, WORDS[state]);
  put(elements.watched, watched ?? "No broadcast yet");
  const [title, text] = MESSAGES[state]?.(name, why) ?? ["", ""];
  put(elements["message-title"], title);
  put(elements["message-text"], text);
  const label = state === "live" ? `The live video of ${name}` : "No video";
  if (picture.getAttribute("aria-label") !== label) picture.setAttribute("aria-label", label);
  if (state !== "live") drawNumbers(undefined);
}

/** Draws the list of broadcasts. */
export function drawOnAir({ names, watched, own, isConnected }, onWatch) {
  const list = elements["on-air"];
  // While disconnected, the list is unknown.
  list.classList.toggle("unknown", !isConnected);
  const rows = new Map([...list.children].map((row) => [row.dataset.name, row]));
  for (const [name, row] of rows) if (!names.includes(name)) row.remove();
  for (const [at, name] of names.entries()) {
    const row = rows.get(name) ?? channel(name, onWatch);
    if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
    row.querySelector("button").setAttribute("aria-current", String(name === watched));
    put(row.querySelector("small"), name === own ? "you" : "");
  }
  elements.nobody.hidden = names.length > 0;
}

function channel(name, onWatch) {
  const row = document.createElement("li");
  row.dataset.name = name;
  row.innerHTML = '<button type="button" class="channel"><span class="tint"></span>' +
    '<span class="name"></span><small></small></button>';
  row.querySelector(".name").textContent = name;
  row.querySelector("button").style.setProperty("--hue", hueOf(name));
  row.querySelector("button").addEventListener("click", () => onWatch(name));
  return row;
}

/** Draws the numbers below the picture. */
export function drawNumbers(numbers) {
  const { latencyMs, rate, kilobits, group, skipped, history = [] } = numbers ?? {};
  put(elements.latency, latencyMs === undefined ? "–" : `${latencyMs.toFixed(1)} ms`);
  put(elements.rate, rate === undefined ? "–" : String(rate));
  put(elements.bits, kilobits === undefined ? "–" : kilobits.toLocaleString("en"));
  put(elements.group, group === undefined ? "–" : String(group));
  put(elements.skipped, skipped ? `${skipped} skipped` : "none skipped");
  // The top is the highest latency of the last minute, but at least 50 ms.
  const top = Math.max(50, ...history) * 1.1;
  // The line starts on the left. After a minute the points move.
  const x = (at) => (at * (120 / 59)).toFixed(1);
  const points = history.map((ms, at) => `${x(at)} ${(38 - 36 * ms / top).toFixed(1)}`);
  const line = points.length > 1 ? `M${points.join("L")}` : "";
  elements["latency-line"].setAttribute("d", line);
  elements["latency-area"].setAttribute("d", line && `${line}L${x(history.length - 1)} 40L0 40Z`);
}

/** Draws the form and the state of the user's broadcast. */
export function drawOwn({ own, isStarting, isWatched, error }) {
  const isOn = own !== undefined;
  const { go, name, preview, "own-state": badge, "own-error": alert } = elements;
  preview.hidden = !isOn;
  name.disabled = isOn || isStarting;
  for (const input of document.querySelectorAll("#own input[type=radio]")) {
    input.disabled = isOn || isStarting;
  }
  go.disabled = isStarting;
  go.dataset.on = String(isOn);
  put(go, isOn ? "Stop broadcasting" : "Go live");
  badge.dataset.state = isWatched ? "live" : "waiting";
  put(badge, isWatched ? "watched" : "no watchers");
  put(alert, error ?? "");
}
