/** A kept answer, one that outlives the session, on the side of the caller; loads on first use. */
import { isForSize } from "../../transport/close_info.ts";
import { RequestError, SessionClosedError } from "../../errors.ts";
import { anySignal, startTimer, within } from "../../base/wait.ts";
import { internals } from "../core.ts";
import type { Inside } from "../receiving.ts";
import { tellSkipped } from "../settings.ts";
import type { RequestStreamOptions, WaitOptions } from "../types.ts";
import { encodeMessage } from "../wire/encode.ts";
import { itemCheckOf, lateAnswer } from "./reader.ts";

/** The client, for kept answers. */
interface AnswerClient {
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

/** A request, and the answer as the caller has it. */
export interface KeptAnswerOptions extends RequestStreamOptions {
  readonly topic: string;
  readonly data: unknown;
  /** Notes if the loop waits for an item, or no longer does. */
  readonly awaits: (isAwaited: boolean) => void;
  /** The name, and the place that the loop has reached. */
  readonly answer: { readonly id: string; offset: string | undefined };
}

/**
 * Sends the request at once, and again in each session until there is a reply: the name starts one
 * answer. The items are those of a durable stream.
 */
export class KeptAnswer {
  readonly #client: AnswerClient;
  readonly #options: KeptAnswerOptions;
  readonly #opening: Promise<{ readonly id: string; readonly core: Inside }>;

  /** Sends the request. */
  constructor(client: AnswerClient, options: KeptAnswerOptions) {
    this.#client = client;
    this.#options = options;
    this.#opening = this.#open();
    this.#opening.catch(() => {}); // The loop tells.
  }

  /** Asks the server to stop the answer. */
  async cancel(reason: string = ""): Promise<void> {
    const { id } = await this.#opening;
    await this.#inSession(() => this.#client.durableStream(id).cancel(reason));
  }

  /** Yields the items behind the place of the answer. */
  async *items(): AsyncGenerator<unknown, void, undefined> {
    const { topic, answer, awaits, signal, timeoutMs, itemTimeoutMs, onInvalid } = this.#options;
    const { id, core } = await this.#opening;
    const { settings: { runtime }, session } = core;
    const stop = new AbortController();
    const stopped = signal ? anySignal(signal, stop.signal) : stop.signal;
    const isLate = (what: string) => (ms: number) => stop.abort(lateAnswer(topic, what, ms));
    const timer = startTimer(runtime, timeoutMs, isLate("all"));
    const stream = this.#client.durableStream(id, {
      after: answer.offset,
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
        answer.offset = stream.offset;
        yield value;
      }
    } finally {
      runtime.clearTimeout(timer);
      stop.abort();
      await items.return?.();
    }
  }

  async #open(): Promise<{ readonly id: string; readonly core: Inside }> {
    const { topic, data, answer, signal, itemTimeoutMs: timeoutMs } = this.#options;
    const wait = { signal, timeoutMs };
    return await this.#inSession(async (core) => {
      core.sending.checkData("ask", data);
      const { maxSendBytes: maxBytes } = core.sending;
      const reply = await core.sending.ask(
        `the answer to "${topic}"`,
        (id) => {
          const begun = answer.offset === undefined ? undefined : true;
          return encodeMessage(topic, data, { id, stream: answer.id, begun, maxBytes });
        },
        { ...wait, isRequest: true },
      );
      const { stream: id } = Object(reply) as { readonly stream?: unknown };
      if (typeof id === "string") return { id, core };
      throw new RequestError("invalid", `The answer to "${topic}" does not outlive its session`);
    }, wait);
  }

  /** Asks in a session, and again in the next one if the session is lost: both requests are idempotent. */
  async #inSession<T>(
    ask: (core: Inside) => Promise<T>,
    wait: WaitOptions = {},
  ): Promise<T> {
    for (let refused = 0;;) {
      // A client that has ended has no session.
      const { [internals]: core } = await this.#client.whenConnected(wait);
      try {
        return await ask(core);
      } catch (error) {
        if (!(error instanceof SessionClosedError)) throw error;
        if (isForSize(error.info) && ++refused > 1) throw error;
      }
    }
  }
}
