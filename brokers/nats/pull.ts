/** Reads messages of a stream with a consumer that exists for one read or one list. */
import { type ConsumerInfo, DeliverPolicy, type JetStreamManager } from "@nats-io/jetstream";
import type { Msg } from "@nats-io/nats-core";
import { BrokerError } from "../../errors.ts";
import { consume, forget } from "./jetstream.ts";
import { headerOf, tagIn } from "./format.ts";
import { type NatsLink, REQUEST_TIMEOUT_MS } from "./link.ts";

/** Longest wait for messages that were removed after a read started, in milliseconds. */
const LATE_MS = 1_000;

/** The part of a stream to read. */
export interface PullOptions {
  readonly stream: string;
  readonly subject: string;
  /** First sequence. */
  readonly from: number;
  /** Maximum number of messages. */
  readonly count: number;
  /** Maximum size of the messages in bytes, including headers; no effect with `headersOnly`. */
  readonly maxBytes?: number | undefined;
  /** Leaves out payloads. */
  readonly headersOnly?: boolean | undefined;
  /** Returns what has arrived after a second: the others may have been removed meanwhile. */
  readonly mayLack?: boolean | undefined;
}

export interface Stored {
  readonly seq: number;
  /** Time of storage, in milliseconds since the Unix epoch. */
  readonly atMs: number;
  readonly data: Uint8Array;
  /** Length of the payload, also with `headersOnly`. */
  readonly bytes: number;
  /** Tag of a publication that has an id; `undefined` for any other message. */
  readonly tag: string | undefined;
}

/** Messages of one subject. */
export interface Pulled {
  readonly messages: readonly Stored[];
  /** Number of messages after these. */
  readonly pending: number;
}

/** Reads messages of one subject, oldest first. */
export async function pull(
  link: NatsLink,
  manager: JetStreamManager,
  { stream, subject, from, count, maxBytes, headersOnly = false, mayLack = false }: PullOptions,
): Promise<Pulled> {
  const { name, num_pending } = await consume(manager, stream, {
    deliver_policy: DeliverPolicy.StartSequence,
    opt_start_seq: Math.max(1, from),
    filter_subject: subject,
    headers_only: headersOnly,
  });
  try {
    const wanted = Math.min(count, num_pending);
    if (wanted === 0) return { messages: [], pending: num_pending };
    return await fetch(link, `${link.api}.CONSUMER.MSG.NEXT.${stream}.${name}`, {
      wanted,
      maxBytes,
      ...(mayLack && { lateMs: LATE_MS }),
      read: (message, { seq, atMs }) => {
        const size = headerOf(message, "Nats-Msg-Size");
        const { data } = message;
        const bytes = size ? Number(size) : data.length;
        return { seq, atMs, data, bytes, tag: tagIn(message) };
      },
    });
  } finally {
    forget(manager, stream, name);
  }
}

/** Subjects whose newest messages to read. */
export interface NewestOptions {
  readonly stream: string;
  /** Subjects, with wildcards. */
  readonly subject: string;
  /** The header to read. */
  readonly header: string;
  /** Maximum number of messages. */
  readonly count: number;
  /** `next` of the previous page. */
  readonly after?: string | undefined;
}

/**
 * Reads a header of the newest message of each subject, page by page. At most 10 s may pass between
 * two pages. The last page has no `next`.
 */
export async function pullNewest(
  link: NatsLink,
  manager: JetStreamManager,
  { stream, subject, header, count, after }: NewestOptions,
): Promise<{ readonly headers: readonly string[]; readonly next?: string }> {
  let [name, left] = ["", 0];
  if (after === undefined) {
    ({ name, num_pending: left } = await consumeNewest(manager, stream, subject));
  } else {
    const parts = after.split(" ");
    [name, left] = [parts[0]!, Number(parts[1])];
  }
  if (left === 0) {
    forget(manager, stream, name);
    return { headers: [] };
  }
  const { messages, pending } = await fetch(
    link,
    `${link.api}.CONSUMER.MSG.NEXT.${stream}.${name}`,
    {
      wanted: Math.min(count, left),
      lateMs: LATE_MS,
      read: (message) => headerOf(message, header),
    },
  );
  if (messages.length === 0 && left > count) throw unanswered();
  if (messages.length > 0 && pending > 0) return { headers: messages, next: `${name} ${pending}` };
  forget(manager, stream, name);
  return { headers: messages };
}

/** Counts the subjects that have messages, among those that match a wildcard. */
export async function countSubjects(
  manager: JetStreamManager,
  stream: string,
  subject: string,
): Promise<number> {
  const { name, num_pending } = await consumeNewest(manager, stream, subject);
  forget(manager, stream, name);
  return num_pending;
}

function consumeNewest(
  manager: JetStreamManager,
  stream: string,
  subject: string,
): Promise<ConsumerInfo> {
  return consume(manager, stream, {
    deliver_policy: DeliverPolicy.LastPerSubject,
    filter_subject: subject,
    headers_only: true,
  });
}

function fetch<T>(
  link: NatsLink,
  request: string,
  { wanted, maxBytes, lateMs, read }: {
    readonly wanted: number;
    /** Longest wait for messages that may be gone by now; by default, all of them must arrive. */
    readonly lateMs?: number;
    readonly maxBytes?: number | undefined;
    readonly read: (message: Msg, delivery: ReturnType<typeof deliveryOf>) => T;
  },
): Promise<{ readonly messages: readonly T[]; readonly pending: number }> {
  return new Promise((resolve, reject) => {
    const messages: T[] = [];
    let pending = wanted;
    const connection = link.open;
    const inbox = link.inbox();
    const late = () => done(lateMs === undefined ? unanswered() : undefined);
    const timer = link.runtime.setTimeout(late, lateMs ?? REQUEST_TIMEOUT_MS);
    const subscription = connection.subscribe(inbox, {
      callback: (error, message) => {
        // A status instead of a message ends the read: there are no more messages, or there is no
        // room for more.
        if (error || !message.reply?.startsWith("$JS.ACK.")) return done(error ?? undefined);
        const delivery = deliveryOf(message.reply);
        pending = delivery.pending;
        messages.push(read(message, delivery));
        // Messages that were removed meanwhile do not arrive.
        if (messages.length === wanted || pending === 0) done();
      },
    });
    const done = (error?: unknown) => {
      link.runtime.clearTimeout(timer);
      if (!connection.isClosed()) subscription.unsubscribe();
      if (error) reject(error);
      else resolve({ messages, pending });
    };
    connection.publish(
      request,
      JSON.stringify({ batch: wanted, no_wait: true, max_bytes: maxBytes || undefined }),
      { reply: inbox },
    );
  });
}

function unanswered(): BrokerError {
  return new BrokerError("Cannot read a stream: JetStream does not respond");
}

/**
 * Parses a delivery's sequence, time and remaining count from its subject for acknowledgments:
 * `$JS.ACK[.domain.account].stream.consumer.delivered.seq.consumerSeq.nanoseconds.pending[.more]`.
 */
function deliveryOf(
  reply: string,
): { readonly seq: number; readonly atMs: number; readonly pending: number } {
  const tokens = reply.split(".");
  const [seq, , nanoseconds, pending] = tokens.slice(tokens.length > 9 ? 7 : 5).map(Number);
  return { seq: seq ?? 0, atMs: (nanoseconds ?? 0) / 1e6, pending: pending ?? 0 };
}
