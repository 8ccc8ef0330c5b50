/**
 * Waiting for what comes, with an end, and an error that says what came instead.
 *
 * @module
 */
import { SessionClosedError, TimeoutError } from "../errors.ts";
import type { SessionEventMap, SessionEvents } from "../session/events.ts";

/** How long is waited for what does not come, in milliseconds. */
const PATIENCE_MS = 5_000;

// A test that fakes the time must not wait for ever for what it forgot to bring about.
const { setTimeout: startRealTimer, clearTimeout: stopRealTimer } = globalThis;

/** Options for {@linkcode receive} and {@linkcode nextEvent}. */
export interface ReceiveOptions {
  /** Gives up. */
  readonly signal?: AbortSignal;
  /**
   * Gives up after so many milliseconds, by the real clock: fake time does not count.
   *
   * @default {5000}
   */
  readonly timeoutMs?: number;
}

/**
 * Reads the next messages of a session, a client or a subscription; or the next
 * items of anything else that is iterated, such as `session.incomingStreams()`
 * or `client.status`.
 *
 * - **In time:** what does not come fails the test with what did come, in real
 *   time, so also in a test whose own time stands still.
 * - **Afterwards** what was not read waits for the next `receive`. After a
 *   failure the source cannot be read any more.
 *
 * @typeParam T What comes.
 * @param source What messages come from.
 * @param count How many.
 * @param options See {@linkcode ReceiveOptions}.
 * @returns The messages, in order.
 * @throws {TimeoutError} If fewer came in time; it says how many, and which.
 * @throws {SessionClosedError} If the source ended before; it says the same.
 *
 * @example A broadcast reaches everybody
 * ```ts
 * import { receive, testServer } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = testServer({
 *   onOpen: (session) => void server.subscribe(session, "news"),
 * });
 * await using ann = await server.dial();
 * await using bob = await server.dial();
 * server.publish("news", 1);
 * server.publish("news", 2);
 * for (const session of [ann, bob]) {
 *   assertEquals((await receive(session, 2)).map(({ data }) => data), [1, 2]);
 * }
 * ```
 */
export async function receive<T>(
  source: AsyncIterable<T>,
  count: number,
  options: ReceiveOptions = {},
): Promise<T[]> {
  const items: T[] = [];
  if (count < 1) return items;
  const soFar = () => `received ${items.length} of ${count}${list(items)}`;
  const iterator = source[Symbol.asyncIterator]();
  await inTime(options, soFar, async () => {
    while (items.length < count) {
      const { value, done } = await iterator.next();
      if (done) throw ended(source, soFar());
      items.push(value);
    }
  });
  await iterator.return?.();
  return items;
}

/**
 * Reads the next message; see {@linkcode receive}.
 *
 * @typeParam T What comes.
 * @param source What messages come from.
 * @param options See {@linkcode ReceiveOptions}.
 * @returns The message.
 * @throws {TimeoutError} If none came in time.
 * @throws {SessionClosedError} If the source ended before.
 *
 * @example Usage
 * ```ts
 * import { memorySessions, receiveOne } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memorySessions();
 * pair.server.send("hello", "world");
 * const { topic, data } = await receiveOne(pair.client);
 * assertEquals([topic, data], ["hello", "world"]);
 * ```
 */
export async function receiveOne<T>(
  source: AsyncIterable<T>,
  options: ReceiveOptions = {},
): Promise<T> {
  const [item] = await receive(source, 1, options);
  return item!;
}

/**
 * Waits for the next event of a session.
 *
 * @typeParam K The event's name.
 * @param source `session.events`.
 * @param type The event's name.
 * @param options See {@linkcode ReceiveOptions}.
 * @returns The event.
 * @throws {TimeoutError} If it did not come in time.
 */
export function nextEvent<K extends keyof SessionEventMap>(
  source: SessionEvents,
  type: K,
  options?: ReceiveOptions,
): Promise<SessionEventMap[K]>;
/**
 * Waits for the next event of any `EventTarget`.
 *
 * @param source What events come from.
 * @param type The event's name.
 * @param options See {@linkcode ReceiveOptions}.
 * @returns The event.
 * @throws {TimeoutError} If it did not come in time.
 *
 * @example Usage
 * ```ts
 * import { nextEvent } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const source = new EventTarget();
 * const next = nextEvent(source, "ready");
 * source.dispatchEvent(new Event("ready"));
 * assertEquals((await next).type, "ready");
 * ```
 */
export function nextEvent(
  source: EventTarget,
  type: string,
  options?: ReceiveOptions,
): Promise<Event>;
/** The same for both. */
export async function nextEvent(
  source: EventTarget | SessionEvents,
  type: string,
  options: ReceiveOptions = {},
): Promise<Event> {
  const target = source as EventTarget;
  const { promise, resolve } = Promise.withResolvers<Event>();
  target.addEventListener(type, resolve);
  try {
    return await inTime(options, () => `the event "${type}" did not come`, () => promise);
  } finally {
    target.removeEventListener(type, resolve);
  }
}

async function inTime<T>(
  { signal, timeoutMs = PATIENCE_MS }: ReceiveOptions,
  soFar: () => string,
  wait: () => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const { promise: over, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal!.reason);
  const timer = startRealTimer(() => {
    reject(new TimeoutError(`Cannot wait longer than ${timeoutMs} ms: ${soFar()}`, timeoutMs));
  }, timeoutMs);
  signal?.addEventListener("abort", onAbort, { once: true });
  const waiting = wait();
  waiting.catch(() => {});
  try {
    return await Promise.race([waiting, over]);
  } finally {
    stopRealTimer(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

function ended(source: unknown, soFar: string): SessionClosedError {
  const { closeError } = source as { closeError?: unknown };
  const why = closeError instanceof Error ? ` (${closeError.message})` : "";
  return new SessionClosedError(`Cannot receive: the source ended, ${soFar}${why}`, {
    cause: closeError,
  });
}

/** Topics and data of messages, or the items as they are; cut where they are long. */
function list(items: readonly unknown[]): string {
  if (items.length === 0) return "";
  const texts = items.map((item) => {
    const { topic, data } = item as { topic?: unknown; data?: unknown };
    return typeof topic === "string" ? `${topic} ${textOf(data)}` : textOf(item);
  });
  return `: ${texts.join(", ")}`;
}

function textOf(value: unknown): string {
  return Deno.inspect(value, { depth: 2, compact: true, breakLength: Infinity }).slice(0, 80);
}
