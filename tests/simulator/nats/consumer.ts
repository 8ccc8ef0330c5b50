/** A consumer of one stream, which clients pull. */
import type { Timer } from "../../../base/runtime.ts";
import type { ConsumerConfig } from "./config.ts";
import { byteLength, headersOf, messageOf, withHeaders } from "./wire.ts";
import type { StoredMessage, StreamStore } from "./store.ts";
import type { BusSubscription, MessageBus } from "./bus.ts";

/** A request for messages. */
interface PullRequest {
  readonly reply: string;
  readonly isOnce: boolean;
  readonly untilMs: number;
  readonly isBounded: boolean;
  left: number;
  bytes: number;
  delivered: number;
}

/** Collaborators of a {@linkcode Consumer}. */
interface ConsumerOptions {
  readonly bus: MessageBus;
  /** The stream, whose messages are replaced as a whole if the server was far behind. */
  readonly stream: { readonly config: { readonly name: string }; readonly store: StreamStore };
  readonly config: ConsumerConfig;
  /** Called when the consumer was idle for too long. */
  readonly onIdle: () => void;
}

/**
 * A consumer without acknowledgments: each message of a subject is delivered once, in order, to
 * waiting requests.
 */
export class Consumer {
  readonly config: ConsumerConfig;
  readonly #options: ConsumerOptions;
  readonly #createdMs: number;
  readonly #waiting: PullRequest[] = [];
  readonly #requests: BusSubscription;
  #nextSeq: number;
  /** Sequences of the newest messages per subject, which are delivered first. */
  #newest: number[] = [];
  #delivered = 0;
  #usedMs: number;
  #isOver = false;
  #timer: Timer | undefined;

  constructor(options: ConsumerOptions) {
    const { bus, stream: { store, config: { name } }, config } = options;
    this.#options = options;
    this.config = config;
    const next = `$JS.API.CONSUMER.MSG.NEXT.${name}.${config.name}`;
    this.#requests = bus.subscribe(next, ({ reply, data }) => {
      if (reply !== "") this.request(reply, new TextDecoder().decode(data));
    });
    this.#createdMs = this.#usedMs = bus.runtime.now();
    const { firstSeq, lastSeq } = store;
    const wanted = Math.max(config.opt_start_seq ?? firstSeq, firstSeq);
    this.#nextSeq = firstSeq === 0 ? 1 : Math.min(wanted, lastSeq + 1);
    if (config.deliver_policy === "last_per_subject") {
      this.#newest = newestOf(store, this.#filter);
      this.#nextSeq = lastSeq + 1;
    }
    this.#watch();
  }

  /** Number of undelivered messages. */
  get pending(): number {
    const { store } = this.#options.stream;
    const newest = this.#newest.filter((seq) => store.get(seq) !== undefined);
    return newest.length + store.count(this.#filter, this.#nextSeq);
  }

  /** The state, as in replies of JetStream. */
  get info(): object {
    const { stream } = this.#options;
    const { name, ...config } = this.config;
    return {
      stream_name: stream.config.name,
      name,
      created: timeOf(this.#createdMs),
      config: { ...config, max_deliver: -1 },
      delivered: { consumer_seq: this.#delivered, stream_seq: this.#nextSeq - 1 },
      ack_floor: {
        consumer_seq: this.#delivered,
        stream_seq: this.#delivered === 0 ? 0 : this.#nextSeq - 1,
      },
      num_ack_pending: 0,
      num_redelivered: 0,
      num_waiting: this.#waiting.length,
      num_pending: this.pending,
    };
  }

  /**
   * Receives a request for messages.
   *
   * @param reply Subject for the messages.
   * @throws {TypeError} If the request needs heartbeats, which the model lacks.
   */
  request(reply: string, body: string): void {
    const { bus } = this.#options;
    const now = bus.runtime.now();
    const asked: {
      readonly batch?: number;
      readonly max_bytes?: number;
      readonly no_wait?: boolean;
      readonly expires?: number;
      readonly idle_heartbeat?: number;
    } = body.startsWith("{") ? JSON.parse(body) : { batch: Number(body) || 1 };
    if (asked.idle_heartbeat) {
      throw new TypeError("Cannot simulate: requests for messages must have no heartbeats");
    }
    const request: PullRequest = {
      reply,
      isOnce: asked.no_wait ?? false,
      untilMs: asked.expires ? now + asked.expires / 1e6 : Infinity,
      isBounded: (asked.max_bytes ?? 0) > 0,
      left: asked.batch ?? 0,
      bytes: asked.max_bytes ?? 0,
      delivered: 0,
    };
    if (request.isOnce) {
      const { pending } = this;
      this.#usedMs = now;
      if (pending === 0 && request.untilMs === Infinity) {
        return this.#tell(reply, "404 No Messages");
      }
      this.#sweep(false);
      const waiting = this.#waiting.reduce((sum, { left }) => sum + left, 0);
      if (pending > 0 && pending < waiting) return this.#tell(reply, "408 Requests Pending");
    }
    if (this.#waiting.length >= this.config.max_waiting) {
      return this.#tell(reply, "409 Exceeded MaxWaiting");
    }
    this.#waiting.push(request);
    this.deliver();
  }

  /** Delivers messages to waiting requests. */
  deliver(): void {
    const { bus, stream: { config: { name }, store } } = this.#options;
    while (this.#waiting.length > 0) {
      while (this.#newest.length > 0 && store.get(this.#newest[0]!) === undefined) {
        this.#newest.shift();
      }
      const message = this.#newest.length > 0
        ? store.get(this.#newest[0]!)
        : store.next(this.#filter, this.#nextSeq);
      if (message === undefined) {
        this.#nextSeq = Math.max(this.#nextSeq, store.lastSeq + 1);
        this.#sweep(true);
        return;
      }
      const { seq, subject, atMs } = message;
      const left = this.pending - 1;
      const place = `${seq}.${this.#delivered + 1}.${atMs}000000.${left}`;
      const ack = `$JS.ACK.${name}.${this.config.name}.1.${place}`;
      const { headers, data } = this.#shown(message);
      const bytes = byteLength(subject) + ack.length + byteLength(headers) + data.length;
      const request = this.#take(bytes);
      if (request === undefined) return;
      if (this.#newest.length > 0) this.#newest.shift();
      else this.#nextSeq = seq + 1;
      this.#delivered++;
      this.#usedMs = bus.runtime.now();
      bus.publish({ subject: request.reply, reply: ack, headers, data, shown: subject });
    }
  }

  close(): void {
    this.#isOver = true;
    this.#requests.close();
    this.#options.bus.runtime.clearTimeout(this.#timer);
  }

  get #filter(): string {
    return this.config.filter_subject ?? ">";
  }

  #shown(
    { headers, data }: StoredMessage,
  ): { readonly headers: string; readonly data: Uint8Array } {
    if (!this.config.headers_only) return { headers, data };
    return {
      headers: withHeaders(headers, [["Nats-Msg-Size", data.length]]),
      data: new Uint8Array(),
    };
  }

  /** Takes the next request with room for a message. */
  #take(bytes: number): PullRequest | undefined {
    for (let request = this.#waiting[0]; request !== undefined; request = this.#waiting[0]) {
      if (request.isBounded && bytes > request.bytes) {
        this.#waiting.shift();
        this.#tell(request.reply, "409 Message Size Exceeds MaxBytes", request);
        continue;
      }
      if (request.isBounded) request.bytes -= bytes;
      if (request.isBounded && request.bytes === 0) request.left = 1;
      const isLate = request.untilMs <= this.#options.bus.runtime.now();
      if (isLate || !this.#options.bus.hasInterest(request.reply)) {
        this.#waiting.shift();
        continue;
      }
      request.delivered++;
      request.left--;
      if (request.left <= 0) this.#waiting.shift();
      return request;
    }
    return undefined;
  }

  /**
   * Ends finished requests, and once there are no more messages, all requests that do not wait.
   */
  #sweep(isEnd: boolean): void {
    const now = this.#options.bus.runtime.now();
    for (const request of this.#waiting.splice(0)) {
      if (isEnd && request.isOnce && request.delivered > 0 || now > request.untilMs) {
        this.#tell(request.reply, "408 Request Timeout", request);
      } else if (this.#options.bus.hasInterest(request.reply)) this.#waiting.push(request);
    }
  }

  #tell(reply: string, status: string, request?: PullRequest): void {
    const rest = request === undefined
      ? []
      : [["Nats-Pending-Messages", request.left], ["Nats-Pending-Bytes", request.bytes]] as const;
    this.#options.bus.publish(messageOf(reply, undefined, headersOf(rest, status)));
  }

  #watch(): void {
    const { bus: { runtime }, onIdle } = this.#options;
    const idleMs = this.config.inactive_threshold / 1e6;
    const leftMs = Math.max(1, idleMs - (runtime.now() - this.#usedMs));
    this.#timer = runtime.setTimeout(() => {
      if (this.#isOver) return;
      if (runtime.now() - this.#usedMs < idleMs || this.#waiting.length > 0) return this.#watch();
      onIdle();
    }, leftMs);
  }
}

/** Lists the newest message of each subject. */
function newestOf(store: StreamStore, filter: string): number[] {
  const newest = new Map<string, number>();
  for (let from = store.firstSeq;;) {
    const message = store.next(filter, from);
    if (message === undefined) break;
    newest.set(message.subject, message.seq);
    from = message.seq + 1;
  }
  return [...newest.values()].sort((a, b) => a - b);
}

/**
 * Formats a time as in replies of JetStream.
 *
 * @param ms Milliseconds since 1970.
 * @returns The time in RFC 3339 format.
 */
export function timeOf(ms: number): string {
  const text = new Date(ms).toISOString();
  // As in Go, without trailing zeros of the fraction.
  return text.replace(/\.?0*Z$/, "Z");
}
