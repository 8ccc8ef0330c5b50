/**
 * Draws the server: tiles with lines, and a row for each session. All data from peers is inserted
 * as text, never as HTML.
 *
 * @module
 */
import { bytes, count, duration, milliseconds, plural, rate, transport } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

/** Creates an element; attributes that are undefined are left out. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined));
  return element;
}

/** Creates a bar; `tone` colours the filled part. */
export function bar(share, label, tone = toneOf(share)) {
  const fill = el("span", { class: "fill", style: `inline-size:${Math.min(1, share) * 100}%` });
  return el("span", { class: "meter", role: "img", "aria-label": label, "data-tone": tone }, fill);
}

function toneOf(share) {
  return share > 0.8 ? "bad" : share > 0.5 ? "wait" : "good";
}

/** Draws the values of the last two minutes as a line. */
class Line {
  constructor() {
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("class", "line");
    this.svg.setAttribute("viewBox", "0 0 120 36");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    this.area = this.svg.appendChild(document.createElementNS(SVG, "path"));
    this.area.setAttribute("class", "area");
    this.path = this.svg.appendChild(document.createElementNS(SVG, "path"));
  }

  draw(values) {
    // The highest few values are cut off, so that one burst does not flatten two minutes.
    const sorted = [...values].sort((a, b) => a - b);
    const most = Math.max(1e-9, sorted[Math.floor(sorted.length * 0.98) - 1] ?? sorted[0]) * 1.12;
    // The line starts on the left. After two minutes the points move.
    const x = (i) => i * (120 / 119);
    const y = (value) => 34 - Math.min(1, value / most) * 31;
    const points = values.map((value, i) => `${x(i).toFixed(2)} ${y(value).toFixed(2)}`);
    const line = points.length === 0 ? "" : `M${points.join("L")}`;
    this.path.setAttribute("d", line);
    this.area.setAttribute("d", line && `${line}L${x(values.length - 1).toFixed(2)} 36L0 36Z`);
  }
}

/** The tiles: name, value, text of the value, and text below. */
const TILES = [
  ["Sessions", ({ sessions }) => sessions, count, ({ stats }) => `${count(stats.peak)} at most`],
  [
    "Messages in",
    ({ receivedPerS }) => receivedPerS,
    (n) => `${rate(n)} /s`,
    ({ stats }) => `${count(stats.messages.received)} so far`,
  ],
  [
    "Messages out",
    ({ sentPerS }) => sentPerS,
    (n) => `${rate(n)} /s`,
    ({ stats }) => `${count(stats.messages.sent)} so far`,
  ],
  [
    "Traffic",
    ({ bytesPerS }) => bytesPerS,
    (n) => `${bytes(n)}/s`,
    ({ stats }) => plural(stats.datagrams.sent + stats.datagrams.received, "datagram"),
  ],
  [
    "Waiting",
    ({ waiting }) => waiting,
    count,
    ({ stats }) => `${count(stats.messages.dropped)} dropped`,
  ],
  [
    "Round trip",
    ({ roundTripMs }) => roundTripMs,
    milliseconds,
    () => "median of all",
  ],
  [
    "Streams",
    ({ streams }) => streams,
    count,
    ({ stats }) => `${count(stats.streams.created)} so far`,
  ],
  [
    "Issues",
    ({ issues }) => issues,
    count,
    ({ rows }) => plural(rows.filter(({ issues }) => issues.length > 0).length, "session"),
  ],
];

/** Creates the tiles once, and updates them in place. */
export class Tiles {
  constructor(container) {
    this.tiles = TILES.map(([name, pick, say, note]) => {
      const value = el("strong");
      const beneath = el("small");
      const line = new Line();
      const tile = el("div", { class: "tile" }, el("span", {}, name), value, beneath, line.svg);
      container.append(tile);
      return { tile, name, pick, say, note, value, beneath, line };
    });
  }

  draw(overview) {
    for (const { tile, name, pick, say, note, value, beneath, line } of this.tiles) {
      const values = overview.history.map(pick);
      const last = values.at(-1) ?? 0;
      value.textContent = say(last);
      beneath.textContent = note(overview);
      line.draw(values);
      if (name === "Issues") tile.dataset.tone = last > 0 ? "bad" : "good";
    }
  }
}

/** The rows of the table, one for each open session. */
export class Rows {
  constructor(body, onOpen) {
    this.body = body;
    this.onOpen = onOpen;
    this.rows = new Map();
  }

  draw(rows, selected) {
    const ids = new Set(rows.map(({ id }) => id));
    for (const [id, { tr }] of this.rows) {
      if (ids.has(id)) continue;
      tr.remove();
      this.rows.delete(id);
    }
    const focused = document.activeElement;
    rows.forEach((row, at) => {
      const known = this.rows.get(row.id) ?? this.#add(row);
      this.#fill(known, row);
      if (row.id === selected) known.button.setAttribute("aria-current", "true");
      else known.button.removeAttribute("aria-current");
      if (this.body.children[at] !== known.tr) {
        this.body.insertBefore(known.tr, this.body.children[at] ?? null);
      }
    });
    // An element that was moved has lost the focus.
    if (this.body.contains(focused)) focused.focus({ preventScroll: true });
  }

  /** Moves the focus to a session's row, if the row exists. */
  focus(id) {
    this.rows.get(id)?.button.focus();
  }

  #add({ id, user }) {
    const button = el("button", { type: "button", class: "open" }, user);
    button.addEventListener("click", () => this.onOpen(id));
    const cells = {};
    const cell = (name, label, className) =>
      cells[name] = el("td", { "data-label": label, class: className });
    const kind = cells.kind = el("small");
    const tr = el(
      "tr",
      { "data-id": id },
      el("th", { scope: "row" }, button, kind),
      cell("state", "State", "state"),
      cell("age", "Age", "number"),
      cell("trip", "Round trip", "number"),
      cell("messages", "In / out", "number"),
      cell("streams", "Streams", "number streams"),
      cell("queues", "Queues", "queues"),
      cell("issues", "Issues", "issues"),
    );
    const known = { tr, button, cells, shown: "" };
    this.rows.set(id, known);
    return known;
  }

  #fill({ cells, tr }, row) {
    cells.kind.textContent = transport(row.transport);
    cells.state.replaceChildren(el("span", { class: "badge", "data-state": row.state }, row.state));
    cells.age.textContent = duration(row.uptimeMs);
    cells.trip.textContent = milliseconds(row.roundTripMs);
    cells.messages.textContent = `${count(row.receivedMessages)} / ${count(row.sentMessages)}`;
    cells.streams.textContent = count(row.activeStreams);
    cells.queues.replaceChildren(...["receive", "send"].flatMap((name) => queue(name, row[name])));
    cells.issues.replaceChildren(...row.issues.map(issue));
    tr.dataset.tone = row.issues.some(({ severity }) => severity === "error")
      ? "bad"
      : row.issues.length > 0
      ? "wait"
      : "good";
  }
}

/** Creates the sentence of an issue. */
export function issue({ severity, message }) {
  return el("p", { class: "issue", "data-severity": severity }, message);
}

function queue(name, state) {
  if (state === undefined || state === null) return [];
  const word = name === "receive" ? "in" : "out";
  const label = `${state.messages} of ${state.maxMessages} messages wait ${
    word === "in" ? "to be handled" : "to be sent"
  }`;
  return [
    el(
      "span",
      { class: "queue", title: label },
      el("small", {}, word),
      bar(state.share, label),
      el("small", { class: "amount" }, count(state.messages)),
    ),
  ];
}
