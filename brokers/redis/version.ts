/** The version mark of a broker's data in Redis. */
import type { Cluster, Redis } from "ioredis";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { checkStoredVersion, OtherVersionError } from "../stored_version.ts";
import { isOfReplica } from "./failures.ts";

/**
 * Version of all keys and messages with one prefix. It is incremented with each change that other
 * versions of Skein would misread. Data without a mark has version 1.
 */
const VERSION = 1;

/**
 * Sets the mark if there is none, and reads it. A replica rejects even a write without effect, and
 * so replies with an error although it has the mark: it would accept publications, which reach no
 * other node.
 */
const MARK = `
local written = redis.pcall('SETNX', KEYS[1], ARGV[1])
local rejection = type(written) == 'table' and written.err
local found = redis.pcall('GET', KEYS[1])
if rejection and (not found or string.find(rejection, '^READONLY')) then return written end
if type(found) == 'table' then return 'a key of another type' end
return found
`;

/** The script, as a command of a client. */
interface MarkScript {
  skeinVersion(key: string, version: number): Promise<string>;
}

/** Wait before the mark is read again if Redis did not return it, in milliseconds. */
const RETRY_MS = 1_000;

/** State before the mark matched. */
interface MatchedAfter {
  /** True if another version had written the data. */
  readonly mismatch: boolean;
  /** True if the server was a replica. */
  readonly replica: boolean;
}

/** Collaborators and settings of a {@linkcode VersionMark}. */
interface VersionMarkOptions {
  readonly runtime: Runtime;
  readonly client: Redis | Cluster;
  readonly key: string;
  /** The prefix, for errors. */
  readonly prefix: string;
  /** Called when the mark of a new connection matches, or when it matches after an error. */
  readonly onMatch: (after: MatchedAfter) => void;
  /** Called when the mark does not match, can't be read, or is a replica's. */
  readonly onError: (error: unknown) => void;
}

/**
 * The mark, which a node reads on each new connection before it uses it, and with each heartbeat. A
 * mark that is gone, for example after `FLUSHALL`, is set again.
 */
export class VersionMark implements Disposable {
  readonly #options: VersionMarkOptions;
  readonly #script: MarkScript;
  #matches = false;
  #isOfReplica = false;
  #mismatch: OtherVersionError | undefined;
  #isReading = false;
  #retry: Timer | undefined;
  #isClosed = false;

  constructor(options: VersionMarkOptions) {
    this.#options = options;
    options.client.defineCommand("skeinVersion", { lua: MARK, numberOfKeys: 1 });
    this.#script = options.client as unknown as MarkScript;
  }

  /** True once the mark matched on this connection; false while it does not. */
  get matches(): boolean {
    return this.#matches;
  }

  /** The reason why the data can't be used; `undefined` if the mark matches or is not known yet. */
  get mismatch(): OtherVersionError | undefined {
    return this.#mismatch;
  }

  /** Reads the mark, unless that is in progress. */
  check(): void {
    if (this.#isReading || this.#isClosed) return;
    this.#isReading = true;
    void this.#read().finally(() => this.#isReading = false);
  }

  /**
   * Called when the connection is lost. The next one may lead to another server.
   *
   * @param isOfReplica True if the connection was to a replica.
   */
  forget(isOfReplica: boolean): void {
    this.#matches = false;
    this.#isOfReplica ||= isOfReplica;
  }

  [Symbol.dispose](): void {
    this.#isClosed = true;
    this.#options.runtime.clearTimeout(this.#retry);
  }

  async #read(): Promise<void> {
    const { runtime, client, key, prefix, onMatch, onError } = this.#options;
    try {
      const found = await this.#script.skeinVersion(key, VERSION);
      checkStoredVersion(found, {
        version: VERSION,
        cannot: "use Redis",
        of: `the data with prefix "${prefix}"`,
        otherwise: "use another prefix",
      });
      if (this.#matches || this.#isClosed) return;
      const after = { mismatch: this.#mismatch !== undefined, replica: this.#isOfReplica };
      [this.#matches, this.#mismatch, this.#isOfReplica] = [true, undefined, false];
      onMatch(after);
    } catch (error) {
      if (this.#isClosed) return;
      if (error instanceof OtherVersionError) {
        this.#matches = false;
        if (this.#mismatch?.message === error.message) return;
        this.#mismatch = error;
        return onError(error);
      }
      if (isOfReplica(error)) [this.#matches, this.#isOfReplica] = [false, true];
      // A connection that is lost reads the mark when it is open again.
      if (this.#matches || client.status !== "ready") return;
      onError(error);
      runtime.clearTimeout(this.#retry);
      this.#retry = runtime.setTimeout(() => this.check(), RETRY_MS);
    }
  }
}
