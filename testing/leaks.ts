/**
 * What a test left behind: sessions, subscriptions, presence, streams, requests.
 *
 * @module
 */
import type { Server } from "../server.ts";
import type { Client } from "../client/client.ts";
import { internals, type Session } from "../session/session.ts";
import { turns } from "./turns.ts";
import { TestServer } from "./test_server.ts";

/** How long what is about to end may take, in milliseconds. */
const PATIENCE_MS = 500;

// In fake time nothing would ever be late.
const { setTimeout: startRealTimer, performance: realClock } = globalThis;

/** A session of any contract, as far as leaks go. */
export type LeakSession = Pick<Session, "closed" | "connection" | "state">;

/**
 * What can be looked at, with any contract: a server, with sockets or without; a session; two of
 * them; a client.
 */
export type LeakSubject =
  | Pick<Server, "manager" | "presence" | "topics">
  | Pick<Client, "isConnected" | "outbox" | "status">
  | LeakSession
  | { readonly server: LeakSession; readonly client: LeakSession };

/** Options for {@linkcode assertNoLeaks}. */
export interface LeakOptions {
  /**
   * How long what is about to end may take, in milliseconds of the real clock.
   *
   * @default {500}
   */
  readonly withinMs?: number;
}

/**
 * Fails if something is left, and says what.
 *
 * - **A server** has no session, handshake, socket, subscription or user left, and its memory
 *   network no connection and no client. Users within the grace of presence are no leak.
 * - **A session**, or both of a pair, may be open, but has no open stream and no request
 *   without an answer.
 * - **A client** is closed.
 *
 * Timers belong to these. What sweeps for handshakes that are late goes on until the server is
 * closed; then there is none.
 *
 * @param subject What to look at.
 * @param options See {@linkcode LeakOptions}.
 * @returns Resolves if nothing is left.
 * @throws {Error} If something is; its message has a line for each.
 *
 * @example A request that nobody answers
 * ```ts
 * import { assertNoLeaks, memorySessions } from "@skein/skein/testing";
 * import { assertRejects } from "@std/assert";
 *
 * await using pair = memorySessions({ server: { onMessage: () => new Promise(() => {}) } });
 * pair.client.request("job").catch(() => {});
 * await assertRejects(
 *   () => assertNoLeaks(pair, { withinMs: 0 }),
 *   Error,
 *   "1 request without an answer",
 * );
 * ```
 */
export async function assertNoLeaks(
  subject: LeakSubject,
  options: LeakOptions = {},
): Promise<void> {
  const { withinMs = PATIENCE_MS } = options;
  const end = realClock.now() + withinMs;
  await turns();
  let leaks = leaksOf(subject);
  while (leaks.length > 0 && realClock.now() < end) {
    await new Promise((resolve) => startRealTimer(resolve, 5));
    leaks = leaksOf(subject);
  }
  if (leaks.length === 0) return;
  const count = leaks.length === 1 ? "1 leak" : `${leaks.length} leaks`;
  throw new Error(`${count} found:\n${leaks.map((leak) => `- ${leak}`).join("\n")}`);
}

/**
 * Looks for leaks when it goes out of scope: put it behind what is watched, and
 * before the clients, which are to be gone then.
 *
 * @param subject What to look at.
 * @param options See {@linkcode LeakOptions}.
 * @returns Its disposal throws what {@linkcode assertNoLeaks} throws.
 *
 * @example Everybody left, and nothing of them stayed
 * ```ts
 * import { testServer, watchLeaks } from "@skein/skein/testing";
 *
 * await using server = testServer({
 *   onOpen: (session) => void server.rooms.join(session, "lobby"),
 * });
 * await using _leaks = watchLeaks(server);
 * await using _ann = await server.dial();
 * await using _bob = server.connect();
 * ```
 */
export function watchLeaks(subject: LeakSubject, options: LeakOptions = {}): AsyncDisposable {
  return { [Symbol.asyncDispose]: () => assertNoLeaks(subject, options) };
}

function leaksOf(subject: LeakSubject): string[] {
  if ("manager" in subject) return leaksOfServer(subject);
  if ("status" in subject) return leaksOfClient(subject);
  const sessions = "connection" in subject ? [subject] : [subject.server, subject.client];
  // All that there are come from there; the type says less, to let every contract through.
  return sessions.flatMap((session) => leaksOfSession(session as Session));
}

function leaksOfServer(server: Pick<Server, "manager" | "presence" | "topics">): string[] {
  const { manager, topics, presence } = server;
  const sessions = manager.all();
  const leaks = sessions.map((session) => {
    const topicNames = topics.topicsOf(session);
    const holds = [
      ...(topicNames.length === 0 ? [] : [`subscribed to ${topicNames.join(", ")}`]),
      ...heldBy(session),
    ];
    return `${nameOf(session)} is ${session.state}${holds.map((held) => `, ${held}`).join("")}`;
  });
  const { reserved, sockets } = manager.stats();
  if (reserved > 0) leaks.push(`${some(reserved, "handshake")} under way`);
  // A session has a socket; what is left over has none any more, or not yet.
  const lonely = sockets.open - sessions.length - reserved;
  if (lonely > 0) leaks.push(`${some(lonely, "socket")} without a session`);
  if (sessions.length === 0 && topics.size > 0) {
    leaks.push(`${some(topics.size, "topic")} with subscribers that are no sessions`);
  }
  for (const user of presence.online()) {
    // Who went is still online within the grace.
    if (presence.lastSeenAt(user) !== undefined) continue;
    const places = presence.topicsOf(user);
    const where = places.length === 0 ? "" : `, present in ${places.join(", ")}`;
    leaks.push(`user "${user}" is online${where}`);
  }
  if (!(server instanceof TestServer)) return leaks;
  for (const client of server.clients) leaks.push(...leaksOfClient(client));
  const pairs = server.network.size - sessions.length;
  if (pairs > 0) leaks.push(`${some(pairs, "connection")} without a session`);
  return leaks;
}

function leaksOfSession(session: Session): string[] {
  const held = heldBy(session);
  return held.length === 0 ? [] : [`${nameOf(session)} has ${held.join(", ")}`];
}

function leaksOfClient(client: Pick<Client, "status">): string[] {
  const { name } = client.status.current;
  return name === "closed" || name === "refused" ? [] : [`a client is ${name}`];
}

function heldBy(session: Session): string[] {
  const core = session[internals];
  const held: string[] = [];
  const streams = openStreams(session);
  if (streams > 0) held.push(`${some(streams, "stream")} open`);
  if (core.asks.size > 0) held.push(`${some(core.asks.size, "request")} without an answer`);
  if (core.inbound.owesAnswers) held.push("a request of its peer that was not answered");
  return held;
}

function openStreams({ connection }: Session): number {
  const { counters } = connection;
  if (counters === undefined) return 0;
  return counters.localBidirectionalOpened + counters.localUnidirectionalOpened +
    counters.remoteBidirectionalOpened + counters.remoteUnidirectionalOpened -
    counters.streamsClosed;
}

function nameOf(session: Session): string {
  const { side } = session[internals].settings;
  const user = session.user === session.id ? "" : ` of "${session.user}"`;
  return `${side} session ${session.id.slice(0, 8)}${user}`;
}

function some(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
