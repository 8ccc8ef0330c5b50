/** Issues of a session, detected on request or at intervals. */
import type { Timer } from "../../base/runtime.ts";
import { MAX_TIMER_MS } from "../../base/wait.ts";
import { type Inside, type Running, SLOW_HANDLER_MS } from "../receiving.ts";
import { statsOf } from "./stats.ts";
import type { SessionStats } from "../types.ts";
import type { Connection, CreditKind, CreditState } from "../../transport/connection.ts";

/** Health of a session at one moment. */
export interface SessionHealth {
  /** Time of the check, in milliseconds since the Unix epoch. */
  readonly at: number;
  /** True without any issues. */
  readonly isHealthy: boolean;
  /**
   * The issues, errors first. Cumulative counters are compared with those of the previous check.
   */
  readonly issues: readonly SessionIssue[];
  /** The counters. */
  readonly stats: SessionStats;
  /** The last measured round trip, in milliseconds. */
  readonly roundTripMs: number | undefined;
}

/** Implements `monitorHealth` of a session. */
export async function* monitorHealth(
  core: Inside,
  options: { readonly intervalMs?: number | undefined; readonly signal?: AbortSignal | undefined },
): AsyncGenerator<SessionHealth, void, undefined> {
  const { intervalMs = 60_000, signal } = options;
  if (!Number.isInteger(intervalMs) || intervalMs < 1 || intervalMs > MAX_TIMER_MS) {
    throw new RangeError(
      `Cannot monitor health: intervalMs must be an integer from 1 to ${MAX_TIMER_MS}, ` +
        `received ${intervalMs}`,
    );
  }
  const { runtime } = core.settings;
  let isOver = core.state === "closed" || signal?.aborted === true;
  let wake = () => {};
  let timer: Timer | undefined;
  const end = () => {
    isOver = true;
    runtime.clearTimeout(timer);
    wake();
  };
  signal?.addEventListener("abort", end);
  if (!isOver) monitorsOf(core).add(end);
  try {
    let before: SessionStats | undefined;
    while (!isOver) {
      const health = healthOf(core, before);
      before = health.stats;
      yield health;
      if (isOver) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
        timer = runtime.setTimeout(resolve, intervalMs);
      });
    }
  } finally {
    runtime.clearTimeout(timer);
    signal?.removeEventListener("abort", end);
    core.monitors?.delete(end);
  }
}

/**
 * Returns the callbacks to run when the session closes. If each check awaited `closed` instead, its
 * promise reaction would stay in memory until then.
 */
function monitorsOf(core: Inside): Set<() => void> {
  if (core.monitors === undefined) {
    const monitors = core.monitors = new Set<() => void>();
    core.whenEnded(() => monitors.forEach((end) => end()));
  }
  return core.monitors;
}

function healthOf(core: Inside, before: SessionStats | undefined): SessionHealth {
  const found = issues(core, before);
  return {
    at: core.settings.runtime.now(),
    isHealthy: found.length === 0,
    issues: found,
    stats: statsOf(core),
    roundTripMs: core.sending.roundTripMs,
  };
}

/** Returns the fill levels of the queues of a session. */
export function queuesOf(core: Inside) {
  const { receiving, queue, settings } = core;
  const { waitingMessages, waitingBytes } = receiving.stats;
  const { maxMessages, maxBytes } = settings.receiveQueue;
  const sending = queue?.stats;
  return {
    send: sending && {
      messages: sending.queuedMessages,
      bytes: sending.queuedBytes,
      maxMessages: settings.sendQueue.maxMessages,
      maxBytes: settings.sendQueue.maxBytes,
    },
    receive: { messages: waitingMessages, bytes: waitingBytes, maxMessages, maxBytes },
  };
}

/** Counts the streams of a session that are open now. */
export function openStreams({ connection }: { readonly connection: Connection }): number {
  const counters = connection.inspect?.counters;
  if (counters === undefined) return 0;
  return counters.localBidirectionalOpened + counters.localUnidirectionalOpened +
    counters.remoteBidirectionalOpened + counters.remoteUnidirectionalOpened -
    counters.streamsClosed;
}

/** An issue of a session. */
export interface SessionIssue {
  /**
   * The kind of issue, for programs:
   *
   * - `stuck-connecting`, `stuck-draining`: the session has been in this state for more than 10 s
   *   or 30 s, respectively.
   * - `missing-heartbeat`: the peer has been silent for one and a half heartbeat intervals.
   * - `slow-handler`: a handler has been running for more than 10 s, or messages wait for an
   *   `onOpen` that does not return.
   * - `send-queue-nearly-full`, `receive-queue-nearly-full`: the queue has reached more than 80 %
   *   of a bound.
   * - `unread-streams`: the peer opened streams that the application has not accepted.
   * - `rejected-streams`: the peer opened streams that were not accepted within 5 s, or that
   *   exceeded a limit of unread streams.
   * - `leaking-streams`: 64 or more streams are open after ten minutes, and fewer have closed.
   * - `waiting-for-credit`, `peer-without-credit`: this side is waiting for credit, or the peer has
   *   used up its credit.
   * - `error-rate`: more than 10 % of at least 50 messages and streams had errors.
   * - `invalid-messages`: the peer has sent half as many invalid messages within a minute as would
   *   close the session.
   * - `unread-messages`, `messages-dropped`, `datagrams-dropped`: data was lost.
   * - `failing-handlers`: a handler of the application threw, and `onError` was called.
   * - `late-decision`: a function or a schema of the application, such as `authorize`, took longer
   *   than `requestTimeoutMs`.
   * - `idle`: there were no messages, streams or datagrams for an hour.
   */
  readonly code:
    | "stuck-connecting"
    | "stuck-draining"
    | "missing-heartbeat"
    | "slow-handler"
    | "send-queue-nearly-full"
    | "receive-queue-nearly-full"
    | "unread-streams"
    | "rejected-streams"
    | "leaking-streams"
    | "waiting-for-credit"
    | "peer-without-credit"
    | "error-rate"
    | "invalid-messages"
    | "unread-messages"
    | "messages-dropped"
    | "datagrams-dropped"
    | "failing-handlers"
    | "late-decision"
    | "idle";
  /** An `error` has harmed the session or will eventually close it. A `warning` may do so. */
  readonly severity: "error" | "warning";
  /** A description for people, with numbers and a remedy. */
  readonly message: string;
}

const CONNECTING_MS = 10_000;

const DRAINING_MS = 30_000;

/** The smallest number of operations that gives a meaningful error rate. */
const MIN_OPERATIONS = 50;

const MAX_ERROR_RATE = 0.1;

const IDLE_MS = 3_600_000;

const MANY_STREAMS = 64;

/** Time after which many open streams and few closed streams count as a leak, in milliseconds. */
const LEAKING_MS = 600_000;

/** Fraction of a limit above which a queue is nearly full. */
const NEARLY_FULL = 0.8;

/** Silence after which a heartbeat counts as missing, in heartbeat intervals. */
const MISSING_BEATS = 1.5;

/**
 * Finds the issues of a session, errors first.
 *
 * @param core The session.
 * @param before The counters of an earlier check, if there was one. Cumulative counters are
 * compared with these values, so that only the increase counts.
 */
export function issues(core: Inside, before?: SessionStats): SessionIssue[] {
  const stats = statsOf(core);
  const found: SessionIssue[] = [];
  const add = (severity: SessionIssue["severity"], code: SessionIssue["code"], message: string) => {
    found.push({ code, severity, message });
  };
  if (core.state !== "closed") {
    checkLife(core, add);
    checkQueues(core, add);
    checkStreams(core, stats, add);
    checkCredit(core, add);
  }
  checkCounters(core, since(stats, before), add);
  checkDecisions(core, before, add);
  if (core.state === "connected") checkUse(core, stats, add);
  return found.sort((a, b) => rankOf(a) - rankOf(b));
}

function checkDecisions(
  { late, createdAt, settings }: Inside,
  before: SessionStats | undefined,
  add: Add,
): void {
  if (late === undefined || before !== undefined && late.at - createdAt <= before.uptimeMs) return;
  const names = Array.from(
    late.counts,
    ([what, times]) => `${what} (${count(times, "time", "times")})`,
  );
  add(
    "warning",
    "late-decision",
    `No result within ${seconds(settings.requestTimeoutMs)} from ${names.join(", ")}: the peer ` +
      "received failed or unavailable, and the late result is ignored; return sooner, or raise " +
      "requestTimeoutMs",
  );
}

function rankOf({ severity }: SessionIssue): number {
  return severity === "error" ? 0 : 1;
}

type Add = (
  severity: SessionIssue["severity"],
  code: SessionIssue["code"],
  message: string,
) => void;

function checkLife(core: Inside, add: Add): void {
  const { createdAt, drainingAt, receiving, state } = core;
  const { heartbeat, lastReceivedAt, longest } = receiving;
  const now = core.settings.runtime.now();
  if (state === "connecting" && now - createdAt > CONNECTING_MS) {
    add(
      "error",
      "stuck-connecting",
      `The session has been connecting for ${
        seconds(now - createdAt)
      }: check that the peer speaks ` +
        "the same protocol, and that authenticate() returns",
    );
  }
  if (state === "draining" && now - (drainingAt ?? now) > DRAINING_MS) {
    add(
      "error",
      "stuck-draining",
      `The session has been draining for ${
        seconds(now - drainingAt!)
      }: a handler or a reply does ` +
        "not end; call drain() with withinMs, or close()",
    );
  }
  const silentMs = heartbeat === undefined ? 0 : now - lastReceivedAt;
  const isExplained = core.connection.frames?.isPaused === true;
  if (heartbeat && !isExplained && silentMs > heartbeat.intervalMs * MISSING_BEATS) {
    add(
      "error",
      "missing-heartbeat",
      `The peer has been silent for ${seconds(silentMs)}, with a heartbeat of ` +
        `${seconds(heartbeat.intervalMs)}: check the network; the session ends after ` +
        seconds(heartbeat.timeoutMs),
    );
  }
  if (longest !== undefined && now - longest[1] > SLOW_HANDLER_MS) {
    add("warning", "slow-handler", describeSlow(core, longest));
  }
  const { waitingMessages } = receiving.stats;
  const isHeld = receiving.queue.isHeld && waitingMessages > 0 && state === "connected";
  if (isHeld && now - (core.readyAt ?? now) > SLOW_HANDLER_MS) {
    add(
      "warning",
      "slow-handler",
      count(waitingMessages, "message waits", "messages wait") +
        " until onOpen returns: do not await there what lasts as long as the session, such as a " +
        "loop over streams",
    );
  }
}

/**
 * Prints that messages wait for a slow handler: their senders would otherwise blame the handlers
 * that could not start.
 */
export function tellSlow(core: Inside): void {
  const { longest, toldSlow } = core.receiving;
  if (longest === undefined || longest[0] === toldSlow) return;
  core.receiving.toldSlow = longest[0];
  core.settings.console.tell("slow-handler", describeSlow(core, longest), {
    about: longest[0].topic,
  });
}

function describeSlow({ receiving, settings }: Inside, [{ topic }, since]: Running): string {
  const { runtime, side } = settings;
  const waiting = receiving.handled?.size ?? 0;
  return `The handler of "${topic}" has been running for ${seconds(runtime.now() - since)}, and ` +
    count(waiting, "message of its session waits", "messages of its session wait") +
    ": pass the message's signal to what it awaits, or raise " +
    (side === "server" ? "session.concurrency" : "concurrency");
}

function checkQueues(core: Inside, add: Add): void {
  const { send, receive } = queuesOf(core);
  const advice = {
    "send-queue-nearly-full":
      "the peer reads too slowly: await flushed(), send less, or drop by a policy",
    "receive-queue-nearly-full": core.receiving.isHandled
      ? "the handler is slower than the peer: make onMessage faster, or raise concurrency"
      : "no loop reads the messages, or a loop reads too slowly: loop over the session, or set onMessage",
  } as const;
  for (
    const [code, queue] of [
      ["send-queue-nearly-full", send],
      ["receive-queue-nearly-full", receive],
    ] as const
  ) {
    if (queue === undefined) continue;
    const { messages, bytes, maxMessages, maxBytes } = queue;
    const share = Math.max(messages / maxMessages, bytes / maxBytes);
    if (share <= NEARLY_FULL) continue;
    add(
      "error",
      code,
      `${messages} of ${maxMessages} messages and ${bytes} of ${maxBytes} bytes wait: ${
        advice[code]
      }`,
    );
  }
}

function checkStreams(core: Inside, stats: SessionStats, add: Add): void {
  const { unreadStreams = 0 } = core.connection.inspect ?? {};
  const { activeStreams, streamsClosed, streamsCreated, uptimeMs } = stats;
  if (unreadStreams > 0) {
    add(
      "warning",
      "unread-streams",
      count(unreadStreams, "stream of the peer waits", "streams of the peer wait") +
        ", and no loop reads any: loop over incomingStreams()",
    );
  }
  const isLeaking = activeStreams >= MANY_STREAMS && uptimeMs > LEAKING_MS &&
    streamsClosed < activeStreams;
  if (isLeaking) {
    add(
      "warning",
      "leaking-streams",
      `${activeStreams} of ${streamsCreated} streams are open after ${seconds(uptimeMs)}: ` +
        "close or abort each writable end, and read to the end or cancel each readable end",
    );
  }
}

function checkCredit({ connection, openings }: Inside, add: Add): void {
  const kinds: CreditKind[] = ["data", "bidirectional", "unidirectional"];
  for (const kind of kinds) {
    const credit: CreditState | undefined = connection.inspect?.credit?.state(kind);
    const what = kind === "data" ? "bytes of streams" : `${kind} streams`;
    const waiting = Math.max(
      credit?.waiting ?? 0,
      kind === "data" ? 0 : openings?.[kind] ?? 0,
    );
    if (waiting > 0) {
      const limit = credit === undefined ? "" : ` ${credit.sent} of ${credit.allowed} are used:`;
      add(
        "warning",
        "waiting-for-credit",
        count(waiting, "call waits", "calls wait") +
          ` until the peer allows more ${what}:${limit} the peer has to read, close streams, or grant credit`,
      );
    }
    if (credit !== undefined && credit.granted > 0 && credit.received >= credit.granted) {
      const how = kind === "data"
        ? "read its streams, or call grantDataCredit()"
        : "close its streams, or call grantStreamsCredit()";
      add(
        "warning",
        "peer-without-credit",
        `The peer used all ${credit.granted} ${what} that this side allows: ${how}`,
      );
    }
  }
}

const GROWING = [
  "datagramsDropped",
  "droppedByPeer",
  "droppedMessages",
  "handlerFailures",
  "invalidMessages",
  "protocolErrors",
  "receivedMessages",
  "streamErrors",
  "streamsCreated",
  "streamsRejected",
  "unreadMessages",
] as const;

type Growth = Readonly<Record<typeof GROWING[number], number>>;

function since(stats: SessionStats, before: SessionStats | undefined): Growth {
  if (before === undefined) return stats;
  return Object.fromEntries(GROWING.map((name) => [name, stats[name] - before[name]])) as Growth;
}

function checkCounters(core: Inside, stats: Growth, add: Add): void {
  const { invalidMessages, protocolErrors, receivedMessages, streamErrors, streamsCreated } = stats;
  const operations = receivedMessages + streamsCreated + protocolErrors;
  const errors = protocolErrors + streamErrors;
  if (operations >= MIN_OPERATIONS && errors > operations * MAX_ERROR_RATE) {
    add(
      "error",
      "error-rate",
      `${errors} errors in ${operations} messages and streams: listen to the events ` +
        '"protocolerror" and "streamclosed"',
    );
  }
  const { maxInvalidMessages } = core.settings;
  if (invalidMessages * 2 >= maxInvalidMessages) {
    add(
      "warning",
      "invalid-messages",
      `${invalidMessages} messages were invalid: check that both sides have the same version of the ` +
        "contract",
    );
  }
  if (stats.handlerFailures > 0) {
    const what = count(stats.handlerFailures, "handler", "handlers");
    add("warning", "failing-handlers", `${what} failed: see the errors that onError received`);
  }
  if (stats.streamsRejected > 0) {
    add(
      "warning",
      "rejected-streams",
      `${stats.streamsRejected} streams of the peer were rejected: loop over incomingStreams(), and read each stream`,
    );
  }
  if (stats.unreadMessages > 0) {
    add(
      "warning",
      "unread-messages",
      `${stats.unreadMessages} messages were discarded unread: loop over the session, or set onMessage`,
    );
  }
  for (
    const [dropped, where, advice] of [
      [stats.droppedMessages, "here", "send less, or await flushed()"],
      [stats.droppedByPeer, "by the peer", "read faster here, or let the peer send less"],
    ] as const
  ) {
    if (dropped === 0) continue;
    const what = count(dropped, "message was", "messages were");
    add("warning", "messages-dropped", `${what} dropped ${where}: ${advice}`);
  }
  if (stats.datagramsDropped > 0) {
    add(
      "warning",
      "datagrams-dropped",
      `${stats.datagramsDropped} datagrams were lost on this side: read faster, and send fewer, ` +
        "none above maxDatagramSize",
    );
  }
}

function checkUse(core: Inside, stats: SessionStats, add: Add): void {
  // The library's own control messages are excluded.
  const said = stats.sentMessages - core.sending.posted;
  const isUsed = stats.receivedMessages > 0 || said > 0 || stats.streamsCreated > 0 ||
    stats.datagramsSent > 0 || stats.datagramsReceived > 0;
  if (stats.uptimeMs > IDLE_MS && !isUsed) {
    add(
      "warning",
      "idle",
      `No message, stream or datagram in ${seconds(stats.uptimeMs)}: close the session if unused`,
    );
  }
}

function count(amount: number, one: string, many: string): string {
  return `${amount} ${amount === 1 ? one : many}`;
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1_000)} s`;
}
