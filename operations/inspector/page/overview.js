/**
 * Draws all nodes: tiles with sums, a card per node, and a card per broker.
 *
 * @module
 */
import { badge, el, gauge, group, issue, Line, MAX_POINTS } from "./draw.js";
import { bytes, count, duration, milliseconds, nodeName, plural, rate } from "./words.js";

/** Time for which a node that has left stays on the page, in milliseconds. */
const REMEMBER_MS = 300_000;

/**
 * Minimum time between two points of a line, in milliseconds, because a search measures once more.
 */
const POINT_MS = 900;

/** Most nodes that have left and are still shown. */
const MAX_GONE = 20;

/** Reasons why a node did not respond. */
const FAILURES = {
  gone: "gone",
  silent: "silent: missed two heartbeats",
  late: "no reply in time; is its inspector on?",
  lost: "the broker was unreachable",
  busy: "too busy to respond",
  failed: "failed to respond",
};

/** The tiles: name, value of a point, text of the value, and text below. */
const TILES = [
  ["Sessions", (p) => p.sessions, count, (s) => `${count(s.peak)} at most`],
  ["Messages in", (p) => p.receivedPerS, perSecond, (s) => `${count(s.received)} so far`],
  ["Messages out", (p) => p.sentPerS, perSecond, (s) => `${count(s.sent)} so far`],
  ["Traffic", (p) => p.bytesPerS, (n) => `${bytes(n)}/s`, (s) => plural(s.datagrams, "datagram")],
  ["Waiting", (p) => p.waiting, count, (s) => `${count(s.dropped)} dropped`],
  ["Round trip", (p) => p.roundTripMs, milliseconds, () => "median"],
  ["Open streams", (p) => p.streams, count, (s) => `${count(s.created)} so far`],
  ["Issues", (p) => p.issues, count, (s) => plural(s.withIssues, "session")],
];

function perSecond(number) {
  return `${rate(number)} /s`;
}

/** The measurements of the last two minutes, and the nodes. */
export class Overview {
  /** Nodes by id, including those that have left. */
  nodes = new Map();
  points = [];
  #pointAt = -Infinity;

  constructor({ tiles, nodes, brokers }) {
    this.nodeCards = nodes;
    this.brokerCards = brokers;
    this.tiles = TILES.map(([name, pick, say, note]) => {
      const value = el("strong");
      const below = el("small");
      const line = new Line();
      const tile = el("div", { class: "tile" }, el("span", {}, name), value, below, line.svg);
      tiles.append(tile);
      return { tile, name, pick, say, note, value, below, line };
    });
  }

  /** Adds a measurement. */
  add({ nodes }) {
    const now = Date.now();
    if (performance.now() - this.#pointAt < POINT_MS) return;
    this.#pointAt = performance.now();
    const present = new Set();
    const point = { ...NONE };
    const trips = [];
    for (const { node, reply, failure } of nodes) {
      present.add(node.id);
      const known = this.nodes.get(node.id) ?? {};
      this.nodes.set(node.id, { ...known, ...node, failure, goneAt: undefined });
      if (reply === undefined) continue;
      const entry = this.nodes.get(node.id);
      addPoint(point, reply, entry.reply);
      if (typeof reply.roundTripMs === "number") trips.push(reply.roundTripMs);
      entry.reply = reply;
    }
    for (const [id, node] of this.nodes) {
      if (present.has(id)) continue;
      node.goneAt ??= now;
      if (now - node.goneAt > REMEMBER_MS) this.nodes.delete(id);
    }
    const gone = [...this.nodes.values()].filter(({ goneAt }) => goneAt !== undefined);
    for (const { id } of gone.slice(0, Math.max(0, gone.length - MAX_GONE))) this.nodes.delete(id);
    trips.sort((a, b) => a - b);
    point.roundTripMs = trips[trips.length >> 1] ?? 0;
    // Rates need two measurements.
    if (point.hasRates || this.points.length > 0) this.points.push(point);
    if (this.points.length > MAX_POINTS) this.points.shift();
    this.last = point;
  }

  /** The nodes that are alive. */
  get alive() {
    return [...this.nodes.values()].filter(({ goneAt }) => goneAt === undefined);
  }

  /** Name of a node; undefined if there is only one. */
  nameOf(id) {
    const node = this.nodes.get(id);
    return this.nodes.size < 2 || node === undefined ? undefined : nodeName(node);
  }

  draw() {
    if (this.last === undefined) return;
    const sums = sumsOf(this.alive.flatMap(({ reply }) => reply ?? []));
    for (const { tile, name, pick, say, note, value, below, line } of this.tiles) {
      const last = pick(this.last);
      value.textContent = say(last);
      below.textContent = note(sums);
      line.draw(this.points.map(pick));
      if (name === "Issues") tile.dataset.tone = last > 0 ? "bad" : "good";
    }
    this.nodeCards.replaceChildren(...[...this.nodes.values()].map(nodeCard));
  }

  drawBrokers() {
    this.brokerCards.replaceChildren(
      ...this.alive.flatMap((node) => node.reply ? [brokerCard(node)] : []),
    );
  }
}

const NONE = {
  sessions: 0,
  receivedPerS: 0,
  sentPerS: 0,
  bytesPerS: 0,
  waiting: 0,
  roundTripMs: 0,
  streams: 0,
  issues: 0,
  hasRates: false,
};

function addPoint(point, { at, stats, issues }, before) {
  point.sessions += stats.count;
  point.waiting += stats.messages.queued + stats.messages.waiting;
  point.streams += stats.streams.active;
  point.issues += issues.errors + issues.warnings;
  const seconds = before === undefined ? 0 : (at - before.at) / 1_000;
  if (seconds <= 0) return;
  point.hasRates = true;
  const grown = (pick) => Math.max(0, pick(stats) - pick(before.stats)) / seconds;
  point.receivedPerS += grown(({ messages }) => messages.received);
  point.sentPerS += grown(({ messages }) => messages.sent);
  point.bytesPerS += grown(bytesOf);
}

function bytesOf({ bytes: all, streams, datagrams }) {
  return all.sent + all.received + streams.bytesSent + streams.bytesReceived +
    datagrams.bytesSent + datagrams.bytesReceived;
}

function sumsOf(replies) {
  const sum = (pick) => replies.reduce((total, reply) => total + pick(reply), 0);
  return {
    peak: sum(({ stats }) => stats.peak),
    received: sum(({ stats }) => stats.messages.received),
    sent: sum(({ stats }) => stats.messages.sent),
    datagrams: sum(({ stats }) => stats.datagrams.sent + stats.datagrams.received),
    dropped: sum(({ stats }) => stats.messages.dropped),
    created: sum(({ stats }) => stats.streams.created),
    withIssues: sum(({ issues }) => issues.sessions),
  };
}

function nodeCard(node) {
  const { reply, failure, goneAt, isSelf, id } = node;
  const state = goneAt !== undefined
    ? badge("closed", `gone for ${duration(Date.now() - goneAt)}`)
    : failure !== undefined
    ? badge("late", FAILURES[failure] ?? failure)
    : badge("connected", reply?.stats.isDraining ? "draining" : "responds");
  const head = el(
    "div",
    { class: "card-head" },
    el("h3", {}, isSelf && id !== "" ? `${nodeName(node)} (asked by this page)` : nodeName(node)),
    state,
  );
  const tone = goneAt !== undefined ? "gone" : failure === undefined ? "good" : "wait";
  if (reply === undefined || goneAt !== undefined) {
    return el("article", { class: "card", "data-tone": tone }, head);
  }
  const { stats, issues, topics, rooms, online, streams, roundTripMs, broker, quotas } = reply;
  return el(
    "article",
    { class: "card", "data-tone": tone },
    head,
    group("Sessions", [
      ["Sessions", count(stats.count)],
      ["Users", count(stats.users)],
      ["Issues", issueWords(issues)],
      ["Round trip", milliseconds(roundTripMs)],
      ["Rejected so far", count(Object.values(stats.rejected).reduce((a, b) => a + b, 0))],
    ]),
    group("Topics", [
      ["Topics", count(topics.count)],
      ["Rooms", count(rooms)],
      ["Users online", count(online)],
      ["Recovered, gaps", `${count(topics.recovered)}, ${count(topics.gaps)}`],
      ["Durable streams", streams ? streamWords(streams) : undefined],
      ["Broker", badge(broker.state, `${broker.name}, ${broker.state}`)],
    ]),
    group("Shared limits", boundRows(quotas)),
  );
}

/** Limits that are at least half used, or that rejected a client. */
function boundRows(quotas) {
  const rows = Object.entries(quotas).flatMap(([name, { taken, max, rejected }]) => {
    const times = Object.values(rejected).reduce((a, b) => a + b, 0);
    // JSON has null for an unlimited bound.
    if ((max === null || taken < max / 2) && times === 0) return [];
    const most = max === null ? "unlimited" : count(max);
    return [[name, `${count(taken)} of ${most}, ${count(times)} rejected`]];
  });
  return rows.length > 0 ? rows : [["At least half used", "none"]];
}

function issueWords({ errors, warnings, sessions }) {
  if (errors + warnings === 0) return "none";
  return `${plural(errors, "error")}, ${plural(warnings, "warning")} of ${
    plural(sessions, "session")
  }`;
}

function streamWords({ writers, readers, responses }) {
  return `${plural(writers, "writer")}, ${plural(readers, "reader")}, ${
    plural(responses, "response")
  }`;
}

function brokerCard(node) {
  const { reply: { broker }, failure } = node;
  const { name, delivery, state, since, error, issues, stats, latencyMs, keeps } = broker;
  return el(
    "article",
    {
      class: "card",
      "data-tone": state === "connected" && failure === undefined ? "good" : "wait",
    },
    el(
      "div",
      { class: "card-head" },
      el("h3", {}, `${name}, seen by ${nodeName(node)}`),
      badge(state),
    ),
    ...issues.map((message) => issue({ severity: "warning", message })),
    group("Connection", [
      [
        "Round trip",
        latencyMs === undefined
          ? "not measured"
          : gauge(latencyMs / 1_000, milliseconds(latencyMs), toneOfLatency(latencyMs)),
      ],
      ["Delivery", delivery],
      ["Keeps", keeps.length === 0 ? "nothing" : keeps.join(", ")],
      ["Unreachable", since === undefined ? undefined : `for ${duration(Date.now() - since)}`],
      ["Error", error],
    ]),
    group("Publications", [
      ["Published", count(stats.published)],
      ["Received", count(stats.received)],
      ["Waiting", count(stats.waiting)],
      ["Dropped", count(stats.dropped)],
      ["Outages", count(stats.interruptions)],
      ["History pages read", count(stats.reads)],
    ]),
  );
}

function toneOfLatency(ms) {
  return ms > 500 ? "bad" : ms > 100 ? "wait" : "good";
}
