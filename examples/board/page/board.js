/**
 * The board's page: connects, opens the board in the URL, and combines the board with what the user
 * sees and does.
 *
 * @module
 */
import { newId } from "@skein/skein/client";
import { indexedDbStore, StoreError } from "@skein/skein/store";
import { elements } from "../../shared/elements.js";
import { openEntrance } from "../../shared/entrance.js";
import { keepFiles } from "../../shared/offline.js";
import { People } from "../../shared/people.js";
import { Board } from "../board.ts";
import { mutations } from "../mutations.ts";
import { findCard } from "../rows.ts";
import { readPast } from "../past.ts";
import { Drag } from "./drag.js";
import { History } from "./history.js";
import { Pointers } from "./pointers.js";
import { draw, fillCard, fillColumn, notify, say } from "./view.js";

let me = "";
let client;
/** Name of the open board. */
let name = "";
let board;
/** Status of the board: `pending`, `stale`, `live`, `lost` or `ended`. */
let state = { current: "pending", error: undefined };
let status = { name: "connecting" };
/** False if the browser's store does not work, so that changes that wait are lost with the page. */
let isKept = true;
/** True while another board opens. */
let isOpening = false;

const pointers = new Pointers(elements.pointers, {
  page: newId(),
  columns: elements.columns,
  hueOf: (user) => people.hueOf(user),
  onNews: redraw,
});

const people = new People({ notify, onChange: redraw });

const history = new History({
  read(signal) {
    const stream = new URL(`/streams/board:${name}`, location.href);
    stream.searchParams.set("name", me);
    return readPast(stream, { fetch: (url, init) => fetch(url, init), signal });
  },
  onChange() {
    pointers.pause(history.isOpen);
    redraw();
  },
});

const drag = new Drag(elements.columns, {
  columns: () => board?.columns ?? [],
  isLocked: () => history.columns !== undefined,
  say,
  onChange() {
    pointers.hold(drag.held?.key);
    redraw();
  },
  onDrop: (key, place) => void board.moveCard(key, place),
});

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
  history.close();
  board?.[Symbol.dispose]();
  board = undefined;
  people.leave();
}

async function show(next) {
  name = next;
  state = { current: "pending" };
  document.title = `${next} - Skein board`;
  elements["board-name"].textContent = next;
  redraw();
  const opened = await client.state(`board:${next}`, { mutations, store: true });
  // Another board was opened meanwhile.
  if (name !== next || board !== undefined) return opened[Symbol.dispose]();
  board = new Board(opened, {
    onChange() {
      state = { current: opened.status.current, error: opened.error };
      if (drag.held !== undefined) drag.check();
      redraw();
    },
    onRejected: notify,
  });
  pointers.open(opened);
  people.enter(client, { topic: `board:${next}`, me });
}

/* Drawing: once for all changes of a frame */

let isScheduled = false;

function redraw() {
  if (isScheduled || name === "") return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    const past = history.columns && { columns: history.columns };
    draw({ board, state, status, isKept, drag, past, holders: pointers.holders, actions });
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
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (name === "" || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") return history.close();
  if (event.target.matches("input:not([type=range]), textarea, select")) return;
  if (event.key === "b") elements["boards-dialog"].showModal();
  else if (event.key === "h") elements.history.click();
  else return;
  event.preventDefault();
});

addEventListener("hashchange", () => name !== "" && void openBoard());

document.addEventListener("visibilitychange", () => {
  if (document.hidden) pointers.point(undefined);
});

addEventListener("beforeunload", (event) => {
  if (!isKept && board?.waiting > 0) event.preventDefault();
});

// The age of a board that an earlier page has kept.
setInterval(() => board?.keptAt !== undefined && redraw(), 10_000);

openEntrance({
  storeOf: (user) => indexedDbStore({ user, name: "board" }),
  connection: {
    onError(error) {
      console.warn(error);
      if (!(error instanceof StoreError)) return;
      isKept = false;
      redraw();
    },
    outbox: {
      // Only for changes of an earlier page; the promises of this page tell about its own.
      onDropped: ({ reason, error }) =>
        notify(`A change was not saved: ${error?.message ?? reason}`),
    },
  },
  mayLeave: () =>
    !board?.waiting || confirm("The changes that wait here for the server will be deleted."),
  onStatus(next) {
    status = next;
    redraw();
  },
  onEnter(connected, user) {
    client = connected;
    me = user;
    elements.plan.hidden = elements.boards.hidden = elements.history.hidden = false;
    void openBoard();
    keepFiles(client, (show) => {
      elements.update.hidden = false;
      elements.update.onclick = show;
    }).catch(console.error);
  },
});
