/** The shards of all logs: each log is in one of them, by a hash of its id. */
import type { LogKind, OwnedKind } from "../../../streams/logs/log_names.ts";
import type { RetainedLogs } from "../../../streams/logs/rules.ts";
import type { NatsNames } from "../format.ts";
import type { NatsLink } from "../link.ts";
import type { NatsSettings } from "../options.ts";
import { shardOf } from "../shards.ts";
import { DueIndex } from "./due_index.ts";
import { LogStreams } from "./log_streams.ts";

/** Maximum number of shards that are counted concurrently. */
const MAX_COUNTS = 4;

/** The streams of a shard, and the index of its logs that may expire. */
export interface LogShard {
  readonly streams: LogStreams;
  readonly due: DueIndex;
}

/** The shards of one broker. A shard is opened when a log in it is used. */
export class LogShards {
  readonly #link: NatsLink;
  readonly #make: (shard: number) => LogShard;
  readonly #shards: LogShard[] = [];

  constructor(link: NatsLink, names: NatsNames, settings: NatsSettings) {
    this.#link = link;
    this.#make = (shard) => {
      const streams = new LogStreams(link, names, settings, shard);
      return { streams, due: new DueIndex(link.clock, streams) };
    };
    // The number of shards is known once this one was opened.
    this.#shards.push(this.#make(0));
  }

  /** Errors of the shards that could not be opened. */
  get problems(): unknown[] {
    return this.#shards.map(({ streams }) => streams.problem).filter((one) => one !== undefined);
  }

  /** Maximum size of the state in a message, in bytes. */
  get maxStateBytes(): number {
    return this.#shards[0]!.streams.maxStateBytes;
  }

  /** Maximum size of a message's encoded records, in bytes. */
  get maxRecordBytes(): number {
    return this.#shards[0]!.streams.maxRecordBytes;
  }

  /** Waits for the server, and opens the shard of a log. */
  async open(part: string, signal?: AbortSignal): Promise<LogShard> {
    await this.#all(signal);
    const shard = this.of(part);
    await shard.streams.open(signal);
    return shard;
  }

  /** Returns the shard of a log, which was opened before. */
  of(part: string): LogShard {
    return this.#shards[shardOf(part, this.#shards.length)]!;
  }

  /**
   * Counts the logs of one kind, or of all, including removed ones until their last message is
   * gone.
   */
  async count(kind?: Exclude<LogKind, "stream">): Promise<number> {
    const shards = [...await this.#all()];
    let all = 0;
    // The first call creates the streams, each with an election.
    while (shards.length > 0) {
      const counts = shards.splice(0, MAX_COUNTS).map(({ streams }) => streams.count(kind));
      for (const count of await Promise.all(counts)) all += count;
    }
    return all;
  }

  /** Lists the logs of a kind, shard by shard. The cursor of a page is valid for 10 s. */
  async list(
    kind: OwnedKind,
    { limit, after = "0" }: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<RetainedLogs> {
    const shards = await this.#all();
    let [number, cursor]: [number, string | undefined] = [parseInt(after, 10), undefined];
    if (after.includes(" ")) cursor = after.slice(after.indexOf(" ") + 1);
    for (;; number++, cursor = undefined) {
      const { streams } = shards[number]!;
      const { logs, next } = await streams.list(kind, { limit, after: cursor });
      if (next !== undefined) return { logs, next: `${number} ${next}` };
      if (number === shards.length - 1) return { logs };
      if (logs.length > 0) return { logs, next: `${number + 1}` };
    }
  }

  /** Lists due logs, starting with the log that has been due longest. */
  async overdue(limit: number): Promise<string[]> {
    const shards = await this.#all();
    const due = (await Promise.all(shards.map(({ due }) => due.list(limit)))).flat();
    const ids = due.sort((a, b) => a.at - b.at).map(({ id }) => id);
    return [...new Set(ids)].slice(0, limit);
  }

  /** Returns all shards; the first one is open. */
  async #all(signal?: AbortSignal): Promise<readonly LogShard[]> {
    const { shards } = this.#link;
    if (shards === undefined) await this.#shards[0]!.streams.open(signal);
    const { logs: count } = this.#link.shards!;
    while (this.#shards.length < count) this.#shards.push(this.#make(this.#shards.length));
    return this.#shards;
  }
}
