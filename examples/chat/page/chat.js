/**
 * The state of the chat page, and its messages to and from the server. `view.js` draws the page.
 *
 * @module
 */
import { connect, newId } from "@skein/skein/client";
import { elements } from "../../shared/elements.js";
import { followStatus } from "../../shared/skein.js";
import { draw, showError } from "./view.js";

/** Rooms that are listed even while empty. */
const ROOMS = ["lobby", "tea", "help"];

/** Maximum lines of each place, and maximum lines that wait to be sent. */
const MAX_LINES = 300;
const MAX_WAITING = 100;

/** Timeout of a line that waits to be sent: 24 days, the maximum of a timer. */
const NO_HURRY_MS = 2 ** 31 - 1;

/** The allowed transports: all, or those in `?transport=websocket`. */
const ASKED_FOR = new URLSearchParams(location.search).getAll("transport");
const TRANSPORTS = ["webtransport", "websocket"].filter((name) =>
  ASKED_FOR.length === 0 || ASKED_FOR.includes(name)
);

const state = {
  me: "",
  /** All users who are online, each with their rooms; `awaySince` while they have no page. */
  people: [],
  /** Rooms that this page entered (`#lobby`), and users with direct messages (`@ann`). */
  places: new Map(),
  /** True once the stored letters have arrived; later letters count as unread. */
  hasLetters: false,
  /** Key of the open place. */
  current: "",
  rooms: ROOMS,
};

let client;
const outbox = [];
let isDelivering = false;

/* Connecting */

async function start(name) {
  state.me = name;
  redraw();
  client = connect(new URL(`/session?name=${encodeURIComponent(name)}`, location.href), {
    backoff: { maxDelayMs: 5_000 },
    transports: TRANSPORTS,
    onMessage: receive,
  });
  const hideStatus = followStatus(client, "Your messages wait here.");
  let wasConnected = false;
  for await (const status of client.status) {
    if (status.name === "rejected" && !wasConnected) {
      hideStatus();
      return reject(status.cause.reason);
    }
    if (status.name === "connected" && !wasConnected) {
      wasConnected = true;
      // A reload keeps the name of this tab. A new tab uses the most recent name.
      sessionStorage.setItem("name", name);
      localStorage.setItem("name", name);
      open("#lobby");
    }
    // Fetches letters that were missed while disconnected; `noteMembers` does so for the rooms.
    if (status.name === "connected") void recallLetters();
    markWaiting();
    redraw();
  }
}

function reject(reason) {
  sessionStorage.removeItem("name");
  localStorage.removeItem("name");
  state.me = "";
  void client.close();
  showError(reason || "The server rejected this name");
  redraw();
}

/* Receiving */

/** Receives all messages except the lines of rooms, which arrive by subscriptions. */
function receive({ topic, data }) {
  if (topic === "people") state.people = data;
  else if (topic === "letter") put(placeOfLetter(data), data);
  redraw();
}

/** Updates the members of a room, and announces who joined or left. */
function noteMembers(place, members) {
  const users = new Set(members.keys());
  const isLive = members.status === "subscribed";
  const gone = place.members.difference(users);
  if (place.isLive && isLive) {
    for (const user of users.difference(place.members)) {
      // Members from before the reconnect are not announced again.
      if (place.returning.delete(user)) continue;
      tell(place, `${user} joined`, members.get(user).joinedAt);
    }
    for (const user of gone) tell(place, `${user} left`);
  } else for (const user of gone) place.returning.add(user);
  place.members = users;
  // The subscription is live now, so recalled and live lines leave no gap.
  if (isLive && !place.isLive) void recallRoom(place);
  place.isLive = isLive;
  redraw();
}

/** Adds a line that no user wrote. */
function tell(place, text, at = Date.now()) {
  add(place, { id: newId(), isNotice: true, text, at });
}

async function recallRoom(place) {
  const lines = await ask("recent", { room: place.name });
  for (const line of lines) put(place, line, !place.isRecalled);
  place.isRecalled = true;
  redraw();
}

async function recallLetters() {
  for (const letter of await ask("letters", null)) {
    put(placeOfLetter(letter), letter, !state.hasLetters);
  }
  state.hasLetters = true;
  redraw();
}

/**
 * Requests data for the current connection. After a reconnect, the next connection requests it
 * again.
 */
async function ask(topic, data) {
  try {
    return await client.request(topic, data);
  } catch (error) {
    console.warn(error);
    return [];
  }
}

/**
 * Adds a line to its place. A line may arrive several times: in a reply, live, and when recalled.
 */
function put(place, line, isOld = false) {
  const known = place.lines.find(({ id }) => id === line.id);
  if (known !== undefined) {
    known.state = "sent";
    known.at = Math.min(known.at, line.at);
    return sort(place);
  }
  add(place, { ...line, state: "sent" });
  if (!isOld && line.from !== state.me && place.key !== state.current) place.unread++;
}

function add(place, line) {
  place.lines.push(line);
  sort(place);
  if (place.lines.length > MAX_LINES) place.lines.shift();
}

/**
 * Sorts by the server's time. Lines that the server has not accepted yet are last, in the order of
 * typing.
 */
function sort({ lines }) {
  lines.sort((a, b) => a.at === b.at ? 0 : a.at - b.at);
}

/* Sending */

function say(text) {
  if (outbox.length >= MAX_WAITING) return false;
  const line = { id: newId(), from: state.me, text, at: Infinity };
  line.place = state.places.get(state.current);
  add(line.place, line);
  post(line);
  return true;
}

function post(line) {
  outbox.push(line);
  markWaiting();
  redraw();
  void deliver();
}

/** Sends one line after the other, in the order of typing. */
async function deliver() {
  if (isDelivering) return;
  isDelivering = true;
  while (outbox.length > 0) {
    const [line] = outbox;
    const { id, text, place: { kind, name } } = line;
    try {
      // The client resends the request after a lost connection. The server knows the id, and
      // accepts the line once.
      const options = { retry: true, timeoutMs: NO_HURRY_MS };
      const { at } = kind === "room"
        ? await client.request("say", { id, room: name, text }, options)
        : await client.request("tell", { id, to: name, text }, options);
      put(line.place, { id, at });
    } catch (error) {
      line.state = "failed";
      line.reason = error.failure?.message ?? error.message;
    }
    outbox.shift();
    redraw();
  }
  isDelivering = false;
}

function markWaiting() {
  for (const line of outbox) line.state = client.isConnected ? "sending" : "waiting";
}

/* Places */

function placeOf(key) {
  let place = state.places.get(key);
  if (place === undefined) {
    const kind = key.startsWith("#") ? "room" : "user";
    const empty = { lines: [], unread: 0, draft: "", members: new Set(), returning: new Set() };
    place = { key, kind, name: key.slice(1), ...empty };
    state.places.set(key, place);
    if (kind === "room") void enter(place);
  }
  return place;
}

function placeOfLetter({ from, to }) {
  return placeOf(`@${from === state.me ? to : from}`);
}

async function enter(place) {
  place.subscription = client.subscribe(`room:${place.name}`);
  place.unwatch = client.members(`room:${place.name}`).subscribe((now) => noteMembers(place, now));
  try {
    for await (const { data } of place.subscription) {
      put(place, data);
      redraw();
    }
  } catch (error) {
    tell(place, `You cannot enter this room: ${error.failure?.message ?? error.message}`);
    redraw();
  }
}

function open(key) {
  state.current = key;
  placeOf(key).unread = 0;
  redraw();
}

async function leave(key) {
  const { subscription, unwatch } = state.places.get(key);
  state.places.delete(key);
  open("#lobby");
  unwatch();
  await subscription.unsubscribe();
}

/* Drawing: once for all changes of a turn of the event loop */

let isDrawing = false;

function redraw() {
  if (isDrawing) return;
  isDrawing = true;
  queueMicrotask(() => {
    isDrawing = false;
    draw(state, { open, retry: post });
  });
}

/* Input */

elements.enter.addEventListener("submit", (event) => {
  event.preventDefault();
  showError("");
  void start(elements.name.value.trim());
});

elements["change-name"].addEventListener("click", () => {
  sessionStorage.setItem("name", "");
  location.reload();
});

elements["open-room"].addEventListener("submit", (event) => {
  event.preventDefault();
  open(`#${elements.room.value}`);
  elements.room.value = "";
});

elements["leave-room"].addEventListener("click", () => void leave(state.current));

elements.text.addEventListener("input", () => {
  state.places.get(state.current).draft = elements.text.value;
});

elements.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  elements.say.requestSubmit();
});

elements.say.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = elements.text.value.trim();
  if (text !== "" && say(text)) state.places.get(state.current).draft = "";
});

const known = sessionStorage.getItem("name") ?? localStorage.getItem("name") ?? "";
if (known === "") redraw();
else void start(known);
