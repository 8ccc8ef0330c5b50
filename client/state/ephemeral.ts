/** The ephemeral rows of one state: the server's changes of them, and the rows of this client. */
import { QueueFullError, RequestError, SessionClosedError, TimeoutError } from "../../errors.ts";
import { Backoff, boundRetryAfter } from "../../base/backoff.ts";
import type { Runtime } from "../../base/runtime.ts";
import { Signal } from "../../base/signal.ts";
import { pause, within } from "../../base/wait.ts";
import {
  EPHEMERAL_PREFIX,
  type EphemeralRowsPart,
  type EphemeralWrite,
  MAX_SESSION_ROWS,
  NO_EXPECT,
  NO_TTL,
  retryAfterMsOf,
  rowName,
  type WriteResult,
} from "../../session/wire/rows.ts";
import type { ClientSubscribeOptions } from "../client_options.ts";
import type { Subscription } from "../subscriptions/subscription.ts";
import type { RetryLine } from "./retry_line.ts";
import type { ClientRows, RowWriter } from "./rows.ts";
import {
  isUndecided,
  type NewWrite,
  type StateWriter,
  tooLarge,
  type WriteChange,
} from "./write.ts";

/** Minimum time between two publications, in milliseconds: a frame. */
const FRAME_MS = 16;

/** Maximum number of publications without a reply. Newer values then replace each other. */
const MAX_UNDER_WAY = 8;

/** First value of the size from which the rows of a publication wait for the next one, in bytes. */
const MAX_MESSAGE_BYTES = 32_768;

/**
 * Time for which writes wait while the server's contract has no ephemeral rows for the state, in
 * milliseconds. During a rolling deployment, the client may come to a newer server.
 */
const MISSING_MS = 60_000;

/** Codes of rejections after which the newest values are sent again. */
const FOR_NOW: ReadonlySet<string> = new Set(["superseded", "too-many", "unavailable"]);

/** Requests a list of all rows. */
const ALL: ClientSubscribeOptions = { last: Number.MAX_SAFE_INTEGER };

type Settling = PromiseWithResolvers<number>;

/** The rows of a publication, each with the writes that it settles. */
type EphemeralBatch = ReadonlyMap<OwnRow, Settling | undefined>;

/** A row that this client wrote. */
interface OwnRow extends RowWriter {
  readonly type: string;
  readonly key: string;
  /** The handle that has written the newest value. */
  writer: StateWriter;
  /** The newest value; `undefined` to delete the row. */
  value: unknown;
  /** The signal of the newest write. */
  signal?: AbortSignal | undefined;
  /** Settles the writes that are not sent yet. */
  settling?: Settling | undefined;
  /** The newest publication with the row, until its reply, and its value. */
  sentBy?: EphemeralBatch | undefined;
  sent?: unknown;
  isDirty: boolean;
  /** Newest version of the row in the server's changes. */
  seen: number;
  /** Time since which others change it faster than the server can take a value. */
  undecidedSinceMs: number | undefined;
  /** The last value that the server has taken. */
  taken?: { readonly value: unknown; readonly version: number } | undefined;
}

/** The parts of a state that its ephemeral rows use. */
export interface EphemeralTarget {
  readonly id: string;
  readonly runtime: Runtime;
  readonly rows: ClientRows;
  /** Aborts when the state ends. */
  readonly signal: AbortSignal;
  subscribe(topic: string, options: ClientSubscribeOptions): Subscription;
  /** Sends a publication in the present session, and returns the data of the reply. */
  publish(data: object, signal?: AbortSignal): Promise<unknown>;
  /** Ends the state with an error. */
  failed(error: unknown): void;
  readonly line: RetryLine;
}

/**
 * The ephemeral rows of one state.
 *
 * - **Rows of others** are replaced by a new list after each reconnect.
 * - **Own rows** are sent at most once per frame, each with its newest value, and again after each
 *   such list. A row that others have written or deleted since is not sent again.
 */
export class Ephemeral {
  readonly #target: EphemeralTarget;
  readonly #backoff: Backoff;
  /** The rows that this client wrote, by name; bounded. */
  readonly #own = new Map<string, OwnRow>();
  readonly #changed = new Signal();
  /** Number of lists that were received completely. */
  #lists = 0;
  #subscription: Subscription | undefined;
  #isCurrent = false;
  #underWay = 0;
  #maxBytes = MAX_MESSAGE_BYTES;
  #isRunning = false;
  /** Time before which nothing is sent. */
  #dueAt = -Infinity;
  #failure: unknown;
  /** Time since which the servers' contracts have no ephemeral rows for the state. */
  #missingSinceMs: number | undefined;
  /** The rejection of writes once this has lasted for a while. */
  #missing: RequestError | undefined;

  constructor(target: EphemeralTarget) {
    this.#target = target;
    this.#backoff = new Backoff(target.runtime);
    target.signal.addEventListener("abort", () => this.#changed.notify());
    void this.#read();
  }

  /**
   * Writes a row, which is shown immediately.
   *
   * @param change The row.
   * @param by The handle that writes, and a signal that takes the write back if it was not sent yet.
   * @returns Resolves once the server has taken this value, or one that replaced it.
   * @throws {QueueFullError} If this client has too many rows.
   */
  async write(
    { type, key, value, ttlMs, expect }: WriteChange,
    { writer, signal }: Pick<NewWrite, "writer" | "signal">,
  ): Promise<number> {
    if (ttlMs !== undefined) throw new TypeError(NO_TTL);
    if (expect !== undefined) throw new TypeError(NO_EXPECT);
    if (this.#missing !== undefined) throw this.#missing;
    const name = rowName(type, key);
    let own = this.#own.get(name);
    if (own === undefined) {
      if (this.#own.size >= MAX_SESSION_ROWS) {
        throw new QueueFullError(
          `Cannot write state: a client may have at most ${MAX_SESSION_ROWS} ephemeral rows`,
        );
      }
      own = {
        order: Infinity,
        type,
        key,
        writer,
        value,
        isDirty: false,
        seen: 0,
        undecidedSinceMs: undefined,
      };
      this.#own.set(name, own);
    }
    Object.assign(own, { writer, value, signal });
    const settling = own.settling ??= Promise.withResolvers();
    this.#plan(own);
    if (signal === undefined) return await settling.promise;
    const withdraw = () => {
      // It was sent, or a newer value has replaced it.
      if (own.settling === settling && own.signal === signal) this.#withdraw(own, settling);
    };
    signal.addEventListener("abort", withdraw, { once: true });
    try {
      return await within(this.#target.runtime, settling.promise, { signal });
    } finally {
      signal.removeEventListener("abort", withdraw);
    }
  }

  #withdraw(own: OwnRow, settling: Settling): void {
    Object.assign(own, { settling: undefined, isDirty: false });
    if (own.sentBy === undefined) {
      return this.#rejected(own, settling, { by: undefined, error: own.signal!.reason });
    }
    own.value = own.sent;
    this.#target.rows.rewrite(own, own);
    settling.reject(own.signal!.reason);
  }

  /** Rejects the writes that are not settled, removes the rows, and reads no more. */
  end(error: unknown): void {
    this.#failure = error;
    this.remove(error);
    this.#subscription?.unsubscribe().catch(() => {});
  }

  /**
   * Rejects the writes that are not settled, and removes their rows.
   *
   * @param error The reason.
   * @param writer The handle that has written the rows; by default, any.
   */
  remove(error: unknown, writer?: StateWriter): void {
    const rows: EphemeralWrite[] = [];
    for (const [name, own] of this.#own) {
      if (writer !== undefined && own.writer !== writer) continue;
      own.settling?.reject(error);
      if (own.isDirty || own.sentBy) this.#target.rows.end(own, [own]);
      Object.assign(own, { settling: undefined, sentBy: undefined, isDirty: false });
      this.#own.delete(name);
      rows.push([own.type, own.key]);
    }
    // Other handles may read the topic, so leaving it would not remove the rows.
    if (this.#isCurrent && rows.length > 0) {
      this.#target.publish({ ephemeral: rows }).catch(() => {});
    }
  }

  async #read(): Promise<void> {
    const { id, line, rows, runtime, signal, subscribe, failed } = this.#target;
    const pauses = new Backoff(runtime, { firstDelayMs: 1_000, maxDelayMs: 5_000 });
    while (!signal.aborted) {
      // A new subscription without `last` receives no list if the client already has the topic.
      const subscription = this.#subscription = subscribe(EPHEMERAL_PREFIX + id, ALL);
      subscription.status.observe((status) => {
        if (status === "lost") this.#isCurrent = false;
      });
      try {
        for await (const { data } of subscription) this.#take(data as EphemeralRowsPart);
        return;
      } catch (error) {
        this.#isCurrent = false;
        if (error instanceof QueueFullError) continue;
        const failure = error instanceof RequestError ? error.failure : undefined;
        if (failure?.code === "too-many") {
          await line.wait(failure, signal);
          continue;
        }
        if (failure?.code !== "not-found") return failed(error);
        // The client has moved to a server with another contract, for example an earlier one.
        const now = runtime.monotonic();
        this.#missingSinceMs ??= now;
        if (now - this.#missingSinceMs >= MISSING_MS) this.#rejectAll(error);
        rows.deliverEphemeral({ rows: [], page: 0 });
        await pause(runtime, pauses.next() ?? 0, signal);
      }
    }
  }

  /** Rejects the writes that are not sent, and those that follow until the next list. */
  #rejectAll(cause: unknown): void {
    const message = "Cannot write state: the server's contract has no ephemeral rows for " +
      JSON.stringify(this.#target.id);
    const error = this.#missing = new RequestError("unknown-collection", message, { cause });
    for (const own of this.#own.values()) {
      const { settling } = own;
      Object.assign(own, { settling: undefined, isDirty: false });
      this.#rejected(own, settling, { by: own.sentBy, error });
    }
  }

  #take(message: EphemeralRowsPart): void {
    this.#missing = this.#missingSinceMs = undefined;
    const { rows, page, more } = message;
    if (page === undefined) {
      for (const [type, key, version] of rows) {
        const own = this.#own.get(rowName(type, key));
        if (own === undefined) continue;
        own.seen = version;
        this.#forgetIfChanged(own);
      }
    } else if (page === 0) this.#lists++;
    const isComplete = page !== undefined && !more;
    // The server of this list may not have the rows.
    if (isComplete) {
      for (const own of this.#own.values()) {
        Object.assign(own, { taken: undefined, seen: 0 });
        this.#plan(own);
      }
    }
    this.#target.rows.deliverEphemeral(message);
    if (isComplete) this.#isCurrent = true;
    this.#changed.notify();
  }

  /** Shows the newest value of a row, and sends it with the next publication. */
  #plan(own: OwnRow): void {
    const { rows } = this.#target;
    if (own.isDirty || own.sentBy) rows.rewrite(own, own);
    else rows.begin(own, [own]);
    own.isDirty = true;
    if (!this.#isRunning) void this.#run();
  }

  async #run(): Promise<void> {
    const { runtime, signal } = this.#target;
    const isDirty = ({ isDirty }: OwnRow) => isDirty;
    this.#isRunning = true;
    // Rows that the application writes together share a publication.
    await Promise.resolve();
    while (!signal.aborted && this.#own.values().some(isDirty)) {
      const waitMs = this.#dueAt - runtime.monotonic();
      if (!this.#isCurrent || this.#underWay >= MAX_UNDER_WAY) await this.#changed.changed();
      else if (waitMs > 0) await pause(runtime, waitMs, signal);
      else this.#send();
    }
    this.#isRunning = false;
  }

  #send(): void {
    const batch = new Map<OwnRow, Settling | undefined>();
    const writes: EphemeralWrite[] = [];
    let bytes = 0;
    for (const own of this.#own.values()) {
      if (!own.isDirty) continue;
      const { type, key, value } = own;
      const write = value === undefined ? [type, key] as const : [type, key, value] as const;
      bytes += JSON.stringify(write).length;
      if (writes.length > 0 && bytes > this.#maxBytes) break;
      writes.push(write);
      batch.set(own, own.settling);
      Object.assign(own, { settling: undefined, isDirty: false, sentBy: batch, sent: value });
    }
    this.#dueAt = this.#target.runtime.monotonic() + FRAME_MS;
    this.#underWay++;
    void this.#publish(batch, writes).finally(() => {
      this.#underWay--;
      this.#changed.notify();
    });
  }

  async #publish(
    batch: EphemeralBatch,
    writes: readonly EphemeralWrite[],
  ): Promise<void> {
    const { publish, signal } = this.#target;
    const lists = this.#lists;
    let results: readonly WriteResult[];
    try {
      const reply = await publish({ ephemeral: writes }, signal);
      results = (reply as { readonly results: readonly WriteResult[] }).results;
      if (results?.length !== writes.length) {
        throw new RequestError("malformed", "Cannot write state: the server sent no results");
      }
      this.#backoff.reset();
    } catch (error) {
      const { code = "", retryAfterMs = 0 } = error instanceof RequestError ? error.failure : {};
      const isLost = error instanceof SessionClosedError || error instanceof TimeoutError;
      // Smaller messages have room.
      const isDivided = error instanceof RangeError && batch.size > 1;
      if (isDivided) this.#maxBytes /= 2;
      const isForNow = isLost || isDivided || error instanceof QueueFullError || FOR_NOW.has(code);
      if (isForNow && !isLost && !isDivided) this.#delay(retryAfterMs);
      const cause = error instanceof RangeError ? tooLarge(error) : error;
      const reason = signal.aborted ? this.#failure : cause;
      for (const [own, settling] of batch) {
        if (isForNow && !signal.aborted) this.#again(own, settling, { by: batch, error });
        else this.#rejected(own, settling, { by: batch, error: reason });
      }
      return;
    }
    for (const [i, [own, settling]] of [...batch].entries()) {
      const result = results[i]!;
      if ("version" in result) {
        settling?.resolve(result.version);
        own.undecidedSinceMs = undefined;
        // Versions before and after a new list can't be compared.
        if (lists !== this.#lists) this.#again(own, undefined, { by: batch });
        else this.#taken(own, { by: batch, value: writes[i]![2], ...result });
      } else if ("error" in result) {
        const { code, message, path } = result.error;
        const error = new RequestError(code, message, path && { path });
        const isOver = isUndecided(own, result, this.#target.runtime);
        if (isOver) own.undecidedSinceMs = undefined;
        const retryAfterMs = isOver ? undefined : retryAfterMsOf(result);
        if (retryAfterMs !== undefined) this.#delay(retryAfterMs);
        const isForNow = code === "superseded" || retryAfterMs !== undefined;
        if (isForNow) this.#again(own, settling, { by: batch, error });
        else this.#rejected(own, settling, { by: batch, error });
      }
    }
  }

  /** Sends nothing for a while. */
  #delay(retryAfterMs: number): void {
    const delayMs = Math.max(boundRetryAfter(retryAfterMs), this.#backoff.next() ?? 0);
    this.#dueAt = Math.max(this.#dueAt, this.#target.runtime.monotonic() + delayMs);
  }

  #taken(
    own: OwnRow,
    { by, value, version }: {
      readonly by: EphemeralBatch;
      readonly value: unknown;
      readonly version: number;
    },
  ): void {
    const { type, key } = own;
    own.taken = { value, version };
    // The server's change may arrive first, with the value as the schema converts it.
    if (own.seen < version) {
      this.#target.rows.deliverEphemeral({ rows: [[type, key, version, value]] });
    }
    if (own.sentBy !== by) return;
    own.sentBy = undefined;
    if (own.isDirty) return;
    this.#target.rows.end(own, [own]);
    if (value === undefined) this.#forget(own);
    else this.#forgetIfChanged(own);
  }

  /** Sends the newest value of a row again, unless a newer value is under way or was rejected. */
  #again(
    own: OwnRow,
    settling: Settling | undefined,
    { by, error }: { readonly by: EphemeralBatch; readonly error?: unknown },
  ): void {
    const isNewest = own.sentBy === by;
    const newer = own.settling ?? (isNewest ? undefined : own.sentBy?.get(own));
    if (settling !== undefined) {
      if (newer !== undefined) newer.promise.then(settling.resolve, settling.reject);
      else if (this.#own.get(rowName(own.type, own.key)) !== own) settling.reject(error);
      else own.settling = settling;
    }
    if (!isNewest && (settling === undefined || own.settling !== settling)) return;
    this.#plan(own);
    if (isNewest) own.sentBy = undefined;
  }

  #rejected(
    own: OwnRow,
    settling: Settling | undefined,
    { by, error }: { readonly by: EphemeralBatch | undefined; readonly error: unknown },
  ): void {
    settling?.reject(error);
    if (own.sentBy !== by) return;
    own.sentBy = undefined;
    if (own.isDirty) return;
    this.#target.rows.end(own, [own]);
    if (own.taken === undefined) this.#forget(own);
    else own.value = own.taken.value;
  }

  /** Forgets a row that others have written or deleted since. */
  #forgetIfChanged(own: OwnRow): void {
    const { isDirty, sentBy, seen, taken } = own;
    if (!isDirty && !sentBy && seen > (taken?.version ?? Infinity)) this.#forget(own);
  }

  #forget(own: OwnRow): void {
    const name = rowName(own.type, own.key);
    if (this.#own.get(name) === own) this.#own.delete(name);
  }
}
