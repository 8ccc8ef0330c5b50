/**
 * The caller's side of a resumable response, which outlives the session. This module is loaded on
 * first use.
 */
import { isForSize } from "../../transport/close_info.ts";
import { RequestError, SessionClosedError } from "../../errors.ts";
import { Backoff, boundRetryAfter } from "../../base/backoff.ts";
import { anySignal, pause, startTimer, within } from "../../base/wait.ts";
import { internals } from "../core.ts";
import type { Inside } from "../receiving.ts";
import { tellSkipped } from "../settings/settings.ts";
import type { RequestStreamOptions, WaitOptions } from "../types.ts";
import { encodeMessage } from "../wire/encode.ts";
import { itemCheckOf, lateResponse, timeLeft } from "./reader.ts";

/** Pauses before a rejected request is repeated, if the server asks for a shorter one. */
const PAUSES = { firstDelayMs: 250, maxDelayMs: 5_000 };

/**
 * Pause before a request is repeated while the responses of the same user use the user's share, in
 * milliseconds. The server can't know when one of them ends.
 */
const OWN_PAUSE_MS = 2_000;

/** The line in which the rejected requests of a client wait; each goes on once it is first. */
export interface RejectedLine {
  /** Resolves once the line is empty; bounded by the responses that wait. */
  last?: Promise<void> | undefined;
  /** Number of responses that the client is reading. */
  reading?: number | undefined;
  /** Aborts when the client closes. */
  readonly closed: AbortSignal;
}

interface ResponseClient {
  readonly session: { readonly isReady: boolean } | undefined;
  whenConnected(options: WaitOptions): Promise<{ readonly [internals]: Inside }>;
  durableStream(
    id: string,
    options: {
      readonly after: string | undefined;
      readonly parse: ((item: unknown) => unknown) | undefined;
      readonly onInvalid: RequestStreamOptions["onInvalid"];
      readonly signal: AbortSignal;
    },
  ): AsyncIterable<unknown> & { readonly offset: string | undefined };
  durableStream(id: string): { cancel(reason?: string): Promise<void> };
}

/** A request, with the caller's position in its response. */
export interface ResumableResponseOptions extends RequestStreamOptions {
  readonly topic: string;
  readonly data: unknown;
  /** When the caller requested the response, on the monotonic clock. */
  readonly since: number;
  /** Called when the loop starts or stops waiting for an item. */
  readonly awaits: (isAwaited: boolean) => void;
  /**
   * The line of the client, which repeats its rejected requests one after another. Otherwise, they
   * would all be sent when there is room for one, and the server closes a session after too many
   * rejections.
   */
  readonly line: RejectedLine;
  /** The name of the response, and the offset that the loop has reached. */
  readonly response: { readonly id: string; offset: string | undefined };
}

/**
 * Sends the request immediately, and again in each new session until a reply arrives. The name
 * makes the request idempotent. If the server rejects it for now, the request waits as long as the
 * server says, and is repeated for as long as a reply may take. If the user's own responses are the
 * reason, it is repeated only while the client reads one of them, because the others may run for
 * long, for example if the page has forgotten their ids; otherwise, it is repeated once. The items
 * are read from a durable stream.
 */
export class ResumableResponse {
  readonly #client: ResponseClient;
  readonly #options: ResumableResponseOptions;
  readonly #opening: Promise<{ readonly id: string; readonly core: Inside }>;
  readonly #cancelled = new AbortController();
  /** The settings of the last session. */
  #settings: Inside["settings"] | undefined;

  constructor(client: ResponseClient, options: ResumableResponseOptions) {
    this.#client = client;
    this.#options = options;
    this.#opening = this.#open();
    this.#opening.catch(() => {}); // The loop throws it.
  }

  /** Asks the server to stop the response. One that waits to be started is not started. */
  async cancel(reason: string = ""): Promise<void> {
    const cancelled = new RequestError("cancelled", reason || "The response was cancelled");
    this.#cancelled.abort(cancelled);
    const opened = await this.#opening.catch((error) => {
      if (error !== cancelled) throw error;
    });
    if (opened === undefined) return;
    const { id } = opened;
    await this.#inSession(() => this.#client.durableStream(id).cancel(reason));
  }

  /** Yields the items after the offset of the response. */
  async *items(): AsyncGenerator<unknown, void, undefined> {
    const { topic, response, awaits, signal, itemTimeoutMs, onInvalid } = this.#options;
    const { id, core } = await this.#opening;
    const { settings: { runtime }, session } = core;
    const stop = new AbortController();
    const stopped = anySignal(signal, stop.signal);
    const isLate = (what: string, ms: number) => stop.abort(lateResponse(topic, what, ms));
    const timer = startTimer(runtime, this.#leftMs, () => isLate("end", this.#timeoutMs));
    const stream = this.#client.durableStream(id, {
      after: response.offset,
      parse: itemCheckOf(core, topic),
      onInvalid: onInvalid ?? ((error) => tellSkipped(core.settings, error, { session })),
      signal: stopped,
    });
    const items = stream[Symbol.asyncIterator]();
    const { line } = this.#options;
    line.reading = (line.reading ?? 0) + 1;
    try {
      while (true) {
        const itemTimer = startTimer(runtime, itemTimeoutMs, (ms) => isLate("next item", ms));
        awaits(true);
        const { done, value } = await within(runtime, items.next(), { signal: stopped })
          .finally(() => {
            awaits(false);
            runtime.clearTimeout(itemTimer);
          });
        if (done) return;
        response.offset = stream.offset;
        yield value;
      }
    } finally {
      line.reading--;
      runtime.clearTimeout(timer);
      stop.abort();
      await items.return?.();
    }
  }

  get #timeoutMs(): number {
    return this.#options.timeoutMs ?? Infinity;
  }

  /** The rest of the time for the whole response, in milliseconds. */
  get #leftMs(): number {
    const { runtime } = this.#settings ?? {};
    return runtime ? timeLeft(this.#timeoutMs, runtime, this.#options.since) : this.#timeoutMs;
  }

  /** Returns the time for one wait, in milliseconds, given its default. */
  #within(defaultMs: number): number {
    return Math.min(this.#leftMs, this.#options.itemTimeoutMs ?? defaultMs);
  }

  async #open(): Promise<{ readonly id: string; readonly core: Inside }> {
    const { topic, data, response, signal } = this.#options;
    if (!/^[\w-]{16,64}$/.test(response.id)) {
      const rule = "id must have 16 to 64 letters, digits, - or _";
      throw new TypeError(`Cannot request stream: ${rule}, received "${response.id}"`);
    }
    // Once the request was sent, the response may have started, and only the server can cancel it.
    let isSent = response.offset !== undefined;
    const { signal: cancelled } = this.#cancelled;
    const unsent = anySignal(signal, cancelled);
    const wait = () => ({
      // In a session, the request of a cancelled response is sent, because another page may have
      // started the response.
      signal: isSent || this.#client.session?.isReady ? signal : unsent,
      timeoutMs: this.#within(Infinity),
    });
    const ask = () =>
      this.#inSession(async (core) => {
        this.#settings = core.settings;
        core.sending.checkData("request stream", data);
        const { maxSendBytes: maxBytes } = core.sending;
        const reply = await core.sending.ask(
          `reply to "${topic}"`,
          (id) => {
            isSent = true;
            const begun = response.offset === undefined ? undefined : true;
            const verb = "request stream";
            return encodeMessage(topic, data, { id, stream: response.id, begun, maxBytes, verb });
          },
          { signal, timeoutMs: this.#within(core.settings.requestTimeoutMs), isRequest: true },
        );
        const { stream: id } = Object(reply) as { readonly stream?: unknown };
        if (typeof id === "string") return { id, core };
        throw new RequestError("invalid", `The response to "${topic}" is not resumable`);
      }, wait);
    try {
      return await ask();
    } catch (error) {
      return await this.#askAgain(ask, error);
    }
  }

  /**
   * Repeats a request that the server has rejected for now, in the line of the client, for as long
   * as a reply may take.
   */
  async #askAgain<T>(ask: () => Promise<T>, error: unknown): Promise<T> {
    let pauseMs = pauseAfter(error, true);
    const { runtime, requestTimeoutMs } = this.#settings!;
    const { line, signal } = this.#options;
    const withinMs = this.#within(requestTimeoutMs);
    const backoff = new Backoff(runtime, PAUSES);
    const late = new AbortController();
    const timer = startTimer(runtime, withinMs, () => late.abort(error));
    const untilMs = runtime.monotonic() + withinMs;
    const stopped = anySignal(late.signal, this.#cancelled.signal, line.closed, signal);
    const before = line.last ?? Promise.resolve();
    const over = Promise.withResolvers<void>();
    line.last = before.then(() => over.promise);
    try {
      while (true) {
        // A wait would only delay the rejection.
        if (runtime.monotonic() + pauseMs > untilMs) throw error;
        const paused = pause(runtime, Math.max(pauseMs, backoff.next()!), stopped);
        await within(runtime, Promise.all([before, paused]), { signal: stopped }).catch(() => {});
        // A closed client has its own error.
        if (!line.closed.aborted) stopped.throwIfAborted();
        try {
          return await ask();
        } catch (again) {
          error = again;
          pauseMs = pauseAfter(again, !!line.reading);
        }
      }
    } finally {
      runtime.clearTimeout(timer);
      over.resolve();
    }
  }

  /** Repeats an idempotent request in the next session if the session is lost. */
  async #inSession<T>(
    ask: (core: Inside) => Promise<T>,
    wait: () => WaitOptions = () => ({}),
  ): Promise<T> {
    for (let rejected = 0;;) {
      // A closed client has no session.
      const { [internals]: core } = await this.#client.whenConnected(wait());
      try {
        return await ask(core);
      } catch (error) {
        if (!(error instanceof SessionClosedError)) throw error;
        if (isForSize(error.info) && ++rejected > 1) throw error;
      }
    }
  }
}

/**
 * Returns how long a request waits after a rejection, in milliseconds.
 *
 * @param isOwnAwaited True if the request waits for the responses that use the user's share.
 * @throws The error, if it is final.
 */
function pauseAfter(error: unknown, isOwnAwaited: boolean): number {
  const { code, level, retryAfterMs } = error instanceof RequestError ? error.failure : {};
  const pauseMs = retryAfterMs || (isOwnAwaited && level === "user" ? OWN_PAUSE_MS : 0);
  if (code !== "too-many" || !pauseMs) throw error;
  return boundRetryAfter(pauseMs);
}
