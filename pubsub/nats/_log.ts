/**
 * The stream that keeps all topics with the same bounds, and its epoch.
 *
 * The epoch stands in the stream itself, on a subject that no topic has, and is agreed upon by
 * compare-and-set: whatever loses the stream loses the epoch with it. Since the stream publishes it
 * again like everything else, nodes learn of a new one in order with what comes after it.
 *
 * @module
 */
import {
  DiscardPolicy,
  JetStreamApiError,
  type JetStreamManager,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
} from "@nats-io/jetstream";
import { headers, type Msg, type Subscription } from "@nats-io/transport-node";
import { Changing } from "../../session/base/signal.ts";
import type { Link } from "./_link.ts";
import { parseAck } from "./_ack.ts";
import { sequenceOf } from "./_headers.ts";
import { pause } from "./_pause.ts";
import { EPOCH_TOKEN, type StreamNames } from "./subjects.ts";
import type { HistoryBounds } from "../broker.ts";

/** How long repetitions are recognized, and the longest time that an append may be sent again. */
const DUPLICATE_WINDOW_MS = 120_000;

/** How often nodes may be in each other's way when the epoch changes. */
const MAX_ATTEMPTS = 20;

/** The status of what has no leader at the moment. */
const UNAVAILABLE = 503;

const FIRST_RETRY_MS = 50;
const MAX_RETRY_MS = 2_000;

/** How a stream is made, and when it is trusted. */
export interface LogSettings {
  readonly storage: "file" | "memory";
  readonly replicas: number;
  readonly rememberMs: number;
  readonly maxStreamBytes: number;
  readonly survivesRestart: boolean;
}

/** The epoch, and where it began: nothing up to there belongs to it. */
export interface Epoch {
  readonly epoch: string;
  readonly start: number;
}

/** What stands on the epoch's subject. */
interface EpochRecord {
  readonly epoch: string;
  /** Where it began, if this only repeats it. */
  readonly start?: number;
  /** The server, if its restart may lose what was acknowledged. */
  readonly server?: string;
}

interface Found extends Epoch {
  readonly seq: number;
  readonly server: string | undefined;
}

/** Who is told. */
export interface LogEvents {
  /** The epoch is known: for the first time, again after an interruption, or it is a new one. */
  opened(): void;
  /** There is no stream, and waiting will not bring it. */
  refused(error: unknown): void;
}

/** One stream. */
export class Log {
  readonly bounds: HistoryBounds;
  readonly names: StreamNames;
  readonly isReplicated: boolean;
  /** What went wrong while it was opened; it is tried again. */
  problem: unknown;
  readonly #link: Link;
  readonly #settings: LogSettings;
  readonly #events: LogEvents;
  readonly #maxAgeMs: number;
  #epoch: Epoch | undefined;
  /** The newest record that was seen; from another stream of the same name it says nothing. */
  #found: { readonly record: Found; readonly created: string | undefined } | undefined;
  #created: string | undefined;
  /** The newest sequence that was seen. */
  #newest = 0;
  #opening: AbortSignal | undefined;
  #repeatAtMs = 0;
  #following: Subscription | undefined;
  #isClosed = false;
  readonly #changes = new Changing();

  constructor(
    link: Link,
    names: StreamNames,
    bounds: HistoryBounds,
    settings: LogSettings,
    events: LogEvents,
  ) {
    this.#link = link;
    this.names = names;
    this.bounds = bounds;
    this.#settings = settings;
    this.isReplicated = settings.replicas > 1;
    this.#maxAgeMs = Math.max(bounds.ttlMs, settings.rememberMs);
    this.#events = events;
  }

  /** The epoch; `undefined` while it is not known. */
  get epoch(): Epoch | undefined {
    return this.#epoch;
  }

  /** Resolves once the epoch is known; false if it will never be. */
  async whenOpen(): Promise<boolean> {
    while (this.#epoch === undefined && !this.#isClosed) await this.#changes.changed();
    return !this.#isClosed;
  }

  /** Notes a sequence: the stream must never be behind it. */
  saw(seq: number): void {
    if (seq > this.#newest) this.#newest = seq;
  }

  /** Makes sure of the stream and its epoch, until the server goes. Can be called at any time. */
  open(): void {
    const period = this.#link.period;
    if (period === undefined || this.#opening === period) return;
    this.#epoch = undefined;
    this.#opening = period;
    void this.#keepOpening(period);
  }

  /** The epoch is not known any more: the server went. */
  shut(): void {
    this.#epoch = undefined;
    this.#opening = undefined;
  }

  /** Nothing more comes of it. */
  close(): void {
    this.shut();
    this.#isClosed = true;
    this.#link.leave(this.#following);
    this.#changes.notify();
  }

  /** Keeps the epoch from growing too old to be kept. */
  touch(): void {
    if (this.#epoch === undefined || performance.now() < this.#repeatAtMs) return;
    this.#repeatAtMs = performance.now() + MAX_RETRY_MS;
    void this.#repeat(this.#link.period!);
  }

  async #keepOpening(period: AbortSignal): Promise<void> {
    for (
      let retryMs = FIRST_RETRY_MS;
      !period.aborted;
      retryMs = Math.min(MAX_RETRY_MS, retryMs * 2)
    ) {
      try {
        this.#follow();
        const record = await this.#agree();
        if (period.aborted) return;
        this.#opening = undefined;
        this.#adopt(record);
        return;
      } catch (error) {
        this.problem = error;
        if (this.#isRefusal(error)) this.#events.refused(error);
        await pause(retryMs * (1 + Math.random()), period);
      }
    }
  }

  /** Whether somebody has to do something: what is merely away for now is waited for. */
  #isRefusal(error: unknown): boolean {
    // In a cluster, other servers may have it.
    const isMissing = error instanceof Error && error.name === "JetStreamNotEnabled";
    if (isMissing) return !this.#link.connection?.info?.jetstream;
    return error instanceof JetStreamApiError && error.status !== UNAVAILABLE;
  }

  async #repeat(period: AbortSignal): Promise<void> {
    try {
      const record = await this.#agree();
      if (period.aborted || this.#epoch === undefined) return;
      this.#repeatAtMs = performance.now() + this.#maxAgeMs / 2;
      if (this.#epoch.epoch !== record.epoch) this.#adopt(record);
    } catch (error) {
      this.problem = error;
    }
  }

  #adopt(epoch: Epoch): void {
    this.problem = undefined;
    this.#repeatAtMs = performance.now() + this.#maxAgeMs / 2;
    this.#epoch = epoch;
    this.#changes.notify();
    this.#events.opened();
  }

  /** Hears of epochs that others begin. */
  #follow(): void {
    if (this.#following !== undefined) return;
    this.#following = this.#link.open.subscribe(`${this.names.live}.${EPOCH_TOKEN}`, {
      callback: (error, message) => {
        // One that was refused is over for the client library.
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
      this.saw(seq);
      this.#note(record);
      return;
    }
    // It may be that of a new stream, whose sequence begins again.
    this.#newest = seq;
    this.#found = { record, created: this.#created };
    this.#adopt(record);
  }

  #note(record: Found): void {
    if (this.#found !== undefined && this.#found.created === this.#created) {
      if (record.seq < this.#found.record.seq) return;
    }
    this.#found = { record, created: this.#created };
  }

  async #agree(): Promise<Epoch> {
    const manager = await this.#link.manager();
    const newest = this.#newest;
    const { created, state } = await manager.streams.add(this.#config());
    this.#created = created;
    // A stream that is behind what was heard of it lost something, whatever its record says.
    const lost = state.last_seq < newest ? this.#found?.record.epoch : undefined;
    if (lost !== undefined || this.#found?.created !== created) this.#found = undefined;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const stored = await this.#stored(manager);
      if (stored !== undefined) this.#note(stored);
      const known = this.#found?.record;
      const isGood = known !== undefined && known.server === this.#server && known.epoch !== lost;
      const isFresh = stored !== undefined && Date.now() - stored.atMs < this.#maxAgeMs / 4;
      const isStored = isGood && isFresh && stored.epoch === known.epoch;
      const epoch: { epoch: string; start?: number } = isGood
        ? known
        : { epoch: crypto.randomUUID().slice(0, 8) };
      const seq = isStored ? stored.seq : await this.#write(epoch, stored?.seq ?? 0);
      if (seq === undefined) continue;
      if (state.last_seq < newest) this.#newest = seq;
      return isGood ? known : { ...epoch, start: seq };
    }
    throw new Error(`No epoch was agreed upon in ${MAX_ATTEMPTS} attempts`);
  }

  /** The newest record that is kept. */
  async #stored(
    manager: JetStreamManager,
  ): Promise<(Found & { readonly atMs: number }) | undefined> {
    const subject = `${this.names.log}.${EPOCH_TOKEN}`;
    const stored = await manager.streams.getMessage(this.names.stream, { last_by_subj: subject });
    const record = stored && parseRecord(stored, stored.seq);
    return stored && record ? { ...record, atMs: stored.time.getTime() } : undefined;
  }

  /** Writes a record, unless another was written meanwhile; its sequence, if it was. */
  async #write(
    { epoch, start }: { readonly epoch: string; readonly start?: number },
    after: number,
  ): Promise<number | undefined> {
    const record: EpochRecord = {
      epoch,
      ...(start !== undefined && { start }),
      ...(this.#server !== undefined && { server: this.#server }),
    };
    const expected = headers();
    expected.set("Nats-Expected-Last-Subject-Sequence", String(after));
    const subject = `${this.names.log}.${EPOCH_TOKEN}`;
    const ack = parseAck(await this.#link.request(subject, JSON.stringify(record), expected));
    if (ack.name === "stored") return ack.seq;
    if (ack.name === "conflict") return undefined;
    throw ack.error;
  }

  /** Whose restart may lose what was acknowledged; nobody's where others have it as well. */
  get #server(): string | undefined {
    const info = this.#link.open.info;
    if (this.isReplicated || this.#settings.survivesRestart || info?.cluster) return undefined;
    return info?.server_id;
  }

  #config(): Partial<StreamConfig> & { readonly name: string } {
    const { log, live, stream } = this.names;
    const { storage, replicas, maxStreamBytes } = this.#settings;
    return {
      name: stream,
      subjects: [`${log}.>`],
      storage: storage === "memory" ? StorageType.Memory : StorageType.File,
      num_replicas: replicas,
      retention: RetentionPolicy.Limits,
      discard: DiscardPolicy.Old,
      // One more than can be read: it tells what came before the oldest one.
      max_msgs_per_subject: this.bounds.size + 1,
      max_age: this.#maxAgeMs * 1e6,
      max_bytes: maxStreamBytes,
      duplicate_window: DUPLICATE_WINDOW_MS * 1e6,
      allow_direct: true,
      republish: { src: `${log}.>`, dest: `${live}.>` },
    };
  }
}

function parseRecord(message: Pick<Msg, "json">, seq: number): Found | undefined {
  try {
    const { epoch, start = seq, server } = message.json<EpochRecord>();
    return typeof epoch === "string" ? { epoch, start, seq, server } : undefined;
  } catch {
    return undefined;
  }
}
