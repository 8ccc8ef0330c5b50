/** A group that a relay fetches from a source, and reads ahead of its client. */
import type { Runtime } from "../../base/runtime.ts";
import { untilAborted } from "../../base/wait.ts";
import type { FetchRequest } from "../track/mux.ts";
import {
  type EncodedSource,
  GROUP_HIGH_WATER_BYTES,
  type GroupWriter,
} from "../track/group_writer.ts";
import { MoqError } from "../wire/errors.ts";
import type { FrameCodec } from "../wire/frames.ts";
import { FrameBatch, type TimedFrame } from "./live_group.ts";
import { FETCH_BLOCK_BYTES, type RelayCapacity } from "./relay_capacity.ts";
import type { TrackOrigin } from "./relay_source.ts";

/** The bytes that a frame counts for besides its own, so that tiny frames are bounded as well. */
const FRAME_BYTES = 128;

/**
 * The bytes that each fetch may hold besides its share of the memory, so that a fetch of a small
 * group ends well however much others hold.
 */
const OWN_BYTES = 262_144;

/** The paused fetch of each source. */
export type PausedFetches = WeakMap<TrackOrigin, RelayFetch>;

/** Collaborators of a {@linkcode RelayFetch}. */
export interface RelayFetchOptions {
  readonly runtime: Runtime;
  readonly capacity: RelayCapacity;
  readonly paused: PausedFetches;
  readonly source: TrackOrigin;
  /** Called when the client has taken bytes, or has none to take while the source sends some. */
  onProgress(): void;
}

/**
 * Holds the frames of one fetched group that the client has not taken yet. The bytes that a relay
 * leaves unread use up the flow control of the source's session, for which its live tracks would
 * wait. So a fetch reads on while it may hold more bytes. One fetch of each source may pause
 * instead, whose client was the last to take bytes; any other one ends.
 */
export class RelayFetch implements EncodedSource, Disposable {
  readonly #request: FetchRequest;
  readonly #group: GroupWriter;
  readonly #options: RelayFetchOptions;
  readonly #blocks: Disposable[] = [];
  #frames: TimedFrame[] = [];
  /** The bytes of the frames that the connection has not accepted. */
  #held = 0;
  #inFlight = 0;
  #lastTimestamp = 0;
  /** The time at which the client last took bytes. */
  #takenAt: number;
  #isComplete = false;
  readonly #released = Promise.withResolvers<void>();
  #room: PromiseWithResolvers<void> | undefined = undefined;

  constructor(request: FetchRequest, group: GroupWriter, options: RelayFetchOptions) {
    this.#request = request;
    this.#group = group;
    this.#options = options;
    this.#takenAt = options.runtime.monotonic();
    group.pullFrom(this);
  }

  /** `true` once all frames were pulled. */
  get isAtEnd(): boolean {
    return this.#isComplete && this.#frames.length === 0;
  }

  /**
   * Adds a frame from the source.
   *
   * @returns Resolves once the fetch may read on.
   * @throws {MoqError} If the fetch would have to pause, and another one of the source may.
   */
  async add(bytes: Uint8Array, timestamp: number | undefined): Promise<void> {
    const { runtime, onProgress } = this.#options;
    const size = bytes.byteLength + FRAME_BYTES;
    if (this.#held === 0) onProgress();
    // A client that has taken everything gets the next frame, whatever others hold.
    if (!this.#takeBlocks(size) && this.#held > 0) await this.#pause(size);
    this.#frames.push({ bytes, timestamp: timestamp ?? runtime.now() });
    this.#held += size;
    this.#group.wakeSoon();
  }

  /** Ends the group after its last frame; resolves once the connection has accepted all bytes. */
  async end(): Promise<void> {
    this.#isComplete = true;
    this.#group.wake();
    await untilAborted(this.#released.promise, this.#request.signal);
  }

  /**
   * Encodes the next frames. The writer calls this again only after the connection has accepted the
   * bytes of the previous call.
   */
  pull(into: Uint8Array[], codec: FrameCodec): number {
    if (this.#inFlight > 0) this.#taken();
    let count = 0;
    for (const { bytes } of this.#frames) {
      if (this.#inFlight >= GROUP_HIGH_WATER_BYTES) break;
      this.#inFlight += bytes.byteLength + FRAME_BYTES;
      count++;
    }
    if (count === 0) return 0;
    const frames = this.#frames.splice(0, count);
    const batch = new FrameBatch(frames, this.#lastTimestamp, codec);
    this.#lastTimestamp = frames.at(-1)!.timestamp;
    into.push(batch.encoded(codec));
    return batch.byteLength;
  }

  released(): void {
    this.#released.resolve();
  }

  /** Drops the frames, and frees their memory. */
  [Symbol.dispose](): void {
    this.#frames = [];
    for (const block of this.#blocks.splice(0)) block[Symbol.dispose]();
  }

  #taken(): void {
    this.#held -= this.#inFlight;
    this.#inFlight = 0;
    const blocks = this.#blocks;
    while (
      blocks.length > 0 && OWN_BYTES + (blocks.length - 1) * FETCH_BLOCK_BYTES >= this.#held
    ) blocks.pop()![Symbol.dispose]();
    this.#takenAt = this.#options.runtime.monotonic();
    this.#options.onProgress();
    this.#room?.resolve();
  }

  /** Takes memory for more bytes; `false` if the limit, or the share of the client, is used up. */
  #takeBlocks(size: number): boolean {
    while (OWN_BYTES + this.#blocks.length * FETCH_BLOCK_BYTES < this.#held + size) {
      const block = this.#options.capacity.takeFetchBlock(this.#request.session);
      if (block === undefined) return false;
      this.#blocks.push(block);
    }
    return true;
  }

  /** Reads nothing until the client has taken enough. */
  async #pause(size: number): Promise<void> {
    const { paused, source } = this.#options;
    const other = paused.get(source);
    if (other !== undefined) {
      if (other.#takenAt >= this.#takenAt) throw tooFarBehind();
      other.#group.abort("tooFarBehind");
    }
    paused.set(source, this);
    try {
      do {
        this.#room = Promise.withResolvers();
        await untilAborted(this.#room.promise, this.#request.signal);
      } while (!this.#takeBlocks(size) && this.#held > 0);
    } finally {
      if (paused.get(source) === this) paused.delete(source);
    }
  }
}

function tooFarBehind(): MoqError {
  const message = "Cannot read ahead of the client: too many bytes of fetched groups are unread";
  return new MoqError("fetch", "tooFarBehind", message);
}
