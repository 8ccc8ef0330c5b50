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
  type Settling,
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

/** A value of a row. */
interface OwnValue {
  /** `undefined` to delete the row. */
  value: unknown;
  /** The handle that wrote it; `undefined` if it deletes the row of a handle that was closed. */
  readonly writer?: StateWriter | undefined;
  /** Takes the value back if it was not sent yet. */
  readonly signal?: AbortSignal | undefined;
  /** Settles its writes; none if it is sent again after they were settled. */
  settling?: Settling | undefined;
}

/** The rows of a publication, each with the values that it settles. The last one is sent. */
type EphemeralBatch = ReadonlyMap<OwnRow, OwnValue[]>;

/** A row that this client wrote. */
interface OwnRow extends RowWriter {
  readonly type: string;
  readonly key: string;
  /** The newest value; `undefined` to delete the row. */
  value: unknown;
  /** The values that are not sent yet. Only the last one is sent, unless it is taken back. */
  unsent: OwnValue[];
  /** The newest publication with the row, until its reply. */
  sentBy?: EphemeralBatch | undefined;
  /** True if the server may have a value. */
  isSent?: boolean;
  /** Newest version of the row in the server's changes. */
  seen: number;
  /** Time since which others change it faster than the server can take a value. */
  undecidedSinceMs: number | undefined;
  /** The last value that the server has taken since its last list. */
  taken?: OwnValue & { readonly version: number } | undefined;
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
    const own = this.#own.get(rowName(type, key)) ?? this.#add(type, key);
    let newest = own.unsent.at(-1);
    // Values that are only taken back together replace each other.
    if (newest?.writer === writer && newest.signal === signal) newest.value = value;
    else own.unsent.push(newest = { value, writer, signal });
    const { promise } = newest.settling ??= Promise.withResolvers();
    this.#update(own);
    if (signal === undefined) return await promise;
    const withdraw = () => {
      own.unsent = own.unsent.filter((one) => one !== newest);
      this.#update(own);
    };
    signal.addEventListener("abort", withdraw, { once: true });
    try {
      return await within(this.#target.runtime, promise, { signal });
    } finally {
      signal.removeEventListener("abort", withdraw);
    }
  }

  #add(type: string, key: string): OwnRow {
    if (this.#own.size >= MAX_SESSION_ROWS) {
      throw new QueueFullError(
        `Cannot write state: a client may have at most ${MAX_SESSION_ROWS} ephemeral rows`,
      );
    }
    const own: OwnRow = {
      order: Infinity,
      type,
      key,
      value: undefined,
      unsent: [],
      seen: 0,
      undecidedSinceMs: undefined,
    };
    this.#own.set(rowName(type, key), own);
    return own;
  }

  /** Rejects the writes that are not settled, removes the rows, and reads no more. */
  end(error: unknown): void {
    this.#failure = error;
    this.remove(error);
    this.#subscription?.unsubscribe().catch(() => {});
  }

  /** Rejects the writes that are not settled, and removes their rows. */
  remove(error: unknown): void {
    const rows: EphemeralWrite[] = [];
    for (const own of this.#own.values()) {
      reject(own.unsent, error);
      Object.assign(own, { unsent: [], sentBy: undefined, taken: undefined });
      this.#update(own);
      rows.push([own.type, own.key]);
    }
    // Other handles may read the topic, so leaving it would not remove the rows.
    if (this.#isCurrent && rows.length > 0) {
      this.#target.publish({ ephemeral: rows }).catch(() => {});
    }
  }

  /** Rejects the writes of a handle that are not sent, and deletes its rows. */
  leave(handle: StateWriter, error: unknown): void {
    for (const own of this.#own.values()) {
      const isOf = ({ writer }: OwnValue) => writer === handle;
      const { unsent, isSent } = own;
      const sent = sentOf(own) ?? own.taken;
      reject(unsent.filter(isOf), error);
      own.unsent = unsent.filter((one) => !isOf(one));
      if (sent ? isOf(sent) : isSent && unsent.some(isOf)) {
        // Values of other handles that are not sent yet replace the deletion.
        own.unsent.unshift({ value: undefined });
        own.taken = undefined;
      }
      this.#update(own);
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
      reject(own.unsent, error);
      own.unsent = [];
      this.#ended(own, own.sentBy);
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
        this.#update(own);
      }
    } else if (page === 0) this.#lists++;
    const isComplete = page !== undefined && !more;
    // The server of this list may not have the rows.
    if (isComplete) {
      for (const own of this.#own.values()) {
        // A newer value that is under way is sent again after its reply.
        if (own.taken && !own.sentBy) own.unsent.unshift(again(own.taken));
        Object.assign(own, { taken: undefined, seen: 0 });
        this.#update(own);
      }
    }
    this.#target.rows.deliverEphemeral(message);
    if (isComplete) this.#isCurrent = true;
    this.#changed.notify();
  }

  /**
   * Shows the newest value of a row, and sends it with the next publication. Forgets a row that the
   * server does not have, or that others have written or deleted since.
   */
  #update(own: OwnRow): void {
    const { rows } = this.#target;
    const newest = own.unsent.at(-1) ?? sentOf(own);
    if (newest !== undefined) {
      own.value = newest.value;
      rows.begin(own, [own]);
      if (!this.#isRunning) void this.#run();
      return;
    }
    rows.end(own, [own]);
    const { taken, seen, type, key } = own;
    const name = rowName(type, key);
    const isOver = taken?.value === undefined || seen > taken.version;
    if (isOver && this.#own.get(name) === own) this.#own.delete(name);
  }

  async #run(): Promise<void> {
    const { runtime, signal } = this.#target;
    const isDirty = ({ unsent }: OwnRow) => unsent.length > 0;
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
    const batch = new Map<OwnRow, OwnValue[]>();
    const writes: EphemeralWrite[] = [];
    let bytes = 0;
    for (const own of this.#own.values()) {
      const { type, key, value, unsent } = own;
      if (unsent.length === 0) continue;
      const write = value === undefined ? [type, key] as const : [type, key, value] as const;
      bytes += JSON.stringify(write).length;
      if (writes.length > 0 && bytes > this.#maxBytes) break;
      writes.push(write);
      batch.set(own, unsent);
      Object.assign(own, { unsent: [], sentBy: batch, isSent: true });
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
      for (const [own, values] of batch) {
        if (isForNow && !signal.aborted) this.#again(own, values, { by: batch, error });
        else reject(values, reason);
        this.#ended(own, batch);
      }
      return;
    }
    for (const [i, [own, values]] of [...batch].entries()) {
      const result = results[i]!;
      if ("version" in result) {
        const { version } = result;
        resolve(values, version);
        own.undecidedSinceMs = undefined;
        const last = again(values.at(-1)!);
        // Versions before and after a new list can't be compared.
        if (lists !== this.#lists) this.#again(own, [last], { by: batch });
        else this.#taken(own, { ...last, version });
      } else if ("error" in result) {
        const { code, message, path } = result.error;
        const error = new RequestError(code, message, path && { path });
        const isOver = isUndecided(own, result, this.#target.runtime);
        if (isOver) own.undecidedSinceMs = undefined;
        const retryAfterMs = isOver ? undefined : retryAfterMsOf(result);
        if (retryAfterMs !== undefined) this.#delay(retryAfterMs);
        const isForNow = code === "superseded" || retryAfterMs !== undefined;
        if (isForNow) this.#again(own, values, { by: batch, error });
        else reject(values, error);
      }
      this.#ended(own, batch);
    }
  }

  /** Sends nothing for a while. */
  #delay(retryAfterMs: number): void {
    const delayMs = Math.max(boundRetryAfter(retryAfterMs), this.#backoff.next() ?? 0);
    this.#dueAt = Math.max(this.#dueAt, this.#target.runtime.monotonic() + delayMs);
  }

  #taken(own: OwnRow, taken: NonNullable<OwnRow["taken"]>): void {
    const { type, key } = own;
    const { value, version } = own.taken = taken;
    // The server's change may arrive first, with the value as the schema converts it.
    if (own.seen < version) {
      this.#target.rows.deliverEphemeral({ rows: [[type, key, version, value]] });
    }
  }

  /** Sends values of a row again, unless newer ones settle their writes. */
  #again(
    own: OwnRow,
    values: readonly OwnValue[],
    { by, error }: { readonly by: EphemeralBatch; readonly error?: unknown },
  ): void {
    const { sentBy, unsent, taken } = own;
    const newer = sentBy === by ? undefined : sentBy?.get(own);
    if (this.#own.get(rowName(own.type, own.key)) !== own) reject(values, error);
    else if (sentBy || unsent.length > 0) (newer ?? unsent).unshift(...values);
    // A newer value was taken.
    else resolve(values, taken!.version);
  }

  /** Goes on after the reply to a publication, unless a newer one is under way. */
  #ended(own: OwnRow, by: EphemeralBatch | undefined): void {
    if (own.sentBy !== by) return;
    own.sentBy = undefined;
    this.#update(own);
  }
}

function resolve(values: readonly OwnValue[], version: number): void {
  for (const { settling } of values) settling?.resolve(version);
}

function reject(values: readonly OwnValue[], error: unknown): void {
  for (const { settling } of values) settling?.reject(error);
}

/** Returns the newest value under way. */
function sentOf(own: OwnRow): OwnValue | undefined {
  return own.sentBy?.get(own)?.at(-1);
}

/** Returns a value whose writes are settled, to be sent again. */
function again({ value, writer }: OwnValue): OwnValue {
  return { value, writer };
}
