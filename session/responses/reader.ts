/** The receiving half of a streaming response. This module is loaded with the first response. */
import { RequestError, TimeoutError } from "../../errors.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { startTimer } from "../../base/wait.ts";
import type { Inside } from "../receiving.ts";
import type { ResponseEvent, ResponseListener } from "../sending.ts";
import type { RequestStreamOptions } from "../types.ts";
import { encodeMessage } from "../wire/encode.ts";
import { FIRST_CREDIT, MAX_CREDIT, MAX_UNPAID_BYTES, type TraceContext } from "../wire/envelope.ts";

/**
 * Bytes of consumed items after which the reader returns credit, even before half of the window is
 * consumed. This is a quarter of the producer's bound. The reader measures text in UTF-16 code
 * units, each of which takes at most three bytes of UTF-8, so the producer continues before the
 * loop runs out of items.
 */
const PAY_BYTES = MAX_UNPAID_BYTES / 4;

/**
 * Returns the function that checks items against the contract; `undefined` for topics without a
 * schema. An asynchronous schema may take `requestTimeoutMs`.
 */
export function itemCheckOf(
  core: Inside,
  topic: string,
): ((item: unknown) => unknown) | undefined {
  const check = core.settings.router?.itemCheck(topic);
  return check && ((item) => {
    const checked = check(item);
    return checked instanceof Promise ? core.inTime("the schema of an item", checked) : checked;
  });
}

interface ReaderOptions extends RequestStreamOptions {
  readonly topic: string;
  readonly data: unknown;
  /** When the caller requested the response, on the monotonic clock; now by default. */
  readonly since?: number | undefined;
  /** Trace context of the request. */
  readonly trace?: TraceContext | undefined;
  /** Items that the peer may send ahead. */
  readonly window: number;
  /** Settles when the response ends, for the instrumentation. */
  readonly over?: { resolve(): void; reject(error: unknown): void };
  /**
   * Receives a single reply, after which the response has no items. Without this function, a single
   * reply is an error. MUST NOT throw.
   */
  readonly onReply?: (data: unknown) => void;
}

/**
 * Sends a request for a streaming response.
 *
 * @param core The session.
 * @param options See {@linkcode RequestStreamOptions}.
 */
export function openResponse(
  core: Inside,
  topic: string,
  data: unknown,
  options: RequestStreamOptions & Pick<ReaderOptions, "onReply" | "since"> & {
    /** Aborted if the response was cancelled before it opens. */
    readonly stop?: AbortController;
  },
): ResponseReader {
  const { window = FIRST_CREDIT, signal } = options;
  if (!(Number.isInteger(window) && window > 0 && window <= MAX_CREDIT)) {
    throw new RangeError(
      `Cannot request stream: window must be an integer from 1 to ${MAX_CREDIT}, received ${window}`,
    );
  }
  const { timeoutMs = 0, itemTimeoutMs = 0 } = options;
  for (const [name, ms] of Object.entries({ timeoutMs, itemTimeoutMs })) {
    if (ms >= 0) continue;
    throw new RangeError(`Cannot request stream: ${name} must be 0 or more, received ${ms}`);
  }
  options.stop?.signal.throwIfAborted();
  signal?.throwIfAborted();
  core.sending.checkData("request stream", data);
  const { watch } = core.settings;
  if (watch === undefined) return new ResponseReader(core, { ...options, topic, data, window });
  let opened: ResponseReader | { readonly error: unknown } | undefined;
  const over = Promise.withResolvers<void>();
  // Calls back immediately. A failure reaches both the instrumentation and the caller.
  const asked = watch.asking(core.session, topic, (trace) => {
    try {
      opened = new ResponseReader(core, { ...options, topic, data, window, trace, over });
    } catch (error) {
      opened = { error };
      over.reject(error);
    }
    return over.promise;
  });
  asked.catch(() => {});
  if (opened instanceof ResponseReader) return opened;
  throw opened!.error;
}

/** Creates the error for a response whose next item or end does not arrive in time. */
export function lateResponse(topic: string, what: string, ms: number): TimeoutError {
  const text = `No ${what} of the response to "${topic}" within ${ms} ms`;
  return new TimeoutError(text, ms);
}

/** Returns the rest of a time limit, in milliseconds; all of it if no time is given. */
export function timeLeft(
  timeoutMs: number,
  runtime: Runtime,
  since: number = runtime.monotonic(),
): number {
  return Math.max(0, Math.ceil(timeoutMs - (runtime.monotonic() - since)));
}

/** Buffers the items of one response for the loop, at most a window of them, and returns credit. */
export class ResponseReader {
  readonly #core: Inside;
  readonly #id: number;
  readonly #options: ReaderOptions;
  readonly #check: ((item: unknown) => unknown) | undefined;
  /** Items that wait for the loop, and their sizes. */
  #items: unknown[] = [];
  #sizes: number[] = [];
  #at = 0;
  #bytes = 0;
  #credit: number;
  /** Consumed items, and their bytes, for which no credit was returned. */
  #owed = 0;
  #owedBytes = 0;
  #isOver = false;
  #failure: { readonly error: unknown } | undefined;
  #waiting: PromiseWithResolvers<IteratorResult<unknown, void>> | undefined;
  #waitsSince = 0;
  #itemTimer: Timer | undefined;
  #timer: Timer | undefined;

  /** Sends the request. */
  constructor(core: Inside, options: ReaderOptions) {
    const { topic, data, window, signal, timeoutMs, since, trace } = options;
    this.#core = core;
    this.#options = options;
    this.#credit = window;
    this.#check = itemCheckOf(core, topic);
    const items = window === FIRST_CREDIT ? undefined : window;
    const { maxSendBytes: maxBytes } = core.sending;
    const take: ResponseListener = (event, size) => this.#take(event, size);
    this.#id = core.sending.requests.open(`response to "${topic}"`, take, (id) => {
      if (core.state === "closed" || core.ending !== undefined) core.checkOpen("request stream");
      const context = core.joins ? trace : undefined;
      core.sending.push(
        encodeMessage(topic, data, { id, items, maxBytes, trace: context, verb: "request stream" }),
        true,
      );
    });
    const { runtime } = core.settings;
    this.#timer = startTimer(
      runtime,
      timeoutMs && timeLeft(timeoutMs, runtime, since),
      () => this.#isLate("end", timeoutMs!),
    );
    signal?.addEventListener("abort", this.#onAbort);
    if (signal?.aborted) this.#onAbort();
  }

  #take(event: ResponseEvent, size: number): void {
    if (this.#isOver) return;
    if (event.kind === "part") return this.#takeItem(event.data, size);
    if (event.kind === "reply") {
      const { onReply } = this.#options;
      if (onReply) {
        onReply(event.data);
        return this.#end(undefined);
      }
      const message =
        `The response to "${this.#options.topic}" is a single reply, which request() reads`;
      this.#end({ error: new RequestError("invalid", message) });
    } else this.#end("error" in event ? { error: event.error } : undefined);
  }

  /** Returns the next item, as an iterator does. */
  next(): Promise<IteratorResult<unknown, void>> {
    if (this.#waiting !== undefined) {
      const next = () => this.next();
      return this.#waiting.promise.then(next, next);
    }
    if (this.#at < this.#items.length) return this.#consume();
    if (this.#isOver) return this.#last();
    this.#waiting = Promise.withResolvers();
    this.#await(true);
    this.#waitsSince = this.#core.settings.runtime.monotonic();
    if (this.#itemTimer === undefined) this.#watchItem(this.#itemTimeoutMs);
    return this.#waiting.promise;
  }

  /** Cancels the request and ends the loop without an error. Idempotent. */
  cancel(_reason?: string): void {
    if (this.#isOver) this.#discard();
    else this.#giveUp(undefined);
  }

  get #itemTimeoutMs(): number {
    return this.#options.itemTimeoutMs ?? this.#core.settings.requestTimeoutMs;
  }

  #takeItem(item: unknown, size: number): void {
    if (--this.#credit < 0 || this.#bytes > MAX_UNPAID_BYTES) {
      const message = `Expected no item beyond the credit of "${this.#options.topic}"`;
      this.#giveUp({ error: new RequestError("malformed", message) });
      return this.#core.receiving.faults.countInvalid(message);
    }
    this.#items.push(item);
    this.#sizes.push(size);
    this.#bytes += size;
    const waiting = this.#waiting;
    if (waiting === undefined) return;
    this.#stopWaiting();
    waiting.resolve(this.#consume());
  }

  #consume(): Promise<IteratorResult<unknown, void>> {
    const item = this.#items[this.#at];
    const size = this.#sizes[this.#at]!;
    this.#at++;
    if (this.#at === this.#items.length) {
      this.#items = [];
      this.#sizes = [];
      this.#at = 0;
    } else this.#items[this.#at - 1] = undefined;
    this.#bytes -= size;
    this.#owed++;
    this.#owedBytes += size;
    const isDue = this.#owed * 2 >= this.#options.window || this.#owedBytes >= PAY_BYTES;
    if (isDue && !this.#isOver) this.#pay();
    if (this.#check === undefined) return Promise.resolve({ done: false, value: item });
    return this.#checked(item);
  }

  async #checked(item: unknown): Promise<IteratorResult<unknown, void>> {
    try {
      return { done: false, value: await this.#check!(item) };
    } catch (error) {
      try {
        await this.#skip(error, item);
      } catch (error) {
        this.#giveUp(undefined, error);
        throw error;
      }
    }
    return await this.next();
  }

  #skip(error: unknown, data: unknown): unknown {
    if (!(error instanceof RequestError)) throw error;
    return this.#core.receiving.faults.skip(error, { data, onInvalid: this.#options.onInvalid });
  }

  #pay(): void {
    this.#credit += this.#owed;
    this.#core.sending.post({ more: this.#id, items: this.#owed });
    this.#owed = this.#owedBytes = 0;
  }

  #last(): Promise<IteratorResult<unknown, void>> {
    const failure = this.#failure;
    this.#failure = undefined;
    return failure
      ? Promise.reject(failure.error)
      : Promise.resolve({ done: true, value: undefined });
  }

  readonly #onAbort = () => this.#giveUp({ error: this.#options.signal!.reason });

  /** Limits how long the loop waits for an item. One timer serves many items. */
  #watchItem(ms: number): void {
    this.#itemTimer = startTimer(this.#core.settings.runtime, ms, () => {
      this.#itemTimer = undefined;
      if (this.#waiting === undefined) return;
      const leftMs = this.#waitsSince + this.#itemTimeoutMs -
        this.#core.settings.runtime.monotonic();
      if (leftMs >= 1) this.#watchItem(leftMs);
      else this.#isLate("next item", this.#itemTimeoutMs);
    });
  }

  #isLate(what: string, ms: number): void {
    const error = lateResponse(this.#options.topic, what, ms);
    this.#giveUp({ error });
    this.#core.sending.gaveUp(error);
  }

  #giveUp(failure: { readonly error: unknown } | undefined, told?: unknown): void {
    this.#discard();
    if (this.#isOver) return;
    if (this.#core.sending.requests.abandon(this.#id)) {
      this.#core.sending.post({ cancel: this.#id });
    }
    this.#end(failure, told);
  }

  #discard(): void {
    this.#items = [];
    this.#sizes = [];
    this.#at = this.#bytes = 0;
  }

  /**
   * Records that the loop waits for an item, because the peer may first need a reply from this
   * side.
   */
  #await(isAwaited: boolean): void {
    this.#core.sending.requests.awaits(this.#id, isAwaited);
    if (!isAwaited) return;
    this.#core.receiving.began();
  }

  #stopWaiting(): void {
    this.#waiting = undefined;
    this.#await(false);
  }

  #end(failure: { readonly error: unknown } | undefined, told = failure?.error): void {
    this.#isOver = true;
    this.#failure = failure;
    const { over, signal } = this.#options;
    const { runtime } = this.#core.settings;
    runtime.clearTimeout(this.#timer);
    runtime.clearTimeout(this.#itemTimer);
    signal?.removeEventListener("abort", this.#onAbort);
    if (over !== undefined) told === undefined ? over.resolve() : over.reject(told);
    const waiting = this.#waiting;
    if (waiting === undefined) return;
    this.#waiting = undefined;
    waiting.resolve(this.#last());
  }
}
