/** A model and a contract for tests of resumable responses. */
import { z } from "zod";
import { guest, type ServerOptions } from "../server.ts";
import { defineContract } from "../session/contract.ts";
import { resumable } from "../streams/mod.ts";

export const contract = defineContract({
  requests: {
    "chat:{room}": { input: z.string(), stream: z.string(), resume: true },
    count: { input: z.coerce.number(), stream: z.number(), resume: true },
    plain: { input: z.number(), stream: z.number() },
  },
});
export type Shared = typeof contract;

/** A model that releases its words one by one, and records its calls. */
export class Model {
  readonly calls: unknown[] = [];
  readonly signals: AbortSignal[] = [];
  #released = 0;
  #wake = Promise.withResolvers<void>();

  release(words = Infinity): void {
    this.#released += words;
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }

  async *words(from: number, signal: AbortSignal): AsyncGenerator<string> {
    this.signals.push(signal);
    const stopped = new Promise<void>((resolve) =>
      signal.addEventListener("abort", () => resolve())
    );
    for (let i = from; i < 8; i++) {
      while (i >= this.#released && !signal.aborted) {
        await Promise.race([this.#wake.promise, stopped]);
      }
      if (signal.aborted) return;
      yield `word ${i}`;
    }
  }

  options(
    more: Partial<ServerOptions<string | typeof guest, Shared>> = {},
  ): ServerOptions<string | typeof guest, Shared> {
    return {
      contract,
      tokens: { inMessage: true },
      authenticate: ({ token }) => token ?? guest,
      requests: {
        "chat:{room}": {
          resumable,
          handle: ({ data, params, signal }, { value }) => {
            this.calls.push({ data, room: params.room, user: value });
            return this.words(0, signal);
          },
          resume: ({ data, params }, { written, count, signal }) => {
            this.calls.push({ data, room: params.room, written, count });
            return this.words(count, signal);
          },
        },
        count: {
          resumable,
          async *handle({ data }) {
            for (let i = 0; i < data; i++) yield i;
          },
        },
        async *plain({ data }) {
          yield data;
        },
      },
      ...more,
    };
  }
}

/** Returns the words of a response from one index up to another. */
export function words(to: number, from = 0): string[] {
  return Array.from({ length: to - from }, (_, i) => `word ${from + i}`);
}
