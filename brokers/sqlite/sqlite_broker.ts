/** The broker of one machine, with all data in one file. */
import { abortable } from "@std/async/abortable";
import { checkOptions, SIGNAL } from "../../base/options/option_checks.ts";
import { BrokerError } from "../../errors.ts";
import { textOf } from "../../base/error_text.ts";
import { requireDeno } from "../../base/platform.ts";
import { outside, type Runtime, type Timer } from "../../base/runtime.ts";
import type { StatusFeed } from "../../base/status_feed.ts";
import {
  type Appended,
  type AppendOptions,
  type BrokerHistory,
  type BrokerStats,
  type BrokerStatus,
  type BrokerStore,
  type BrokerSubscribeOptions,
  type BrokerSubscription,
  checkNameBytes,
  type HistoryPage,
  payloadBytes,
  type Publication,
  type ReadHistoryOptions,
} from "../../pubsub/broker.ts";
import { BrokerLife } from "../../pubsub/broker/life.ts";
import { LocalListeners } from "../../pubsub/broker/listeners.ts";
import { MAX_TOPIC_KEYS, nameOfKey, topicKeysFull } from "../../pubsub/broker/keys.ts";
import { Pace } from "../../pubsub/broker/pace.ts";
import { Damages } from "../../pubsub/broker/damage.ts";
import { lateLogs } from "../../streams/logs/late_logs.ts";
import type { BrokerLogs, LogBroker } from "../../streams/logs/log.ts";
import { Tags } from "../../pubsub/tag.ts";
import { CommitQueue, type FileCallOptions, type FileThread } from "./commit_queue.ts";
import {
  CALLS,
  type FileCallName,
  type FileCalls,
  type FileOperation,
  type Swept,
} from "./file.ts";
import { FileNames } from "./file_names.ts";
import { type Machine, thisMachine } from "./machine.ts";
import {
  pathOf,
  type SqliteBrokerOptions,
  type SqliteSettings,
  sqliteSettings,
} from "./options.ts";

/** Maximum size of a topic, a key or a log's id, in bytes. */
const MAX_NAME_BYTES = 1_024;

/** Maximum size of the records of one append to a log, in bytes. */
const MAX_APPEND_BYTES = 8_388_608;

/** Time between two sweeps for unused rows, and two checks of the file's names, in milliseconds. */
const SWEEP_MS = 5_000;

/** Key of the method that creates a broker on another machine than this one. */
export const onMachine: unique symbol = Symbol("onMachine");

/** Used fraction of `maxBytes` above which `issues()` warns. */
const NEARLY_FULL = 0.9;

/**
 * Keeps histories, logs and shared state in one SQLite file, for the servers of one process or,
 * with `serveWorkers`, for all its workers.
 *
 * - **Fan-out:** publications are delivered in memory, within the process. No other process can
 *   open the file.
 * - **Delivery:** without a history, publications are delivered at most once. With a history, a
 *   publication is delivered and acknowledged after its commit; the publications of one turn share
 *   a commit.
 * - **Durability:** if the process is killed, nothing that was acknowledged is lost. If the machine
 *   loses power, nothing is lost with `synchronous: "full"`. With `"normal"`, the most recent
 *   writes may be lost; clients detect the loss by a new epoch.
 * - **Bounds:** if the disk is full or the file has reached `maxBytes`, appends are rejected, but
 *   reads continue.
 * - **A lost file:** if the file is deleted, moved, replaced or unmounted while it is open, the
 *   broker detects this within 5 s. Writes are then rejected until the file is back, but reads and
 *   `backup()` continue.
 *
 * @example Histories that survive a restart
 * ```ts
 * import { SqliteBroker } from "@skein/skein/sqlite";
 * import { assertEquals } from "@std/assert";
 *
 * const path = `${await Deno.makeTempDir()}/chat.db`;
 * const bounds = { size: 100, ttlMs: 3_600_000, bytes: 1_048_576 };
 * {
 *   await using broker = await SqliteBroker.open(path);
 *   await broker.history.append({ topic: "news", payload: '"hello"' }, { bounds });
 * }
 * await using broker = await SqliteBroker.open(path);
 * const page = await broker.history.read("news", { bounds, maxMessages: 10, maxBytes: 65_536 });
 * assertEquals(page.publications.map(({ payload }) => payload), ['"hello"']);
 * ```
 */
export class SqliteBroker implements LogBroker {
  /** Always `sqlite`. */
  readonly name = "sqlite";
  /** Without a history, a publication reaches only the current subscriptions. */
  readonly delivery = "at-most-once";
  /**
   * `interrupted` while the file accepts no writes, for example on a full disk or after it was
   * deleted; otherwise `connected`.
   */
  readonly status: StatusFeed<BrokerStatus>;
  /** Histories in the file. */
  readonly history: BrokerHistory;
  /** Logs in the file. */
  readonly logs: BrokerLogs;
  readonly #damages = new Damages();
  /** Shared state in the file. */
  readonly store: BrokerStore;
  readonly #life: BrokerLife;
  readonly #settings: SqliteSettings;
  readonly #runtime: Runtime;
  readonly #machine: Machine;
  readonly #thread: FileThread;
  readonly #queue: CommitQueue;
  readonly #plain = new LocalListeners();
  readonly #kept: LocalListeners;
  readonly #pace: Pace;
  readonly #tags: Tags;
  #sweeping: Timer | undefined;
  /** The sweep in progress, or the last one. */
  #sweep: Promise<void> | undefined;
  /** Names of the file; `undefined` in a simulation. */
  readonly #names: FileNames | undefined;
  #swept: Swept | undefined;
  #backup: Promise<void> | undefined;
  #dropped = 0;

  private constructor(
    settings: SqliteSettings,
    machine: Machine,
    thread: FileThread,
    names?: FileNames,
  ) {
    if (thread === undefined) {
      throw new TypeError("Cannot create broker: write await SqliteBroker.open(path)");
    }
    const { runtime, path } = settings;
    const life = new BrokerLife(runtime, {
      broker: path,
      backlog: "operations wait for the file",
      status: { name: "connected" },
    });
    this.#life = life;
    this.status = life.status;
    this.#settings = settings;
    this.#machine = machine;
    this.#runtime = runtime;
    this.#thread = thread;
    this.#names = names;
    this.#pace = new Pace(runtime);
    this.#tags = new Tags(runtime);
    const queue = new CommitQueue({
      ...settings,
      thread,
      onOutcome: (failure) => {
        if (failure === undefined) life.accepted(path);
        else life.refused(path, failure);
      },
    });
    this.#queue = queue;
    this.#kept = new LocalListeners(
      (topic) => queue.note("follow", topic),
      (topic) => queue.note("unfollow", topic),
    );
    this.history = {
      maxKeys: MAX_TOPIC_KEYS,
      append: (publication, options) => this.#append(publication, options),
      read: (topic, options) => this.#read(topic, options),
    };
    this.store = this.#makeStore();
    this.logs = lateLogs({ keepsRows: true, maxAppendBytes: MAX_APPEND_BYTES }, async () => {
      const { SqliteLogs } = await outside(runtime, import("./logs/sqlite_logs.ts"));
      // After a close, each call is rejected with its own verb.
      if (!life.isClosed) await this.#call(["openLogs"]);
      return new SqliteLogs({
        runtime,
        maxAppendBytes: MAX_APPEND_BYTES,
        check: (verb, ...names) => this.#checkCall(verb, ...names),
        call: (operation, options) => this.#call(operation, options),
        announce: (topic) => this.#plain.deliver({ topic, payload: "" }),
        onRead: () => this.#life.reads++,
      });
    }, this.#damages);
    this.#sweepLater();
  }

  /**
   * Opens or creates the file. The process keeps running until the broker is closed, for example at
   * the end of a block with `await using`.
   *
   * @param path Path of the file, or its `file:` URL.
   * @param options See {@linkcode SqliteBrokerOptions}.
   * @returns The broker, whose file is open and locked.
   * @throws {BrokerError} If the file is damaged, if it is open in another process or broker, or if
   * it belongs to another program or another version of Skein.
   * @throws {TypeError} If an option is unknown, or the path is empty.
   * @throws {RangeError} If a limit is not a positive integer, or if `maxBytes` is too small.
   */
  static async open(
    path: string | URL,
    options: SqliteBrokerOptions = {},
  ): Promise<SqliteBroker> {
    requireDeno("open broker", "SQLite needs Deno's file access; Redis and NATS do not");
    const settings = sqliteSettings(path, options);
    const thread = await thisMachine.open(settings);
    return new SqliteBroker(settings, thisMachine, thread, await FileNames.of(settings.path));
  }

  /**
   * Creates a broker for an open file on any machine. This is meant for simulations.
   *
   * @param settings The settings.
   * @param machine The machine.
   * @param thread The thread with the file.
   * @returns The broker.
   */
  static [onMachine](
    settings: SqliteSettings,
    machine: Machine,
    thread: FileThread,
  ): SqliteBroker {
    return new SqliteBroker(settings, machine, thread);
  }

  /** Counters. */
  get stats(): BrokerStats {
    const { published, ...counts } = this.#life.counts;
    return {
      ...counts,
      published,
      received: published,
      waiting: this.#queue.waiting,
      dropped: this.#dropped,
      forgotten: this.#swept?.forgotten ?? 0,
    };
  }

  /**
   * Describes the current problems: a file that accepts no writes or is lost, that is nearly full,
   * or in which logs are damaged.
   */
  issues(): string[] {
    const { path, maxBytes, maxWaiting } = this.#settings;
    const issues = this.#life.issues({ waiting: this.#queue.waiting, maxWaiting });
    const usedBytes = this.#swept?.usedBytes ?? 0;
    if (usedBytes > maxBytes * NEARLY_FULL) {
      issues.push(`${path} is nearly full: ${usedBytes} bytes are used, of ${maxBytes} at most`);
    }
    return [...issues, ...this.#damages.issues()];
  }

  /**
   * Publishes on a topic without a history. Calls the listeners before returning.
   *
   * @param publication The topic and the encoded message.
   * @throws {UnsupportedError} If the broker is closed.
   */
  publish(publication: Publication): void {
    this.#life.checkOpen("publish");
    this.#life.published++;
    this.#plain.deliver(publication);
  }

  /**
   * Subscribes to a topic.
   *
   * @param topic The name of the topic; it is never a pattern.
   * @param listener Receives the publications of the topic.
   * @param options The bounds of the history, for a topic with a history.
   * @returns The subscription, which is in force immediately.
   * @throws {UnsupportedError} If the broker is closed.
   * @throws {RangeError} If the topic has a history and its name has more than 1,024 bytes or
   * contains a zero character.
   */
  subscribe(
    topic: string,
    listener: (publication: Publication) => void,
    options: BrokerSubscribeOptions = {},
  ): BrokerSubscription {
    this.#life.checkOpen("subscribe");
    if (options.history === undefined) return this.#plain.subscribe(topic, listener);
    checkName(topic);
    return this.#kept.subscribe(topic, listener);
  }

  /**
   * Copies the file while the broker is in use, in steps of a few milliseconds. The store's claims
   * and numbers are not copied. A broker that opens the copy starts a new epoch.
   *
   * @param path Path of the copy, or its `file:` URL. The file must not exist yet.
   * @param options A signal that cancels the copy.
   * @throws {BrokerError} If the copy fails, if another copy is in progress, or if the broker is
   * closed.
   *
   * @example Copy a file in use
   * ```ts
   * import { SqliteBroker } from "@skein/skein/sqlite";
   * import { assert } from "@std/assert";
   *
   * const folder = await Deno.makeTempDir();
   * await using broker = await SqliteBroker.open(`${folder}/chat.db`);
   * await broker.backup(`${folder}/copy.db`);
   * assert((await Deno.stat(`${folder}/copy.db`)).isFile);
   * ```
   */
  async backup(
    path: string | URL,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<void> {
    checkOptions("back up", options, SIGNAL);
    const { signal } = options;
    signal?.throwIfAborted();
    const target = pathOf(path);
    this.#checkCall("back up");
    if (this.#backup !== undefined) {
      throw new BrokerError("Cannot back up: a backup is in progress");
    }
    this.#backup = this.#backUp(target, signal).finally(() => this.#backup = undefined);
    await this.#backup;
  }

  async #backUp(target: string, signal: AbortSignal | undefined): Promise<void> {
    const part = `${target}.part`;
    try {
      await this.#machine.checkAbsent(target);
      await this.#machine.checkAbsent(part);
      try {
        await this.#copyTo(part, signal);
        await this.#machine.syncAs(part, target);
      } catch (error) {
        // The next backup reports a file that cannot be removed.
        await this.#machine.remove(part).catch(() => {});
        throw error;
      }
    } catch (cause) {
      if (signal?.aborted || cause instanceof BrokerError) throw cause;
      throw new BrokerError(`Cannot back up: ${textOf(cause)}`, { cause });
    }
  }

  /**
   * Ends all subscriptions, commits all waiting operations, and closes the file. After that, the
   * file on disk contains all writes. Idempotent.
   */
  close(): Promise<void> {
    return this.#life.close(() => this.#close());
  }

  /** Closes the broker; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    this.#runtime.clearTimeout(this.#sweeping);
    this.#plain.clear();
    this.#kept.clear();
    this.status.end({ name: "closed" });
    await this.#sweep;
    // The caller of `backup` receives the failure.
    await this.#backup?.catch(() => {});
    await this.#queue.end();
    await this.#thread.close();
  }

  #append(publication: Publication, options: AppendOptions): Promise<Appended> {
    return new Promise((resolve, reject) => {
      const { key } = options;
      const name = key === undefined ? undefined : nameOfKey(key);
      this.#checkCall("append", publication.topic, name, publication.except);
      const { epoch } = this.#thread;
      const bytes = payloadBytes(publication);
      const tag = this.#tags.next();
      const { position: _none, ...rest } = publication;
      const kept = { ...rest, bytes, tag };
      this.#queue.start(["append", kept, options, this.#runtime.now()], {
        bytes,
        done: (offsets) => {
          this.#life.published++;
          if (offsets === undefined) return resolve({});
          if ("fullForMs" in offsets) {
            return reject(topicKeysFull(publication.topic, offsets.fullForMs));
          }
          const position = { epoch, ...offsets, tag };
          this.#pace.take(bytes, () => this.#kept.deliver({ ...rest, bytes, position }));
          resolve({ position: { epoch, offset: offsets.offset, tag } });
        },
        failed: (error) => {
          this.#dropped++;
          reject(error);
        },
      });
    });
  }

  /**
   * Calls the file, and handles names, signals and the closing of the broker for all operations. If
   * the first argument is a string, it is the name of a topic, a key, a scope or a log.
   */
  async #call<N extends FileCallName>(
    operation: readonly [name: N, ...args: Parameters<FileCalls[N]>],
    options: FileCallOptions = {},
  ): Promise<ReturnType<FileCalls[N]>> {
    const { verb = CALLS[operation[0]].verb, signal } = options;
    signal?.throwIfAborted();
    const [, first] = operation as FileOperation;
    this.#checkCall(verb, typeof first === "string" ? first : undefined);
    const call = this.#queue.call(operation, options);
    return await (signal ? abortable(call, signal) : call);
  }

  async #read(topic: string, { signal, ...options }: ReadHistoryOptions): Promise<HistoryPage> {
    const page = await this.#call(["read", topic, options, this.#runtime.now()], { signal });
    this.#life.reads++;
    return page;
  }

  #makeStore(): BrokerStore {
    const now = () => this.#runtime.now();
    return {
      advance: (key, number, windowMs) => this.#call(["advance", key, number, windowMs, now()]),
      newest: (key) => this.#call(["newest", key, now()]),
      claim: async (scope, member, options) => {
        checkText(member);
        return await this.#call(["claim", scope, member, options, now()]);
      },
      release: async (scope, member) => {
        checkText(member);
        await this.#call(["release", scope, member]);
      },
      claims: (scope) => this.#call(["claims", scope, now()]),
      take: (...args) => this.#call(["take", ...args, now()]),
    };
  }

  async #copyTo(path: string, signal: AbortSignal | undefined): Promise<void> {
    await this.#queue.call(["beginCopy", path]);
    try {
      while (await this.#call(["continueCopy"])) signal?.throwIfAborted();
    } catch (error) {
      // Even a closing broker ends the copy.
      await this.#queue.call(["endCopy", false]).catch(() => {});
      throw error;
    }
    await this.#queue.call(["endCopy", true]);
  }

  #sweepLater(): void {
    this.#sweeping = this.#runtime.setTimeout(() => this.#sweep = this.#runSweep(), SWEEP_MS);
  }

  /**
   * Checks that the path still leads to the open file, then deletes unused rows, a bounded number
   * per group.
   */
  async #runSweep(): Promise<void> {
    this.#queue.refusal = await this.#names?.lost();
    try {
      do {
        this.#swept = await this.#queue.call(["sweep", this.#runtime.now()]);
      } while (this.#swept.isMore && !this.#life.isClosed);
    } catch {
      // The status shows that the file accepts no writes.
    }
    if (!this.#life.isClosed) this.#sweepLater();
  }

  /** Rejects a call that the file cannot handle. */
  #checkCall(verb: string, ...names: readonly (string | undefined)[]): void {
    this.#life.checkCall(verb);
    for (const name of names) if (name !== undefined) checkName(name);
  }
}

function checkName(name: string): void {
  checkNameBytes(name, MAX_NAME_BYTES);
  checkText(name);
}

/** Rejects texts that the file would truncate or confuse with others. */
function checkText(text: string): void {
  if (!text.includes("\0") && text.isWellFormed()) return;
  throw new RangeError(
    `Cannot use topic, key or member: it must be well-formed and without zero characters, received ${
      JSON.stringify(text)
    }`,
  );
}
