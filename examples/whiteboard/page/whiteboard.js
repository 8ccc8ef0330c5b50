/**
 * The whiteboard's page: connects, opens the board in the URL, and combines board, surface,
 * pointers and tools.
 *
 * @module
 */
import { newId } from "@skein/skein/client";
import { elements } from "../../shared/elements.js";
import { openEntrance } from "../../shared/entrance.js";
import { People } from "../../shared/people.js";
import { isTouched, pieces, round, simplify } from "../geometry.ts";
import { Board } from "./board.js";
import { Cursors } from "./cursors.js";
import { listen } from "./gestures.js";
import { Surface } from "./surface.js";
import { choose, drawOffline, drawTools, notify, tools } from "./view.js";

/** Radius of the eraser, in pixels. */
const ERASER = 8;

/** Points after which an unfinished line is sent. */
const MAX_LINE = 2_000;

let me = "";
let client;
let board;
let status = { name: "connecting" };
/** The current line of the pen or the eraser. */
let line;
/** True once this board has been shown as a whole, or drawn on. */
let isPlaced = false;
/** True if the strokes must be redrawn. */
let isStale = true;
let isScheduled = false;
/** Time of the last frame. */
let frameAt = 0;

const surface = new Surface(elements.still, elements.live, () => {
  isStale = true;
  schedule();
});
const cursors = new Cursors(elements.cursors, {
  hueOf: (user) => people.hueOf(user),
  onNews: schedule,
});
const people = new People({
  notify,
  onChange(gone) {
    for (const user of gone) cursors.leave(user);
  },
});

/* Boards */

function openBoard() {
  const asked = decodeURIComponent(location.hash.slice(1));
  const name = /^[a-z0-9][a-z0-9-]{0,31}$/.test(asked) ? asked : "sketches";
  if (name === board?.name) return;
  board?.leave();
  people.leave();
  isPlaced = false;
  line = undefined;
  board = new Board(client, name, { me, change: redraw, notice: notify });
  cursors.open(name);
  people.enter(client, { topic: `board:${name}`, me });
  document.title = `${name} - Skein whiteboard`;
  elements["board-name"].textContent = name;
  redraw();
}

/** Receives all messages except the board's changes, which arrive by the subscription. */
function receive({ topic, data }) {
  if (topic === "cursors") cursors.take(data);
}

/* Drawing and erasing */

const gestures = {
  tool: () => tools().tool,
  cross: elements.cross,
  begin(point, tool) {
    const { color, width } = tools();
    line = { id: newId(), tool, color, width, points: [point], erased: 0 };
    isPlaced = true;
    gestures.move([point]);
  },
  move(points) {
    if (line === undefined) return;
    for (const point of points) {
      if (line.tool === "eraser") erase(line.points.at(-1), point);
      if (line.tool === "eraser") line.points = [point];
      else line.points.push(point);
    }
    hover(points.at(-1));
    if (line.points.length < MAX_LINE) return;
    const { tool } = line;
    gestures.end();
    gestures.begin(points.at(-1), tool);
  },
  end() {
    if (line === undefined) return;
    const { id, tool, color, width, points } = line;
    line = undefined;
    if (tool === "pen") {
      const simple = simplify(points, 0.4 / surface.view.zoom).map(round);
      const drawn = pieces(simple).map((points, i) => ({
        id: i === 0 ? id : newId(),
        color,
        width,
        points,
      }));
      board.step({ drawn });
    }
    hover(points.at(-1));
  },
  cancel() {
    line = undefined;
    schedule();
  },
  hover,
};
listen(surface, gestures);

function hover(point) {
  let pen;
  if (line?.tool === "pen") {
    const { id, color, width, points: [from] } = line;
    pen = { id, color, width, from: round(from).slice(0, 2) };
  }
  cursors.point(point && round(point), pen);
  schedule();
}

function erase(from, to) {
  const radius = ERASER / surface.view.zoom;
  const erased = board.strokes.filter((stroke) => isTouched(stroke, from, to, radius));
  if (erased.length === 0) return;
  if (line.erased === 0) board.step({ erased });
  else board.continueStep({ erased });
  line.erased += erased.length;
}

/* Frames */

function schedule() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame((now) => {
    isScheduled = false;
    drawFrame(now);
  });
}

function drawFrame(now) {
  if (board === undefined) return;
  const { strokes, waiting } = board;
  if (isStale) {
    isStale = false;
    surface.draw(strokes, client.isConnected ? new Map() : waiting);
    drawTools({ board, view: surface.view });
  }
  const live = cursors.draw(now, Math.min(100, now - frameAt), {
    toScreen: (x, y) => surface.toScreen(x, y),
    isKnown: (id) => strokes.some((stroke) => stroke.id === id),
  });
  if (line?.tool === "pen") live.push(line);
  surface.drawLive(live);
  elements.empty.hidden = !board.isOpen || strokes.length + live.length > 0;
  frameAt = now;
  if (cursors.isBusy) schedule();
}

function redraw() {
  isStale = true;
  if (board === undefined) return;
  if (board.isOpen && !isPlaced) {
    isPlaced = true;
    surface.fit(board.strokes);
  }
  drawOffline(status, board);
  schedule();
}

/* Input */

elements.other.addEventListener("submit", ({ submitter }) => {
  if (submitter.value !== "cancel") location.hash = elements.board.value;
  elements.board.value = "";
});
elements.copy.addEventListener("click", async () => {
  await navigator.clipboard.writeText(location.href.replace(/#.*|$/, `#${board.name}`));
  notify("Address copied");
});
elements.clearing.addEventListener("submit", ({ submitter }) => {
  if (submitter.value === "clear") board.clear();
});
addEventListener("hashchange", () => client && openBoard());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) cursors.point(undefined);
});

const ACTIONS = {
  undo: () => line === undefined && board.undo(),
  redo: () => line === undefined && board.redo(),
  clear: () => elements["clear-dialog"].showModal(),
  boards: () => elements["boards-dialog"].showModal(),
  help: () => elements["help-dialog"].showModal(),
  fit: () => surface.fit(board.strokes),
  in: () => surface.zoomAt(1.25),
  out: () => surface.zoomAt(0.8),
};
for (const [name, act] of Object.entries(ACTIONS)) elements[name].addEventListener("click", act);

const KEYS = { "0": "fit", "+": "in", "=": "in", "-": "out", "?": "help", b: "boards" };

document.addEventListener("keydown", (event) => {
  if (board === undefined || document.querySelector("dialog[open]")) return;
  const key = event.key.toLowerCase();
  const isCommand = event.ctrlKey || event.metaKey;
  const action = isCommand
    ? { z: event.shiftKey ? "redo" : "undo", y: "redo" }[key]
    : event.altKey
    ? undefined
    : KEYS[key];
  if (action) ACTIONS[action]();
  else if (isCommand || event.altKey || !choose(key)) return;
  event.preventDefault();
});

openEntrance({
  connection: {
    // Changes wait while disconnected, and the server accepts each one once.
    delivery: "at-least-once",
    outbox: { maxMessages: 1_000, maxBytes: 4 * 1_048_576 },
    onMessage: receive,
  },
  onStatus(next, connected) {
    status = next;
    void cursors.use(connected.session);
    redraw();
  },
  onEnter(connected, name) {
    client = connected;
    me = name;
    elements.whiteboard.hidden = elements.boards.hidden = false;
    openBoard();
  },
});
