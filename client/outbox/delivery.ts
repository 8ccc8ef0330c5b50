/** Implements at-least-once delivery: a message is sent until the server acknowledges it. */
import { isForSize } from "../../transport/close_info.ts";
import { internals } from "../../session/core.ts";
import type { Inside } from "../../session/receiving.ts";
import { extended, isBehind, isTooLarge, type Outbox, type OutboxEntry } from "./outbox.ts";
import { UnsupportedError } from "../../errors.ts";
import { waitFor } from "../../base/wait.ts";
import type { WaitOptions } from "../../session/types.ts";
import type { Session } from "../../session/session.ts";

/**
 * The maximum number of unacknowledged messages. It is well below the number of messages that may
 * wait for a server's handler.
 */
const MAX_IN_FLIGHT = 1024;

/**
 * The maximum number of unacknowledged bytes. It is low so that few bytes wait for a server's
 * handler. A single message may exceed it.
 */
const MAX_BYTES_IN_FLIGHT = 524_288;

/** The keys that are added to a message when a session accepts it. */
interface EnvelopeKeys {
  readonly seq?: number;
  readonly client?: string;
}

/**
 * Delivers the messages of an outbox through one session after another. Messages are numbered. Each
 * new session sends all remaining messages again, and the server drops those that it has already
 * handled. A message is removed once the server acknowledges it.
 */
export class Delivery {
  readonly #outbox: Outbox;
  /** The number of messages at the start of the outbox that have been sent but not acknowledged. */
  #inFlight = 0;
  #bytesInFlight = 0;

  constructor(outbox: Outbox) {
    this.#outbox = outbox;
  }

  /** The number of messages that have been sent but not acknowledged. */
  get unacknowledged(): number {
    return this.#inFlight;
  }

  /** Sends waiting and future messages. Resolves when the session has ended. */
  async sendIn(session: Session): Promise<void> {
    const outbox = this.#outbox;
    if (!outbox.isFor(session)) return;
    const core = session[internals];
    this.#inFlight = this.#bytesInFlight = 0;
    core.sending.onAck = (n) => this.#acked(n);
    void session.closed.then((info) => {
      const isOwn = outbox.session === session && this.#inFlight > 0;
      if (isOwn && isForSize(info)) this.#closedForSize(core);
      outbox.notify();
    });
    while (outbox.isFor(session)) {
      const next = outbox.waiting[this.#inFlight];
      if (next === undefined || this.#isFull(next)) await outbox.changed();
      else if (isBehind(core, next)) await session.flushed();
      else {
        const keys = keysOf(next, core);
        if (!this.#send(core, next, keys)) continue;
        if (keys.client !== undefined) core.sending.isIntroduced = true;
        this.#inFlight++;
        this.#bytesInFlight += next.size;
        core.receiving.liveness?.began();
      }
    }
  }

  #isFull({ size }: OutboxEntry): boolean {
    if (this.#inFlight === 0) return false;
    if (this.#outbox.isSearching) return true;
    return this.#inFlight >= MAX_IN_FLIGHT || this.#bytesInFlight + size > MAX_BYTES_IN_FLIGHT;
  }

  /** Sends one message. Returns false if it is larger than the server accepts. */
  #send(core: Inside, entry: OutboxEntry, keys: EnvelopeKeys): boolean {
    const message = extended(entry, keys);
    if (isTooLarge(core, message)) {
      this.#outbox.shift(this.#inFlight);
      return false;
    }
    // No overflow policy may drop this message, because a later acknowledgment would cover it too.
    core.sending.push(message, true);
    return true;
  }

  #closedForSize(core: Inside): void {
    const outbox = this.#outbox;
    const isAlone = this.#inFlight === 1 && outbox.publishing === 0;
    const failure = outbox.closedForSize(isAlone ? outbox.first : undefined, "send");
    if (failure === undefined) return;
    outbox.shift();
    core.sending.rejectedByPeer(failure);
  }

  /** Removes messages up to an acknowledged number. */
  #acked(n: number): void {
    for (let first; this.#inFlight > 0 && (first = this.#outbox.first!).seq <= n;) {
      this.#inFlight--;
      this.#bytesInFlight -= first.size;
      this.#outbox.shift();
    }
  }
}

/**
 * Waits until messages have left the outbox.
 *
 * @throws {UnsupportedError} If they should be in a store, which this client doesn't have.
 */
export async function flushed(
  outbox: Outbox,
  isDone: () => boolean,
  { to, ...options }: WaitOptions & { readonly to?: string | undefined },
): Promise<void> {
  if (to !== undefined) throw new UnsupportedError("Cannot flush: the client has no option store");
  let isAwaited = true;
  const done = async () => {
    while (isAwaited) {
      if (isDone()) return;
      if (outbox.error !== undefined) throw outbox.error;
      await outbox.changed();
    }
  };
  await waitFor(outbox.runtime, done(), { ...options, what: "empty outbox" }).finally(() =>
    isAwaited = false
  );
}

function keysOf({ seq }: OutboxEntry, core: Inside): EnvelopeKeys {
  if (core.sending.isIntroduced) return { seq };
  return { seq, client: core.settings.client };
}
