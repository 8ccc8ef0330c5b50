/**
 * The simulation's page: plays the trace of a run, and requests runs with more faults.
 *
 * @module
 */
import { onRetry, showStatus } from "../../shared/skein.js";
import { Stage } from "./stage.js";
import { Trace } from "./trace.js";

const elements = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);

/** Maximum listed facts: the newest. */
const SHOWN_FACTS = 60;

const FAULTS = {
  kill: "is killed",
  power: "loses its power",
  freeze: "is frozen",
  cut: "is cut off",
};

/** Interval between checks of the server, in milliseconds. */
const WATCH_MS = 3_000;

const READY = { name: "connected", words: "Ready" };

let isDead = false;

/** Start moment of the run that waits for the server; `undefined` if none waits. */
let waiting;

const state = {
  faults: [],
  seed: 1,
  trace: new Trace([]),
  durationMs: 60_000,
  atMs: 0,
  isPlaying: false,
  chosen: undefined,
  digest: "",
  shown: "",
};

const stage = new Stage(elements.stage, {
  choose,
  resize() {
    stage.choose(state.chosen);
    stage.draw(state.trace, state.atMs);
  },
});

/** Requests a run, and shows its trace from a given moment. */
async function run(fromMs) {
  showStatus({ name: "connecting", words: "Running" });
  elements.error.textContent = "";
  const body = JSON.stringify({ seed: state.seed, faults: state.faults });
  let response;
  try {
    response = await fetch("/run", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body,
    });
  } catch {
    waiting = fromMs;
    return showDead();
  }
  showStatus(READY);
  if (response.ok) show(await response.json(), fromMs);
  else elements.error.textContent = await response.text();
}

/** Checks if the server is up; once it is back, requests the run that waits. */
async function watchServer() {
  try {
    await fetch("/", { method: "HEAD", cache: "no-store" });
  } catch {
    return showDead();
  }
  if (!isDead) return;
  isDead = false;
  const fromMs = waiting;
  waiting = undefined;
  if (fromMs === undefined) showStatus(READY);
  else await run(fromMs);
}

function showDead() {
  isDead = true;
  showStatus({
    name: "reconnecting",
    words: "No server",
    why: "The server does not respond. This run keeps playing; the next one waits here.",
    canRetry: true,
  });
}

function show({ hosts, durationMs, tookMs, digest, events, findings, trace }, fromMs) {
  const isEqual = digest === state.digest;
  Object.assign(state, { durationMs, digest, trace: new Trace(trace), shown: "" });
  stage.build(hosts);
  stage.choose(state.chosen);
  elements.time.max = String(durationMs);
  elements.digest.textContent = `${digest}${isEqual ? ", the same as before" : ""}`;
  elements.events.textContent = `${events.toLocaleString()} events in ${Math.round(tookMs)} ms`;
  elements.findings.textContent = findings.length === 0
    ? "Every client received every line."
    : findings.map(({ host, text }) => `${host} ${text}`).join("; ");
  elements.findings.classList.toggle("bad", findings.length > 0);
  showFaults();
  seek(fromMs);
}

/** Shows a moment. */
function seek(ms) {
  state.atMs = Math.max(0, Math.min(state.durationMs, ms));
  elements.time.value = String(Math.round(state.atMs));
  elements.time.setAttribute("aria-valuetext", `${(state.atMs / 1_000).toFixed(1)} seconds`);
  elements.clock.textContent = `${(state.atMs / 1_000).toFixed(2)} s`;
  stage.draw(state.trace, state.atMs);
  showFacts();
}

function showFacts() {
  const { trace, atMs, chosen } = state;
  const count = trace.countAt(atMs);
  const key = `${count} ${chosen}`;
  if (key === state.shown) return;
  state.shown = key;
  const facts = trace.facts.slice(0, count)
    .filter(({ host, to }) => chosen === undefined || host === chosen || to === chosen)
    .slice(-SHOWN_FACTS).reverse();
  elements.facts.replaceChildren(...facts.map(({ atMs, host, text, to, kind }) => {
    const item = document.createElement("li");
    const time = document.createElement("button");
    time.type = "button";
    time.textContent = (atMs / 1_000).toFixed(2);
    time.title = "Go to this moment";
    time.addEventListener("click", () => seek(atMs));
    const words = document.createElement("span");
    words.textContent = `${host} ${text}${to ? ` → ${to}` : ""}`;
    item.className = kind ?? "note";
    item.append(time, words);
    return item;
  }));
}

function showFaults() {
  elements.faults.replaceChildren(...state.faults.map((fault) => {
    const item = document.createElement("li");
    const words = document.createElement("span");
    words.textContent = `${(fault.atMs / 1_000).toFixed(2)} s: ${fault.host} ${FAULTS[fault.kind]}`;
    const remove = document.createElement("button");
    remove.className = "button";
    remove.textContent = "Remove";
    remove.addEventListener("click", () => {
      state.faults = state.faults.filter((each) => each !== fault);
      void run(state.atMs);
    });
    item.append(words, remove);
    return item;
  }));
  elements["no-faults"].hidden = state.faults.length > 0;
}

/** Selects a host for faults and facts; selecting it again selects all hosts. */
function choose(name) {
  state.chosen = state.chosen === name ? undefined : name;
  stage.choose(state.chosen);
  elements.chosen.textContent = state.chosen ?? "all hosts";
  elements.break.disabled = state.chosen === undefined;
  elements["choose-note"].hidden = state.chosen !== undefined;
  showFacts();
}

function play(isPlaying) {
  state.isPlaying = isPlaying;
  elements.play.textContent = isPlaying ? "Pause" : "Play";
  if (!isPlaying) return;
  if (state.atMs >= state.durationMs) seek(0);
  let lastMs = performance.now();
  const frame = (nowMs) => {
    if (!state.isPlaying) return;
    seek(state.atMs + Math.max(0, nowMs - lastMs) * Number(elements.speed.value));
    lastMs = nowMs;
    if (state.atMs >= state.durationMs) play(false);
    else requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

elements.time.addEventListener("input", () => seek(Number(elements.time.value)));
elements.play.addEventListener("click", () => play(!state.isPlaying));
elements.break.addEventListener("click", ({ target }) => {
  const { kind } = target.dataset;
  if (kind === undefined) return;
  state.faults = [...state.faults, { atMs: Math.round(state.atMs), host: state.chosen, kind }]
    .sort((a, b) => a.atMs - b.atMs);
  void run(state.atMs);
});
elements.start.addEventListener("submit", (event) => {
  event.preventDefault();
  state.seed = Number(elements.seed.value);
  void run(state.atMs);
});

// Before the script has loaded, submitting the form would reload the page.
elements.run.disabled = false;
elements.play.disabled = false;
onRetry(watchServer);
setInterval(watchServer, WATCH_MS);
await run(0);
play(!matchMedia("(prefers-reduced-motion: reduce)").matches);
