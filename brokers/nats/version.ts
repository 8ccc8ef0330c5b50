/** The version mark of a broker's data in JetStream. */
import { JetStreamApiError, type JetStreamManager } from "@nats-io/jetstream";
import { checkStoredVersion } from "../stored_version.ts";
import type { NatsNames } from "./format.ts";
import { repeatedRead, streamConfig } from "./jetstream.ts";
import type { NatsSettings } from "./options.ts";

/**
 * Version of all streams, buckets and messages with one prefix. It is incremented with each change
 * that other versions of Skein would misread. Data without a mark has version 1.
 */
const VERSION = 1;

/** Error codes of JetStream for a missing stream, and for one with another configuration. */
const NOT_FOUND = 10059;
const NAME_TAKEN = 10058;

/**
 * The mark is the description of a stream without messages. JetStream creates a stream in one atomic
 * step, so of several nodes that start at the same time, one sets the mark and the others read it.
 */
export class VersionMark {
  readonly #names: NatsNames;
  readonly #settings: NatsSettings;
  #matches = false;

  /**
   * @param names The names of the streams.
   * @param settings Storage and replicas of a new stream.
   */
  constructor(names: NatsNames, settings: NatsSettings) {
    this.#names = names;
    this.#settings = settings;
  }

  /** True if the mark matched when it was last read. */
  get matches(): boolean {
    return this.#matches;
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
      const { config } = await repeatedRead(this.#settings.runtime, info);
      this.#check(config.description);
      return true;
    } catch (error) {
      if (codeOf(error) !== NOT_FOUND) throw error;
      this.#matches = false;
      return false;
    }
  }

  /**
   * Sets the mark, unless another node was first.
   *
   * @throws {OtherVersionError} If another version was first.
   */
  async set(manager: JetStreamManager): Promise<void> {
    const { stream, subject } = this.#names.version;
    try {
      const { config } = await manager.streams.add({
        ...streamConfig(this.#settings),
        name: stream,
        subjects: [subject],
        description: String(VERSION),
      });
      this.#check(config.description);
    } catch (error) {
      if (codeOf(error) !== NAME_TAKEN) throw error;
      await this.read(manager);
    }
  }

  #check(found: string = ""): void {
    this.#matches = false;
    checkStoredVersion(found, {
      version: VERSION,
      cannot: "use NATS",
      of: `the data with prefix "${this.#names.prefix}"`,
      otherwise: "use another prefix",
    });
    this.#matches = true;
  }
}

function codeOf(error: unknown): number | undefined {
  return error instanceof JetStreamApiError ? error.code : undefined;
}
