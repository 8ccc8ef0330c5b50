/**
 * The game's page: states arrive in datagrams; the player's moves are sent as messages.
 *
 * @module
 */
import { connect } from "@skein/skein/client";
import { elements } from "../../shared/elements.js";
import { followStatus } from "../../shared/skein.js";
import { States } from "./states.js";

const NAMES = ["ann", "eve", "kim", "leo", "mia", "noa", "ole", "pia", "tom"];

/** Distance per press of an arrow key. */
const STEP = 12;

const DATAGRAMS = { unreliable: "unreliable datagrams", reliable: "reliable datagrams" };

/** Accepts all data: the server validates its input, and the page trusts the server. */
const asItComes = { "~standard": { version: 1, vendor: "page", validate: (value) => ({ value }) } };

const name = new URLSearchParams(location.search).get("name") ??
  NAMES[Math.floor(Math.random() * NAMES.length)] + Math.floor(Math.random() * 90 + 10);

let game;
let states;

const client = connect(new URL(`/session?name=${encodeURIComponent(name)}`, location.href), {
  onMessage({ data }) {
    game = data;
    states = new States(game.tickMs);
    // The server starts each session with a good network, so the page sends its settings again.
    dial();
  },
});

for (
  const [id, say] of Object.entries({
    loss: (value) => `${value} %`,
    delay: (value) => value === 0 ? "not at all" : `by up to ${value} ms`,
  })
) {
  elements[id].addEventListener("input", () => {
    elements[`${id}-value`].textContent = say(Number(elements[id].value));
    dial();
  });
}

function dial() {
  const [lossPercent, delayMs] = [elements.loss, elements.delay].map(({ value }) => Number(value));
  if (!client.isConnected) return;
  // If the connection is lost, the page sends its settings again in the next session.
  client.request("network", { lossPercent, delayMs }).catch(() => {});
}

/* The field */

/** On a screen that is taller than wide, the field lies on its side. */
const upright = matchMedia("(orientation: portrait)");

/** Turns a point of the field into one of the screen, or back. */
function onScreen(x, y) {
  return upright.matches ? [y, x] : [x, y];
}

function fit() {
  [elements.field.width, elements.field.height] = onScreen(960, 540);
}
upright.addEventListener("change", fit);
fit();

/* Moving */

function steer(x, y) {
  if (!client.isConnected || game === undefined) return;
  const { width, height } = game.field;
  client.send("steer", [Math.min(width, Math.max(0, x)), Math.min(height, Math.max(0, y))]);
}

elements.field.addEventListener("pointermove", (event) => {
  if (event.pointerType !== "mouse" && event.buttons === 0) return;
  const box = elements.field.getBoundingClientRect();
  const { width, height } = game?.field ?? { width: 0, height: 0 };
  const [x, y] = onScreen(
    (event.clientX - box.left) / box.width,
    (event.clientY - box.top) / box.height,
  );
  steer(x * width, y * height);
});

elements.field.addEventListener("keydown", (event) => {
  const [x, y] = onScreen(...states?.newest?.players[name] ?? [0, 0]);
  const to = {
    ArrowLeft: [x - STEP, y],
    ArrowRight: [x + STEP, y],
    ArrowUp: [x, y - STEP],
    ArrowDown: [x, y + STEP],
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  steer(...onScreen(...to));
});

/* States */

followStatus(client, "The game is paused.");

void (async () => {
  for await (const { name: status } of client.status) {
    const { session } = client;
    if (status !== "connected") continue;
    const by = DATAGRAMS[session.connection.capabilities.datagrams];
    elements.you.textContent = `You are ${name}. States arrive by ${by}.`;
    void listen(session);
  }
})();

async function listen(session) {
  const datagrams = await session.structuredDatagrams({ registry: { 1: asItComes } });
  for await (const { data } of datagrams) states?.add(data, performance.now());
}

/* Drawing */

const colors = new Map();

function colorOf(player) {
  if (!colors.has(player)) colors.set(player, `oklch(0.62 0.15 ${colors.size * 67 % 360})`);
  return colors.get(player);
}

function draw(now) {
  requestAnimationFrame(draw);
  const { field, smooth } = elements;
  const context = field.getContext("2d");
  context.clearRect(0, 0, field.width, field.height);
  const newest = states?.newest;
  if (newest === undefined) return;
  const scale = field.width / onScreen(game.field.width, game.field.height)[0];
  const time = states.timeAt(now);
  const drawn = smooth.checked ? states.at(time) : newest.players;
  // Labels have the size of other text, even if the field is small.
  const size = 14 * field.width / field.clientWidth;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textAlign = "center";
  for (const [player, position] of Object.entries(newest.players)) {
    const [x, y] = onScreen(...position);
    context.strokeStyle = colorOf(player);
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x * scale, y * scale, 22, 0, 2 * Math.PI);
    context.stroke();
  }
  for (const [player, position] of Object.entries(drawn)) {
    const [x, y] = onScreen(...position);
    context.fillStyle = colorOf(player);
    context.beginPath();
    context.arc(x * scale, y * scale, 16, 0, 2 * Math.PI);
    context.fill();
    context.fillStyle = getComputedStyle(field).color;
    const label = player === name ? `${player} (you)` : player;
    const half = context.measureText(label).width / 2 + 4;
    const above = y * scale - 28;
    context.fillText(
      label,
      Math.min(field.width - half, Math.max(half, x * scale)),
      above > size ? above : y * scale + 28 + size,
    );
  }
}
requestAnimationFrame(draw);

setInterval(() => {
  if (states?.newest === undefined) return;
  const { came, lost, late, behindMs } = states;
  const all = came + lost || 1;
  elements.came.textContent = String(came);
  elements.lost.textContent = `${lost} (${Math.round(lost / all * 100)} %)`;
  elements.late.textContent = String(late);
  elements.behind.textContent = elements.smooth.checked
    ? `${Math.round(behindMs / 10) * 10} ms`
    : "not at all";
}, 500);
