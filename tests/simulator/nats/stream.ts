/** A stream of JetStream on one server: publications, conditions, duplicates, republication. */
import type { ApiError, StreamConfig } from "./config.ts";
import { type Consumer, timeOf } from "./consumer.ts";
import type { BusSubscription, MessageBus } from "./bus.ts";
import type { StreamStore } from "./store.ts";
import {
  byteLength,
  headerIn,
  headersOf,
  jsonIn,
  messageOf,
  type NatsMessage,
  withHeaders,
} from "./wire.ts";

/** Most bytes of the headers of a message. */
const MAX_HEADER_BYTES = 65_535;

/** Most message ids that a stream remembers to recognize duplicates. */
const MAX_IDS = 1_000_000;

/** A query for one message; exactly one way to find it must be given. */
export interface MessageQuery {
  /** Sequence, or with `next_by_subj` the first sequence. */
  readonly seq?: number | undefined;
  /** Pattern of the subject, for the newest message. */
  readonly last_by_subj?: string | undefined;
  /** Pattern of the subject, for the first message at or after `seq`. */
  readonly next_by_subj?: string | undefined;
}

export type PublishOutcome =
  | { readonly kind: "stored" | "duplicate"; readonly seq: number }
  | { readonly kind: "rejected"; readonly error: ApiError }
  | { readonly kind: "ignored" };

/** A stream on one server. */
export class Stream {
  readonly config: StreamConfig;
  /** Time of creation, in milliseconds since 1970. */
  readonly createdMs: number;
  /** The messages. */
  store: StreamStore;
  /** Consumers by name. */
  readonly consumers = new Map<string, Consumer>();
  readonly #bus: MessageBus;
  #subscriptions: BusSubscription[] = [];

  /** Opens a stream. */
  constructor(
    bus: MessageBus,
    config: StreamConfig,
    createdMs: number,
    store: StreamStore,
  ) {
    this.#bus = bus;
    this.config = config;
    this.createdMs = createdMs;
    this.store = store;
    this.#recall();
    if (config.allow_direct) this.#respondDirectly();
  }

  /** The state, as in replies of JetStream. */
  get info(): object {
    const { store, config } = this;
    store.expire(this.#now);
    const oldest = store.get(store.firstSeq);
    const missing = store.size === 0 ? 0 : store.lastSeq - store.firstSeq + 1 - store.size;
    return {
      config,
      created: timeOf(this.createdMs),
      state: {
        messages: store.size,
        bytes: store.bytes,
        first_seq: store.firstSeq,
        first_ts: oldest === undefined ? "0001-01-01T00:00:00Z" : timeOf(oldest.atMs),
        last_seq: store.lastSeq,
        last_ts: store.lastAtMs === 0 ? "0001-01-01T00:00:00Z" : timeOf(store.lastAtMs),
        ...(store.subjects > 0 && { num_subjects: store.subjects }),
        ...(missing > 0 && { num_deleted: missing }),
        consumer_count: this.consumers.size,
      },
    };
  }

  /**
   * Subscribes to the subjects of the stream: from now on this server stores the publications.
   *
   * @param take Called with each publication.
   */
  lead(take: (message: NatsMessage) => void): void {
    this.follow();
    this.#subscriptions = this.config.subjects.map((subject) => this.#bus.subscribe(subject, take));
  }

  /** Replaces the messages by those of another replica. */
  replace(store: StreamStore): void {
    this.store = store;
    this.signal();
  }

  /** Leaves the subjects of the stream to another server. */
  follow(): void {
    for (const subscription of this.#subscriptions) subscription.close();
    this.#subscriptions = [];
  }

  /** Closes the stream on this server. */
  close(): void {
    this.follow();
    for (const subscription of this.#direct) subscription.close();
    for (const consumer of this.consumers.values()) consumer.close();
    this.consumers.clear();
  }

  /**
   * Makes the first checks of a message. In a cluster, the leader makes them before it replicates
   * the message.
   *
   * @param isReplicated True if the leader of a cluster makes the checks.
   * @returns The outcome if the stream stores nothing; `undefined` if the message can be stored.
   */
  check(message: NatsMessage, isReplicated: boolean): PublishOutcome | undefined {
    const { headers, data } = message;
    const { max_msg_size: mostBytes } = this.config;
    const isTooLarge = () => mostBytes >= 0 && byteLength(headers) + data.length > mostBytes;
    if (isReplicated && isTooLarge()) return rejected(TOO_LARGE);
    const expected = headerIn(headers, "Nats-Expected-Stream");
    const after = numberIn(headers, "Nats-Expected-Last-Subject-Sequence");
    if (isReplicated && after !== undefined && after > 0) {
      const wrong = this.#wrongSubjectSequence(message.subject, after);
      if (wrong !== undefined) return rejected(wrong);
    }
    if (expected !== undefined && expected !== "" && expected !== this.config.name) {
      return rejected({
        code: 400,
        err_code: 10060,
        description: "expected stream does not match",
      });
    }
    return undefined;
  }

  /**
   * Stores a message, unless one of its conditions is not met.
   *
   * @param options Time of storage, and whether the leader has already checked the message.
   */
  put(
    message: NatsMessage,
    { atMs, isChecked }: { readonly atMs: number; readonly isChecked: boolean },
  ): PublishOutcome {
    const { subject, headers, data } = message;
    const { store, config } = this;
    store.expire(atMs);
    if (!isChecked) {
      const outcome = this.check(message, false);
      if (outcome !== undefined) return outcome;
    }
    const id = headerIn(headers, "Nats-Msg-Id") ?? "";
    const known = id === "" ? undefined : this.#known(id, atMs);
    if (known !== undefined) return { kind: "duplicate", seq: known };
    const after = numberIn(headers, "Nats-Expected-Last-Subject-Sequence");
    if (after !== undefined && (!isChecked || after === 0)) {
      const wrong = this.#wrongSubjectSequence(subject, after);
      if (wrong !== undefined) return rejected(wrong);
    }
    const last = numberIn(headers, "Nats-Expected-Last-Sequence");
    if (last !== undefined && last !== store.lastSeq) return rejected(wrongSequence(store.lastSeq));
    const lastId = headerIn(headers, "Nats-Expected-Last-Msg-Id") ?? "";
    if (lastId !== "" && lastId !== this.store.lastId) {
      const description = `wrong last msg ID: ${this.store.lastId}`;
      return rejected({ code: 400, err_code: 10070, description });
    }
    const rollup = headerIn(headers, "Nats-Rollup") ?? "";
    if (rollup !== "") {
      if (!config.allow_rollup_hdrs || config.deny_purge) {
        return rejected({ code: 500, err_code: 10111, description: "rollup not permitted" });
      }
      if (rollup !== "sub" && rollup !== "all") return { kind: "ignored" };
    }
    const bytes = byteLength(headers) + data.length;
    if (config.max_msg_size >= 0 && bytes > config.max_msg_size) return rejected(TOO_LARGE);
    if (byteLength(headers) > MAX_HEADER_BYTES) {
      const description = "header size exceeds maximum allowed of 64k";
      return rejected({ code: 400, err_code: 10097, description });
    }
    const rejection = store.rejection(subject, bytes);
    if (rejection !== undefined) {
      return rejected({ code: 503, err_code: 10077, description: rejection });
    }
    this.store.lastId = id;
    const seq = store.append({ subject, headers, data, atMs });
    if (id !== "") this.#remember(id, seq, atMs);
    if (rollup === "sub") store.purge(subject, { keep: 1 });
    else if (rollup === "all") store.purge(">", { keep: 1 });
    return { kind: "stored", seq };
  }

  /**
   * Creates the message that the stream republishes after a publication.
   *
   * @param before Sequence of the previous message on the same subject; 0 if there is none.
   * @returns The message; `undefined` if the stream publishes nothing.
   */
  republished(message: NatsMessage, seq: number, before: number): NatsMessage | undefined {
    const { republish, name } = this.config;
    const { subject, data } = message;
    const target = republish && transformed(subject, republish.src, republish.dest);
    if (republish === undefined || target === undefined) return undefined;
    const headers = withHeaders(message.headers, [
      ["Nats-Stream", name],
      ["Nats-Subject", subject],
      ["Nats-Sequence", seq],
      ["Nats-Last-Sequence", before],
      ...(republish.headers_only ? [["Nats-Msg-Size", data.length] as const] : []),
    ]);
    return messageOf(target, republish.headers_only ? undefined : data, headers);
  }

  /**
   * Creates the reply to a publication.
   *
   * @returns The reply; `undefined` if the server stays silent.
   */
  answer(outcome: PublishOutcome): object | undefined {
    const { name: stream } = this.config;
    if (outcome.kind === "ignored") return undefined;
    if (outcome.kind === "rejected") return { error: outcome.error, stream, seq: 0 };
    const { seq } = outcome;
    return outcome.kind === "duplicate" ? { stream, seq, duplicate: true } : { stream, seq };
  }

  /**
   * Finds a message.
   *
   * @returns The message; `undefined` if there is none.
   */
  find({ seq = 0, last_by_subj: last, next_by_subj: next }: MessageQuery) {
    this.store.expire(this.#now);
    if (next) return this.store.next(next, seq);
    return last ? this.store.last(last) : this.store.get(seq);
  }

  /**
   * Creates the reply to the removal of a missing message.
   *
   * @returns The error; `undefined` if the message exists.
   */
  removalError(seq: number): ApiError | undefined {
    const { store, config } = this;
    store.expire(this.#now);
    if (store.get(seq) !== undefined) return undefined;
    const isWithin = seq >= store.firstSeq && seq <= store.lastSeq;
    if (config.storage === "memory" || isWithin && store.size > 0) {
      return { code: 400, err_code: 10043, description: `sequence ${seq} not found` };
    }
    const description = seq > store.lastSeq ? "stream store EOF" : "no message found";
    return { code: 500, err_code: 10057, description };
  }

  /** Delivers new messages to requests that wait at consumers. */
  signal(): void {
    for (const consumer of this.consumers.values()) consumer.deliver();
  }

  readonly #direct: BusSubscription[] = [];

  /** Replies to direct reads, as any server with the stream may. */
  #respondDirectly(): void {
    const { name } = this.config;
    const prefix = `$JS.API.DIRECT.GET.${name}`;
    const queue = "_sys_";
    this.#direct.push(
      this.#bus.subscribe(prefix, (message) => {
        const query = jsonIn<MessageQuery>(message, {});
        if (query === undefined) return this.#tellStatus(message.reply, "408 Malformed Request");
        const { seq = 0, last_by_subj: last, next_by_subj: next } = query;
        if (seq === 0 && !last && !next) {
          return this.#tellStatus(message.reply, "408 Empty Request");
        }
        if (seq > 0 && last || last && next) {
          return this.#tellStatus(message.reply, "408 Bad Request");
        }
        this.#tellDirectly(message.reply, query);
      }, queue),
      this.#bus.subscribe(`${prefix}.>`, ({ subject, reply, data }) => {
        if (data.length > 0) return this.#tellStatus(reply, "408 Bad Request");
        this.#tellDirectly(reply, { last_by_subj: subject.slice(prefix.length + 1) });
      }, queue),
    );
  }

  #tellStatus(reply: string, status: string): void {
    this.#bus.publish(messageOf(reply, undefined, headersOf([], status)));
  }

  #tellDirectly(reply: string, query: MessageQuery): void {
    const found = this.find(query);
    if (found === undefined) return this.#tellStatus(reply, "404 Message Not Found");
    const headers = withHeaders(found.headers, [
      ["Nats-Stream", this.config.name],
      ["Nats-Subject", found.subject],
      ["Nats-Sequence", found.seq],
      ["Nats-Time-Stamp", timeOf(found.atMs)],
    ]);
    this.#bus.publish(messageOf(reply, found.data, headers));
  }

  get #now(): number {
    return this.#bus.runtime.now();
  }

  /** Reads the ids of kept messages again, as a server does at its start. */
  #recall(): void {
    this.store.reload();
    this.store.ids.clear();
    const fromMs = this.#now - this.config.duplicate_window / 1e6;
    for (const { headers, seq, atMs } of this.store.messages) {
      this.store.lastId = headerIn(headers, "Nats-Msg-Id") ?? "";
      if (this.store.lastId !== "" && atMs >= fromMs) this.#remember(this.store.lastId, seq, atMs);
    }
  }

  #known(id: string, nowMs: number): number | undefined {
    const windowMs = this.config.duplicate_window / 1e6;
    for (const [old, { atMs }] of this.store.ids) {
      if (nowMs - atMs < windowMs && this.store.ids.size <= MAX_IDS) break;
      this.store.ids.delete(old);
    }
    return this.store.ids.get(id)?.seq;
  }

  #remember(id: string, seq: number, atMs: number): void {
    this.store.ids.delete(id);
    this.store.ids.set(id, { seq, atMs });
  }

  #wrongSubjectSequence(subject: string, after: number): ApiError | undefined {
    const last = this.store.last(subject)?.seq ?? 0;
    return last === after ? undefined : wrongSequence(last);
  }
}

const TOO_LARGE: ApiError = {
  code: 400,
  err_code: 10054,
  description: "message size exceeds maximum allowed",
};

function rejected(error: ApiError): PublishOutcome {
  return { kind: "rejected", error };
}

function wrongSequence(seq: number): ApiError {
  return { code: 400, err_code: 10071, description: `wrong last sequence: ${seq}` };
}

/** Reads a header with a number; `undefined` if absent. */
function numberIn(headers: string, name: string): number | undefined {
  const text = headerIn(headers, name);
  return text === undefined || text === "" ? undefined : Number(text);
}

/** Maps a subject from one prefix to another; `undefined` if the pattern does not match. */
function transformed(subject: string, from: string, to: string): string | undefined {
  if (from === ">" && to.endsWith(">")) return to.slice(0, -1) + subject;
  const isPrefix = from.endsWith(".>") && to.endsWith(".>");
  if (!isPrefix) {
    throw new TypeError(
      `Cannot simulate: republication must lead from one prefix to another, received ${from}`,
    );
  }
  const prefix = from.slice(0, -1);
  return subject.startsWith(prefix) ? to.slice(0, -1) + subject.slice(prefix.length) : undefined;
}
