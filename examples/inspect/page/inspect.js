/**
 * The inspector's page: receives measurements over a session, and keeps the choice of the user.
 * `draw.js` and `detail.js` draw the page.
 *
 * @module
 */
import { connect } from "@skein/skein/client";
import { drawDetail, drawOver } from "./detail.js";
import { Rows, Tiles } from "./draw.js";
import { count, transport } from "./words.js";

const $ = (id) => document.getElementById(id);
const tiles = new Tiles($("tiles"));
const rows = new Rows($("rows"), open);

const client = connect(new URL("/session", location.href), { backoff: { maxDelayMs: 3_000 } });
let overview;

/** Id of the session in the detail view, and the subscription to the details. */
let selected;

/* Messages from the server */

async function follow() {
  for await (const { data } of client.subscribe("overview")) {
    overview = data;
    tiles.draw(overview);
    redraw();
  }
}

async function tellStatus() {
  for await (const status of client.status) {
    const words = {
      connecting: "Connecting",
      connected: `Live over ${transport(status.transport)}`,
      reconnecting: "The server is away",
      refused: "Refused",
      closed: "Closed",
    };
    $("status").textContent = words[status.name];
    $("status").dataset.name = status.name;
  }
}

function redraw() {
  if (overview === undefined) return;
  const words = $("filter").value.trim().toLowerCase().split(/\s+/);
  const onlyIssues = $("only-issues").checked;
  const shown = overview.rows.filter((row) => {
    const text = `${row.user} ${row.id} ${row.transport} ${row.state}`.toLowerCase();
    return words.every((word) => text.includes(word)) && (!onlyIssues || row.issues.length > 0);
  });
  rows.draw(shown, selected?.id);
  $("empty").hidden = shown.length > 0;
  const total = overview.rows.length + overview.more;
  $("shown").textContent = shown.length === total
    ? count(total)
    : `${count(shown.length)} of ${count(total)}`;
}

/* One session */

async function open(id) {
  if (selected?.id === id) return;
  close();
  const row = overview.rows.find((row) => row.id === id);
  if (row === undefined) return;
  const subscription = client.subscribe(`session:${id}`);
  const mine = selected = { id, subscription };
  $("detail-title").textContent = row.user;
  $("detail-id").textContent = id;
  $("detail-body").replaceChildren();
  $("detail").hidden = false;
  document.body.classList.add("has-detail");
  $("detail-title").focus();
  redraw();
  show(mine, await client.request("detail", id).catch(() => undefined));
  for await (const { data } of subscription) show(mine, data);
}

function show(mine, detail) {
  if (selected !== mine || detail === undefined) return;
  if (detail.state === undefined) return drawOver($("detail-body"));
  drawDetail($("detail-body"), detail);
}

function close() {
  if (selected === undefined) return;
  const { id, subscription } = selected;
  selected = undefined;
  subscription.unsubscribe().catch(() => {});
  $("detail").hidden = true;
  document.body.classList.remove("has-detail");
  redraw();
  rows.focus(id);
}

$("close").addEventListener("click", close);
$("filter").addEventListener("input", redraw);
$("only-issues").addEventListener("change", redraw);
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape") close();
});

void follow();
void tellStatus();
