/** The version mark of a broker's data in JetStream. */
import { JetStreamApiError, type JetStreamManager, type StreamInfo } from "@nats-io/jetstream";
import { checkStoredVersion, OtherVersionError } from "../stored_version.ts";
import type { NatsNames } from "./format.ts";
import {
  codeOf,
  isCluster,
  NAME_TAKEN,
  NOT_FOUND,
  repeatedRead,
  streamConfig,
} from "./jetstream.ts";
import type { NatsSettings } from "./options.ts";
import { decodeShards, encodeShards, newShards, type ShardCounts, SINGLE } from "./shards.ts";

/**
 * Version of all streams, buckets and messages with one prefix. It is incremented with each change
 * that other versions of Skein would misread. Data without a mark has version 1.
 */
const VERSION = 1;

/** The servers that store the data. */
interface StreamHost {
  /** True once JetStream has replied; false after a call without a reply. */
  readonly isServed?: boolean;
  /** True if the servers are a cluster; `undefined` before the mark exists. */
  readonly isClustered?: boolean;
}

/**
 * The mark is the description of a stream without messages. JetStream creates a stream in one atomic
 * step, so of several nodes that start at the same time, one sets the mark and the others read it.
 */
export class VersionMark {
  readonly #names: NatsNames;
  /** The settings of the broker. */
  readonly settings: NatsSettings;
  #matches = false;
  #shards: ShardCounts | undefined;
  #host: StreamHost = {};

  /**
   * @param names The names of the streams.
   * @param settings Storage and replicas of a new stream.
   */
  constructor(names: NatsNames, settings: NatsSettings) {
    this.#names = names;
    this.settings = settings;
  }

  /** True if the mark matched when it was last read. */
  get matches(): boolean {
    return this.#matches;
  }

  /** The servers that store the data, as far as known. They need not be the connected ones. */
  get host(): StreamHost {
    return this.#host;
  }

  /** The numbers of shards; `undefined` before the mark was read. */
  get shards(): ShardCounts | undefined {
    return this.#shards;
  }

  /**
   * Reads the mark.
   *
   * @returns False if there is none.
   * @throws {OtherVersionError} If another version has stored the data.
   */
  async read({ streams }: JetStreamManager): Promise<boolean> {
    try {
      const info = () => streams.info(this.#names.version.stream);
      this.#check(await repeatedRead(this.settings.runtime, info));
      return true;
    } catch (error) {
      if (!(error instanceof OtherVersionError)) {
        this.#host = { ...this.#host, isServed: error instanceof JetStreamApiError };
      }
      if (codeOf(error) !== NOT_FOUND) throw error;
      this.#matches = false;
      return false;
    }
  }

  /**
   * Sets the mark with the numbers of shards, unless another node was first.
   *
   * @throws {OtherVersionError} If another version was first.
   */
  async set(manager: JetStreamManager): Promise<void> {
    const names = this.#names;
    const { stream, subject } = names.version;
    // Data of an earlier version may have no mark.
    const old = [names.logs().stream, `KV_${names.bucket}`];
    const counts = (await Promise.all(old.map((name) => exists(manager, name)))).includes(true)
      ? SINGLE
      : newShards(this.settings.shards);
    try {
      const info = await manager.streams.add({
        ...streamConfig(this.settings),
        name: stream,
        subjects: [subject],
        description: `${VERSION} ${encodeShards(counts)}`.trim(),
      });
      this.#check(info);
    } catch (error) {
      if (codeOf(error) !== NAME_TAKEN) throw error;
      await this.read(manager);
    }
  }

  #check({ config, cluster }: StreamInfo): void {
    this.#host = { isServed: true, isClustered: isCluster(cluster) };
    this.#matches = false;
    const [version = "", ...rest] = (config.description ?? "").split(" ");
    checkStoredVersion(version, {
      version: VERSION,
      cannot: "use NATS",
      of: `the data with prefix "${this.#names.prefix}"`,
      otherwise: "use another prefix",
    });
    // Numbers that this node has used are as good as given ones.
    const { shards, prefix } = this.settings;
    const counts = { shards: this.#shards ?? shards, prefix };
    this.#shards = decodeShards(rest.join(" "), counts);
    this.#matches = true;
  }
}

async function exists({ streams }: JetStreamManager, name: string): Promise<boolean> {
  try {
    await streams.info(name);
    return true;
  } catch (error) {
    if (codeOf(error) !== NOT_FOUND) throw error;
    return false;
  }
}
