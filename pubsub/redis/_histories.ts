/** Histories of topics in Redis. */
import type { Buffer } from "node:buffer";
import type { Runtime } from "../../base/runtime.ts";
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import type {
  Appended,
  HistoryBounds,
  HistoryPage,
  Publication,
  ReadHistoryOptions,
} from "../broker.ts";
import { decodeStored } from "./_frames.ts";
import type { Names } from "./_names.ts";
import type { OutgoingAppend } from "./_outbox.ts";
import type { Scripts } from "./_scripts.ts";

/** Shortest time that the number of a producer is remembered, in milliseconds. */
const REPETITION_MS = 180_000;

/** Collaborators and settings of {@linkcode RedisHistories}. */
export interface RedisHistoriesOptions {
  readonly runtime: Runtime;
  readonly scripts: Scripts;
  readonly names: Names;
  /** `true` if publications go to the shard of their topic alone. */
  readonly isSharded: boolean;
  readonly rememberMs: number;
  readonly giveUpMs: number;
  readonly survivesRestart: boolean;
  /** Newest position that this node received on a topic, if subscribed. */
  readonly heardOf: (topic: string) => HistoryPosition | undefined;
}

/** Writes and reads histories. */
export class RedisHistories {
  readonly #runtime: Runtime;
  readonly #scripts: Scripts;
  readonly #names: Names;
  readonly #publish: string;
  readonly #rememberMs: number;
  readonly #repetitionMs: number;
  readonly #survivesRestart: boolean;
  readonly #heardOf: (topic: string) => HistoryPosition | undefined;

  constructor(options: RedisHistoriesOptions) {
    const { scripts, names, isSharded, rememberMs, giveUpMs, survivesRestart, heardOf } = options;
    this.#runtime = options.runtime;
    this.#survivesRestart = survivesRestart;
    this.#heardOf = heardOf;
    this.#scripts = scripts;
    this.#names = names;
    this.#publish = isSharded ? "SPUBLISH" : "PUBLISH";
    this.#rememberMs = rememberMs;
    // A producer's number has to outlive the repetitions of its publication.
    this.#repetitionMs = Math.max(REPETITION_MS, 2 * giveUpMs);
  }

  /** Appends and publishes a batch; returns the result of each publication. */
  async append(topic: string, appends: readonly OutgoingAppend[]): Promise<Appended[]> {
    const keys = [
      this.#names.meta(topic),
      this.#names.stream(topic),
      this.#names.keptChannel(topic),
    ];
    const places = new Map<string, number>();
    const args: (string | number | Buffer)[] = [];
    for (const { frame, kept: { key } } of appends) {
      let place = places.get(key.producer);
      if (place === undefined) {
        place = keys.push(this.#names.producer(topic, key.producer));
        places.set(key.producer, place);
      }
      args.push(place, key.number, frame);
    }
    const [epoch, head, taken] = await this.#scripts.skeinAppend(
      keys.length,
      ...keys,
      ...this.#opening(topic, appends.at(-1)!.kept.bounds),
      this.#publish,
      this.#repetitionMs,
      ...args,
    );
    let offset = Number(head) - taken.replaceAll("0", "").length;
    return appends.map(({ kept: { tag } }, i) => {
      if (taken[i] !== "1") return {};
      offset++;
      return { position: { epoch, offset, tag } };
    });
  }

  /** Reads a page. */
  async read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage> {
    const { bounds, after, last, maxMessages, maxBytes } = options;
    const [epochBytes, head, first, prev, anchor, frames] = await this.#scripts.skeinReadBuffer(
      2,
      this.#names.meta(topic),
      this.#names.stream(topic),
      ...this.#opening(topic, bounds),
      after ?? "",
      last ?? "",
      maxMessages,
      maxBytes,
    );
    const epoch = epochBytes.toString();
    const publications: Publication[] = decodeStored(topic, frames, {
      epoch,
      offset: Number(first),
      prev: Number(prev),
    });
    return {
      epoch,
      head: Number(head),
      publications,
      ...(anchor.length > 0 ? { anchor: anchor.toString("latin1") } : {}),
    };
  }

  /** Arguments with which a script opens a history. */
  #opening(topic: string, { ttlMs, size, bytes }: HistoryBounds): (string | number)[] {
    const epoch = this.#runtime.randomUUID().slice(0, 8);
    const rememberMs = Math.max(this.#rememberMs, Math.ceil(ttlMs) + 60_000);
    const heard = this.#heardOf(topic);
    return [
      epoch,
      ttlMs,
      size,
      bytes,
      rememberMs,
      this.#survivesRestart ? 1 : 0,
      heard?.epoch ?? "",
      heard?.offset ?? "",
    ];
  }
}
