/**
 * The page's state, and its messages to and from the server. `view.js` draws the page.
 *
 * @module
 */
import { connect, newId } from "@skein/skein/client";
import { elements } from "../../shared/elements.js";
import { followStatus } from "../../shared/skein.js";
import { draw } from "./view.js";

/** The allowed transports: all, or those in `?transport=websocket`. */
const ASKED_FOR = new URLSearchParams(location.search).getAll("transport");
const TRANSPORTS = ["webtransport", "websocket", "http"].filter((name) =>
  ASKED_FOR.length === 0 || ASKED_FOR.includes(name)
);

/** Maximum questions that wait for the server. */
const MAX_UNSENT = 20;

/** Timeout of a question that waits for the server: 24 days, the maximum of a timer. */
const NO_HURRY_MS = 2 ** 31 - 1;

const state = {
  /** Status of the client. */
  status: { name: "connecting" },
  /** All conversations, once loaded. */
  conversations: undefined,
  /** Id of the open conversation, also before its first question. */
  current: "",
  /**
   * Turns by conversation, once loaded. A turn is `unsent` until the server has it, then `writing`,
   * and finally `complete`, `stopped` or `failed`.
   */
  turns: new Map(),
};

/** Answers that this page is reading, by turn id. */
const reading = new Map();

const client = connect(new URL("/session", location.href), {
  backoff: { maxDelayMs: 5_000 },
  transports: TRANSPORTS,
  onMessage: receive,
});

/* Receiving */

async function watchStatus() {
  for await (const status of client.status) {
    state.status = status;
    if (status.name === "connected") {
      // The page may have missed turns while it was disconnected.
      for (const id of state.turns.keys()) if (id !== state.current) state.turns.delete(id);
      void loadList();
      void load(state.current);
      for (const turn of unsent.all()) void read(turn);
    }
    redraw();
  }
}

function receive({ topic, data }) {
  if (topic === "conversations") putList(data);
  else if (topic === "turn") putTurn(data);
  redraw();
}

async function loadList() {
  const list = await ask("list", null);
  if (list !== undefined) putList(list);
  redraw();
}

function putList(conversations) {
  state.conversations = conversations;
  // Another tab may have deleted a conversation.
  const ids = new Set(conversations.map(({ id }) => id));
  for (const id of state.turns.keys()) if (!ids.has(id)) state.turns.set(id, unsent.of(id));
}

async function load(conversation) {
  const turns = await ask("open", conversation);
  if (turns === undefined) return;
  const before = turnsOf(conversation);
  state.turns.set(conversation, turns.map((turn) => merge(before, turn)));
  for (const { id } of turns) unsent.delete(id);
  turnsOf(conversation).push(...unsent.of(conversation));
  for (const turn of turnsOf(conversation)) void read(turn);
  redraw();
}

/** Requests data over this connection; after a reconnect the next connection requests it again. */
async function ask(topic, data) {
  try {
    return await client.request(topic, data);
  } catch (error) {
    console.warn(error);
  }
}

/** Adds or updates a turn that has started or ended, in this tab or another. */
function putTurn(turn) {
  unsent.delete(turn.id);
  const turns = state.turns.get(turn.conversation);
  if (turns === undefined) return;
  const merged = merge(turns, turn);
  const at = turns.findIndex(({ id }) => id === turn.id || id === turn.replaces);
  if (at < 0) turns.push(merged);
  else turns[at] = merged;
  void read(merged);
}

/** While an answer is being written, its text and end come from the stream, not from the turn. */
function merge(turns, turn) {
  if (turn.state !== "writing") return turn;
  const before = turns.find(({ id }) => id === turn.id);
  if (before === undefined) return { ...turn, answer: reading.get(turn.id)?.text ?? "" };
  return { ...before, state: before.state === "unsent" ? "writing" : before.state };
}

function turnsOf(conversation) {
  return state.turns.get(conversation) ?? [];
}

function isOpen(turn) {
  return turn?.state === "unsent" || turn?.state === "writing";
}

/**
 * Asks the question, or continues reading: the server starts the answer of a turn only once. Every
 * page reads the answer from the first word.
 */
async function read(turn) {
  if (!isOpen(turn) || reading.has(turn.id)) return;
  const { id, conversation, question, replaces } = turn;
  const answer = client.requestStream("ask", { id, conversation, question, replaces }, {
    id,
    itemTimeoutMs: NO_HURRY_MS,
  });
  const reader = { answer, text: "", isStopped: false };
  reading.set(id, reader);
  try {
    for await (const word of answer) {
      reader.text += word;
      change(turn, { state: "writing", answer: reader.text });
    }
    change(turn, { state: reader.isStopped ? "stopped" : "complete" });
  } catch ({ failure, message }) {
    if (failure?.code === "cancelled") change(turn, { state: "stopped" });
    else change(turn, { state: "failed", reason: failure?.message ?? message });
  }
  unsent.delete(id);
  reading.delete(id);
}

/** Updates a turn that has not ended. */
function change({ id, conversation }, changes) {
  const turn = turnsOf(conversation).find((turn) => turn.id === id);
  if (isOpen(turn)) Object.assign(turn, changes);
  redraw();
}

/* Asking */

/**
 * Questions that the server has not acknowledged. They are sent after a reload, or by another tab.
 */
const unsent = {
  all: () => JSON.parse(localStorage.getItem("unsent") ?? "[]"),
  of: (conversation) => unsent.all().filter((turn) => turn.conversation === conversation),
  add: (turn) => unsent.save([...unsent.all(), turn]),
  delete: (id) => unsent.save(unsent.all().filter((turn) => turn.id !== id)),
  save: (turns) => localStorage.setItem("unsent", JSON.stringify(turns)),
};

/** Asks a question, or retries the question of a turn; returns false if too many questions wait. */
function pose(question, before) {
  if (unsent.all().length >= MAX_UNSENT) return false;
  const conversation = state.current;
  const turn = {
    id: newId(),
    conversation,
    question,
    replaces: before?.id,
    answer: "",
    state: "unsent",
    reason: "",
  };
  const turns = turnsOf(conversation).filter(({ id }) => id !== before?.id);
  state.turns.set(conversation, [...turns, turn]);
  unsent.add(turn);
  history.replaceState(null, "", `#${conversation}`);
  void read(turn);
  redraw();
  return true;
}

function stop() {
  for (const turn of turnsOf(state.current).filter(isOpen)) {
    const reader = reading.get(turn.id);
    if (reader !== undefined) {
      reader.isStopped = true;
      void reader.answer.cancel().catch(console.warn);
    }
    if (turn.state !== "unsent") continue;
    unsent.delete(turn.id);
    change(turn, { state: "stopped" });
  }
}

/* Drawing: once for all changes of a turn of the event loop */

let isDrawing = false;

function redraw() {
  if (isDrawing) return;
  isDrawing = true;
  setTimeout(() => {
    isDrawing = false;
    draw({ ...state, turns: state.turns.get(state.current) }, { pose });
  }, 16);
}

/* Input */

/** Opens the conversation in the URL, or a new one. */
function open() {
  state.current = location.hash.slice(1) || newId();
  if (client.isConnected) void load(state.current);
  else state.turns.set(state.current, unsent.of(state.current));
  redraw();
}

addEventListener("hashchange", open);

elements.ask.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = elements.text.value.trim();
  if (question === "" || turnsOf(state.current).some(isOpen)) return;
  if (pose(question)) elements.text.value = "";
});

elements.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  elements.ask.requestSubmit();
});

elements.stop.addEventListener("click", stop);

elements.remove.addEventListener("click", () => elements.confirm.showModal());

elements.confirm.addEventListener("close", async () => {
  if (elements.confirm.returnValue !== "delete") return;
  const id = state.current;
  location.hash = "";
  state.turns.delete(id);
  for (const turn of unsent.of(id)) unsent.delete(turn.id);
  await client.request("remove", id, { retry: true }).catch(console.warn);
});

// Before the script has loaded, submitting the form would reload the page.
elements.send.disabled = false;
open();
followStatus(client, "Questions wait here, and answers continue later.");
await watchStatus();
