/**
 * The data for the page: plain objects, measured anew every second.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../../mod.ts`.
 *
 * @module
 */
import type { Session, SessionDebugState } from "../../mod.ts";
import type { ManagerStats, SessionManager } from "../../manager/mod.ts";

/** Most rows; sessions with issues come first. All rows fit into one message. */
const MAX_ROWS = 100;

/** Most issues in a row; errors come first. */
const MAX_ISSUES = 3;

/** Most characters of a name in a row, because peers choose their names. */
const MAX_NAME_LENGTH = 64;

/** Most characters of any other text, such as a header. */
const MAX_TEXT_LENGTH = 512;

/** Points of each line on the page: two minutes. */
const MAX_POINTS = 120;

/** Measurements of one second of a server. */
export interface Point {
  readonly sessions: number;
  readonly receivedPerS: number;
  readonly sentPerS: number;
  readonly bytesPerS: number;
  readonly waiting: number;
  readonly roundTripMs: number;
  readonly streams: number;
  readonly issues: number;
}

/** State of a queue. */
export interface Queue {
  readonly messages: number;
  readonly maxMessages: number;
  /** Used share of messages or bytes, whichever is larger: 0 to 1. */
  readonly share: number;
}

/** Summary of one session. */
export interface Row {
  readonly id: string;
  readonly user: string;
  readonly transport: string;
  readonly state: string;
  readonly uptimeMs: number;
  readonly roundTripMs: number | undefined;
  readonly receive: Queue;
  readonly send: Queue | undefined;
  readonly activeStreams: number;
  readonly receivedMessages: number;
  readonly sentMessages: number;
  readonly issues: readonly { readonly severity: string; readonly message: string }[];
}

/** Overview of a server. */
export interface Overview {
  readonly at: number;
  readonly stats: ManagerStats;
  /** Measurements of the last two minutes, the newest last. */
  readonly history: readonly Point[];
  readonly rows: readonly Row[];
  /** Number of sessions that are not in `rows`. */
  readonly more: number;
}

/** Details of one session; `state` is missing once the session is closed. */
export interface Detail {
  readonly id: string;
  readonly row?: Row;
  readonly state?: SessionDebugState;
}

/** Measures a server repeatedly, and keeps the measurements of two minutes. */
export class Observer {
  readonly #manager: SessionManager;
  readonly #history: Point[] = [];
  #last: { readonly at: number; readonly stats: ManagerStats } | undefined;

  /** Creates an observer of a server's sessions. */
  constructor(manager: SessionManager) {
    this.#manager = manager;
  }

  /** Measures once. */
  async look(): Promise<Overview> {
    const at = Date.now();
    const stats = this.#manager.stats();
    const sessions = this.#manager.all();
    const rows = await Promise.all(sessions.map(rowOf));
    rows.sort((a, b) => rank(b) - rank(a) || b.uptimeMs - a.uptimeMs);
    this.#history.push(this.#pointOf({ at, stats, rows }));
    if (this.#history.length > MAX_POINTS) this.#history.shift();
    this.#last = { at, stats };
    return {
      at,
      stats,
      history: this.#history,
      rows: rows.slice(0, MAX_ROWS),
      more: Math.max(0, rows.length - MAX_ROWS),
    };
  }

  /** Returns the details of one session. The library has removed all secrets. */
  async detail(id: string): Promise<Detail> {
    const session = this.#manager.get(id);
    if (session === undefined) return { id };
    return { id, row: await rowOf(session), state: clipped(await session.debugState()) };
  }

  #pointOf({ at, stats, rows }: { at: number; stats: ManagerStats; rows: readonly Row[] }): Point {
    const last = this.#last;
    const seconds = last === undefined ? 0 : (at - last.at) / 1_000;
    const perS = (count: (stats: ManagerStats) => number) =>
      last === undefined || seconds <= 0 ? 0 : (count(stats) - count(last.stats)) / seconds;
    return {
      sessions: stats.count,
      receivedPerS: perS(({ messages }) => messages.received),
      sentPerS: perS(({ messages }) => messages.sent),
      bytesPerS: perS(({ bytes, streams, datagrams }) =>
        bytes.sent + bytes.received + streams.bytesSent + streams.bytesReceived +
        datagrams.bytesSent + datagrams.bytesReceived
      ),
      waiting: stats.messages.queued + stats.messages.waiting,
      roundTripMs: median(rows.flatMap(({ roundTripMs }) => roundTripMs ?? [])),
      streams: stats.streams.active,
      issues: rows.reduce((sum, { issues }) => sum + issues.length, 0),
    };
  }
}

async function rowOf(session: Session): Promise<Row> {
  const { id, user, transport, state, stats } = session;
  const { queues, roundTripMs } = await session.diagnostics();
  return {
    id,
    user: clip(user, MAX_NAME_LENGTH),
    transport,
    state,
    uptimeMs: stats.uptimeMs,
    roundTripMs,
    receive: queueOf(queues.receive),
    send: queues.send && queueOf(queues.send),
    activeStreams: stats.activeStreams,
    receivedMessages: stats.receivedMessages,
    sentMessages: stats.sentMessages,
    issues: (await session.issues()).slice(0, MAX_ISSUES)
      .map(({ severity, message }) => ({ severity, message })),
  };
}

function queueOf(
  { messages, maxMessages, bytes, maxBytes }: {
    readonly messages: number;
    readonly maxMessages: number;
    readonly bytes: number;
    readonly maxBytes: number;
  },
): Queue {
  return { messages, maxMessages, share: Math.max(messages / maxMessages, bytes / maxBytes) };
}

/**
 * Converts a value to JSON with bounded texts: a peer chooses its headers, and a message has a
 * limit.
 */
function clipped<T>(value: T): T {
  return JSON.parse(JSON.stringify(value), (_key, part: unknown) => {
    return typeof part === "string" ? clip(part, MAX_TEXT_LENGTH) : part;
  });
}

function clip(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

/** Sorts issues: errors first, then warnings. */
function rank({ issues }: Row): number {
  if (issues.length === 0) return 0;
  return issues.some(({ severity }) => severity === "error") ? 2 : 1;
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}
