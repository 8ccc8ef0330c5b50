/** The broadcasts that a program publishes, and their handlers. */
import { checkType, describe } from "../../base/error_text.ts";
import type { CheckOption, OptionKinds } from "../../base/options/options.ts";
import { checkOptions, listOf, POSITIVE, RUNTIME } from "../../base/options/option_checks.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import type { Quotas } from "../../base/quotas/shares.ts";
import { MoqError } from "../wire/errors.ts";
import type { TrackInfoMessage } from "../wire/messages.ts";
import { type BroadcastPath, broadcastPath, suffixOf } from "../wire/path.ts";
import type { Announcement } from "./announcement.ts";
import { WriteBuffers } from "./frame_buffer.ts";
import type { GroupWriter } from "./group_writer.ts";
import type { SubscriberSession, TrackWriter } from "./track_writer.ts";

/**
 * Parses a pattern.
 *
 * @param pattern Parts separated by slashes; `{name}` matches one part, a final `**` any number of
 * parts.
 * @throws {TypeError} If the pattern is malformed.
 */
function patternParts(pattern: string): string[] {
  const parts = broadcastPath(pattern).split("/").slice(1);
  const names = parts.filter((part) => part.startsWith("{"));
  const isWrong = parts.some((part, at) =>
    part === "**" ? at < parts.length - 1 : /[{}]/.test(part) && !/^\{\w+\}$/.test(part)
  );
  if (isWrong || new Set(names).size < names.length) {
    throw new TypeError(
      "Cannot handle pattern: its parts must be texts, {name} once each, or ** as the last one, " +
        `received "${pattern}"`,
    );
  }
  return parts;
}

/**
 * Matches a path against a pattern.
 *
 * @returns The values of the names in braces; `undefined` if the path does not match.
 */
function matchPattern(
  pattern: readonly string[],
  parts: readonly string[],
): Record<string, string> | undefined {
  const isOpen = pattern.at(-1) === "**";
  const fixed = isOpen ? pattern.length - 1 : pattern.length;
  if (isOpen ? parts.length < fixed : parts.length !== fixed) return undefined;
  const params: Record<string, string> = {};
  for (let at = 0; at < fixed; at++) {
    const [expected, part] = [pattern[at]!, parts[at]!];
    if (expected.startsWith("{")) params[expected.slice(1, -1)] = part;
    else if (expected !== part) return undefined;
  }
  return params;
}

/** A request of a subscriber for one group from the cache. */
export interface FetchRequest {
  /** The broadcast. */
  readonly path: BroadcastPath;
  /** The track. */
  readonly name: string;
  /** The number of the group. */
  readonly sequence: number;
  /** 0 to 255; higher values are sent first, and live groups before fetched ones. */
  readonly priority: number;
  /** Aborted when the subscriber leaves or the session closes. */
  readonly signal: AbortSignal;
  /**
   * The session of the subscriber.
   *
   * @ignore
   */
  readonly session: SubscriberSession;
}

/** A handler for the tracks of a broadcast. */
export interface TrackServer {
  /**
   * Serves one subscriber. The track is closed when this method has finished. If it throws a
   * {@linkcode MoqError}, the track is closed with that reason; any other error closes it with
   * `internal`.
   *
   * @param track The subscriber's track.
   */
  serveTrack(track: TrackWriter): void | Promise<void>;
  /**
   * The subscription is accepted when `accept()` is called or a group starts, not at the end of the
   * turn in which `serveTrack()` was called; for handlers that must first wait for something else.
   *
   * @default {false}
   */
  readonly acceptLater?: boolean | undefined;
  /**
   * Responds to a fetch. Without this method fetches are rejected. A {@linkcode TrackHandler} that is a
   * function receives a track instead, whose range is the fetched group.
   *
   * @param request Which group of which track the peer fetches.
   * @param group The group to write to, which is closed afterwards.
   */
  serveFetch?(request: FetchRequest, group: GroupWriter): void | Promise<void>;
  /**
   * Returns the fixed properties of a track. The defaults are priority 0, unordered, no cache, and
   * a timescale of milliseconds.
   *
   * @param name The name of the track within the broadcast.
   * @param request Its `signal` aborts when the peer leaves or the session closes.
   * @returns The properties that differ from the default.
   */
  trackInfo?(
    name: string,
    request: Pick<FetchRequest, "signal" | "session">,
  ): Partial<TrackInfoMessage> | Promise<Partial<TrackInfoMessage>>;
}

/**
 * Serves the tracks of a broadcast: a function that writes the groups that a subscriber or a fetch
 * requests, or a {@linkcode TrackServer}.
 */
export type TrackHandler = TrackServer | TrackServer["serveTrack"];

/** The options for {@linkcode TrackMux.publish}. */
export interface MoqPublishOptions {
  /** Ids of the relays that the broadcast has already passed: 0 to 2^62 - 1. Empty by default. */
  readonly hops?: readonly bigint[] | undefined;
  /** Withdraws the broadcast. */
  readonly signal?: AbortSignal | undefined;
}

/** The options for {@linkcode TrackMux}. */
export interface TrackMuxOptions {
  /**
   * The id of this program in the hops of announcements: 1 to 2^62 - 1; random by default.
   *
   * Relays use it to detect loops, and continue the tracks of a publisher that returns with the same
   * id in a new session. A publisher that restarts its group numbers must use a new id: otherwise a
   * relay that still has the old session waits for numbers above the old ones.
   */
  readonly hopId?: bigint | undefined;
  /**
   * The maximum number of broadcasts.
   *
   * @default {100000}
   */
  readonly maxBroadcasts?: number | undefined;
  /**
   * Source of the random `hopId`.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

/** A published broadcast: disposing it withdraws the broadcast, and ends all subscriptions. */
export interface MoqPublication extends Disposable {
  /** The broadcast. */
  readonly path: BroadcastPath;
  /** True until the broadcast is withdrawn. */
  readonly isActive: boolean;
  /**
   * Announces the broadcast again after its route has changed. Subscriptions continue.
   *
   * @param hops Ids of the relays that the broadcast passed through.
   * @throws {RangeError} If an id is not from 0 to 2^62 - 1.
   */
  reannounce(hops: readonly bigint[]): void;
  /** Withdraws the broadcast. Idempotent. */
  end(): void;
}

/** A handler in the mux. */
export interface MuxServer extends TrackServer {
  /** True if `serveTrack()` also responds to fetches, because the handler is a function. */
  readonly servesFetches?: boolean | undefined;
}

/** The handler of a path. */
export interface MuxRoute {
  readonly server: MuxServer;
  /** The values of the names in braces. */
  readonly params: Readonly<Record<string, string>>;
  /** Aborted when the broadcast or pattern is withdrawn. */
  readonly signal: AbortSignal;
}

interface MuxBroadcast extends MoqPublication {
  readonly server: MuxServer;
  hops: readonly bigint[];
  readonly controller: AbortController;
}

interface Pattern {
  readonly parts: readonly string[];
  readonly server: MuxServer;
  readonly controller: AbortController;
}

interface Watcher {
  readonly prefix: BroadcastPath;
  readonly listener: Listener;
}

type Listener = (
  announcement: Announcement,
  previousHops: readonly bigint[] | undefined,
) => void;

const OPTIONS: OptionKinds<TrackMuxOptions> = {
  hopId: "bigint",
  maxBroadcasts: POSITIVE,
  runtime: RUNTIME,
};

/** The first number that does not fit into the 62 bits of an id. */
const HOP_LIMIT = 1n << 62n;

const BIGINTS = listOf("bigint");

/** Check of hops: an id that no message can carry would end the announcements to every peer. */
const HOPS: CheckOption = (value, place) => {
  BIGINTS(value, place);
  (value as readonly bigint[]).forEach((hop, i) => {
    if (hop >= 0n && hop < HOP_LIMIT) return;
    throw new RangeError(
      `Cannot ${place.verb}: ${place.path}[${i}] must be from 0 to 2^62 - 1, received ${hop}`,
    );
  });
};

const PUBLISH: OptionKinds<MoqPublishOptions> = { hops: HOPS, signal: "AbortSignal" };

/**
 * Routes requests of peers to handlers, and announces published broadcasts. One mux serves many
 * sessions.
 *
 * - **Broadcasts** are published under a path, and announced.
 * - **Patterns** such as `/vod/{title}` serve every matching path, and are not announced, because
 *   the number of matching paths is unlimited. A broadcast takes precedence over a pattern, and an
 *   earlier pattern over a later one. A final `**` matches any number of parts.
 *
 * @example A broadcast
 * ```ts
 * import { TrackMux } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * {
 *   using clock = mux.publish("/clock", async (track) => {
 *     const group = await track.openGroup();
 *     await group.writeFrame(new TextEncoder().encode("12:00"));
 *     await group.close();
 *   });
 *   assertEquals(mux.announcements("/").map(({ path }) => path), [clock.path]);
 * }
 * assertEquals(mux.announcements("/"), []);
 * ```
 */
export class TrackMux {
  /** The id of this program in the hops of announcements. */
  readonly hopId: bigint;
  /**
   * Memory for groups that wait to be sent, in all sessions.
   *
   * @ignore
   */
  readonly buffers: WriteBuffers = new WriteBuffers();
  /**
   * The limits of this mux's relay, for the metrics of a server.
   *
   * @ignore
   */
  quotas: Quotas | undefined;

  readonly #maxBroadcasts: number;
  readonly #broadcasts = new Map<BroadcastPath, MuxBroadcast>();
  readonly #patterns: Pattern[] = [];
  readonly #watchers = new Set<Watcher>();

  /**
   * Creates a mux.
   *
   * @param options See {@linkcode TrackMuxOptions}.
   * @throws {RangeError} If an option is out of range.
   */
  constructor(options: TrackMuxOptions = {}) {
    checkOptions("create mux", options, OPTIONS);
    const { runtime = platformRuntime(), maxBroadcasts = 100_000 } = options;
    const { hopId = randomHopId(runtime) } = options;
    if (hopId < 1n || hopId >= HOP_LIMIT) {
      throw new RangeError(
        `Cannot create mux: hopId must be from 1 to 2^62 - 1, received ${hopId}`,
      );
    }
    this.hopId = hopId;
    this.#maxBroadcasts = maxBroadcasts;
  }

  /** The number of broadcasts. */
  get size(): number {
    return this.#broadcasts.size;
  }

  /**
   * Publishes a broadcast, and announces its path.
   *
   * @param path The path of the broadcast.
   * @param handler Serves the tracks of the broadcast.
   * @param options See {@linkcode MoqPublishOptions}.
   * @returns The publication; disposing it withdraws the broadcast.
   * @throws {MoqError} If the path is already published (`duplicated`), or there are too many
   * broadcasts.
   * @throws {RangeError} If the path has too many parts or bytes, or an id in `hops` is out of range.
   * @throws {TypeError} If the handler is not a function and has no `serveTrack()`.
   */
  publish(path: string, handler: TrackHandler, options: MoqPublishOptions = {}): MoqPublication {
    checkOptions("publish", options, PUBLISH);
    const name = broadcastPath(path);
    const { hops = [], signal } = options;
    signal?.throwIfAborted();
    if (this.#broadcasts.has(name)) {
      throw new MoqError("announce", "duplicated", `Cannot publish: ${name} is published already`);
    }
    if (this.#broadcasts.size >= this.#maxBroadcasts) {
      throw new MoqError(
        "announce",
        "internal",
        `Cannot publish: there are ${this.#maxBroadcasts} broadcasts already, see maxBroadcasts`,
      );
    }
    const controller = new AbortController();
    const end = () => {
      if (controller.signal.aborted) return;
      signal?.removeEventListener("abort", end);
      this.#broadcasts.delete(name);
      const { hops } = broadcast;
      this.#announce({ path: name, active: false, hops }, hops);
      controller.abort(
        new MoqError("subscribe", "notFound", `The broadcast ${name} was withdrawn`),
      );
    };
    const broadcast: MuxBroadcast = {
      path: name,
      server: serverOf(handler, "publish"),
      hops,
      controller,
      get isActive(): boolean {
        return !controller.signal.aborted;
      },
      reannounce: (newHops) => {
        HOPS(newHops, { verb: "reannounce", path: "hops" });
        if (controller.signal.aborted) return;
        const previous = broadcast.hops;
        broadcast.hops = newHops;
        this.#announce({ path: name, active: true, hops: newHops }, previous);
      },
      end,
      [Symbol.dispose]: end,
    };
    this.#broadcasts.set(name, broadcast);
    signal?.addEventListener("abort", end, { once: true });
    this.#announce({ path: name, active: true, hops }, undefined);
    return broadcast;
  }

  /**
   * Serves every path that matches a pattern, without announcements.
   *
   * @param pattern Parts separated by slashes; `{name}` matches one part, a final `**` any number
   * of parts.
   * @param handler Serves the tracks of matching paths.
   * @returns A handle that withdraws the pattern when disposed.
   * @throws {TypeError} If the pattern is malformed, or the handler is not a function and has no
   * `serveTrack()`.
   */
  handle(pattern: string, handler: TrackHandler): Disposable {
    const parts = patternParts(pattern);
    const server = serverOf(handler, "handle");
    const entry: Pattern = { parts, server, controller: new AbortController() };
    this.#patterns.push(entry);
    return {
      [Symbol.dispose]: () => {
        const at = this.#patterns.indexOf(entry);
        if (at < 0) return;
        this.#patterns.splice(at, 1);
        entry.controller.abort(
          new MoqError("subscribe", "notFound", `The pattern ${pattern} was withdrawn`),
        );
      },
    };
  }

  /**
   * Finds the handler of a path.
   *
   * @returns The handler; `undefined` if neither a broadcast nor a pattern matches.
   * @ignore
   */
  route(path: BroadcastPath): MuxRoute | undefined {
    const broadcast = this.#broadcasts.get(path);
    if (broadcast !== undefined) {
      return { server: broadcast.server, params: {}, signal: broadcast.controller.signal };
    }
    const parts = path.split("/").slice(1);
    for (const { parts: pattern, server, controller } of this.#patterns) {
      const params = matchPattern(pattern, parts);
      if (params !== undefined) return { server, params, signal: controller.signal };
    }
    return undefined;
  }

  /**
   * Lists the broadcasts below a prefix.
   *
   * @param prefix The prefix; `/` for all.
   * @returns An announcement for each current broadcast.
   */
  announcements(prefix: string): Announcement[] {
    const below = broadcastPath(prefix);
    return [...this.#broadcasts.values()].filter(({ path }) => suffixOf(below, path) !== undefined)
      .map(({ path, hops }) => ({ path, hops, active: true }));
  }

  /**
   * Watches the broadcasts below a prefix, from now on.
   *
   * @param prefix The prefix; `/` for all.
   * @param listener Called synchronously with each start and end of a broadcast, and with the hops
   * of the broadcast before; `undefined` if it was not published. MUST NOT throw.
   * @returns A handle that stops watching when disposed.
   * @throws {TypeError} If the listener is not a function.
   */
  watch(
    prefix: string,
    listener: (
      announcement: Announcement,
      previousHops: readonly bigint[] | undefined,
    ) => void,
  ): Disposable {
    checkType("watch", "listener", listener);
    const watcher: Watcher = { prefix: broadcastPath(prefix), listener };
    this.#watchers.add(watcher);
    return { [Symbol.dispose]: () => void this.#watchers.delete(watcher) };
  }

  #announce(announcement: Announcement, previousHops: readonly bigint[] | undefined): void {
    for (const { prefix, listener } of this.#watchers) {
      if (suffixOf(prefix, announcement.path) !== undefined) listener(announcement, previousHops);
    }
  }
}

function serverOf(handler: TrackHandler, verb: "publish" | "handle"): MuxServer {
  if (typeof handler === "function") return { serveTrack: handler, servesFetches: true };
  const given = handler as TrackServer | null | undefined;
  if (typeof given?.serveTrack === "function") return given;
  throw new TypeError(
    `Cannot ${verb}: handler must be a function or have serveTrack(), received ${describe(given)}`,
  );
}

/** 53 of the 62 bits: `@moq/lite` reads ids into numbers, and fails on larger ones. */
function randomHopId(runtime: Runtime): bigint {
  const [high, low] = runtime.getRandomValues(new Uint32Array(2));
  return (BigInt(high! & 0x1f_ffff) << 32n | BigInt(low!)) || 1n;
}
