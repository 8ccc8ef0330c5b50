/** The JetStream stream for all topics that share the same pattern, and its epoch. */
import {
  JetStreamApiError,
  type JetStreamManager,
  type StreamConfig,
  type StreamInfo,
} from "@nats-io/jetstream";
import { headers, type Msg, type Subscription, TimeoutError } from "@nats-io/nats-core";
import { OtherVersionError } from "../stored_version.ts";
import { pause } from "../../base/wait.ts";
import { BrokerError } from "../../errors.ts";
import { Signal } from "../../base/signal.ts";
import { type NatsLink, REQUEST_TIMEOUT_MS } from "./link.ts";
import {
  isCluster,
  openStream,
  OtherStorageError,
  settleLeader,
  streamConfig,
  UNAVAILABLE,
} from "./jetstream.ts";
import { limitText, replyText } from "./limits.ts";
import type { NatsSettings } from "./options.ts";
import { EPOCH_TOKEN, parseAck, sequenceOf, type StreamNames } from "./format.ts";
import { KEY_WINDOW_MS, type TopicHistory } from "../../pubsub/broker.ts";

/** Maximum number of attempts to write an epoch while other nodes do the same. */
const MAX_ATTEMPTS = 20;

/**
 * Time limit of each call in the first attempt to open a stream, in milliseconds. It doubles after
 * a timeout. Calls that arrive while the servers of a new stream are electing a leader receive no
 * reply.
 */
const FIRST_TIMEOUT_MS = 1_000;
const FIRST_RETRY_MS = 50;
const MAX_RETRY_MS = 2_000;

/**
 * In place of a server that this node does not connect to, for example because of a leaf node. Its
 * identity, which changes when it restarts, is unknown here.
 */
const ELSEWHERE = "elsewhere";

/** The newest sequence before any is known. */
const NOTHING_SEEN = { seq: 0, epoch: undefined };

/** An epoch, and the sequence at which it starts. Earlier sequences do not belong to it. */
export interface Epoch {
  readonly epoch: string;
  readonly start: number;
}

/** A message on the epoch's subject. */
interface EpochRecord {
  readonly epoch: string;
  /** Start of the epoch, in a repeated record. */
  readonly start?: number;
  /** The server, if its restart may lose acknowledged writes. */
  readonly server?: string;
}

interface Found extends Epoch {
  readonly seq: number;
  readonly server: string | undefined;
}

interface NatsStreamEvents {
  /**
   * Called when the epoch is known for the first time, after an interruption, or because there is a
   * new epoch.
   */
  opened(): void;
  /** Called when the stream is not available, and waiting does not help. */
  rejected(rejection: StreamRejection): void;
}

/**
 * The reason why a stream is not available until someone acts. The node keeps trying, every few
 * seconds.
 */
export class StreamRejection extends BrokerError {
  /** True if a limit was reached. */
  readonly isLimit: boolean;

  constructor(message: string, { cause, isLimit }: {
    readonly cause?: unknown;
    readonly isLimit: boolean;
  }) {
    super(message, { cause });
    this.isLimit = isLimit;
  }
}

/**
 * A stream of histories.
 *
 * The epoch is a record in the stream itself, on a subject that no topic uses. If a stream is lost,
 * its epoch is therefore lost, too. Nodes agree on the epoch by compare-and-set. The stream
 * republishes the record like any message, so nodes receive a new epoch in order with the
 * publications after it.
 */
export class HistoryStream {
  readonly names: StreamNames;
  readonly isReplicated: boolean;
  /** The last error of an attempt to open the stream; more attempts follow. */
  problem: unknown;
  readonly #link: NatsLink;
  readonly #settings: NatsSettings;
  readonly #events: NatsStreamEvents;
  #history: TopicHistory;
  #maxAgeMs = 0;
  #rejection: StreamRejection | undefined;
  #epoch: Epoch | undefined;
  /** The newest record that was received; meaningless for another stream of the same name. */
  #found: { readonly record: Found; readonly created: string | undefined } | undefined;
  #created: string | undefined;
  /** The newest sequence seen, and its epoch. */
  #newest: { readonly seq: number; readonly epoch: string | undefined } = NOTHING_SEEN;
  #opening: AbortSignal | undefined;
  #repeatAtMs = 0;
  #following: Subscription | undefined;
  #isClosed = false;
  readonly #changes = new Signal();

  constructor(
    link: NatsLink,
    names: StreamNames,
    history: TopicHistory,
    settings: NatsSettings,
    events: NatsStreamEvents,
  ) {
    this.#link = link;
    this.names = names;
    this.#history = history;
    this.#settings = settings;
    this.isReplicated = settings.replicas > 1;
    this.#maxAgeMs = Math.max(history.ttlMs, settings.rememberMs);
    this.#events = events;
  }

  /**
   * Adapts the stream to other nodes: it keeps what any node needs, and is narrowed once all nodes
   * agree.
   */
  adapt(history: TopicHistory): void {
    if (history.isAgreed === this.#history.isAgreed) return;
    this.#history = history;
    this.#repeatAtMs = 0;
    this.touch();
  }

  get epoch(): Epoch | undefined {
    return this.#epoch;
  }

  /** Set while the stream is not available, and waiting does not help. */
  get rejection(): StreamRejection | undefined {
    return this.#rejection;
  }

  /** Called when the stream stored a message. */
  accepted(): void {
    this.#link.life.accepted(this.names.stream);
  }

  /** Called when the stream rejected a message because of a limit. */
  refused(reason: string): void {
    this.#link.life.refused(this.names.stream, reason);
  }

  /**
   * Resolves once the epoch is known, or the stream has closed.
   *
   * @throws {StreamRejection} If the stream is not available, and waiting does not help.
   */
  async usable(): Promise<void> {
    while (this.#epoch === undefined && !this.#isClosed) {
      if (this.#rejection !== undefined) throw this.#rejection;
      await this.#changes.changed();
    }
  }

  /** Resolves once the epoch is known, or to false once the stream has closed. */
  async whenOpen(): Promise<boolean> {
    while (this.#epoch === undefined && !this.#isClosed) await this.#changes.changed();
    return !this.#isClosed;
  }

  /** Records a sequence, which the stream must never fall behind. */
  saw(seq: number): void {
    this.#link.rates.note(this.names.stream, "histories", seq);
    this.#sawIn(seq, this.#epoch?.epoch ?? this.#newest.epoch);
  }

  #sawIn(seq: number, epoch: string | undefined): void {
    if (seq > this.#newest.seq) this.#newest = { seq, epoch };
  }

  /**
   * Opens the stream and agrees on its epoch, retrying until the connection is lost. Can be called
   * at any time.
   */
  open(): void {
    const period = this.#link.period;
    if (period === undefined || this.#opening === period) return;
    this.#epoch = undefined;
    this.#opening = period;
    void this.#keepOpening(period);
  }

  /** Forgets the epoch when the connection is lost. */
  shut(): void {
    this.#epoch = undefined;
    this.#opening = undefined;
    this.#rejection = undefined;
  }

  /** Stops using the stream, and ends its subscription. */
  close(): void {
    this.shut();
    this.#isClosed = true;
    this.#link.leave(this.#following);
    this.#changes.notify();
  }

  /** Writes the epoch's record again before the stream drops it because of its age. */
  touch(): void {
    if (this.#epoch === undefined || this.#link.runtime.monotonic() < this.#repeatAtMs) return;
    this.#repeatAtMs = this.#link.runtime.monotonic() + MAX_RETRY_MS;
    void this.#repeat(this.#link.period!);
  }

  async #keepOpening(period: AbortSignal): Promise<void> {
    let timeoutMs = FIRST_TIMEOUT_MS;
    for (
      let retryMs = FIRST_RETRY_MS;
      !period.aborted;
      retryMs = Math.min(MAX_RETRY_MS, retryMs * 2)
    ) {
      try {
        this.#follow();
        const record = await this.#agree(timeoutMs);
        if (period.aborted) return;
        this.#opening = undefined;
        this.#adopt(record);
        return;
      } catch (error) {
        this.problem = error;
        if (this.#isRejection(error)) this.#reject(error);
        if (error instanceof TimeoutError) timeoutMs = Math.min(REQUEST_TIMEOUT_MS, timeoutMs * 2);
        await pause(this.#link.runtime, retryMs * (1 + this.#link.runtime.random()), period);
      }
    }
  }

  #reject(error: unknown): void {
    const { stream } = this.names;
    const limit = limitText(error);
    if (limit !== undefined) this.refused(limit);
    const text = `the stream ${stream} is not available: ${replyText(error)}`;
    const isLimit = limit !== undefined || error instanceof StreamRejection && error.isLimit;
    this.#rejection = new StreamRejection(text, { cause: error, isLimit });
    this.#changes.notify();
    this.#events.rejected(this.#rejection);
  }

  /** True for errors that need an administrator, false for temporary ones. */
  #isRejection(error: unknown): boolean {
    const kinds = [OtherVersionError, StreamRejection, OtherStorageError];
    if (kinds.some((kind) => error instanceof kind)) return true;
    if (limitText(error) !== undefined) return true;
    // In a cluster, other servers may have JetStream.
    const isMissing = error instanceof Error && error.name === "JetStreamNotEnabled";
    // So may servers that are reached through a leaf node.
    const mayReturn = this.#settings.domain !== undefined || this.#link.mark.host.isServed;
    if (isMissing) return !mayReturn && !this.#link.connection?.info?.jetstream;
    return error instanceof JetStreamApiError && error.status !== UNAVAILABLE;
  }

  async #repeat(period: AbortSignal): Promise<void> {
    try {
      const record = await this.#agree(REQUEST_TIMEOUT_MS);
      if (period.aborted || this.#epoch === undefined) return;
      this.#repeatAtMs = this.#link.runtime.monotonic() + this.#maxAgeMs / 2;
      if (this.#epoch.epoch !== record.epoch) this.#adopt(record);
    } catch (error) {
      this.problem = error;
    }
  }

  #adopt(epoch: Epoch): void {
    this.problem = this.#rejection = undefined;
    this.#repeatAtMs = this.#link.runtime.monotonic() + this.#maxAgeMs / 2;
    this.#epoch = epoch;
    this.#changes.notify();
    this.#events.opened();
  }

  /** Subscribes to new epochs of other nodes. */
  #follow(): void {
    if (this.#following !== undefined) return;
    this.#following = this.#link.open.subscribe(`${this.names.live}.${EPOCH_TOKEN}`, {
      callback: (error, message) => {
        // The client library ends a rejected subscription.
        if (error) return void (this.#following = undefined);
        this.#link.pace.take(message.data.length, () => this.#hear(message));
      },
    });
  }

  #hear(message: Msg): void {
    const seq = sequenceOf(message);
    if (seq === 0) return;
    const record = parseRecord(message, seq);
    if (record === undefined) return;
    if (this.#epoch === undefined || this.#epoch.epoch === record.epoch) {
      this.#sawIn(seq, record.epoch);
      this.#note(record);
      return;
    }
    // The record may come from a new stream, whose sequence starts over.
    this.#newest = { seq, epoch: record.epoch };
    this.#found = { record, created: this.#created };
    this.#adopt(record);
  }

  #note(record: Found): void {
    if (this.#found !== undefined && this.#found.created === this.#created) {
      if (record.seq < this.#found.record.seq) return;
    }
    this.#found = { record, created: this.#created };
  }

  async #agree(timeoutMs: number): Promise<Epoch> {
    const manager = await this.#link.manager(timeoutMs);
    const newest = this.#newest;
    const { created, state, cluster } = await openStream(manager, this.#config(), {
      mayNarrow: this.#history.isAgreed,
    });
    this.#created = created;
    const server = this.#serverOf(cluster);
    const { stream, turn } = this.names;
    if (turn !== undefined && this.isReplicated && state.last_seq === 0) {
      await settleLeader(this.#link, stream, turn);
    }
    // If a stream is behind a known sequence, it has lost messages, even if its record says
    // otherwise. This node may already know the record of the epoch that another node started after
    // the loss.
    const lost = state.last_seq < newest.seq ? newest.epoch : undefined;
    if (lost !== undefined || this.#found?.created !== created) this.#found = undefined;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const stored = await this.#stored(manager);
      if (stored !== undefined) this.#note(stored);
      const known = this.#found?.record;
      const isGood = known !== undefined && isOf(known, server) && known.epoch !== lost;
      const isFresh = stored !== undefined &&
        this.#link.clock.now() - stored.atMs < this.#maxAgeMs / 4;
      const isStored = isGood && isFresh && stored.epoch === known.epoch &&
        (server === ELSEWHERE || stored.server === server);
      const epoch: { epoch: string; start?: number } = isGood
        ? known
        : { epoch: this.#link.runtime.randomUUID().slice(0, 8) };
      const seq = isStored ? stored.seq : await this.#write(
        { ...epoch, server: server === ELSEWHERE && isGood ? known.server : server },
        { after: stored?.seq ?? 0, timeoutMs },
      );
      if (seq === undefined) continue;
      if (this.#newest.epoch !== epoch.epoch) this.#newest = { seq, epoch: epoch.epoch };
      return isGood ? known : { ...epoch, start: seq };
    }
    throw new Error(`Other nodes started another epoch during each of ${MAX_ATTEMPTS} attempts`);
  }

  async #stored(
    manager: JetStreamManager,
  ): Promise<(Found & { readonly atMs: number }) | undefined> {
    const subject = `${this.names.log}.${EPOCH_TOKEN}`;
    const stored = await manager.streams.getMessage(this.names.stream, { last_by_subj: subject });
    const record = stored && parseRecord(stored, stored.seq);
    return stored && record ? { ...record, atMs: stored.time.getTime() } : undefined;
  }

  /** Writes a record and returns its sequence, or `undefined` if another node was first. */
  async #write(
    { epoch, start, server }: EpochRecord,
    { after, timeoutMs }: { readonly after: number; readonly timeoutMs: number },
  ): Promise<number | undefined> {
    const record: EpochRecord = { epoch, start, server };
    const expected = headers();
    expected.set("Nats-Expected-Last-Subject-Sequence", String(after));
    const subject = `${this.names.log}.${EPOCH_TOKEN}`;
    const options = { headers: expected, timeoutMs };
    const ack = parseAck(await this.#link.request(subject, JSON.stringify(record), options));
    if (ack.name === "stored") {
      this.accepted();
      return ack.seq;
    }
    if (ack.name === "conflict") return undefined;
    if (ack.name === "away") throw ack.error;
    if (ack.isLimit) this.refused(ack.reply);
    throw new StreamRejection(ack.reply, ack);
  }

  /**
   * The server whose restart may lose acknowledged writes; `undefined` if other servers have
   * copies.
   */
  #serverOf(cluster: StreamInfo["cluster"]): string | undefined {
    const info = this.#link.open.info;
    if (this.isReplicated || this.#settings.survivesRestart || isCluster(cluster)) return undefined;
    return this.#link.isFar ? ELSEWHERE : info?.server_id;
  }

  #config(): Partial<StreamConfig> & { readonly name: string } {
    const { log, live, stream } = this.names;
    return {
      ...streamConfig(this.#settings),
      name: stream,
      subjects: [`${log}.>`],
      // The stream keeps one more message than can be read, because its sequence is the `prev` of
      // the oldest readable message.
      max_msgs_per_subject: this.#history.size + 1,
      max_age: this.#maxAgeMs * 1e6,
      max_bytes: this.#settings.maxStreamBytes,
      // It also limits how long an append can be sent again.
      duplicate_window: KEY_WINDOW_MS * 1e6,
      republish: { src: `${log}.>`, dest: `${live}.>` },
    };
  }
}

/** True if an epoch has not ended by a restart of the server. */
function isOf(record: Found, server: string | undefined): boolean {
  return record.server === server || server === ELSEWHERE || record.server === ELSEWHERE;
}

function parseRecord(message: Pick<Msg, "json">, seq: number): Found | undefined {
  try {
    const { epoch, start = seq, server } = message.json<EpochRecord>();
    return typeof epoch === "string" ? { epoch, start, seq, server } : undefined;
  } catch {
    return undefined;
  }
}
