/** Messages of one subject of a stream, read by a consumer that exists for one read. */
import { AckPolicy, DeliverPolicy, type JetStreamManager } from "@nats-io/jetstream";
import { BrokerError } from "../../errors.ts";
import { headerOf, tagIn } from "./format.ts";
import { type Link, REQUEST_TIMEOUT_MS } from "./link.ts";

/** Idle time after which the server deletes a consumer, in nanoseconds. */
const INACTIVE_NS = 10_000 * 1e6;

/** The part of a stream to read. */
export interface PullOptions {
  readonly stream: string;
  readonly subject: string;
  /** First sequence. */
  readonly from: number;
  /** Most messages. */
  readonly count: number;
  /** Most bytes of the messages, headers included; no effect with `headersOnly`. */
  readonly maxBytes?: number;
  /** Leaves out payloads. */
  readonly headersOnly?: boolean;
}

/** One message of a stream. */
export interface Stored {
  readonly seq: number;
  /** Time of storage, in milliseconds since the Unix epoch. */
  readonly atMs: number;
  readonly data: Uint8Array;
  /** Length of the payload, also with `headersOnly`. */
  readonly bytes: number;
  /** Tag of a publication with an id; `undefined` for any other message. */
  readonly tag: string | undefined;
}

/** Messages of one subject. */
export interface Pulled {
  readonly messages: readonly Stored[];
  /** Number of messages behind these. */
  readonly pending: number;
}

/**
 * Reads messages of one subject, oldest first.
 *
 * @param link The connection.
 * @param manager The administration of JetStream.
 * @param options The part of a stream to read.
 * @returns The messages, and the number of messages behind these.
 */
export async function pull(
  link: Link,
  manager: JetStreamManager,
  { stream, subject, from, count, maxBytes, headersOnly = false }: PullOptions,
): Promise<Pulled> {
  const { name, num_pending } = await manager.consumers.add(stream, {
    ack_policy: AckPolicy.None,
    deliver_policy: DeliverPolicy.StartSequence,
    opt_start_seq: Math.max(1, from),
    filter_subject: subject,
    headers_only: headersOnly,
    inactive_threshold: INACTIVE_NS,
    mem_storage: true,
    num_replicas: 1,
  });
  try {
    const wanted = Math.min(count, num_pending);
    if (wanted === 0) return { messages: [], pending: num_pending };
    return await fetch(link, `$JS.API.CONSUMER.MSG.NEXT.${stream}.${name}`, wanted, maxBytes);
  } finally {
    // A failure does not matter: the server deletes an idle consumer.
    manager.consumers.delete(stream, name).catch(() => {});
  }
}

function fetch(
  link: Link,
  request: string,
  wanted: number,
  maxBytes: number | undefined,
): Promise<Pulled> {
  return new Promise((resolve, reject) => {
    const messages: Stored[] = [];
    let pending = wanted;
    const connection = link.open;
    const inbox = link.inbox();
    const late = () => done(new BrokerError("Cannot read a stream: JetStream does not answer"));
    const timer = link.runtime.setTimeout(late, REQUEST_TIMEOUT_MS);
    const subscription = connection.subscribe(inbox, {
      callback: (error, message) => {
        // A status instead of a message ends the read: no more messages, or no room for more.
        if (error || !message.reply?.startsWith("$JS.ACK.")) return done(error ?? undefined);
        const { seq, atMs, pending: left } = deliveryOf(message.reply);
        const size = headerOf(message, "Nats-Msg-Size");
        pending = left;
        messages.push({
          seq,
          atMs,
          data: message.data,
          bytes: size ? Number(size) : message.data.length,
          tag: tagIn(message),
        });
        if (messages.length === wanted) done();
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
      JSON.stringify({ batch: wanted, no_wait: true, ...(maxBytes && { max_bytes: maxBytes }) }),
      { reply: inbox },
    );
  });
}

/**
 * Reads the sequence, time and rest of a delivery from its subject for acknowledgements:
 * `$JS.ACK[.domain.account].stream.consumer.delivered.seq.consumerSeq.nanoseconds.pending[.more]`.
 */
function deliveryOf(
  reply: string,
): { readonly seq: number; readonly atMs: number; readonly pending: number } {
  const tokens = reply.split(".");
  const [seq, , nanoseconds, pending] = tokens.slice(tokens.length > 9 ? 7 : 5).map(Number);
  return { seq: seq ?? 0, atMs: (nanoseconds ?? 0) / 1e6, pending: pending ?? 0 };
}
