/** Detection of the issues of a session. */
import type { CreditKind, CreditState } from "../../transport/connection.ts";
import type { SessionCore } from "../core.ts";
import { queuesOf } from "./queue_state.ts";
import { type SessionStats, statsOf } from "./stats.ts";
import type { SessionIssue, SessionIssueCode } from "./issue.ts";

/** Time after which a handshake is stuck, in milliseconds. */
const CONNECTING_MS = 10_000;

/** Time after which draining is stuck, in milliseconds. */
const DRAINING_MS = 30_000;

/** Fewest operations for a meaningful error rate. */
const MIN_OPERATIONS = 50;

/** Highest acceptable share of errors among all operations. */
const MAX_ERROR_RATE = 0.1;

/** Time after which a session without traffic is idle, in milliseconds. */
const IDLE_MS = 3_600_000;

/** Open streams from which on leaks are suspected. */
const MANY_STREAMS = 64;

/** Time after which many open streams with few ended ones count as a leak, in milliseconds. */
const LEAKING_MS = 600_000;

/** Share of a bound above which a queue is nearly full. */
const NEARLY_FULL = 0.8;

/** Time after which a handler is slow, in milliseconds. */
const SLOW_HANDLER_MS = 10_000;

/** Silence after which a heartbeat is missing, in intervals of the heartbeat. */
const MISSING_BEATS = 1.5;

/**
 * Finds the issues of a session, errors first.
 *
 * @param core The session.
 * @param before Counters of an earlier check, if any: counters that only grow count from these
 * values.
 * @returns The issues.
 */
export function issues(core: SessionCore, before?: SessionStats): SessionIssue[] {
  const stats = statsOf(core);
  const found: SessionIssue[] = [];
  const add = (severity: SessionIssue["severity"], code: SessionIssueCode, message: string) => {
    found.push({ code, severity, message });
  };
  if (core.state !== "closed") {
    checkLife(core, add);
    checkQueues(core, add);
    checkStreams(core, stats, add);
    checkCredit(core, add);
  }
  checkCounters(core, since(stats, before), add);
  if (core.state === "connected") checkUse(core, stats, add);
  return found.sort((a, b) => rankOf(a) - rankOf(b));
}

/** Returns the sort key of an issue: errors come before warnings. */
export function rankOf({ severity }: SessionIssue): number {
  return severity === "error" ? 0 : 1;
}

type Add = (
  severity: SessionIssue["severity"],
  code: SessionIssueCode,
  message: string,
) => void;

function checkLife(core: SessionCore, add: Add): void {
  const { createdAt, drainingAt, heartbeat, inbound, lastHeard, state } = core;
  const now = core.runtime.now();
  if (state === "connecting" && now - createdAt > CONNECTING_MS) {
    add(
      "error",
      "stuck-connecting",
      `It is connecting for ${seconds(now - createdAt)}: see whether the peer speaks the same ` +
        "protocol, and whether the check of its token hangs",
    );
  }
  if (state === "draining" && now - (drainingAt ?? now) > DRAINING_MS) {
    add(
      "error",
      "stuck-draining",
      `It winds up for ${seconds(now - drainingAt!)}: a handler or an answer does not end; ` +
        "call drain() with withinMs, or close()",
    );
  }
  const silentMs = heartbeat === undefined ? 0 : now - lastHeard;
  if (heartbeat !== undefined && silentMs > heartbeat.intervalMs * MISSING_BEATS) {
    add(
      "error",
      "missing-heartbeat",
      `The peer is silent for ${seconds(silentMs)}, and was to be heard every ` +
        `${seconds(heartbeat.intervalMs)}: look at the network; the session ends after ` +
        seconds(heartbeat.timeoutMs),
    );
  }
  const { runningSince } = inbound;
  if (runningSince !== undefined && now - runningSince > SLOW_HANDLER_MS) {
    add(
      "warning",
      "slow-handler",
      `A message is handled for ${seconds(now - runningSince)}, and ` +
        `${inbound.stats.waitingMessages} wait behind it: find out what it awaits, or raise concurrency`,
    );
  }
  const { waitingMessages } = inbound.stats;
  const isHeld = inbound.queue.isHeld && waitingMessages > 0 && state === "connected";
  if (isHeld && now - (core.readyAt ?? now) > SLOW_HANDLER_MS) {
    add(
      "warning",
      "slow-handler",
      count(waitingMessages, "message waits", "messages wait") +
        " until onOpen is done: do not await there what lasts as long as the session, such as a " +
        "loop over its streams",
    );
  }
}

function checkQueues(core: SessionCore, add: Add): void {
  const { send, receive } = queuesOf(core);
  const advice = {
    "send-queue-nearly-full":
      "the peer takes less than it is sent: await flushed(), send less, or drop by a policy",
    "receive-queue-nearly-full": core.inbound.isHandled
      ? "messages come faster than they are handled: look at the handler, or raise concurrency"
      : "nobody reads them, or not fast enough: look at the loop over the session, or set onMessage",
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

function checkStreams(core: SessionCore, stats: SessionStats, add: Add): void {
  const { unreadStreams = 0 } = core.connection.inspect ?? {};
  const { activeStreams, streamsClosed, streamsCreated, uptimeMs } = stats;
  if (unreadStreams > 0) {
    add(
      "warning",
      "unread-streams",
      count(unreadStreams, "stream of the peer waits", "streams of the peer wait") +
        ", and nobody takes any: loop over incomingStreams()",
    );
  }
  const isLeaking = activeStreams >= MANY_STREAMS && uptimeMs > LEAKING_MS &&
    streamsClosed < activeStreams;
  if (isLeaking) {
    add(
      "warning",
      "leaking-streams",
      `${activeStreams} of ${streamsCreated} streams are open after ${seconds(uptimeMs)}: ` +
        "close or abort what is written, and read to the end or cancel what is read",
    );
  }
}

function checkCredit({ connection, openings }: SessionCore, add: Add): void {
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
          ` until the peer allows more ${what}:${limit} it has to read, end streams, or grant credit`,
      );
    }
    if (credit !== undefined && credit.granted > 0 && credit.received >= credit.granted) {
      const how = kind === "data"
        ? "read its streams, or call grantDataCredit()"
        : "end its streams, or call grantStreamsCredit()";
      add(
        "warning",
        "peer-without-credit",
        `The peer used all ${credit.granted} ${what} that it may: ${how}`,
      );
    }
  }
}

/** Counters whose growth indicates an issue. */
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
  "streamsRefused",
  "unreadMessages",
] as const;

type Growth = Readonly<Record<typeof GROWING[number], number>>;

function since(stats: SessionStats, before: SessionStats | undefined): Growth {
  if (before === undefined) return stats;
  return Object.fromEntries(GROWING.map((name) => [name, stats[name] - before[name]])) as Growth;
}

function checkCounters(core: SessionCore, stats: Growth, add: Add): void {
  const { invalidMessages, protocolErrors, receivedMessages, streamErrors, streamsCreated } = stats;
  const operations = receivedMessages + streamsCreated + protocolErrors;
  const errors = protocolErrors + streamErrors;
  if (operations >= MIN_OPERATIONS && errors > operations * MAX_ERROR_RATE) {
    add(
      "error",
      "error-rate",
      `${errors} errors in ${operations} messages and streams: listen to "protocolerror" and ` +
        '"streamclosed" of its events',
    );
  }
  const { maxInvalidMessages } = core.settings;
  if (invalidMessages * 2 >= maxInvalidMessages) {
    add(
      "warning",
      "invalid-messages",
      `${invalidMessages} messages were invalid, and ${maxInvalidMessages} within a minute end the ` +
        "session: see that both ends have the same contract",
    );
  }
  if (stats.handlerFailures > 0) {
    const what = count(stats.handlerFailures, "handler", "handlers");
    add("warning", "failing-handlers", `${what} failed: look at what onError was told`);
  }
  if (stats.streamsRefused > 0) {
    add(
      "warning",
      "refused-streams",
      `${stats.streamsRefused} streams of the peer were refused: loop over incomingStreams(), and read them`,
    );
  }
  if (stats.unreadMessages > 0) {
    add(
      "warning",
      "unread-messages",
      `${stats.unreadMessages} messages were thrown away: loop over the session, or set onMessage`,
    );
  }
  for (
    const [dropped, where, advice] of [
      [stats.droppedMessages, "here", "send less, or await flushed()"],
      [stats.droppedByPeer, "by the peer", "read faster here, or have it send less"],
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
      `${stats.datagramsDropped} datagrams were lost at this end: read them faster, send fewer, and ` +
        "none above maxDatagramSize",
    );
  }
}

function checkUse(core: SessionCore, stats: SessionStats, add: Add): void {
  // Without the library's own control messages.
  const said = stats.sentMessages - core.posted;
  const isUsed = stats.receivedMessages > 0 || said > 0 || stats.streamsCreated > 0 ||
    stats.datagramsSent > 0 || stats.datagramsReceived > 0;
  if (stats.uptimeMs > IDLE_MS && !isUsed) {
    add(
      "warning",
      "idle",
      `Nothing was sent or received in ${seconds(stats.uptimeMs)}: close it if nobody needs it`,
    );
  }
}

function count(amount: number, one: string, many: string): string {
  return `${amount} ${amount === 1 ? one : many}`;
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1_000)} s`;
}
