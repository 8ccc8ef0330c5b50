/**
 * Messages that are sent until the server acknowledges them: loaded by a client
 * that wants its own to arrive at least once.
 *
 * @module
 */
import { RequestError, SessionClosedError, UnsupportedError } from "../errors.ts";
import type { Frame } from "../transport/connection.ts";
import { decodeBinary, encodeBinary } from "../session/wire/binary.ts";
import { internals } from "../session/core.ts";
import type { SessionCore } from "../session/core.ts";
import { type EncodedMessage, framed } from "../session/wire/encode.ts";
import { isBehind, isTooLarge, type Outbox, type OutboxEntry } from "./outbox.ts";
import type { Session } from "../session/session.ts";
import { waitFor } from "../session/base/wait.ts";
import type { WaitOptions } from "../session/types.ts";
import { report } from "../session/report.ts";

/** Messages that may be on their way at once: well below what a server lets wait for its handler. */
const MAX_ON_THE_WAY = 1024;

/** Of their bytes as much, for the same reason; one message always goes. */
const MAX_BYTES_ON_THE_WAY = 524_288;

/** Publications of them: each is a request, and a server lets 64 wait by default, beside those of others. */
const MAX_PUBLICATIONS_ON_THE_WAY = 32;

/** What is added to a message as it is handed over. */
interface Keys {
  readonly seq?: number;
  readonly client?: string;
  readonly id?: number;
  readonly echo?: false;
}

/**
 * Hands an outbox to one session after the other: all of it anew to each, numbered, and lets go of
 * what the server acknowledges. The server drops what it handled already.
 */
export class Delivery {
  readonly #outbox: Outbox;
  /** How many of the outbox are on their way, the first ones, and their bytes. */
  #handed = 0;
  #bytes = 0;
  #acknowledged = 0;
  /** Publications that the session has yet to answer. */
  #publishing = new Set<OutboxEntry>();

  /** Begins to deliver what an outbox holds. */
  constructor(outbox: Outbox) {
    this.#outbox = outbox;
  }

  /** Hands over what waits and what comes; resolves once the session is over. */
  async handTo(session: Session): Promise<void> {
    const outbox = this.#outbox;
    if (!outbox.isFor(session)) return;
    const core = session[internals];
    const isNumbered = core.features?.includes("seq") === true;
    this.#handed = this.#bytes = 0;
    this.#publishing = new Set();
    outbox.error = isNumbered ? undefined : new UnsupportedError(
      "Cannot deliver at least once: the server acknowledges no messages",
    );
    if (!isNumbered) report(core.settings, outbox.error, session);
    core.onAck = (n) => this.#acked(n);
    void session.closed.then(() => outbox.notify());
    while (outbox.isFor(session)) {
      const next = outbox.waiting[this.#handed];
      if (next === undefined || this.#isFull(next)) await outbox.changed();
      else if (isBehind(core, next)) await session.flushed();
      else {
        const keys = keysOf(next, core, isNumbered);
        if (!this.#hand(core, next, keys)) continue;
        if (keys.client !== undefined) core.isIntroduced = true;
        if (isNumbered) {
          this.#handed++;
          this.#bytes += next.size;
        } else outbox.shift();
      }
    }
  }

  #isFull({ publication, size }: OutboxEntry): boolean {
    if (publication && this.#publishing.size >= MAX_PUBLICATIONS_ON_THE_WAY) return true;
    if (this.#handed === 0) return false;
    return this.#handed >= MAX_ON_THE_WAY || this.#bytes + size > MAX_BYTES_ON_THE_WAY;
  }

  /** Hands over one message; false if the server does not take it. */
  #hand(core: SessionCore, entry: OutboxEntry, keys: Keys): boolean {
    const { publication, topic } = entry;
    const answer = publication?.answer;
    const message = complete(entry, answer ? { ...keys, id: Number.MAX_SAFE_INTEGER } : keys);
    const refusal = refusalOf(core, message, keys);
    if (refusal !== undefined) {
      this.#outbox.shift(this.#handed);
      answer?.reject(refusal);
      return false;
    }
    if (answer === undefined) {
      // Never dropped by policy: what is acknowledged after it would be taken for it too.
      core.push(message, true);
      return true;
    }
    const publishing = this.#publishing.add(entry);
    core.ask(`the publication on "${topic}"`, (id) => complete(entry, { ...keys, id }), {
      timeoutMs: Infinity,
      onAnswer: () => answer.resolve(),
    }).catch((error) => {
      if (keys.seq === undefined || !(error instanceof SessionClosedError)) answer.reject(error);
      // Otherwise it is sent again with the next session.
      else if (entry.seq <= this.#acknowledged) answer.resolve();
    }).finally(() => {
      publishing.delete(entry);
      this.#outbox.notify();
    });
    return true;
  }

  /** Publications were answered before. */
  #acked(n: number): void {
    // Of two sessions the earlier one may still tell what it handled.
    this.#acknowledged = Math.max(this.#acknowledged, n);
    for (let first; this.#handed > 0 && (first = this.#outbox.first!).seq <= n;) {
      this.#handed--;
      this.#bytes -= first.size;
      this.#outbox.shift();
    }
  }
}

/** Waits until everything up to a number was acknowledged, or handed over where nothing is. */
export function flushed(outbox: Outbox, last: number, options: WaitOptions): Promise<void> {
  let isAwaited = true;
  const done = async () => {
    while (isAwaited) {
      const { error, first } = outbox;
      const isDone = first === undefined || first.seq > last;
      if (error !== undefined && !(isDone && error instanceof SessionClosedError)) throw error;
      if (isDone) return;
      await outbox.changed();
    }
  };
  return waitFor(done(), { ...options, what: "the outbox" }).finally(() => isAwaited = false);
}

function keysOf({ seq, publication }: OutboxEntry, core: SessionCore, isNumbered: boolean): Keys {
  const isQuiet = publication?.echo === false;
  const isSaid = !core.isIntroduced && (isNumbered || isQuiet && core.canOmitEcho);
  return {
    ...(isNumbered && { seq }),
    ...(isSaid && { client: core.settings.client }),
    ...(isQuiet && { echo: false as const }),
  };
}

/** Tells why a server does not take a message; `undefined` if it may. */
function refusalOf(core: SessionCore, message: EncodedMessage, keys: Keys): Error | undefined {
  if (keys.echo === false && core.echoError !== undefined) return core.echoError;
  if (!isTooLarge(core, message)) return undefined;
  const text = `The server does not take "${message.topic}": it is too large`;
  return new RequestError("too-large", text);
}

function complete({ frame, topic, publication }: OutboxEntry, keys: Keys): EncodedMessage {
  return framed(extend(frame, keys, publication !== undefined), topic);
}

/** Puts keys at the end of a message, and makes a publication of it where it is to be one. */
function extend(frame: Frame, keys: Keys, isPublished: boolean): Frame {
  if (typeof frame !== "string") {
    const { head, data } = decodeBinary(frame)!;
    return encodeBinary(extend(head, keys, isPublished) as string, data);
  }
  const head = isPublished ? frame.replace('{"topic"', '{"publish"') : frame;
  const tail = JSON.stringify(keys).slice(1);
  return tail === "}" ? head : `${head.slice(0, -1)},${tail}`;
}
