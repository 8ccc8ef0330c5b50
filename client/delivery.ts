/** Implements at-least-once delivery: a message is sent until the server acknowledges it. */
import { isForSize } from "../transport/close_info.ts";
import { RequestError, SessionClosedError } from "../errors.ts";
import type { Frame } from "../transport/connection.ts";
import { internals } from "../session/core.ts";
import type { Inside } from "../session/receiving.ts";
import { decodeBinary, encodeBinary, type EncodedMessage, framed } from "../session/wire/encode.ts";
import { isBehind, isTooLarge, type Outbox, type OutboxEntry } from "./outbox.ts";
import { waitFor } from "../base/wait.ts";
import type { WaitOptions } from "../session/types.ts";
import type { Session } from "../session/session.ts";

/**
 * The maximum number of unacknowledged messages. It is well below the number of messages that may
 * wait for a server's handler.
 */
const MAX_ON_THE_WAY = 1024;

/**
 * The maximum number of unacknowledged bytes. It is low so that few bytes wait for a server's
 * handler. A single message may exceed it.
 */
const MAX_BYTES_ON_THE_WAY = 524_288;

/**
 * The maximum number of unanswered publications. Each publication is a request. By default, a
 * server lets 64 of a client's requests wait. The client's other requests count toward this limit,
 * too.
 */
const MAX_PUBLICATIONS_ON_THE_WAY = 32;

/** The keys that are added to a message when a session accepts it. */
interface Keys {
  readonly seq?: number;
  readonly client?: string;
  readonly id?: number;
  readonly echo?: false;
}

/**
 * Delivers the messages of an outbox through one session after another. Messages are numbered. Each
 * new session sends all remaining messages again, and the server drops those that it has already
 * handled. A message is removed once the server acknowledges it.
 */
export class Delivery {
  readonly #outbox: Outbox;
  /** The number of messages at the start of the outbox that have been sent but not acknowledged. */
  #handed = 0;
  #bytes = 0;
  #acknowledged = 0;
  /**
   * True after a session closed because of a message's size, until the outbox is empty. During that
   * time messages are sent one at a time, to find the message that is too large.
   */
  #isSearching = false;
  /** The message that was in flight at the last such close, if it was the only one. */
  #suspect: OutboxEntry | undefined;
  /** The publications that have no reply in this session yet. */
  #publishing = new Set<OutboxEntry>();

  constructor(outbox: Outbox) {
    this.#outbox = outbox;
  }

  /** The number of messages that have been sent but not acknowledged. */
  get unacknowledged(): number {
    return this.#handed;
  }

  /** Sends waiting and future messages. Resolves when the session has ended. */
  async handTo(session: Session): Promise<void> {
    const outbox = this.#outbox;
    if (!outbox.isFor(session)) return;
    const core = session[internals];
    this.#handed = this.#bytes = 0;
    this.#publishing = new Set();
    core.sending.onAck = (n) => this.#acked(n);
    void session.closed.then((info) => {
      if (outbox.session === session && isForSize(info)) this.#refusedForSize(core);
      outbox.notify();
    });
    while (outbox.isFor(session)) {
      const next = outbox.waiting[this.#handed];
      if (next === undefined || this.#isFull(next)) await outbox.changed();
      else if (isBehind(core, next)) await session.flushed();
      else {
        const keys = keysOf(next, core);
        if (!this.#hand(core, next, keys)) continue;
        if (keys.client !== undefined) core.sending.isIntroduced = true;
        this.#handed++;
        this.#bytes += next.size;
        core.receiving.liveness?.began();
      }
    }
  }

  #isFull({ publication, size }: OutboxEntry): boolean {
    if (publication && this.#publishing.size >= MAX_PUBLICATIONS_ON_THE_WAY) return true;
    if (this.#handed === 0) return false;
    if (this.#isSearching) return true;
    return this.#handed >= MAX_ON_THE_WAY || this.#bytes + size > MAX_BYTES_ON_THE_WAY;
  }

  /** Sends one message. Returns false if it is larger than the server accepts. */
  #hand(core: Inside, entry: OutboxEntry, keys: Keys): boolean {
    const { publication, topic } = entry;
    const answer = publication?.answer;
    entry.isHanded = true;
    const message = complete(entry, answer ? { ...keys, id: Number.MAX_SAFE_INTEGER } : keys);
    if (isTooLarge(core, message)) {
      this.#outbox.shift(this.#handed);
      const text = `The server does not accept "${topic}": it is too large`;
      answer?.reject(new RequestError("too-large", text));
      return false;
    }
    if (answer === undefined) {
      // No overflow policy may drop this message, because a later acknowledgment would cover it
      // too.
      core.sending.push(message, true);
      return true;
    }
    const publishing = this.#publishing.add(entry);
    core.sending.ask(`the publication on "${topic}"`, (id) => complete(entry, { ...keys, id }), {
      timeoutMs: Infinity,
      onAnswer: () => answer.resolve(),
    }).catch((error) => {
      if (!(error instanceof SessionClosedError)) answer.reject(error);
      // If it is not acknowledged yet, the publication is sent again in the next session.
      else if (entry.seq <= this.#acknowledged) answer.resolve();
    }).finally(() => {
      publishing.delete(entry);
      this.#outbox.notify();
    });
    return true;
  }

  /**
   * Handles a close because of a message's size, which happens if a peer or proxy has a lower limit
   * than `hello` announced. If the same message is the only one in flight at two such closes in a
   * row, it is dropped and reported, because it would end every later session too.
   */
  #refusedForSize(core: Inside): void {
    const first = this.#handed === 1 ? this.#outbox.first : undefined;
    const isFound = first !== undefined && first === this.#suspect;
    this.#isSearching = true;
    this.#suspect = isFound ? undefined : first;
    if (!isFound) return;
    const { publication, size, topic } = first;
    const message =
      `Cannot send "${topic}": two connections were closed because of its size, ${size} bytes`;
    this.#outbox.shift();
    core.sending.refusedByPeer({ code: "too-large", message });
    publication?.answer.reject(new RequestError("too-large", message));
  }

  /**
   * Removes messages up to an acknowledged number. If there are publications among them, the server
   * has already replied to those.
   */
  #acked(n: number): void {
    // An earlier session may acknowledge messages after a later session already did.
    this.#acknowledged = Math.max(this.#acknowledged, n);
    for (let first; this.#handed > 0 && (first = this.#outbox.first!).seq <= n;) {
      this.#handed--;
      this.#bytes -= first.size;
      this.#outbox.shift();
    }
    if (this.#outbox.first === undefined) this.#isSearching = false;
  }
}

/** Waits until all messages up to a number have left the outbox. */
export function flushed(outbox: Outbox, last: number, options: WaitOptions): Promise<void> {
  let isAwaited = true;
  const done = async () => {
    while (isAwaited) {
      const { error, first } = outbox;
      if (first === undefined || first.seq > last) return;
      if (error !== undefined) throw error;
      await outbox.changed();
    }
  };
  return waitFor(outbox.runtime, done(), { ...options, what: "the outbox" }).finally(() =>
    isAwaited = false
  );
}

function keysOf({ seq, publication }: OutboxEntry, core: Inside): Keys {
  return {
    seq,
    client: core.sending.isIntroduced ? undefined : core.settings.client,
    echo: publication?.echo === false ? false : undefined,
  };
}

function complete({ frame, topic, publication }: OutboxEntry, keys: Keys): EncodedMessage {
  return framed(extend(frame, keys, publication !== undefined), topic);
}

function extend(frame: Frame, keys: Keys, isPublished: boolean): Frame {
  if (typeof frame !== "string") {
    const { head, data } = decodeBinary(frame)!;
    return encodeBinary(extend(head, keys, isPublished) as string, data);
  }
  const head = isPublished ? frame.replace('{"topic"', '{"publish"') : frame;
  const tail = JSON.stringify(keys).slice(1);
  return tail === "}" ? head : `${head.slice(0, -1)},${tail}`;
}
