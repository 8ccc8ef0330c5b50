/** Assertions about leaks of a test: sessions, subscriptions, presence, streams, requests. */
import { checkOptions, TIME } from "../base/options/option_checks.ts";
import type { Server } from "../server/server.ts";
import type { Client } from "../client/client.ts";
import { internals, type Session } from "../session/session.ts";
import { openStreams } from "../session/insight/health.ts";
import { turns } from "./turns.ts";
import { TestServer } from "./test_server.ts";

/** Time to wait for cleanup, in milliseconds. */
const PATIENCE_MS = 500;

// With fake time, the wait would never end.
const { setTimeout: startRealTimer, performance: realClock } = globalThis;

const LEAKS = { withinMs: TIME };

/**
 * A subject of the leak check, with any contract: a server with or without sockets, a session, a
 * pair of sessions, or a client.
 */
export type LeakSubject =
  | Pick<Server, "manager" | "presence" | "topics">
  | Pick<Client, "isConnected" | "outbox" | "status">
  | (Pick<Session, "closed" | "connection" | "state">)
  | {
    readonly server: Pick<Session, "closed" | "connection" | "state">;
    readonly client: Pick<Session, "closed" | "connection" | "state">;
  };

/**
 * Throws an error that lists all leaks. Without leaks:
 *
 * - **A server** has no session, handshake, socket, subscription or user left; its memory network
 *   has no connection and no client. Users within the presence grace period are not leaks.
 * - **A session**, or each session of a pair, may be open, but has no open stream and no pending
 *   request.
 * - **A client** is closed.
 *
 * Timers are not checked, because they belong to these objects. The timer that checks for late
 * handshakes runs until the server closes.
 *
 * @param subject Server, session, pair or client to check.
 * @param options Time to wait for cleanup, in milliseconds of the real clock; 500 by default.
 * @returns Resolves if there are no leaks.
 * @throws {Error} If there are leaks; the message has one line for each.
 *
 * @example A request without a reply
 * ```ts
 * import { assertNoLeaks, memorySessions } from "@skein/skein/testing";
 * import { assertRejects } from "@std/assert";
 *
 * await using pair = memorySessions({ server: { onMessage: () => new Promise(() => {}) } });
 * pair.client.request("job").catch(() => {});
 * await assertRejects(
 *   () => assertNoLeaks(pair, { withinMs: 0 }),
 *   Error,
 *   "1 request without a reply",
 * );
 * ```
 */
export async function assertNoLeaks(
  subject: LeakSubject,
  options: { readonly withinMs?: number | undefined } = {},
): Promise<void> {
  checkOptions("look for leaks", options, LEAKS);
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
 * Checks for leaks at the end of a scope. Declare the watch after its subject and before the
 * clients, so that they are closed before the check.
 *
 * @param subject Server, session, pair or client to check.
 * @param options Time to wait for cleanup, in milliseconds of the real clock; 500 by default.
 * @returns An object whose disposal throws the error of {@linkcode assertNoLeaks}.
 *
 * @example All clients disconnected without a leak
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
export function watchLeaks(
  subject: LeakSubject,
  options: { readonly withinMs?: number | undefined } = {},
): AsyncDisposable {
  checkOptions("watch leaks", options, LEAKS);
  return { [Symbol.asyncDispose]: () => assertNoLeaks(subject, options) };
}

function leaksOf(subject: LeakSubject): string[] {
  if ("manager" in subject) return leaksOfServer(subject);
  if ("status" in subject) return leaksOfClient(subject);
  const sessions = "connection" in subject ? [subject] : [subject.server, subject.client];
  // Every session has this class; the declared type is narrower, to accept any contract.
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
    return `${describeSession(session)} is ${session.state}${
      holds.map((held) => `, ${held}`).join("")
    }`;
  });
  const { reserved, sockets } = manager.stats();
  if (reserved > 0) leaks.push(`${some(reserved, "handshake")} under way`);
  // Each session has a socket. Other sockets have lost their session, or have none yet.
  const lonely = sockets.open - sessions.length - reserved;
  if (lonely > 0) leaks.push(`${some(lonely, "socket")} without a session`);
  if (sessions.length === 0 && topics.size > 0) {
    leaks.push(`${some(topics.size, "topic")} with subscribers that are no sessions`);
  }
  for (const user of presence.online()) {
    // A user who disconnected stays online during the grace period.
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
  return held.length === 0 ? [] : [`${describeSession(session)} has ${held.join(", ")}`];
}

function leaksOfClient(client: Pick<Client, "status">): string[] {
  const { isEnded, current } = client.status;
  return isEnded ? [] : [`a client is ${current.name}`];
}

function heldBy(session: Session): string[] {
  const core = session[internals];
  const held: string[] = [];
  const streams = openStreams(session);
  if (streams > 0) held.push(`${some(streams, "stream")} open`);
  if (core.sending.requests.size > 0) {
    held.push(`${some(core.sending.requests.size, "request")} without a reply`);
  }
  if (core.receiving.replies.size > 0) held.push("a request of its peer without a reply");
  return held;
}

function describeSession(session: Session): string {
  const { side } = session[internals].settings;
  const user = session.user === session.id ? "" : ` of "${session.user}"`;
  return `${side} session ${session.id.slice(0, 8)}${user}`;
}

function some(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
