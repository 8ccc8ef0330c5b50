/**
 * Questions to other nodes that wait for answers.
 *
 * @module
 */
import { settlesWithin } from "../../session/base/wait.ts";
import type { NodeAnswers } from "./types.ts";

/** Questions that wait for answers at once. */
const MAX_ASKS = 1_000;

interface Ask {
  /** Nodes that have not answered. */
  readonly waiting: Set<string>;
  readonly answers: { node: string; data: unknown }[];
  isComplete: boolean;
  readonly done: () => void;
}

/** The questions of one node. */
export class NodeAsks {
  readonly #asks = new Map<number, Ask>();
  #last = 0;

  /** Asks by `send`, and waits for the answers of these nodes. */
  async ask(
    nodes: Iterable<string>,
    send: (id: number) => void,
    timeoutMs: number,
  ): Promise<NodeAnswers> {
    if (this.#asks.size >= MAX_ASKS) return { answers: [], isComplete: false };
    const { promise, resolve } = Promise.withResolvers<void>();
    const ask: Ask = { waiting: new Set(nodes), answers: [], isComplete: true, done: resolve };
    const id = ++this.#last;
    this.#asks.set(id, ask);
    try {
      send(id);
      const isOver = await settlesWithin(promise, timeoutMs);
      return { answers: ask.answers, isComplete: isOver && ask.isComplete };
    } finally {
      this.#asks.delete(id);
    }
  }

  /** A node answered; without an answer where its handler failed. */
  answered(id: number, node: string, answer: { readonly data: unknown } | undefined): void {
    const ask = this.#asks.get(id);
    if (!ask?.waiting.has(node)) return;
    if (answer === undefined) ask.isComplete = false;
    else ask.answers.push({ node, data: answer.data });
    settle(ask, node);
  }

  /** Who is gone owes no answer: there is nothing of it that the answer could tell of. */
  gone(node: string): void {
    for (const ask of this.#asks.values()) settle(ask, node);
  }

  /** Nobody answers any more. */
  end(): void {
    for (const ask of this.#asks.values()) {
      ask.isComplete = false;
      ask.done();
    }
  }
}

function settle(ask: Ask, node: string): void {
  if (ask.waiting.delete(node) && ask.waiting.size === 0) ask.done();
}
