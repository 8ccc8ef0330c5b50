/** The statistics of a session manager. */
import { CloseCode } from "../errors.ts";
import { addressKey } from "../base/network_address.ts";
import { verifiedUser } from "../session/serving/requests.ts";
import { internals, type Session } from "../session/session.ts";
import type { SessionStats } from "../session/types.ts";
import type { ConnectionCounters } from "../transport/connection.ts";
import type { ManagerLimits, SessionLimiter } from "./limits.ts";
import type { SessionState } from "../session/types.ts";

/**
 * Maximum number of close codes outside {@linkcode CloseCode} that are counted separately. It
 * exists because a peer can send any code.
 */
const MAX_FOREIGN_CODES = 64;

/** Statistics of a session manager. They consist only of numbers, so they can be sent as JSON. */
export interface ManagerStats {
  /** Current sessions. */
  readonly count: number;
  /** Current sessions by state. */
  readonly states: Readonly<Record<SessionState, number>>;
  /** Current reservations: handshakes that already count but are not sessions yet. */
  readonly reserved: number;
  /** Maximum number of concurrent sessions so far. */
  readonly peak: number;
  /** Sessions added so far. */
  readonly created: number;
  /** Sessions that were added and closed. */
  readonly closed: number;
  /** Sessions that were added, and removed before they closed. */
  readonly removed: number;
  /** Sessions that were rejected, by the limit that was reached. */
  readonly rejected: Readonly<Record<keyof ManagerLimits | "draining", number>>;
  /** Sessions that closed, by close code. */
  readonly closeCodes: Readonly<Record<number, number>>;
  /** Sessions that closed with other codes. At most 64 foreign codes are counted separately. */
  readonly otherCloseCodes: number;
  /** Current users with sessions. */
  readonly users: number;
  /** Current network addresses with sessions; an IPv6 /64 counts as one address. */
  readonly addresses: number;
  /** Current sockets, which can outlive sessions and have separate limits. */
  readonly sockets: {
    /** Sockets that the runtime holds, from the upgrade until they are really closed. */
    readonly open: number;
    /**
     * Open sockets that this side has closed but whose peers have not responded; their sessions may
     * have ended.
     */
    readonly lingering: number;
    /** Upgrades that were rejected because of too many sockets. */
    readonly rejected: number;
  };
  /** Streams over WebTransport and QUIC that peers opened and that this side does not read. */
  readonly unreadStreams: {
    /** Streams that currently count as unread. */
    readonly count: number;
    /** Bytes that the runtime may hold for these streams. */
    readonly bytes: number;
    /** Rejected streams so far, by reason. */
    readonly rejected: Readonly<
      Record<"timeout" | "session" | "connection" | "address" | "server", number>
    >;
  };
  /** Counters of rejections by rate limits. */
  readonly rates: {
    /** Messages, publications, subscriptions and the like, by the scope of the rate. */
    readonly rejected: Readonly<Record<"session" | "user" | "address", number>>;
    /** Attempts to connect, by the scope of the rate. */
    readonly rejectedConnections: Readonly<Record<"user" | "address", number>>;
    /** Sessions that were closed because of too many rejections. */
    readonly closed: number;
    /** Users and addresses that are currently remembered. */
    readonly remembered: number;
    /** Number of times that the shared counters did not respond. */
    readonly brokerFailures: number;
  };
  /** Totals of messages. */
  readonly messages: {
    /** Passed to the transport. */
    readonly sent: number;
    /** Received from peers. */
    readonly received: number;
    /** Messages dropped by a send queue's policy, or because the transport cannot carry them. */
    readonly dropped: number;
    /** Currently waiting in send queues. */
    readonly queued: number;
    /** Currently waiting for handlers. */
    readonly waiting: number;
  };
  /** Totals of bytes. */
  readonly bytes: {
    /** Passed to the transport. */
    readonly sent: number;
    /** Received from peers. */
    readonly received: number;
    /** Currently waiting in send queues. */
    readonly queued: number;
  };
  /** True while new sessions are rejected. */
  readonly isDraining: boolean;
  /** Totals of streams. */
  readonly streams: {
    /** Opened, by either side. */
    readonly created: number;
    /** Closed, including all streams of closed sessions. */
    readonly closed: number;
    /** Currently open. */
    readonly active: number;
    /** Directions of streams that were reset, stopped or cut. */
    readonly errors: number;
    /** Opened bidirectional streams. */
    readonly bidirectional: number;
    /** Opened unidirectional streams. */
    readonly unidirectional: number;
    /** Bytes passed to the transport. */
    readonly bytesSent: number;
    readonly bytesReceived: number;
  };
  /** Totals of datagrams. */
  readonly datagrams: {
    /** Passed to the transport. */
    readonly sent: number;
    /** Received from peers. */
    readonly received: number;
    /** Lost on this side. */
    readonly dropped: number;
    /** Bytes passed to the transport. */
    readonly bytesSent: number;
    readonly bytesReceived: number;
  };
  /** Totals of flow control. */
  readonly credit: {
    /** Calls on this side that wait until a peer allows more. */
    readonly waiting: number;
    /** Sessions whose peers have used all of their credit. */
    readonly exhausted: number;
  };
}

/** The counters of a connection that are summed unchanged. */
const COUNTED = [
  "streamsClosed",
  "streamErrors",
  "streamBytesSent",
  "streamBytesReceived",
  "datagramsSent",
  "datagramsReceived",
  "datagramsDropped",
  "datagramBytesSent",
  "datagramBytesReceived",
] as const satisfies readonly (keyof ConnectionCounters)[];

/** The counters of a session that are summed, by their names in `stats`. */
const SUMMED = [
  "sentMessages",
  "receivedMessages",
  "droppedMessages",
  "sentBytes",
  "receivedBytes",
  "streamsCreated",
  "bidirectionalStreams",
  "unidirectionalStreams",
  ...COUNTED,
] as const satisfies readonly (keyof SessionStats)[];

type Sums = Record<typeof SUMMED[number], number>;

const CREDIT_KINDS = ["data", "bidirectional", "unidirectional"] as const;

const KNOWN_CODES: ReadonlySet<number> = new Set(Object.values(CloseCode));

/** Counts sessions that come and go; its size does not depend on their number. */
export class StatsAccumulator {
  readonly #codes = new Map<number, number>(); // At most 64, plus the codes in `CloseCode`.
  readonly #past: Sums = noSums();
  /** Sums of removed sessions that are already included, in case a session is added again. */
  readonly #removedSums = new WeakMap<Session, Sums>();
  #foreignCodes = 0;
  #otherCodes = 0;
  #created = 0;
  #closed = 0;
  #removed = 0;
  #peak = 0;

  /** Counts an added session; `count` is the number of sessions, including this one. */
  added(session: Session, count: number): void {
    this.#created++;
    this.#peak = Math.max(this.#peak, count);
    const counted = this.#removedSums.get(session);
    if (counted === undefined) return;
    this.#removedSums.delete(session);
    for (const name of SUMMED) this.#past[name] -= counted[name];
  }

  /** Counts a closed session. The close code is counted one microtask later. */
  ended(session: Session): void {
    this.#closed++;
    const past = this.#past;
    const activeBefore = past.streamsCreated - past.streamsClosed;
    addSession(past, session);
    // The streams end with the session, some a little later.
    past.streamsClosed = past.streamsCreated - activeBefore;
    void session.closed.then(({ code }) => this.#countCode(code));
  }

  /** Counts a session that was removed while open. */
  removed(session: Session): void {
    this.#removed++;
    const sums = sumsOf(session);
    addSums(this.#past, sums);
    this.#removedSums.set(session, sums);
  }

  /**
   * Sums up all counters.
   *
   * @param sessions The sessions currently managed.
   * @param limiter Source of all other counters.
   */
  read(sessions: readonly Session[], limiter: SessionLimiter): ManagerStats {
    const users = new Set<string>();
    const addresses = new Set<string>();
    const states = { connecting: 0, connected: 0, draining: 0, closed: 0 };
    const sums = { ...this.#past };
    let queued = 0;
    let queuedBytes = 0;
    let waiting = 0;
    const pastActive = sums.streamsCreated - sums.streamsClosed;
    const credit = { waiting: 0, exhausted: 0 };
    for (const session of sessions) {
      const { receiving, queue, state } = session[internals];
      states[state]++;
      addSession(sums, session);
      const { queuedMessages = 0, queuedBytes: bytes = 0 } = queue?.stats ?? {};
      queued += queuedMessages;
      queuedBytes += bytes;
      waiting += receiving.stats.waitingMessages;
      addCredit(credit, session);
      const { address } = session;
      const user = verifiedUser(session);
      if (user !== undefined) users.add(user);
      if (address) addresses.add(addressKey(address));
    }
    const { reserved, rejected, isDraining } = limiter;
    return {
      count: sessions.length,
      states,
      reserved,
      peak: this.#peak,
      created: this.#created,
      closed: this.#closed,
      removed: this.#removed,
      rejected,
      closeCodes: Object.fromEntries(this.#codes),
      otherCloseCodes: this.#otherCodes,
      users: users.size,
      addresses: addresses.size,
      sockets: limiter.sockets.stats,
      unreadStreams: limiter.unreadStreams.stats,
      rates: limiter.rates.stats,
      messages: {
        sent: sums.sentMessages,
        received: sums.receivedMessages,
        dropped: sums.droppedMessages,
        queued,
        waiting,
      },
      bytes: { sent: sums.sentBytes, received: sums.receivedBytes, queued: queuedBytes },
      isDraining,
      streams: {
        created: sums.streamsCreated,
        closed: sums.streamsClosed,
        active: sums.streamsCreated - sums.streamsClosed - pastActive,
        errors: sums.streamErrors,
        bidirectional: sums.bidirectionalStreams,
        unidirectional: sums.unidirectionalStreams,
        bytesSent: sums.streamBytesSent,
        bytesReceived: sums.streamBytesReceived,
      },
      datagrams: {
        sent: sums.datagramsSent,
        received: sums.datagramsReceived,
        dropped: sums.datagramsDropped,
        bytesSent: sums.datagramBytesSent,
        bytesReceived: sums.datagramBytesReceived,
      },
      credit,
    };
  }

  #countCode(code: number): void {
    const count = this.#codes.get(code);
    if (count === undefined && !KNOWN_CODES.has(code)) {
      if (this.#foreignCodes >= MAX_FOREIGN_CODES) {
        this.#otherCodes++;
        return;
      }
      this.#foreignCodes++;
    }
    this.#codes.set(code, (count ?? 0) + 1);
  }
}

function noSums(): Sums {
  return Object.fromEntries(SUMMED.map((name) => [name, 0])) as Sums;
}

function addSums(sums: Sums, more: Sums): void {
  for (const name of SUMMED) sums[name] += more[name];
}

function sumsOf(session: Session): Sums {
  const sums = noSums();
  addSession(sums, session);
  return sums;
}

/**
 * Adds the counters of a session, read at their source, because its `stats` object takes ten times
 * as long.
 */
function addSession(sums: Sums, session: Session): void {
  const { connection, receiving, queue } = session[internals];
  const { receivedMessages, receivedBytes } = receiving.stats;
  sums.receivedMessages += receivedMessages;
  sums.receivedBytes += receivedBytes;
  if (queue !== undefined) {
    const { sentMessages, sentBytes, droppedMessages } = queue.stats;
    sums.sentMessages += sentMessages;
    sums.sentBytes += sentBytes;
    sums.droppedMessages += droppedMessages;
  }
  const counters = connection.inspect?.counters;
  if (counters === undefined) return;
  const bidirectional = counters.localBidirectionalOpened + counters.remoteBidirectionalOpened;
  const unidirectional = counters.localUnidirectionalOpened + counters.remoteUnidirectionalOpened;
  sums.bidirectionalStreams += bidirectional;
  sums.unidirectionalStreams += unidirectional;
  sums.streamsCreated += bidirectional + unidirectional;
  for (const name of COUNTED) sums[name] += counters[name];
}

function addCredit(sums: { waiting: number; exhausted: number }, { connection }: Session): void {
  const credit = connection.inspect?.credit;
  if (credit === undefined) return;
  let isExhausted = false;
  for (const kind of CREDIT_KINDS) {
    const { granted, received, waiting } = credit.state(kind);
    sums.waiting += waiting;
    isExhausted ||= granted > 0 && received >= granted;
  }
  if (isExhausted) sums.exhausted++;
}
