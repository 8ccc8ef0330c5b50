/**
 * Logs that programs keep in a store, one per broker, compared with the outcomes of their calls.
 */
import { BrokerError } from "../../../../errors.ts";
import type { BrokerLogs, LogCreated } from "../../../../streams/logs/log.ts";

/** Maximum number of violations that are reported. */
const MAX_TOLD = 3;

/** Maximum number of bytes and of logs. A trial creates fewer. */
const [MAX_BYTES, MAX_LOGS] = [1 << 24, 1_000_000];

/** Number of newest records that a read requests. */
const NEWEST = 12;

/** Maximum number of times that the overdue logs are listed until the list is correct. */
const LISTS = 8;

/** A log that one broker writes and all brokers read. */
interface Log {
  readonly id: string;
  readonly identity: string;
  /** True once the store acknowledged the log. */
  isCreated: boolean;
  /** Number of records that the store acknowledged. */
  kept: number;
  /** True once the outcome of a call for the next record, or for the log, was unknown. */
  isUnsure: boolean;
  /** True while a call of the writer is pending. */
  isAsking: boolean;
}

export class TrialLogs {
  /** Pending calls. */
  underWay = 0;
  readonly #complaints: string[] = [];
  readonly #logs = new Map<number, Log>();
  /** Open logs whose writers are lost. */
  readonly #lost = new Map<string, "unsure" | "created">();
  /** Number of times that the store lost all logs. */
  #era = 0;
  #count = 0;

  /** Starts again without logs, because the store has lost all of them. */
  forget(): void {
    this.#era++;
    this.#logs.clear();
    this.#lost.clear();
  }

  /**
   * Makes a call and compares its outcome when it arrives.
   *
   * @param by Number of the broker.
   * @param draw Random number in [0, 1) that selects the operation.
   */
  call(by: number, logs: BrokerLogs, draw: number): void {
    if (draw < 0.6) void this.#run(() => this.#write(by, logs));
    else if (draw < 0.9) {
      const all = [...this.#logs.values()];
      const log = all[Math.floor((draw - 0.6) / 0.3 * all.length)];
      if (log !== undefined) void this.#run(() => this.#read(log, logs, by));
    } else void this.#run(() => this.#lose(logs));
  }

  /**
   * Compares the logs with the outcomes of all calls. Call this once no call is pending. It also
   * makes each broker run each kind of call.
   *
   * @returns The differences so far. The array is empty if there are none.
   */
  async compare(all: readonly BrokerLogs[]): Promise<string> {
    for (const [by, logs] of all.entries()) {
      // A log that has not been created yet needs another call, and so does a record with an
      // unknown outcome.
      const calls = 1 + Number(!this.#log(by).isCreated) + Number(this.#log(by).isUnsure);
      for (let left = calls; left > 0; left--) await this.#succeed(by, () => this.#write(by, logs));
    }
    await this.#succeed(0, () => this.#lose(all[0]!));
    for (const [by, logs] of all.entries()) {
      for (const log of this.#logs.values()) {
        await this.#succeed(by, () => this.#read(log, logs, by));
      }
      await this.#succeed(by, () => this.#list(logs, by));
    }
    await this.#succeed(0, () => this.#endLost(all[0]!));
    return this.#complaints.slice(0, MAX_TOLD).join("; ");
  }

  #complain(text: string): void {
    this.#complaints.push(text);
  }

  #log(by: number): Log {
    const known = this.#logs.get(by);
    if (known !== undefined) return known;
    const log: Log = {
      id: `log-${this.#era}-${by}`,
      identity: this.#identity(),
      isCreated: false,
      kept: 0,
      isUnsure: false,
      isAsking: false,
    };
    this.#logs.set(by, log);
    return log;
  }

  #identity(): string {
    return `log${`${++this.#count}`.padStart(5, "0")}`;
  }

  /** Runs a call that may fail if the store fails. */
  async #run(call: () => Promise<void>): Promise<void> {
    this.underWay++;
    try {
      await call();
    } catch (error) {
      if (!(error instanceof BrokerError)) this.#complain(`a call failed with ${error}`);
    }
    this.underWay--;
  }

  /** Runs a call that must succeed. */
  async #succeed(by: number, call: () => Promise<void>): Promise<void> {
    try {
      await call();
    } catch (error) {
      this.#complain(`a call at broker ${by} failed: ${error}`);
    }
  }

  /** Creates the log of a broker, or appends the next record. */
  async #write(by: number, logs: BrokerLogs): Promise<void> {
    const log = this.#log(by);
    if (log.isAsking) return;
    log.isAsking = true;
    const wasUnsure = log.isUnsure;
    log.isUnsure = true;
    try {
      if (log.isCreated) await this.#append(log, by, logs, wasUnsure);
      else await this.#create(log, logs, wasUnsure);
      log.isUnsure = false;
    } finally {
      log.isAsking = false;
    }
  }

  async #create(log: Log, logs: BrokerLogs, wasUnsure: boolean): Promise<void> {
    const { id, identity } = log;
    const created = await create(logs, id, identity);
    if (this.#isOver(log)) return;
    const isOwn = "info" in created && created.info.identity === identity;
    if (!isOwn || created.kind === "exists" && !wasUnsure) {
      this.#complain(`the creation of ${id} is ${created.kind}`);
    }
    log.isCreated = true;
  }

  async #append(log: Log, by: number, logs: BrokerLogs, wasUnsure: boolean): Promise<void> {
    const { id, identity, kept } = log;
    const outcome = await logs.append(id, {
      identity,
      records: [recordOf(id, kept)],
      producer: { id: "writer", epoch: 0, seq: kept },
      maxBytes: MAX_BYTES,
    });
    if (this.#isOver(log)) return;
    const isGood = outcome.kind === "appended" || outcome.kind === "repeated" && wasUnsure;
    const tail = "info" in outcome ? outcome.info.tail : undefined;
    if (!isGood || tail !== kept + 1) {
      this.#complain(
        `record ${kept} of ${id} at broker ${by} is ${outcome.kind}, with the tail at ${tail}`,
      );
    }
    log.kept = kept + 1;
  }

  /**
   * Reads the newest records. The result must contain all acknowledged records and at most one
   * more.
   */
  async #read(log: Log, logs: BrokerLogs, by: number): Promise<void> {
    const { id, isCreated, kept } = log;
    const after = Math.max(0, kept - NEWEST);
    const read = (after: number, maxRecords: number) =>
      logs.read(id, { after, maxRecords, maxBytes: MAX_BYTES, renews: false });
    const page = await read(after, 2 * NEWEST);
    if (this.#isOver(log)) return;
    const complain = (text: string) => this.#complain(`a read of ${id} at broker ${by} ${text}`);
    if (page === undefined || page === "expired") {
      if (isCreated) complain(`is ${page}`);
      return;
    }
    const { info: { tail } } = page;
    if (tail < kept || tail > log.kept + 1) complain(`ends at ${tail}, of ${kept} to ${log.kept}`);
    const records = [...page.records];
    const count = Math.min(tail - after, 2 * NEWEST);
    // A page may end early, and the next page continues from there.
    for (let isMore = records.length > 0; isMore && records.length < count;) {
      const rest = await read(after + records.length, count - records.length);
      if (this.#isOver(log)) return;
      const more = rest === undefined || rest === "expired" ? [] : rest.records;
      isMore = more.length > 0;
      records.push(...more);
    }
    const expected = records.map((_, i) => recordOf(id, after + i));
    if (records.length !== count || `${records}` !== `${expected}`) {
      complain(`after ${after} of ${tail} has ${records}`);
    }
  }

  /** Creates a log whose writer is lost immediately. */
  async #lose(logs: BrokerLogs): Promise<void> {
    const era = this.#era;
    const id = `lost-${era}-${++this.#count}`;
    this.#lost.set(id, "unsure");
    const { kind } = await create(logs, id, this.#identity(), { holder: "lost", ttlMs: 1 });
    if (era !== this.#era) return;
    if (kind !== "created") this.#complain(`the creation of ${id} is ${kind}`);
    this.#lost.set(id, "created");
  }

  /** Expects the overdue logs to be those of lost writers. */
  async #list(logs: BrokerLogs, by: number): Promise<void> {
    let missing: string[] = [];
    let others: string[] = [];
    for (let left = LISTS; left > 0; left--) {
      const listed = await logs.overdue({ limit: MAX_LOGS });
      missing = [...this.#lost].flatMap(([id, state]) =>
        state === "created" && !listed.includes(id) ? [id] : []
      );
      others = listed.filter((id) => !this.#lost.has(id));
      if (missing.length + others.length === 0) return;
    }
    this.#complain(`the overdue logs at broker ${by} lack ${missing}, and have ${others}`);
  }

  /** Ends all logs of lost writers. */
  async #endLost(logs: BrokerLogs): Promise<void> {
    for (const [id, state] of [...this.#lost]) {
      const { kind } = await logs.append(id, {
        records: [],
        end: { error: "writer-lost" },
        ifWriterLost: true,
        maxBytes: MAX_BYTES,
      });
      // A log may be missing if its creation received no reply.
      const isGood = kind === "appended" || kind === "missing" && state === "unsure";
      if (!isGood) this.#complain(`the end of ${id} is ${kind}`);
      this.#lost.delete(id);
    }
  }

  /** True for a log that the store has lost in the meantime. */
  #isOver(log: Log): boolean {
    return ![...this.#logs.values()].includes(log);
  }
}

function create(
  logs: BrokerLogs,
  id: string,
  identity: string,
  writer?: { readonly holder: string; readonly ttlMs: number },
): Promise<LogCreated> {
  return logs.create(id, {
    config: { contentType: "text/plain" },
    identity,
    records: [],
    maxLogs: MAX_LOGS,
    ...(writer && { writer }),
  });
}

function recordOf(id: string, place: number): string {
  return `${id}/${place}`;
}
