/** Changes of rows that wait for Redis, and are sent together. */

/** Bounds of one call. Redis does nothing else while the script of a call runs. */
const CALL = { changes: 64, bytes: 262_144 };

/** A change to send. */
interface Outgoing {
  readonly ask: object;
  readonly bytes: number;
}

interface Waiting<R> extends Outgoing {
  readonly reply: PromiseWithResolvers<R>;
}

/** The changes of one log. */
interface Line<R> {
  readonly waiting: Waiting<R>[];
  /** Number of calls without a reply. */
  calls: number;
}

/** Sends a call, and returns the reply to each change, or why the change failed. */
type SendChanges<R> = (id: string, asks: readonly object[]) => Promise<readonly (R | Error)[]>;

/**
 * Sends the changes of each log in the order in which they came. While a call is in flight, the
 * changes of its log wait, and share the next call.
 */
export class ChangeLines<R> {
  readonly #send: SendChanges<R>;
  /** The logs with calls in flight. */
  readonly #lines = new Map<string, Line<R>>();

  /** @param send See {@linkcode SendChanges}. */
  constructor(send: SendChanges<R>) {
    this.#send = send;
  }

  /** Sends a change, and returns its reply. */
  add(id: string, change: Outgoing): Promise<R> {
    const line = this.#lines.get(id) ?? { waiting: [], calls: 0 };
    const reply = Promise.withResolvers<R>();
    line.waiting.push({ ...change, reply });
    this.#lines.set(id, line);
    if (line.calls === 0) this.flush(id);
    return reply.promise;
  }

  /** Sends the changes of a log that wait, so that a later call comes after them. */
  flush(id: string): void {
    const line = this.#lines.get(id);
    if (line === undefined) return;
    let [batch, bytes]: [Waiting<R>[], number] = [[], 0];
    for (const change of line.waiting.splice(0)) {
      const isFull = batch.length === CALL.changes || bytes + change.bytes > CALL.bytes;
      if (isFull && batch.length > 0) {
        void this.#call(id, line, batch);
        [batch, bytes] = [[], 0];
      }
      batch.push(change);
      bytes += change.bytes;
    }
    if (batch.length > 0) void this.#call(id, line, batch);
  }

  /** Sends all changes that wait. */
  flushAll(): void {
    for (const id of this.#lines.keys()) this.flush(id);
  }

  async #call(id: string, line: Line<R>, changes: readonly Waiting<R>[]): Promise<void> {
    line.calls++;
    try {
      const replies = await this.#send(id, changes.map(({ ask }) => ask));
      for (const [i, { reply }] of changes.entries()) {
        const one = replies[i]!;
        if (one instanceof Error) reply.reject(one);
        else reply.resolve(one);
      }
    } catch (error) {
      for (const { reply } of changes) reply.reject(error);
    }
    line.calls--;
    this.flush(id);
    if (line.calls === 0) this.#lines.delete(id);
  }
}
