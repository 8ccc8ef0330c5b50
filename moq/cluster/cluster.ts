/** Relays that share a broker, through which each relay knows the broadcasts of all others. */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, objectWith, POSITIVE } from "../../base/options/option_checks.ts";
import { Directory } from "../../pubsub/nodes/directory.ts";
import type { DirectoryChange, DirectoryScope } from "../../pubsub/nodes/directory_scope.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import { dialMoq } from "../client/dial.ts";
import type { MoqRelay } from "../live/relay.ts";
import { tellsHops } from "../live/relay_source.ts";
import { reportTo } from "../session/context.ts";
import type { MoqSession } from "../session/session.ts";
import type { Announcement } from "../track/announcement.ts";
import { TrackMux } from "../track/mux.ts";
import { MAX_HOPS } from "../wire/messages.ts";
import { type BroadcastPath, broadcastPath, suffixOf } from "../wire/path.ts";
import {
  CLUSTER_VERSION,
  type MoqClusterDial,
  RemoteRelay,
  type RemoteRelayOptions,
} from "./remote_relay.ts";

/** A broadcast, as described by the relay that holds it. A value that JSON can hold. */
interface HeldBroadcast {
  /** The URL of that relay. */
  readonly url: string;
  /**
   * Start of the broadcast at that relay, in milliseconds since the Unix epoch; later than the
   * start of every earlier broadcast.
   */
  readonly since: number;
  /** Ids of the relays on the path, with that relay last; in decimal, because ids have 62 bits. */
  readonly hops: readonly string[];
  /** Present if the announcement reached that relay without hops. */
  readonly isBlind?: true;
}

/** Reads the description from another relay; `undefined` if malformed. */
function readHeldBroadcast(value: unknown): HeldBroadcast | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { url, since, hops, isBlind } = value as Partial<Record<keyof HeldBroadcast, unknown>>;
  if (typeof url !== "string" || !Number.isSafeInteger(since)) return undefined;
  if (!Array.isArray(hops) || hops.length === 0 || hops.length > MAX_HOPS) return undefined;
  if (!hops.every((hop) => typeof hop === "string" && /^\d{1,19}$/.test(hop))) return undefined;
  return { url, since: since as number, hops, isBlind: isBlind === true ? isBlind : undefined };
}

/** The options for {@linkcode MoqCluster}. */
export interface MoqClusterOptions {
  /**
   * The relay of this process, whose runtime the cluster uses. Closing the cluster does not close
   * the relay.
   */
  readonly relay: MoqRelay;
  /**
   * The nodes, each with one relay of the cluster. Closing the cluster does not close the nodes.
   */
  readonly nodes: Nodes;
  /** The URL of this relay for the other relays: `https:` or `moqt:`; `http:` in development. */
  readonly url: string | URL;
  /**
   * The name of the cluster. Relays of clusters with different names do not find each other.
   *
   * @default {"moq"}
   */
  readonly name?: string | undefined;
  /**
   * Dials another relay at the URL that it published; {@linkcode dialMoq} by default. Use this to
   * add a token or a trusted hash. The session MUST have the given mux, which publishes no tracks,
   * and speak `moq-lite-05`. The signal aborts dialing.
   */
  readonly dial?:
    | ((
      url: string,
      options: { readonly mux: TrackMux; readonly signal: AbortSignal },
    ) => Promise<MoqSession>)
    | undefined;
  /**
   * The time for which an unused session with another relay is kept, in milliseconds; up to twice
   * as long.
   *
   * @default {5000}
   */
  readonly lingerMs?: number | undefined;
  /** Receives errors of dialing other relays. Ignored by default. */
  readonly onError?: ((error: unknown) => void) | undefined;
}

const OPTIONS: OptionKinds<MoqClusterOptions> = {
  dial: "function",
  lingerMs: POSITIVE,
  name: "string",
  nodes: objectWith("Nodes", "handle", "subscribe"),
  onError: "function",
  relay: objectWith("MoqRelay", "close"),
  url: "string or object",
};

/**
 * Joins many relays into one: a broadcast announced at one relay is announced at all of them, and
 * its media come from the relay that holds it.
 *
 * - **Directory:** a relay publishes the broadcasts of its own sessions in a {@linkcode Directory}.
 *   Media never pass through the broker.
 * - **One session:** the relay dials another relay for the first subscription to one of its
 *   broadcasts. The session is closed some time after the last subscription has ended. The relay
 *   subscribes to a track once for all local subscribers.
 * - **Routes:** the route with the fewest hops is used. If two routes are equally short, every
 *   relay uses the one to the broadcast that started last. Relays thus follow a publisher that
 *   moves: subscribers see the broadcast end and start again.
 * - **Loops** are detected by the `hopId` of the relay's mux, and rejected.
 * - **End:** when a broadcast ends, it ends on all relays within about 100 ms. The same applies to
 *   the broadcasts of a relay that leaves the cluster. Broadcasts of a crashed relay end within the
 *   nodes' `goneAfterMs`.
 * - **Outages:** while the broker is unreachable, no new broadcasts are found, and known ones
 *   continue.
 *
 * Relays of a cluster trust each other, and every program that can write to the broker. A relay
 * that dials another relay is an ordinary session there. It may subscribe to 2 % of `maxTracks`,
 * unless `authorize` grants `{ share: 1 }`, for example because of a token that `dial` adds.
 *
 * @example Two relays in one process
 * ```ts
 * import { dialMoq, listenMoq, MoqCluster, MoqRelay, TrackMux } from "@skein/skein/moq";
 * import { MemoryBroker, Nodes } from "@skein/skein/pubsub";
 * import { assertEquals } from "@std/assert";
 *
 * await using broker = new MemoryBroker();
 * function start() {
 *   const relay = new MoqRelay();
 *   const server = listenMoq({
 *     mux: relay.mux,
 *     authorize: () => true, // For all on this machine; elsewhere `dial` sends a token.
 *     onSession: (session) => relay.accept(session),
 *   });
 *   const nodes = new Nodes({ broker });
 *   const cluster = new MoqCluster({ relay, nodes, url: `http://127.0.0.1:${server.address?.port}` });
 *   return {
 *     dial: (mux: TrackMux) =>
 *       dialMoq(server.url, { mux, serverCertificateHashes: server.certificateHashes }),
 *     async [Symbol.asyncDispose]() {
 *       await cluster.close();
 *       await nodes.close();
 *       await server.close();
 *     },
 *   };
 * }
 * await using one = start();
 * await using two = start();
 *
 * const mux = new TrackMux();
 * mux.publish("/clock", async (track) => {
 *   await using group = await track.openGroup();
 *   await group.writeFrame(new TextEncoder().encode("12:00"));
 * });
 * await using _publisher = await one.dial(mux);
 * await using subscriber = await two.dial(new TrackMux());
 * await using announcements = await subscriber.acceptAnnounce("/");
 * assertEquals((await announcements.next())?.path, "/clock");
 * for await (const group of await subscriber.subscribe("/clock", "seconds")) {
 *   for await (const frame of group) assertEquals(new TextDecoder().decode(frame), "12:00");
 * }
 * ```
 */
export class MoqCluster implements AsyncDisposable {
  /** The URL of this relay for the other relays. */
  readonly url: string;
  /** Resolves when all running relays have sent their broadcasts; never rejects. */
  readonly ready: Promise<void>;

  readonly #relay: MoqRelay;
  readonly #link: Omit<RemoteRelayOptions, "onLeft">;
  readonly #directory: Directory<HeldBroadcast>;
  readonly #scope: DirectoryScope<HeldBroadcast>;
  readonly #watch: Disposable;
  /**
   * Broadcasts that this relay holds, with their start. Never more than in the mux of the relay.
   */
  readonly #held = new Map<BroadcastPath, number>();
  readonly #relays = new Map<string, RemoteRelay>();
  #newest = 0;
  #closing: Promise<void> | undefined;

  /**
   * Joins the cluster.
   *
   * @param options The relay, the nodes, the URL, and how to dial other relays.
   * @throws {TypeError} If the URL is invalid, or the nodes already have a cluster of this name.
   * @throws {RangeError} If `lingerMs` is not a positive integer.
   */
  constructor(options: MoqClusterOptions) {
    checkOptions("join cluster", options, OPTIONS);
    const { relay, nodes, url, name = "moq", dial = dialRelay, lingerMs = 5_000 } = options;
    if (!URL.canParse(url)) {
      throw new TypeError(`Cannot join cluster: url must be absolute, received "${url}"`);
    }
    this.url = String(url);
    this.#relay = relay;
    const { onError } = options;
    this.#link = {
      runtime: relay.runtime,
      dial,
      lingerMs,
      mux: new TrackMux({ hopId: relay.mux.hopId }),
      report: (error) => reportTo(onError, error),
    };
    this.#directory = new Directory({ nodes, name, read: readHeldBroadcast });
    this.#scope = this.#directory.open("broadcasts", (change) => this.#changed(change));
    this.ready = this.#scope.ready;
    this.#watch = relay.mux.watch(relay.prefix, (announcement) => this.#announced(announcement));
    for (const one of relay.mux.announcements(relay.prefix)) this.#announced(one);
  }

  /** The current state of the cluster, as seen by this relay. */
  get stats(): {
    /** Broadcasts that this relay holds. */
    readonly held: number;
    /** Other relays that hold broadcasts, or are still connected. */
    readonly relays: number;
    /** Sessions with other relays. */
    readonly links: number;
  } {
    let links = 0;
    for (const { sessions } of this.#relays.values()) links += sessions;
    return { held: this.#held.size, relays: this.#relays.size, links };
  }

  /**
   * Leaves the cluster. The other relays lose the broadcasts of this relay, and its subscribers
   * lose the others' broadcasts. The relay continues alone. Idempotent.
   *
   * @returns Resolves once the sessions with other relays are closed.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** Leaves the cluster; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#watch[Symbol.dispose]();
    this.#scope[Symbol.dispose]();
    this.#directory[Symbol.dispose]();
    this.#held.clear();
    const relays = [...this.#relays.values()];
    this.#relays.clear();
    for (const remote of relays) {
      for (const path of remote.paths) this.#relay.removeSource(path, remote);
    }
    await Promise.all(relays.map((remote) => remote.close()));
  }

  /** Handles a broadcast of this relay's mux that starts, ends, or changes its route. */
  #announced({ path, active, hops }: Announcement): void {
    const source = this.#relay.sourceOf(path);
    if (active && source?.remote === undefined) {
      let since = this.#held.get(path);
      if (since === undefined) {
        since = this.#newest = Math.max(this.#relay.runtime.now(), this.#newest + 1);
        this.#held.set(path, since);
      }
      const { hopId } = this.#relay.mux;
      const isBlind = source !== undefined && !tellsHops(source);
      this.#scope.set(path, {
        url: this.url,
        since,
        hops: [...hops, hopId].map(String),
        isBlind: isBlind || undefined,
      });
      return;
    }
    if (this.#held.delete(path)) this.#scope.delete(path);
    // A publication of this program had precedence over the sources of other relays.
    if (!active) this.#relay.runtime.schedule(() => this.#relay.retry(path));
  }

  #changed({ node, key, value, isSwept }: DirectoryChange<HeldBroadcast>): void {
    const path = broadcastPathOf(key);
    if (path === undefined || suffixOf(this.#relay.prefix, path) === undefined) return;
    // A loop: the broadcast has already passed this relay.
    if (value === undefined || value.hops.includes(`${this.#relay.mux.hopId}`)) {
      return this.#lost(node, path, isSwept);
    }
    const { url, since, isBlind = false } = value;
    this.#newest = Math.max(this.#newest, since);
    let relay = this.#relays.get(node);
    if (relay === undefined) {
      relay = new RemoteRelay(url, { ...this.#link, onLeft: () => this.#checkNeeded(node) });
      this.#relays.set(node, relay);
    }
    relay.url = url;
    relay.paths.add(path);
    const hops = value.hops.map(BigInt);
    this.#relay.addSource(path, { session: relay, hops, remote: { node, since, isBlind } });
  }

  #lost(node: string, path: BroadcastPath, isGone: boolean): void {
    const relay = this.#relays.get(node);
    if (!relay?.paths.delete(path)) return;
    this.#relay.removeSource(path, relay);
    this.#checkNeeded(node, isGone);
  }

  /**
   * Closes a relay without broadcasts. A connected relay stays, because new broadcasts may follow
   * soon, unless its node is gone.
   */
  #checkNeeded(node: string, isGone = false): void {
    const relay = this.#relays.get(node);
    if (relay === undefined || relay.paths.size > 0 || relay.sessions > 0 && !isGone) return;
    this.#relays.delete(node);
    void relay.close();
  }
}

function dialRelay(...[url, options]: Parameters<MoqClusterDial>): ReturnType<MoqClusterDial> {
  return dialMoq(url, { ...options, versions: [CLUSTER_VERSION] });
}

function broadcastPathOf(key: string): BroadcastPath | undefined {
  try {
    return broadcastPath(key);
  } catch {
    return undefined;
  }
}
