/** Handlers of one end of a session, with a note of each call. */
import type { Audit } from "../audit.ts";

/** Items of an answer that streams. */
export const ITEMS = 3;

/** One call of a handler. */
export interface Call {
  readonly id: number;
  readonly startMs: number;
  /** True for a handler that runs: items are made once asked for. */
  hasBegun: boolean;
  /** State of the message when the handler was called. */
  readonly wasCancelled: boolean;
  /** Time of the abort of the signal. */
  abortedMs: number;
  /** Time of the end of the handler, and of its items. */
  overMs: number;
  /** State of the message at the end. */
  isCancelled: boolean;
  isAborted: boolean;
}

/** The members of a message that handlers of both kinds use. */
export interface Heard {
  readonly data: unknown;
  readonly signal: AbortSignal;
  readonly isCancelled: boolean;
}

/** Data of an operation. */
export interface Asked {
  readonly id: number;
  readonly ms: number;
  /** True for a handler that takes the signal at the beginning. */
  readonly hears: boolean;
}

/** The handlers of one end, with a note of each call. */
export class Handlers {
  readonly calls: Call[] = [];
  /** Calls at once, without items under way, and the most calls. */
  running = 0;
  most = 0;
  /** Calls by a loop among these, for which no close waits. */
  looping = 0;
  /** True while the handler of the beginning runs, and calls meanwhile. */
  isOpening = false;
  early = 0;
  /** Sessions that began. */
  sessions = 0;
  readonly #audit: Audit;

  constructor(audit: Audit) {
    this.#audit = audit;
  }

  /** Handles one message or request. */
  readonly value = async (message: Heard): Promise<number> => {
    const call = this.#begin(message);
    this.most = Math.max(this.most, ++this.running);
    await this.#audit.pause((message.data as Asked).ms);
    this.running--;
    this.#end(call, message);
    return call.id;
  };

  /** Takes time at the beginning of a session. */
  readonly open = async (ms: number): Promise<void> => {
    // A client that comes back has another session, beside handlers of the first one.
    this.isOpening = ++this.sessions === 1;
    await this.#audit.pause(ms);
    this.isOpening = false;
  };

  /** Handles all messages of a session by a loop. */
  readonly loop = async (session: AsyncIterable<Heard>): Promise<void> => {
    for await (const message of session) {
      this.looping++;
      await this.value(message);
      this.looping--;
    }
  };

  /** Makes the items of an answer, beside the next handler. */
  readonly items = (message: Heard): AsyncIterable<number> => {
    const call = this.#begin(message);
    const { ms } = message.data as Asked;
    const pause = () => this.#audit.pause(ms / ITEMS);
    const end = () => this.#end(call, message);
    call.hasBegun = false;
    return (async function* () {
      call.hasBegun = true;
      try {
        for (let item = 0; item < ITEMS; item++) {
          await pause();
          yield item;
        }
      } finally {
        end();
      }
    })();
  };

  #begin(message: Heard): Call {
    const { id, hears } = message.data as Asked;
    const { isCancelled: wasCancelled } = message;
    if (this.isOpening) this.early++;
    const startMs = this.#audit.nowMs;
    const call: Call = {
      id,
      startMs,
      hasBegun: true,
      wasCancelled,
      abortedMs: Infinity,
      overMs: Infinity,
      isCancelled: false,
      isAborted: false,
    };
    if (hears) {
      const note = () => call.abortedMs = this.#audit.nowMs;
      if (message.signal.aborted) note();
      else message.signal.addEventListener("abort", note);
    }
    this.calls.push(call);
    return call;
  }

  #end(call: Call, message: Heard): void {
    call.overMs = this.#audit.nowMs;
    call.isCancelled = message.isCancelled;
    call.isAborted = message.signal.aborted;
  }
}
