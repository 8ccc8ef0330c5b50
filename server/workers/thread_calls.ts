/** Calls between the main thread and a worker, in addition to the broker's batches. */
import { textOf } from "../../base/error_text.ts";
import type { DrainReport } from "../../manager/drain.ts";
import type { SessionCloseOptions } from "../../session/types.ts";
import type { ServerHealth } from "../metrics/measures.ts";
import type { Measure } from "../metrics/measures.ts";

/** The UDP socket of WebTransport, as other workers announce it to their clients. */
export interface UdpFacts {
  /** Address of the socket. */
  readonly address: Deno.NetAddr;
  /** Hashes of the certificate. */
  readonly hashes: readonly {
    readonly algorithm: "sha-256";
    readonly value: Uint8Array<ArrayBuffer>;
  }[];
}

/** State of the sockets of a worker. */
export interface ListeningFacts {
  /** Address of TCP. */
  readonly address: Deno.NetAddr;
  /** The URL of WebSocket. */
  readonly url: string;
  /** The WebTransport URL; empty if this worker does not serve WebTransport. */
  readonly webTransportUrl: string;
  /** Reason for a failure of WebTransport. */
  readonly webTransportError?: string | undefined;
  /** Id of the worker's node. */
  readonly node: string;
}

/** Calls of the main thread to a worker. */
export interface WorkerQuestions {
  /** Loads the module, and listens. */
  start(): ListeningFacts;
  /** Shows that the worker is handling messages, and whether its heap was ever full. */
  ping(): { readonly isExhausted: boolean };
  /** Starts to listen on UDP. */
  takeUdp(): void;
  /** Reads the UDP socket; `undefined` if there is none. */
  udp(): UdpFacts | undefined;
  /** Reads the metrics. */
  measures(): readonly Measure[];
  /** Reads the health. */
  health(): ServerHealth;
  /** Drains the server, and closes the broker. */
  drain(
    options: { readonly withinMs?: number | undefined; readonly reason?: string | undefined },
  ): DrainReport;
  /** Closes the server and the broker. */
  close(options: SessionCloseOptions): void;
}

/** Calls of a worker to the main thread. */
export interface MainQuestions {
  /** Reports that the sockets changed. */
  listening(facts: ListeningFacts): void;
  /** Reads the UDP socket of the worker that has it. */
  udp(): UdpFacts | undefined;
  /** Reads the metrics of all workers. */
  measures(): readonly Measure[];
  /** Reads the health of all workers. */
  health(): ServerHealth;
}

/** A message between threads: a call, a response, or an error. */
export type ThreadMessage =
  | { readonly type: "ask"; readonly id: number; readonly name: string; readonly data: unknown }
  | { readonly type: "reply"; readonly id: number; readonly data: unknown }
  | { readonly type: "failure"; readonly id: number; readonly name: string; readonly text: string };

/** Calls, each with an optional argument and a result. */
type Questions<T> = { readonly [K in keyof T]: (data: never) => unknown };

/** Handlers of calls, synchronous or asynchronous. */
export type QuestionHandlers<T extends Questions<T>> = {
  readonly [K in keyof T]: (
    ...data: Parameters<T[K]>
  ) => ReturnType<T[K]> | Promise<Awaited<ReturnType<T[K]>>>;
};

/**
 * One side of the calls between two threads. The number of pending calls is bounded because callers
 * make only a few at a time.
 */
export class ThreadCalls<Asked extends Questions<Asked>, Replied extends Questions<Replied>> {
  readonly #post: (message: ThreadMessage) => void;
  readonly #handlers: QuestionHandlers<Replied>;
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  #last = 0;
  #end: Error | undefined;

  /** Creates one side, without pending calls. */
  constructor(post: (message: ThreadMessage) => void, handlers: QuestionHandlers<Replied>) {
    this.#post = post;
    this.#handlers = handlers;
  }

  /**
   * Calls the other thread. Rejects with the error of the other thread, or when that thread has
   * ended.
   */
  async ask<K extends keyof Asked & string>(
    name: K,
    ...[data]: Parameters<Asked[K]>
  ): Promise<ReturnType<Asked[K]>> {
    if (this.#end !== undefined) throw this.#end;
    const id = ++this.#last;
    const reply = Promise.withResolvers<unknown>();
    this.#waiting.set(id, reply);
    this.#post({ type: "ask", id, name, data });
    return await reply.promise as ReturnType<Asked[K]>;
  }

  /** Handles a message of the other thread. */
  take(message: ThreadMessage): void {
    if (message.type === "ask") return void this.#reply(message);
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (message.type === "reply") waiting?.resolve(message.data);
    else waiting?.reject(errorFromText(message.name, message.text));
  }

  /** Rejects all pending and later calls, because the other thread has ended. */
  end(error: Error): void {
    this.#end ??= error;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  async #reply(
    { id, name, data }: ThreadMessage & { readonly type: "ask" },
  ): Promise<void> {
    const handlers = this.#handlers as Record<string, (data: unknown) => unknown>;
    try {
      const reply = await handlers[name]!(data);
      this.#post({ type: "reply", id, data: reply });
    } catch (error) {
      const kind = error instanceof Error ? error.name : "Error";
      this.#post({ type: "failure", id, name: kind, text: textOf(error) });
    }
  }
}

function errorFromText(name: string, text: string): Error {
  if (name === "TypeError") return new TypeError(text);
  return name === "RangeError" ? new RangeError(text) : new Error(text);
}
