/** Closes the sessions of a user whose peers do not respond. */
import { CloseCode, TimeoutError } from "../errors.ts";
import type { Runtime } from "../base/runtime.ts";
import type { Inside } from "../session/receiving.ts";
import { ping } from "../session/insight/ping.ts";
import { internals, type Session } from "../session/session.ts";

/** Silence after which a session is pinged, in milliseconds. */
export const SILENT_MS = 2_000;

/** Shortest wait for the response to the ping, in milliseconds. */
export const REPLY_MS = 3_000;

/** The wait in round trips of the session, if that is longer. */
const REPLY_ROUND_TRIPS = 4;

/** Longest wait, in milliseconds. A peer could otherwise delay it by slow responses. */
const MAX_REPLY_MS = 10_000;

/**
 * A timer that fires later than this, in milliseconds, shows that this process was busy or
 * suspended, so that responses may be unread.
 */
const LATE_MS = 1_000;

/** Most sessions that are pinged at the same time, those that are silent for longest. */
export const MAX_PINGED = 100;

/**
 * Lists the sessions whose peers have been silent for 2 s, those that are silent for longest.
 * Sessions without pings, such as plain WebSockets, are omitted.
 */
export function silentSessions(runtime: Runtime, sessions: readonly Session[]): Session[] {
  const now = runtime.now();
  const receivedAt = (session: Session) => session[internals].receiving.lastReceivedAt;
  return sessions
    .filter((session) => {
      const { isReady, receiving } = session[internals];
      return isReady && receiving.heartbeat && now - receiving.lastReceivedAt >= SILENT_MS;
    })
    .sort((a, b) => receivedAt(a) - receivedAt(b))
    .slice(0, MAX_PINGED);
}

/**
 * Pings sessions, and closes those whose peers show no sign of life in time.
 *
 * - **Sign of life:** any data from the peer, and any data that the peer accepts.
 * - **Closed:** with the code 4408, like a session that the heartbeat closes.
 * - **Kept:** sessions that this side is not reading, and all sessions if this process was
 *   suspended during the wait.
 *
 * @returns Number of closed sessions. Never rejects.
 */
export async function closeUnlessAlive(
  runtime: Runtime,
  sessions: readonly Session[],
): Promise<number> {
  const gone = await Promise.all(
    sessions.map((session) => isGone(runtime, session[internals])),
  );
  return gone.filter(Boolean).length;
}

/**
 * Closes the earlier sessions of a client that has connected again, and that it knows to be lost.
 *
 * @param sessions Sessions of the client's user.
 * @param secret The secret of the ticket that the client presented.
 * @returns Number of closed sessions.
 */
export function closeEarlier(sessions: readonly Session[], secret: string): number {
  const earlier = sessions.filter((session) => {
    const { ticket, secret: presented } = session[internals].lineage;
    return presented === secret || ticket?.endsWith(`.${secret}`);
  });
  for (const session of earlier) {
    session[internals].abort(CloseCode.timedOut, "The client has connected again");
  }
  return earlier.length;
}

async function isGone(runtime: Runtime, core: Inside<Session>): Promise<boolean> {
  const { receiving, sending } = core;
  const before = activityOf(core);
  const roundTripMs = sending.roundTripMs ?? 0;
  const timeoutMs = Math.min(MAX_REPLY_MS, Math.max(REPLY_MS, REPLY_ROUND_TRIPS * roundTripMs));
  const since = runtime.now();
  try {
    await ping(core, { timeoutMs });
    return false;
  } catch (error) {
    if (core.state === "closed") return true;
    const isLate = runtime.now() - since > timeoutMs + LATE_MS;
    const isPaused = core.connection.frames?.isPaused === true;
    // Without a timeout, for example, too many pings wait for their response already.
    if (!(error instanceof TimeoutError) || isLate || isPaused) return false;
    const after = activityOf(core);
    const hasReceived = after.received.some((value, i) => value !== before.received[i]);
    if (hasReceived || after.unsentBytes < before.unsentBytes) return false;
    receiving.dead(runtime.now() - receiving.lastReceivedAt);
    return !core.isReady;
  }
}

/** Signs that a peer sends or accepts data, if compared with earlier ones. */
interface Activity {
  /** Values of which at least one changes when the peer sends data. */
  readonly received: readonly number[];
  /** Bytes that the peer has not accepted. */
  readonly unsentBytes: number;
}

function activityOf({ connection, receiving }: Inside<Session>): Activity {
  const { partialBytes = 0, bufferedAmount = 0 } = connection.frames ?? {};
  const { streamBytesReceived = 0, datagramsReceived = 0 } = connection.inspect?.counters ?? {};
  const { lastReceivedAt, stats: { receivedBytes } } = receiving;
  return {
    received: [lastReceivedAt, receivedBytes, partialBytes, streamBytesReceived, datagramsReceived],
    unsentBytes: bufferedAmount,
  };
}
