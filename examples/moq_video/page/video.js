/**
 * The page: the list of broadcasts, the picture that the user watches, and the user's own
 * broadcast. `view.js` draws the page.
 *
 * `?watch=anna` watches anna; `?air=anna` broadcasts the drawing as anna; `?transport=websocket` or
 * `?transport=webtransport` allows only that transport.
 *
 * @module
 */
import { connectMoq } from "@skein/skein/moq";
import { elements } from "../../shared/elements.js";
import { Broadcast, whyNotSend } from "./broadcast.js";
import { PREFIX } from "./frame.js";
import { drawNumbers, drawOnAir, drawOwn, drawStage, drawStatus } from "./view.js";
import { watch, whyNotWatch } from "./watch.js";

/** Time window of the statistics, in milliseconds; drawn twice per window. */
const WINDOW_MS = 1_000;

/** Points of the latency chart. */
const MAX_HISTORY = 40;

/** Time without a picture until the stage shows a stall, in milliseconds. */
const STALLED_MS = 2_000;

/**
 * Time until all announcements should have arrived, in milliseconds; the protocol does not announce
 * an empty list.
 */
const TELLING_MS = 500;

/** Pause before a retry after an unexpected end, in milliseconds. */
const AGAIN_MS = 1_000;

const asked = new URLSearchParams(location.search);

const state = {
  status: { name: "connecting" },
  wasConnected: false,
  /** Names of all broadcasts. */
  names: [],
  areNamesTold: false,
  watched: asked.get("watch") ?? undefined,
  /** True once the chosen broadcast was announced. */
  hasBegun: false,
  lastPicture: -Infinity,
  skipped: 0,
  /** Reason why this browser cannot show a picture. */
  why: whyNotWatch(),
  own: undefined,
  isStarting: false,
  isWatched: false,
  error: undefined,
};

/** Pictures of the last second, and earlier latencies. */
let pictures = [];
let history = [];

let fallback;
let broadcast;
/** Client that watches. */
const client = connect();
/**
 * Client of the user's own broadcast. It must be a separate one, because the relay does not
 * announce a broadcast to its publisher.
 */
let sender;
let watching = new AbortController();

/* The connections */

function connect() {
  return connectMoq(urlOf(asked.get("transport")), {
    fallback: !asked.has("transport"),
    onFallback: ({ error }) => fallback = error.message,
    retry: { maxDelayMs: 4_000, giveUpAfterMs: Infinity },
  });
}

/**
 * Returns the server's URL. WebTransport starts from plain HTTP, as with any server in development.
 */
function urlOf(transport) {
  const url = new URL("/", location.href);
  if (transport === "websocket") url.protocol = url.protocol.replace("http", "ws");
  return url;
}

async function followStatus() {
  for await (const status of client.status) {
    state.status = { ...status, fallback, error: status.error ?? status.cause?.error };
    if (status.name === "connected") {
      fallback = undefined;
      state.wasConnected = true;
      setTimeout(() => {
        state.areNamesTold = true;
        redraw();
      }, TELLING_MS);
    }
    // The page shows one status for all attempts.
    if (status.name === "connecting" && state.wasConnected) state.status.name = "reconnecting";
    if (status.name !== "connected") state.lastPicture = -Infinity;
    redraw();
  }
}

/** Follows the announcements of broadcasts. */
async function followNames() {
  for await (const { path, active } of client.acceptAnnounce(PREFIX)) {
    const name = path.slice(PREFIX.length + 1);
    const others = state.names.filter((other) => other !== name);
    state.names = active ? [...others, name].sort() : others;
    // The last picture belongs to an earlier broadcast.
    if (name === state.watched) state.lastPicture = -Infinity;
    if (active) {
      if (state.watched === undefined) choose(name);
      state.hasBegun ||= name === state.watched;
    }
    redraw();
  }
}

/* Watching */

function choose(name) {
  watching.abort();
  watching = new AbortController();
  state.watched = name;
  state.hasBegun = state.names.includes(name);
  state.lastPicture = -Infinity;
  state.skipped = 0;
  pictures = [];
  history = [];
  const { picture } = elements;
  picture.getContext("2d").clearRect(0, 0, picture.width, picture.height);
  if (state.why === undefined) void keepWatching(name, watching.signal);
  redraw();
}

async function keepWatching(name, signal) {
  while (!signal.aborted) {
    try {
      await watch(client, name, {
        canvas: elements.picture,
        signal,
        onPicture: (picture) => {
          if (!signal.aborted) note(picture);
        },
        onSkipped: (groups) => state.skipped += groups,
      });
    } catch (error) {
      if (!signal.aborted) console.error(error);
    }
    if (!signal.aborted) await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

function note(picture) {
  state.lastPicture = performance.now();
  pictures.push({ at: state.lastPicture, ...picture });
  if (elements.stage.dataset.state !== "live") redraw();
}

function stageOf() {
  const { status, why, watched, names, areNamesTold, hasBegun, lastPicture } = state;
  if (why !== undefined) return "unsupported";
  if (status.name !== "connected") return status.name;
  if (watched === undefined) return areNamesTold ? "idle" : "connecting";
  if (!names.includes(watched)) return hasBegun ? "ended" : "waiting";
  if (performance.now() - lastPicture < STALLED_MS) return "live";
  return lastPicture > 0 ? "stalled" : "tuning";
}

/* Sending */

async function goOnAir(name, source) {
  state.isStarting = true;
  state.error = await whyNotSend();
  if (state.names.includes(name)) {
    state.error ??= `${name} is already on the air; choose another name.`;
  }
  redraw();
  if (state.error === undefined) {
    broadcast = new Broadcast(name, elements.drawing, () => {
      state.isWatched = broadcast.isWatched;
      redraw();
    });
    try {
      sender = connect();
      await broadcast.start(sender.mux, { source, onError: leaveAir });
      state.own = name;
      sessionStorage.setItem("name", name);
    } catch (error) {
      leaveAir(source === "camera" ? new Error(`No camera: ${error.message}`) : error);
    }
  }
  state.isStarting = false;
  redraw();
}

function leaveAir(error) {
  broadcast.stop();
  void sender?.close();
  state.own = undefined;
  state.error = error?.message;
  redraw();
}

elements.own.addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.own !== undefined) return leaveAir();
  const form = new FormData(elements.own);
  void goOnAir(form.get("name"), form.get("source"));
});

/* Drawing */

function redraw() {
  const { status, names, watched, own, why } = state;
  drawStatus(status);
  drawStage({ state: stageOf(), watched, why: why ?? status.error?.message });
  drawOnAir({ names, watched, own, isConnected: status.name === "connected" }, choose);
  drawOwn(state);
}

function drawLately() {
  const since = performance.now() - WINDOW_MS;
  pictures = pictures.filter(({ at }) => at > since);
  redraw();
  if (pictures.length === 0) return;
  const latencies = pictures.map(({ latencyMs }) => latencyMs).sort((a, b) => a - b);
  const latencyMs = latencies[latencies.length >> 1];
  history = [...history, latencyMs].slice(-MAX_HISTORY);
  const bytes = pictures.reduce((sum, { byteLength }) => sum + byteLength, 0);
  drawNumbers({
    latencyMs,
    rate: pictures.length,
    kilobits: Math.round(bytes * 8 / WINDOW_MS),
    group: pictures.at(-1).group,
    skipped: state.skipped,
    history,
  });
}

elements.name.value = asked.get("air") ?? sessionStorage.getItem("name") ??
  `guest-${Math.floor(Math.random() * 900 + 100)}`;
if (state.watched !== undefined) choose(state.watched);
setInterval(drawLately, WINDOW_MS / 2);
redraw();
void followStatus();
void followNames();
if (asked.has("air")) void goOnAir(elements.name.value, "drawing");
