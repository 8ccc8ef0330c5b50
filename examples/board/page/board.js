/**
 * The board's page: connects, opens the board in the URL, and combines the board with what the user
 * sees and does.
 *
 * @module
 */
import { connect, newId } from "@skein/skein/client";
import { followStatus } from "../../shared/skein.js";
import { Board } from "../board.ts";
import { findCard } from "../rows.ts";
import { Drag } from "./drag.js";
import { Pointers } from "./pointers.js";
import { draw, drawPeople, elements, fillCard, fillColumn, notify, say } from "./view.js";

/** Hues of people, easy to tell apart. */
const HUES = [25, 265, 150, 330, 60, 205, 110, 295];

/** The allowed transports: all, or those in `?transport=websocket`. */
const ASKED_FOR = new URLSearchParams(location.search).getAll("transport");
const TRANSPORTS = ["webtransport", "websocket", "http"].filter((name) =>
  ASKED_FOR.length === 0 || ASKED_FOR.includes(name)
);

/** Users on the board, with their presence data. */
let people = new Map();
/** Stops following the users on the board. */
let unwatch;
/** True if the last list came from a live connection. */
let wasLive = false;
let me = "";
let client;
/** Name of the open board. */
let name = "";
let board;
/** Status of the board: `pending`, `live`, `lost` or `ended`. */
let state = { current: "pending", error: undefined };
let status = { name: "connecting" };
/** True while another board opens. */
let isOpening = false;

const pointers = new Pointers(elements.pointers, {
  page: newId(),
  columns: elements.columns,
  hueOf: (user) => people.get(user)?.hue ?? 0,
  onNews: redraw,
});

const drag = new Drag(elements.columns, {
  columns: () => board?.columns ?? [],
  say,
  onChange() {
    pointers.hold(drag.held?.key);
    redraw();
  },
  onDrop: (key, place) => void board.moveCard(key, place),
});

/* Connecting */

async function start(user) {
  me = user;
  elements["enter-button"].disabled = true;
  client = connect(new URL(`/session?name=${encodeURIComponent(user)}`, location.href), {
    backoff: { maxDelayMs: 5_000 },
    transports: TRANSPORTS,
  });
  const hideStatus = followStatus(client);
  for await (const next of client.status) {
    status = next;
    if (next.name === "connected") {
      sessionStorage.setItem("name", user);
      localStorage.setItem("name", user);
      if (name === "") enter();
    }
    if (next.name === "refused" && name === "") {
      hideStatus();
      return refuse(next.cause.reason);
    }
    redraw();
  }
}

function enter() {
  elements.welcome.hidden = true;
  elements.plan.hidden = elements.boards.hidden = false;
  void openBoard();
}

function refuse(reason) {
  void client.close();
  sessionStorage.removeItem("name");
  localStorage.removeItem("name");
  elements["enter-button"].disabled = false;
  elements["name-error"].textContent = reason || "The server refused this name";
  elements.name.focus();
}

/* Boards */

/** Opens the board in the URL. A board is left only after its changes are saved. */
async function openBoard() {
  if (isOpening || wanted() === name) return;
  isOpening = true;
  if (board?.waiting > 0) notify("The other board opens after your changes are saved.");
  await board?.saved();
  isOpening = false;
  leave();
  await show(wanted());
}

function wanted() {
  const asked = decodeURIComponent(location.hash.slice(1));
  return /^[a-z0-9][a-z0-9-]{0,31}$/.test(asked) ? asked : "plans";
}

function leave() {
  if (name === "") return;
  drag.cancel();
  board?.[Symbol.dispose]();
  board = undefined;
  unwatch?.();
  void client.presence(`board:${name}`).catch(console.warn);
}

async function show(next) {
  name = next;
  people = new Map();
  wasLive = false;
  state = { current: "pending" };
  document.title = `${next} - Skein board`;
  elements["board-name"].textContent = next;
  redraw();
  const opened = await client.state(`board:${next}`);
  // Another board was opened meanwhile.
  if (name !== next || board !== undefined) return opened[Symbol.dispose]();
  board = new Board(opened, {
    onChange() {
      state = { current: opened.status.current, error: opened.error };
      if (drag.held !== undefined) drag.check();
      redraw();
    },
    onRefused: notify,
  });
  pointers.open(client, next);
  showPresence();
  unwatch = client.members(`board:${next}`).subscribe(noteMembers);
}

/** Publishes this user's colour, and that the user is away while the page is hidden. */
function showPresence() {
  const hue = Number(localStorage.getItem("hue") ?? HUES[Math.floor(Math.random() * HUES.length)]);
  localStorage.setItem("hue", String(hue));
  client.presence(`board:${name}`, { hue, away: document.hidden }).catch(console.warn);
}

/** Draws who is on the board, and announces who joined or left. */
function noteMembers(members) {
  const before = people;
  people = new Map(Array.from(members, ([user, { data }]) => [user, data ?? {}]));
  const isLive = members.status === "subscribed";
  for (const user of before.keys()) {
    if (people.has(user)) continue;
    pointers.leave(user);
    if (isLive && wasLive && user !== me) notify(`${user} left`);
  }
  for (const user of people.keys()) {
    if (isLive && wasLive && user !== me && !before.has(user)) notify(`${user} is here`);
  }
  wasLive = isLive;
  drawPeople(people, me);
  redraw();
}

/* Drawing: once for all changes of a frame */

let isScheduled = false;

function redraw() {
  if (isScheduled || name === "") return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    draw({ board, state, status, drag, holders: pointers.holders, actions });
    pointers.place();
  });
}

const actions = {
  addCard: (column, title) => void board.addCard(column, title),
  openCard(key) {
    const card = findCard(board.columns, key);
    if (card !== undefined) fillCard(card, board.columns);
  },
  openColumn(key) {
    const column = board.columns.find((column) => column.key === key);
    if (column !== undefined) fillColumn(column, board.columns);
  },
};

/* Input */

elements.enter.addEventListener("submit", (event) => {
  event.preventDefault();
  elements["name-error"].textContent = "";
  void start(elements.name.value.trim());
});

elements["add-column"].addEventListener("submit", (event) => {
  event.preventDefault();
  const title = elements["new-column"].value.trim();
  elements["new-column"].value = "";
  if (title !== "") void board.addColumn(title);
});

elements.card.addEventListener("submit", ({ submitter }) => {
  const { key, column: before, title: oldTitle, note: oldNote } = elements.card.dataset;
  if (submitter.value === "delete") void board.deleteCard(key);
  if (submitter.value !== "save") return;
  const title = elements["card-title"].value.trim();
  const note = elements["card-note"].value;
  // Only what the user changed is written, so that changes of others stay.
  const texts = {
    ...(title !== "" && title !== oldTitle && { title }),
    ...(note !== oldNote && { note }),
  };
  if (Object.keys(texts).length > 0) void board.editCard(key, texts);
  const column = elements["card-column"].value;
  if (column !== before) void board.moveCard(key, { column, index: 0 });
});

elements.column.addEventListener("submit", ({ submitter }) => {
  const { key, title: oldTitle, place } = elements.column.dataset;
  if (submitter.value === "delete") void board.deleteColumn(key);
  if (submitter.value !== "save") return;
  const title = elements["column-title"].value.trim();
  if (title !== "" && title !== oldTitle) void board.renameColumn(key, title);
  const index = elements["column-place"].value;
  if (index !== place) void board.moveColumn(key, Number(index));
});

elements.other.addEventListener("submit", ({ submitter }) => {
  if (submitter.value !== "cancel") location.hash = elements.board.value;
  elements.board.value = "";
});

elements["change-name"].addEventListener("click", () => {
  sessionStorage.setItem("name", "");
  location.reload();
});

elements.copy.addEventListener("click", async () => {
  const address = location.href.replace(/#.*|$/, `#${name}`);
  try {
    await navigator.clipboard.writeText(address);
    notify("Address copied");
  } catch {
    notify(`The address is ${address}`);
  }
});

elements.again.addEventListener("click", () => {
  leave();
  void show(name);
});

elements.boards.addEventListener("click", () => elements["boards-dialog"].showModal());

document.addEventListener("keydown", (event) => {
  if (event.key !== "b" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (name === "" || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  elements["boards-dialog"].showModal();
});

addEventListener("hashchange", () => name !== "" && void openBoard());

document.addEventListener("visibilitychange", () => {
  if (document.hidden) pointers.point(undefined);
  if (board !== undefined) showPresence();
});

addEventListener("beforeunload", (event) => {
  // Changes that wait are lost with the page.
  if (board?.waiting > 0) event.preventDefault();
});

const known = sessionStorage.getItem("name") ?? localStorage.getItem("name") ?? "";
if (known !== "") void start(known);
else {
  elements.welcome.hidden = false;
  elements.name.focus();
}
