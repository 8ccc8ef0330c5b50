/** Waiting for messages and events with a deadline, with errors that list received messages. */
import { WAIT } from "../session/settings/call_checks.ts";
import { checkOptions } from "../base/options/option_checks.ts";
import { MAX_TIMER_MS } from "../base/wait.ts";
import { SessionClosedError, TimeoutError } from "../errors.ts";
import type { SessionEventMap, SessionEvents } from "../session/events.ts";
import type { WaitOptions } from "../session/types.ts";

/** Longest wait for a message or event, in milliseconds. */
const PATIENCE_MS = 5_000;

// Real timers, so that a test with fake time does not wait forever.
const { setTimeout: startRealTimer, clearTimeout: stopRealTimer } = globalThis;

/** A loop that the next `receive` continues. */
interface OpenLoop<T> {
  readonly iterator: AsyncIterator<T>;
  /** The read that was still pending when its `receive` failed. */
  readonly next?: Promise<IteratorResult<T>> | undefined;
}

/**
 * These loops by source. An iterator can't cancel a read, so the next `receive` continues the loop
 * instead of losing what it reads.
 */
const openLoops = new WeakMap<AsyncIterable<unknown>, OpenLoop<unknown>>();

/**
 * Reads the next messages of a session, client or subscription, or the next items of any other
 * iterable, such as `session.incomingStreams()` or `client.status`.
 *
 * - **Deadline:** if too few messages arrive in time, the call rejects with an error that lists
 *   those that did arrive. The deadline is in real time, even in a test with fake time.
 * - **Further messages** stay unread until the next `receive`. A streaming response, a generator or
 *   a stream, which a loop of your own would end, stays open for it.
 * - **After a failure,** call `receive` with the same source again: it returns the messages that the
 *   error doesn't list, also those that arrived between the calls. A loop of your own would throw
 *   until then, because the source is still being read.
 *
 * @typeParam T Type of the messages or items.
 * @param source Session, client, subscription or other iterable.
 * @param count Number of messages.
 * @param options Deadline (5 s of real time by default) and signal.
 * @returns The messages, in order.
 * @throws {TimeoutError} If fewer messages arrived in time; the error lists those.
 * @throws {SessionClosedError} If the source ended first; the error lists the messages, too.
 *
 * @example A broadcast to all sessions
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
  options: WaitOptions = {},
): Promise<T[]> {
  checkOptions("receive", options, WAIT);
  const items: T[] = [];
  if (count < 1) return items;
  const soFar = () => `received ${items.length} of ${count}${list(items)}`;
  const open = openLoops.get(source) as OpenLoop<T> | undefined;
  const { iterator } = open ?? { iterator: source[Symbol.asyncIterator]() };
  let next = open?.next;
  let isOver = false;
  const wait = async () => {
    openLoops.delete(source);
    while (items.length < count) {
      const { value, done } = await (next ??= iterator.next());
      if (isOver) return;
      next = undefined;
      if (done) throw ended(source, soFar());
      items.push(value);
    }
  };
  await inTime(options, soFar, wait, () => {
    isOver = true;
    if (next !== undefined) openLoops.set(source, { iterator, next });
  });
  if (endsWithLoop(source, iterator)) openLoops.set(source, { iterator });
  else await iterator.return?.();
  return items;
}

/**
 * Reads the next message; see {@linkcode receive}.
 *
 * @typeParam T Type of the messages or items.
 * @param source Session, client, subscription or other iterable.
 * @param options Deadline (5 s of real time by default) and signal.
 * @returns The message.
 * @throws {TimeoutError} If no message arrived in time.
 * @throws {SessionClosedError} If the source ended first.
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
  options: WaitOptions = {},
): Promise<T> {
  const [item] = await receive(source, 1, options);
  return item!;
}

/**
 * Waits for the next event of a session.
 *
 * @typeParam K Name of the event.
 * @param source `session.events`.
 * @param type Name of the event.
 * @param options Deadline (5 s of real time by default) and signal.
 * @returns The first event of this name after the call.
 * @throws {TimeoutError} If the event did not arrive in time.
 */
export function nextEvent<K extends keyof SessionEventMap>(
  source: SessionEvents,
  type: K,
  options?: WaitOptions,
): Promise<SessionEventMap[K]>;
/**
 * Waits for the next event of any `EventTarget`.
 *
 * @param source The object that dispatches the event.
 * @param type Name of the event.
 * @param options Deadline (5 s of real time by default) and signal.
 * @returns The first event of this name after the call.
 * @throws {TimeoutError} If the event did not arrive in time.
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
  options?: WaitOptions,
): Promise<Event>;
/** Implementation of both overloads. */
export async function nextEvent(
  source: EventTarget | SessionEvents,
  type: string,
  options: WaitOptions = {},
): Promise<Event> {
  checkOptions("wait for event", options, WAIT);
  const target = source as EventTarget;
  const { promise, resolve } = Promise.withResolvers<Event>();
  target.addEventListener(type, resolve);
  try {
    return await inTime(options, () => `the event "${type}" did not arrive`, () => promise);
  } finally {
    target.removeEventListener(type, resolve);
  }
}

/** @param onOver Called when the wait fails, before later messages can arrive. */
async function inTime<T>(
  { signal, timeoutMs = PATIENCE_MS }: WaitOptions,
  soFar: () => string,
  wait: () => Promise<T>,
  onOver: () => void = () => {},
): Promise<T> {
  signal?.throwIfAborted();
  const { promise: over, reject } = Promise.withResolvers<never>();
  const end = (error: unknown) => {
    onOver();
    reject(error);
  };
  const onAbort = () => end(signal!.reason);
  const onLate = () => {
    end(new TimeoutError(`No result within ${timeoutMs} ms: ${soFar()}`, timeoutMs));
  };
  const timer = timeoutMs > MAX_TIMER_MS ? undefined : startRealTimer(onLate, timeoutMs);
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

/** Checks whether a source ends when a loop leaves it: a response ends unless it is resumable. */
function endsWithLoop(source: AsyncIterable<unknown>, iterator: unknown): boolean {
  const isResponse = "cancel" in source && (source as { readonly id?: unknown }).id === "";
  return isResponse || iterator === source || source instanceof ReadableStream;
}

function ended(source: unknown, soFar: string): SessionClosedError {
  const { closeError } = source as { closeError?: unknown };
  const why = closeError instanceof Error ? ` (${closeError.message})` : "";
  return new SessionClosedError(`Cannot receive: the source ended, ${soFar}${why}`, {
    cause: closeError,
  });
}

/** Formats topics and data of messages, or other items unchanged, with long texts cut. */
function list(items: readonly unknown[]): string {
  if (items.length === 0) return "";
  const texts = items.map((item) => {
    const { topic, data } = item as { topic?: unknown; data?: unknown };
    return typeof topic === "string" ? `${topic} ${inspected(data)}` : inspected(item);
  });
  return `: ${texts.join(", ")}`;
}

function inspected(value: unknown): string {
  return Deno.inspect(value, { depth: 2, compact: true, breakLength: Infinity }).slice(0, 80);
}
