/**
 * Feeds arbitrary input from peers, users and the network to sessions.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { QueueFullError, RequestError, SkeinError } from "../../errors.ts";
import { POLICIES } from "../../session/queue/overflow.ts";
import { encodeMessage } from "../../session/wire/encode.ts";
import { parseEnvelope } from "../../session/wire/server_envelope.ts";
import { HIGH_WATER_MARK } from "../../session/queue/send_queue.ts";
import { Session } from "../../session/session.ts";
import type { Side } from "../../session/contract.ts";
import { memorySessions, turns } from "../../testing/mod.ts";
import type { Frame } from "../../transport/connection.ts";
import { type MemoryLink, memoryPair } from "../../transport/memory/memory.ts";
import type { Random } from "../random.ts";
import { HELLO } from "../sessions.ts";
import { ENVELOPES } from "./envelopes.ts";
import { failsOnlyBy, rejectsOnlyBy } from "./expect.ts";
import { anyJson, mutateBytes, mutateText } from "./mutate.ts";
import {
  sessionSettings,
  type SessionSettingsOptions,
} from "../../session/settings/session_settings.ts";

/** The maximum number of inputs for one session before it closes. */
const INPUTS_PER_SESSION = 200;

/** The number of inputs for one session after it closes. */
export const AFTER_END = 4;

/** Limits that are small enough to be reached. */
const LIMITS = {
  sendQueue: { maxMessages: 8, maxBytes: 16_384 },
  receiveQueue: { maxMessages: 8, maxBytes: 4_096 },
  maxRequests: 4,
  maxMessageBytes: 8_192,
  maxInvalidMessages: 6,
};
const BINARIES: readonly Uint8Array[] = [
  encodeMessage("file", new Uint8Array(40)).frame as Uint8Array,
  encodeMessage("file", new Uint8Array(), { id: 3 }).frame as Uint8Array,
  new Uint8Array(50),
];

/**
 * Generates a peer's data: an envelope, several envelopes in one frame, a binary message, or
 * garbage.
 *
 * @param random Source of the random choices.
 */
export function anyFrame(random: Random): Frame {
  switch (random.below(8)) {
    case 0:
      return mutateBytes(random, BINARIES);
    case 1:
      return random.pick(BINARIES).slice();
    case 2:
      return Array.from({ length: random.below(6) }, () => random.pick(ENVELOPES)).join("\n");
    case 3:
      return mutateText(random, ENVELOPES);
    case 4:
      return JSON.stringify({ topic: "ask", id: random.below(6), data: anyJson(random) });
    case 5:
      return JSON.stringify({ reply: random.below(6), data: anyJson(random) });
    default:
      return random.pick(ENVELOPES);
  }
}

/**
 * Returns a random number of inputs for a session.
 *
 * @param random Source of the random choices.
 * @param left The number of remaining inputs.
 * @returns The number of inputs.
 */
export function inputsOf(random: Random, left: number): number {
  return Math.min(1 + random.below(INPUTS_PER_SESSION), left);
}

/**
 * Generates settings with any policy, with or without a handler. The handler fails occasionally.
 *
 * @param random Source of the random choices.
 * @param options The side of the session, and the collector of errors that the application
 * receives.
 */
export function anySettings<S extends Side>(
  random: Random,
  { side, faults }: { readonly side: S; readonly faults: unknown[] },
): SessionSettingsOptions<unknown, never, S> {
  const handlers = random.below(3) === 0 ? {} : {
    onMessage: async (message: { isRequest: boolean; reply(data: unknown): void }) => {
      switch (random.below(64)) {
        case 0:
          throw new Error("A handler failed");
        case 1:
        case 2:
        case 3:
          await turns(random.below(4));
          break;
        case 4:
          await new Promise<void>((resolve) => queueMicrotask(resolve));
      }
      if (message.isRequest && random.below(2) === 0) message.reply(anyJson(random) ?? 1);
    },
  };
  return {
    ...LIMITS,
    ...handlers as object,
    side,
    maxInvalidMessages: random.pick([LIMITS.maxInvalidMessages, 1_000]),
    sendQueue: { ...LIMITS.sendQueue, policy: random.pick(POLICIES) },
    concurrency: 1 + random.below(3),
    closeTimeoutMs: 20,
    onError: (error) => void faults.push(error),
    onOpen: () => {
      if (random.below(64) === 0) throw new Error("onOpen failed");
    },
    onClose: () => {
      if (random.below(16) === 0) throw new Error("onClose failed");
    },
  };
}

/**
 * Checks that the application received only errors of its own handlers, and reports of losses.
 *
 * @param faults The errors of `onError`.
 */
export function checkFaults(faults: readonly unknown[]): void {
  for (const fault of faults) {
    const isOwn = fault instanceof Error && fault.message.endsWith(" failed");
    const isLoss = fault instanceof QueueFullError || fault instanceof RequestError;
    assert(isOwn || isLoss, `the application is blamed for ${Deno.inspect(fault)}`);
  }
}

/** The pending calls of one session. */
export type Waiting = Set<Promise<unknown>>;

/**
 * Performs a random action of a session's user.
 *
 * @param random Source of the random choices.
 * @param waiting Collects pending calls.
 */
export function act(random: Random, session: Session, waiting: Waiting): void {
  const wait = (begin: () => Promise<unknown>) => {
    const waited = rejectsOnlyBy(begin, SkeinError, TypeError, RangeError, DOMException);
    waiting.add(waited);
    void waited.finally(() => waiting.delete(waited)).catch(() => {});
  };
  const topic = random.pick(["chat", "news", "ask", "", "x".repeat(300)]);
  const data = random.below(4) === 0 ? new Uint8Array(random.bits(12)) : anyJson(random);
  const options = random.below(4) === 0 ? { signal: AbortSignal.abort() } : {};
  switch (random.below(24)) {
    case 0:
      return wait(() => session.request(topic, data as never, options));
    case 1:
      return wait(() => session.subscribe(topic as never, options));
    case 2:
      return wait(() => session.unsubscribe(topic, options));
    case 3:
      return wait(() => session.publish(topic as never, data as never, options));
    case 4:
      return wait(() => session.authenticate("token", options));
    case 5:
      return wait(() => session.flushed(options));
    case 6:
      return wait(() => session[Symbol.asyncIterator]().next());
    case 7:
      return session.goAway({ retryAfterMs: 5, reason: "Bye" });
    case 8:
      if (random.below(8) === 0) wait(() => session.close({ code: random.pick([0, 3_000, 1]) }));
      return;
    case 9:
      if (random.below(8) === 0) wait(() => session.drain({ withinMs: 5, retryAfterMs: 1 }));
      return;
    case 10:
    case 11: {
      // This is more than the queue or the transport can hold.
      const burst = new Uint8Array(random.bits(13));
      const send = () =>
        session.send(topic, random.below(2) === 0 ? burst : "x".repeat(burst.length));
      for (let i = random.bits(6); i >= 0; i--) {
        failsOnlyBy(send, SkeinError, TypeError, RangeError);
      }
      return;
    }
    case 12:
      void session.stats;
      void session.closeError;
      return;
    default:
      failsOnlyBy(() => session.send(topic, data as never), SkeinError, TypeError, RangeError);
  }
}

/**
 * Performs a random action of the network.
 *
 * @param random Source of the random choices.
 * @param link The network.
 */
export function disturb(random: Random, link: MemoryLink): void {
  switch (random.below(12)) {
    case 0:
    case 1:
    case 2:
      return link.stall(random.pick(["to-client", "to-server", undefined]));
    case 3:
      return random.below(2) === 0 ? link.disconnect({ silent: random.below(2) === 0 }) : undefined;
    case 4:
      return link.drain();
    default:
      return link.resume();
  }
}

/**
 * Checks the invariants of a session.
 *
 * @param received Number of received frames.
 */
export function checkBounds(session: Session, received: number): void {
  const { stats } = session;
  const { maxMessages, maxBytes } = LIMITS.sendQueue;
  // Protected messages (replies and control messages) have a second limit of the same size. One
  // more message closes the session.
  assert(stats.queuedMessages <= 2 * maxMessages + LIMITS.maxRequests, `${stats.queuedMessages}`);
  assert(stats.queuedBytes <= 2 * (maxBytes + LIMITS.maxMessageBytes), `${stats.queuedBytes}`);
  assert(stats.waitingMessages <= LIMITS.receiveQueue.maxMessages, `${stats.waitingMessages}`);
  assert(stats.pendingReplies <= LIMITS.maxRequests, `${stats.pendingReplies}`);
  assert(stats.invalidMessages <= 8 * received + LIMITS.maxInvalidMessages);
  const held = session.connection.frames?.bufferedAmount ?? 0;
  assert(
    held <= HIGH_WATER_MARK + 65_536 + LIMITS.maxMessageBytes,
    `${held} bytes held by the transport`,
  );
}

/**
 * Waits until a session closes, and checks that no call is pending.
 *
 * @param waiting The pending calls.
 */
export async function checkEnd(session: Session, waiting: Waiting): Promise<void> {
  await finishes(session.closed, "the session");
  assertEquals(session.state, "closed");
  assertEquals(session.stats.pendingReplies, 0);
  await finishes(Promise.all(waiting), `${waiting.size} calls`);
  assertEquals(session.stats.queuedMessages, 0);
}

/** Waits for a promise, within a number of turns. */
async function finishes(promise: Promise<unknown>, what: string): Promise<void> {
  let isDone = false;
  const done = promise.then(() => isDone = true);
  for (let i = 0; i < 200 && !isDone; i++) await turns(1);
  // Closing has a timeout of 20 ms here.
  for (let i = 0; i < 50 && !isDone; i++) await new Promise((resolve) => setTimeout(resolve, 2));
  assert(isDone, `${what} did not finish`);
  await done;
}

/**
 * Checks that a session's output can be parsed.
 *
 * @param frame A frame of the session.
 */
export function checkFrame(frame: Frame): void {
  if (typeof frame !== "string") return;
  for (const text of frame.split("\n")) {
    const { kind } = parseEnvelope(text);
    assert(kind !== "malformed" && kind !== "unknown", `received ${JSON.stringify(frame)}`);
  }
}

/**
 * Feeds arbitrary data from a peer to real sessions of both sides.
 *
 * @param random Source of the random choices.
 * @param rounds Number of frames, calls and faults.
 */
export async function fuzzSession(random: Random, rounds: number): Promise<void> {
  for (let done = 0, inputs = 0; done < rounds; done += inputs) {
    inputs = inputsOf(random, rounds - done);
    const faults: unknown[] = [];
    const side = random.pick(["server", "client"] as const);
    const wire = random.pick([{}, {}, { protocol: "", streams: false, datagrams: false }]);
    const { client, server, link } = memoryPair(wire);
    const [own, peer] = side === "server" ? [server, client] : [client, server];
    peer.frames?.receive({ receiveFrame: checkFrame, framesEnded() {} });
    const session = new Session(own, sessionSettings(anySettings(random, { side, faults })), {
      awaitsToken: side === "server" && random.below(8) === 0,
    });
    const waiting: Waiting = new Set();
    if (side === "client" && random.below(8) > 0) peer.frames?.send(JSON.stringify(HELLO));
    for (let i = 0; i < inputs; i++) {
      // Faults after the close show up quickly.
      if (session.isClosed) inputs = Math.min(inputs, i + AFTER_END);
      const kind = random.below(16);
      if (kind < 11) peer.frames?.send(anyFrame(random));
      else if (kind < 14) act(random, session, waiting);
      else if (kind < 15) disturb(random, link);
      else await turns(1);
      checkBounds(session, i);
    }
    await turns(2);
    checkBounds(session, inputs);
    if (random.below(2) === 0) peer.close({ closeCode: random.pick([0, 3_000, 4_500]) });
    else link.disconnect();
    await turns(2);
    link.disconnect();
    await checkEnd(session, waiting);
    checkFaults(faults);
  }
}

/**
 * Performs random actions of the users of two sessions.
 *
 * @param random Source of the random choices.
 * @param rounds Number of calls and faults.
 */
export async function fuzzSessions(random: Random, rounds: number): Promise<void> {
  for (let done = 0, inputs = 0; done < rounds; done += inputs) {
    inputs = inputsOf(random, rounds - done);
    const faults: unknown[] = [];
    const { side: _a, ...near } = anySettings(random, { side: "server", faults });
    const { side: _b, ...far } = anySettings(random, { side: "client", faults });
    const pair = memorySessions({ server: near, client: far });
    const sessions = [pair.server, pair.client] as Session[];
    const waiting: Waiting[] = [new Set(), new Set()];
    for (let i = 0; i < inputs; i++) {
      if (sessions.every(({ isClosed }) => isClosed)) inputs = Math.min(inputs, i + AFTER_END);
      const kind = random.below(16);
      const end = random.below(2);
      if (kind < 12) act(random, sessions[end]!, waiting[end]!);
      else if (kind < 13) disturb(random, pair.link);
      else await turns(1);
      for (const session of sessions) checkBounds(session, i);
    }
    await turns(2);
    pair.link.disconnect();
    for (const end of [0, 1]) await checkEnd(sessions[end]!, waiting[end]!);
    checkFaults(faults);
  }
}
