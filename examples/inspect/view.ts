/**
 * What the page is told: plain data, made anew every second.
 *
 * Users write `jsr:@skein/skein` in the place of `../../mod.ts`.
 *
 * @module
 */
import type { Session, SessionDebugState } from "../../mod.ts";
import type { ManagerStats, SessionManager } from "../../manager/mod.ts";

/** Rows that a page is told of at most: those with issues first. All of them fit into one message. */
const MAX_ROWS = 100;

/** Issues of a row at most; errors come first. */
const MAX_ISSUES = 3;

/** Characters of a name in a row at most: peers choose their names. */
const MAX_NAME_LENGTH = 64;

/** Characters of anything else that is told at most, such as a header. */
const MAX_TEXT_LENGTH = 512;

/** Points of each line that is drawn: two minutes. */
const MAX_POINTS = 120;

/** One second of a server. */
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

/** How full a queue is. */
export interface Queue {
  readonly messages: number;
  readonly maxMessages: number;
  /** Of messages or bytes, whichever is fuller: 0 to 1. */
  readonly share: number;
}

/** One session, in short. */
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

/** Everything at a glance. */
export interface Overview {
  readonly at: number;
  readonly stats: ManagerStats;
  /** The newest last. */
  readonly history: readonly Point[];
  readonly rows: readonly Row[];
  /** Sessions beyond those in `rows`. */
  readonly more: number;
}

/** One session, taken apart; without `state` it is over. */
export interface Detail {
  readonly id: string;
  readonly row?: Row;
  readonly state?: SessionDebugState;
}

/** Looks at a server again and again, and remembers two minutes of it. */
export class Observer {
  readonly #manager: SessionManager;
  readonly #history: Point[] = [];
  #last: { readonly at: number; readonly stats: ManagerStats } | undefined;

  /** Looks at a server's sessions. */
  constructor(manager: SessionManager) {
    this.#manager = manager;
  }

  /** Looks once. */
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

  /** Takes one session apart. The library took the secrets out. */
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

/** As JSON has it, without what is too long: a peer chooses its headers, and a message has a limit. */
function clipped<T>(value: T): T {
  return JSON.parse(JSON.stringify(value), (_key, part: unknown) => {
    return typeof part === "string" ? clip(part, MAX_TEXT_LENGTH) : part;
  });
}

function clip(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

/** Errors come first, then warnings. */
function rank({ issues }: Row): number {
  if (issues.length === 0) return 0;
  return issues.some(({ severity }) => severity === "error") ? 2 : 1;
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}
