/**
 * The caller's side of a resumable response, which outlives the session. This module is loaded on
 * first use.
 */
import { isForSize } from "../../transport/close_info.ts";
import { RequestError, SessionClosedError } from "../../errors.ts";
import { anySignal, startTimer, within } from "../../base/wait.ts";
import { internals } from "../core.ts";
import type { Inside } from "../receiving.ts";
import { tellSkipped } from "../settings/settings.ts";
import type { RequestStreamOptions, WaitOptions } from "../types.ts";
import { encodeMessage } from "../wire/encode.ts";
import { itemCheckOf, lateResponse } from "./reader.ts";

interface ResponseClient {
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
  /** Called when the loop starts or stops waiting for an item. */
  readonly awaits: (isAwaited: boolean) => void;
  /** The name of the response, and the offset that the loop has reached. */
  readonly response: { readonly id: string; offset: string | undefined };
}

/**
 * Sends the request immediately, and again in each new session until a reply arrives. The name
 * makes the request idempotent. The items are read from a durable stream.
 */
export class ResumableResponse {
  readonly #client: ResponseClient;
  readonly #options: ResumableResponseOptions;
  readonly #opening: Promise<{ readonly id: string; readonly core: Inside }>;

  constructor(client: ResponseClient, options: ResumableResponseOptions) {
    this.#client = client;
    this.#options = options;
    this.#opening = this.#open();
    this.#opening.catch(() => {}); // The loop throws it.
  }

  /** Asks the server to stop the response. */
  async cancel(reason: string = ""): Promise<void> {
    const { id } = await this.#opening;
    await this.#inSession(() => this.#client.durableStream(id).cancel(reason));
  }

  /** Yields the items after the offset of the response. */
  async *items(): AsyncGenerator<unknown, void, undefined> {
    const { topic, response, awaits, signal, timeoutMs, itemTimeoutMs, onInvalid } = this.#options;
    const { id, core } = await this.#opening;
    const { settings: { runtime }, session } = core;
    const stop = new AbortController();
    const stopped = signal ? anySignal(signal, stop.signal) : stop.signal;
    const isLate = (what: string) => (ms: number) => stop.abort(lateResponse(topic, what, ms));
    const timer = startTimer(runtime, timeoutMs, isLate("all"));
    const stream = this.#client.durableStream(id, {
      after: response.offset,
      parse: itemCheckOf(core, topic),
      onInvalid: onInvalid ?? ((error) => tellSkipped(core.settings, error, { session })),
      signal: stopped,
    });
    const items = stream[Symbol.asyncIterator]();
    try {
      while (true) {
        const itemTimer = startTimer(runtime, itemTimeoutMs, isLate("the next item"));
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
      runtime.clearTimeout(timer);
      stop.abort();
      await items.return?.();
    }
  }

  async #open(): Promise<{ readonly id: string; readonly core: Inside }> {
    const { topic, data, response, signal, itemTimeoutMs: timeoutMs } = this.#options;
    if (!/^[\w-]{16,64}$/.test(response.id)) {
      const rule = "id must have 16 to 64 letters, digits, - or _";
      throw new TypeError(`Cannot request stream: ${rule}, received "${response.id}"`);
    }
    const wait = { signal, timeoutMs };
    return await this.#inSession(async (core) => {
      core.sending.checkData("request stream", data);
      const { maxSendBytes: maxBytes } = core.sending;
      const reply = await core.sending.ask(
        `the reply to "${topic}"`,
        (id) => {
          const begun = response.offset === undefined ? undefined : true;
          return encodeMessage(topic, data, { id, stream: response.id, begun, maxBytes });
        },
        { ...wait, isRequest: true },
      );
      const { stream: id } = Object(reply) as { readonly stream?: unknown };
      if (typeof id === "string") return { id, core };
      throw new RequestError("invalid", `The response to "${topic}" is not resumable`);
    }, wait);
  }

  /** Repeats an idempotent request in the next session if the session is lost. */
  async #inSession<T>(
    ask: (core: Inside) => Promise<T>,
    wait: WaitOptions = {},
  ): Promise<T> {
    for (let rejected = 0;;) {
      // A closed client has no session.
      const { [internals]: core } = await this.#client.whenConnected(wait);
      try {
        return await ask(core);
      } catch (error) {
        if (!(error instanceof SessionClosedError)) throw error;
        if (isForSize(error.info) && ++rejected > 1) throw error;
      }
    }
  }
}
