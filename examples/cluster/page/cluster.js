/**
 * The cluster's page. One client is in the room, through the balancer; another one is connected to
 * the program that runs the nodes.
 *
 * @module
 */
import { connect, newId } from "@skein/skein/client";
import { followStatus } from "../../shared/skein.js";
import { draw, elements } from "./view.js";

const NAMES = ["ann", "bob", "eve", "kim", "leo", "mia", "noa", "ole", "pia", "tom"];

const MAX_LINES = 300;

const state = {
  /** The user's name, from `?name=` if given. */
  me: new URLSearchParams(location.search).get("name") ??
    NAMES[Math.floor(Math.random() * NAMES.length)] + Math.floor(Math.random() * 90 + 10),
  /** The broker, the balancer's port, and the nodes. */
  cluster: { broker: "", port: 0, nodes: [] },
  /** The number of the node that has this page's session; 0 without a session. */
  node: 0,
  /** True while the program that runs the nodes is connected. */
  isControlled: false,
  people: new Set(),
  /** Lines of the room, mixed with notices. */
  lines: [],
};

/* The nodes */

const control = connect(new URL("/control", location.href), {
  transports: ["websocket"],
  onMessage({ data }) {
    state.cluster = data;
    client ??= enter(data.port);
    redraw();
  },
});

control.status.subscribe(({ name }) => {
  state.isControlled = name === "connected";
  redraw();
});

/* The room */

let client;

function enter(port) {
  const url = `ws://${location.hostname}:${port}/?name=${encodeURIComponent(state.me)}`;
  const client = connect(url, {
    // The balancer forwards only TCP.
    transports: ["websocket"],
    // Lines are resent after a reconnect until a node has handled them.
    delivery: "at-least-once",
    onMessage({ topic, data }) {
      if (topic === "node") state.node = data;
      redraw();
    },
  });
  client.members("room:lobby").subscribe((members) => {
    state.people = new Set(members.keys());
    redraw();
  });
  followStatus(client, "Your messages wait here.");
  void watch(client);
  void read(client);
  return client;
}

async function watch(client) {
  let lostAt = 0;
  for await (const { name } of client.status) {
    if (name === "connected" && lostAt > 0) {
      notice(`back after ${((Date.now() - lostAt) / 1_000).toFixed(1)} s`);
      lostAt = 0;
    }
    if (name === "reconnecting" && lostAt === 0) {
      lostAt = Date.now();
      notice(`node ${state.node} is gone`);
      state.node = 0;
    }
    redraw();
  }
}

async function read(client) {
  const lines = client.subscribe("room:lobby", {
    last: 50,
    onRecovery: ({ recovered, reason }) =>
      notice(recovered ? "nothing was missed" : `messages may be missing: ${reason}`),
  });
  for await (const { data } of lines) put(data);
}

function notice(text) {
  put({ id: newId(), notice: text });
}

/** Adds a line at the end. A line from this user may already be on the page, marked as waiting. */
function put(line) {
  state.lines = [...state.lines.filter(({ id }) => id !== line.id), line].slice(-MAX_LINES);
  redraw();
}

/* Input */

elements.say.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = elements.text.value.trim();
  if (text === "" || client === undefined) return;
  const id = newId();
  try {
    client.send("say", { id, text });
  } catch (error) {
    return notice(`not sent: ${error.message}`);
  }
  elements.text.value = "";
  put({ id, from: state.me, text, isWaiting: true });
});

// Before the script has loaded, submitting the form would reload the page.
elements.send.disabled = false;

elements.nodes.addEventListener("click", ({ target }) => {
  const { verb, number } = target.dataset;
  if (verb !== undefined) control.send("do", { verb, number: Number(number) });
});

/* Drawing: once for all changes of a turn of the event loop */

let isDrawing = false;

function redraw() {
  if (isDrawing) return;
  isDrawing = true;
  queueMicrotask(() => {
    isDrawing = false;
    draw(state);
  });
}
