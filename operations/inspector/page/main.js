/**
 * The inspector's page: requests measurements once a second, and keeps the user's choices. The page
 * has no session, so its requests work while the server is full or draining.
 *
 * @module
 */
import { ask } from "./data.js";
import { el, Table } from "./draw.js";
import { LISTS } from "./lists.js";
import { Overview } from "./overview.js";
import { sessionGroups } from "./session_detail.js";
import { Traffic } from "./traffic.js";
import { onRetry, showStatus } from "./skein.js";
import { count, nodeName } from "./words.js";

/** Pause between measurements, in milliseconds. */
const PAUSE_MS = 1_000;

/** Pause between attempts while the server is unreachable, in milliseconds. */
const AWAY_MS = 3_000;

/** Delay of a search after the last key, in milliseconds. */
const TYPING_MS = 200;

const $ = (id) => document.getElementById(id);

const overview = new Overview({
  tiles: $("tiles"),
  nodes: $("nodes"),
  brokers: $("broker-cards"),
});
const table = new Table({ head: $("head"), body: $("rows"), onOpen: open, onSort: sortBy });
const traffic = new Traffic({
  part: $("traffic"),
  follow: $("follow"),
  hold: $("hold"),
  clear: $("clear"),
  filter: $("traffic-filter"),
  note: $("traffic-note"),
  list: $("envelopes"),
});

/** Name of the view. */
let view = "overview";

/** Choices per list: search, sort, order. */
const choices = Object.fromEntries(Object.keys(LISTS).map((name) => [name, { query: "" }]));

/** Row with open details, and its list. */
let selected;
let hasPayloads = true;
let isPaused = false;

/** Ends the pause between measurements. */
let endPause = () => {};
let isDue = false;

/** Measures again immediately. */
function wake() {
  isDue = true;
  endPause();
}

/* Questions */

async function run() {
  while (true) {
    let pauseMs = PAUSE_MS;
    isDue = false;
    if (!isPaused && !document.hidden) {
      try {
        await measure();
        showStatus({ name: "connected", words: "Live" });
      } catch (error) {
        pauseMs = AWAY_MS;
        tellFailure(error);
      }
    } else if (isPaused) showStatus({ name: "paused", words: "Paused" });
    if (isDue) continue;
    await new Promise((resolve) => {
      endPause = resolve;
      setTimeout(resolve, pauseMs);
    });
  }
}

async function measure() {
  const data = await ask("overview");
  hasPayloads = data.payloads;
  overview.add(data);
  overview.draw();
  overview.drawBrokers();
  drawNodes();
  if (view in LISTS) await refreshList();
  else $("notice").hidden = true;
  if (selected !== undefined) await refreshDetail(selected);
}

async function refreshList() {
  const name = view;
  const { query, sort, order } = choices[name];
  const node = $("node-choice").hidden ? undefined : $("node").value;
  const issues = name === "sessions" && $("only-issues").checked ? "only" : undefined;
  const data = await ask(name, { query, sort, order, node, issues });
  // The user may have changed the view or the search in between.
  if (name !== view || query !== choices[name].query) return;
  const rows = data.rows.map((row) =>
    "node" in row ? { ...row, nodeName: overview.nameOf(row.node) } : row
  );
  table.draw(rows, selected?.list.name === name ? selected.key : undefined);
  table.markSort(data.sort, data.isAscending);
  $("sort").value = `${data.sort} ${data.isAscending ? "ascending" : "descending"}`;
  $("shown").textContent = data.matched === data.total
    ? count(data.total)
    : `${count(data.matched)} of ${count(data.total)}`;
  $("empty").hidden = rows.length > 0;
  $("empty").textContent = data.total === 0 ? LISTS[name].none ?? "None so far." : "No matches.";
  const left = data.matched - rows.length;
  $("more").hidden = left <= 0;
  $("more").textContent = `${count(left)} more: search, or sort by another column.`;
  const missing = data.missing.map(nodeName).join(", ");
  $("notice").hidden = missing === "";
  $("notice").textContent = `Nodes that do not respond: ${missing}`;
}

async function refreshDetail(mine) {
  const { list, row } = mine;
  if (list.name === "sessions") {
    const { reply } = await ask("session", { node: row.node, id: row.id });
    if (selected !== mine) return;
    if (reply?.state === undefined) return tellOver(reply !== undefined);
    const named = { ...reply.row, nodeName: overview.nameOf(row.node) };
    return drawDetail(sessionGroups({ ...reply, row: named }));
  }
  const { groups, id } = await list.detail(row);
  if (selected !== mine) return;
  $("detail-id").textContent = id;
  drawDetail(groups);
}

function drawDetail(groups) {
  $("detail-body").replaceChildren(...groups.filter((one) => one !== undefined));
}

function tellOver(isKnown) {
  const words = isKnown ? "This session has closed." : "The node does not respond.";
  const body = $("detail-body");
  const told = body.querySelector(".over");
  if (told) told.textContent = words;
  else body.prepend(el("p", { class: "over", role: "status" }, words));
}

/* Status */

function tellFailure(error) {
  if (error.status === 401 || error.status === 403) {
    showStatus({ name: "rejected" });
    $("notice").hidden = false;
    $("notice").textContent = error.message;
    return;
  }
  showStatus({
    name: "reconnecting",
    why: error.status === undefined
      ? "The server does not respond. The page shows the last measurements."
      : `The server is unavailable: ${error.message}`,
    retryAt: Date.now() + AWAY_MS,
    canRetry: true,
  });
}

/* Views */

function show() {
  const wanted = location.hash.slice(1);
  if (wanted === "content") return;
  view = Object.hasOwn(LISTS, wanted) || wanted === "brokers" ? wanted : "overview";
  close();
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("overview").hidden = view !== "overview";
  $("brokers").hidden = view !== "brokers";
  $("list").hidden = !(view in LISTS);
  $("notice").hidden = true;
  document.title = `${view[0].toUpperCase()}${view.slice(1)} – Skein inspector`;
  if (view in LISTS) beginList(LISTS[view]);
  wake();
}

function beginList(list) {
  table.begin(list);
  $("list-title").textContent = list.title;
  $("shown").textContent = "";
  $("empty").hidden = $("more").hidden = true;
  $("issues-toggle").hidden = list.name !== "sessions";
  const filter = $("filter");
  filter.placeholder = list.placeholder;
  filter.setAttribute("aria-label", `Search ${list.title.toLowerCase()}`);
  filter.value = choices[list.name].query;
  $("sort").replaceChildren(
    ...list.columns.filter(({ sort }) => sort).flatMap(({ label, sort }) => [
      el("option", { value: `${sort} descending` }, `${label}, down`),
      el("option", { value: `${sort} ascending` }, `${label}, up`),
    ]),
  );
}

function drawNodes() {
  const { alive } = overview;
  $("node-choice").hidden = alive.length < 2;
  const select = $("node");
  const wanted = ["", ...alive.map(({ id }) => id)];
  if (Array.from(select.options, ({ value }) => value).join() === wanted.join()) return;
  const before = select.value;
  select.replaceChildren(
    el("option", { value: "" }, "All"),
    ...alive.map((node) => el("option", { value: node.id }, nodeName(node))),
  );
  select.value = wanted.includes(before) ? before : "";
}

/** Sorts by a column; a second time in the other order. */
function sortBy(sort) {
  const choice = choices[view];
  const isSame = choice.sort === sort;
  choice.order = isSame && choice.order !== "ascending" ? "ascending" : "descending";
  choice.sort = sort;
  wake();
}

/* Details */

function open(row) {
  const list = LISTS[view];
  const key = list.keyOf(row);
  if (selected?.key === key) return;
  close();
  selected = { list, row, key };
  $("detail-title").textContent = list.nameOf(row);
  $("detail-id").textContent = list.name === "sessions" ? row.id : "";
  $("detail-body").replaceChildren();
  $("detail").hidden = false;
  document.body.classList.add("has-detail");
  if (list.name === "sessions") traffic.show(row.node, row.id, hasPayloads);
  else traffic.hide();
  $("detail-title").focus();
  refreshDetail(selected).catch(tellFailure);
  wake();
}

function close() {
  if (selected === undefined) return;
  const { key } = selected;
  selected = undefined;
  traffic.hide();
  $("detail").hidden = true;
  document.body.classList.remove("has-detail");
  table.focus(key);
  wake();
}

/* Events */

let typing;
$("filter").addEventListener("input", () => {
  choices[view].query = $("filter").value.trim();
  clearTimeout(typing);
  typing = setTimeout(() => wake(), TYPING_MS);
});
$("only-issues").addEventListener("change", () => wake());
$("node").addEventListener("change", () => wake());
$("sort").addEventListener("change", () => {
  const [sort, order] = $("sort").value.split(" ");
  Object.assign(choices[view], { sort, order });
  wake();
});
$("close").addEventListener("click", close);
onRetry(wake);
$("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  $("pause").setAttribute("aria-pressed", String(isPaused));
  $("pause").textContent = isPaused ? "Resume" : "Pause";
  wake();
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape") close();
});
document.addEventListener("visibilitychange", () => wake());
globalThis.addEventListener("hashchange", show);

show();
void run();
