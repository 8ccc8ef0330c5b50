/**
 * A table of hostile networks: the initial state, the change, and a client's transports before and
 * after it. The tests run the table with short times, and the soak runs it with the default times.
 *
 * @module
 */
import { connect, type ConnectOptions } from "../../client/deno.ts";
import type { Client } from "../../client/client.ts";
import type { ClientStatus } from "../../client/client_options.ts";
import type { ServeOptions } from "../../server.ts";
import { internals } from "../../session/core.ts";
import { Random } from "../random.ts";
import { listen } from "../servers.ts";
import { TcpPath } from "./tcp_path.ts";
import { UdpPath } from "./udp_path.ts";
import type { Connection } from "../../transport/connection.ts";
import type { TransportName } from "../../transport/race/options.ts";

/** Maximum time that a client may need beyond the possible minimum, in milliseconds. */
export const MOST_MS = 3_000;

/** Interval of the server's publications, in milliseconds. */
const PUBLISH_EVERY_MS = 50;

/** Number of publications delivered before a network changes. */
const DELIVERED_BEFORE = 5;

/** Number of bytes after which a network stalls. */
const STALL_BYTES = 1_048_576;

/** Size of a publication on a network that will stall, in bytes. */
const STALL_PAYLOAD_BYTES = 32_768;

/**
 * Settings of a history that holds everything that a client can miss, which is more than a minute.
 */
const HISTORY = { size: 10_000, ttlMs: 600_000, bytes: 64 * 1_048_576 };

/** The two paths to one server. */
export interface Paths {
  /** The path of WebSocket. */
  readonly tcp: TcpPath;
  /** The path of WebTransport. */
  readonly udp: UdpPath;
}

export interface HostileNetwork {
  readonly name: string;
  /** Makes the network hostile, before the client connects. */
  readonly begin?: (paths: Paths, times: HostileTimes) => void;
  /**
   * Changes the network once the client receives messages or, if no transport works, once it has
   * failed. By default nothing changes.
   */
  readonly change?: (paths: Paths) => void;
  /**
   * Makes the network change by itself, and calls `changed` when it does. Publications are large
   * until this call.
   */
  readonly changeOnce?: (paths: Paths, changed: () => void) => void;
  /** Possible transports of the first session; empty if no transport works at first. */
  readonly before: readonly TransportName[];
  /** Possible transports of the last session. */
  readonly after: readonly TransportName[];
  /** True if packets are lost at random, so that a single run proves little. */
  readonly isRandom?: boolean;
  /** Minimum time until the first session, in milliseconds. */
  readonly possibleMs?: (times: HostileTimes) => number;
  /**
   * Maximum time that the client may need beyond that, in milliseconds.
   *
   * @default {MOST_MS}
   */
  readonly mostMs?: number;
  /** The transports that the client may use. */
  readonly transports?: readonly TransportName[];
}

/** Times of a run. */
export interface HostileTimes {
  /** Duration of the first state of the network, in milliseconds. */
  readonly holdMs: number;
  /** Delay of a slow response, in milliseconds. */
  readonly responseMs: number;
  /** Seed that determines which packets are lost. */
  readonly seed?: number;
  /**
   * True if WebSocket opens only after the first session, on networks where both transports work at
   * first. The transport then does not depend on whether the machine is slower than WebTransport's
   * head start.
   *
   * @default {false}
   */
  readonly holdsWebSocket?: boolean;
  /** Options of the server, for times shorter than its defaults. */
  readonly server?: ServeOptions;
  readonly client?: ConnectOptions;
}

/** The result of a run on one network. */
export interface HostileResult {
  /** See {@linkcode HostileNetwork.name}. */
  readonly name: string;
  /** Minimum time until the first session, in milliseconds. */
  readonly possibleMs: number;
  /** Time until the client was connected; `undefined` if it connected only after the change. */
  readonly connectedMs: number | undefined;
  /** Time from the start until the first publication was delivered. */
  readonly deliveredMs: number;
  /**
   * Time from the change to the first delivery of a later publication; `undefined` if there was
   * none.
   */
  readonly backMs: number | undefined;
  /** Transports of the first and the last session. */
  readonly transports: readonly [first: TransportName, last: TransportName];
  readonly sessions: number;
  /** Number of delivered publications. */
  readonly delivered: number;
  /** Number of publications between the first and the last that were never delivered. */
  readonly lost: number;
  /** Number of repeated deliveries. */
  readonly doubled: number;
}

const dropAll = ({ udp }: Paths) => udp.cut();

/** Loses one UDP packet in five. */
function loseSome({ udp }: Paths, { seed = 20 }: HostileTimes): void {
  const random = new Random(seed);
  udp.loses = () => random.below(100) < 20;
}

export const HOSTILE_NETWORKS: readonly HostileNetwork[] = [
  {
    name: "UDP dropped from the start",
    begin: dropAll,
    change: ({ udp }) => udp.loses = () => false,
    before: ["websocket"],
    after: ["websocket", "webtransport"],
  },
  {
    name: "UDP dropped later",
    change: dropAll,
    before: ["webtransport"],
    after: ["websocket"],
  },
  {
    name: "UDP with 20 % loss",
    isRandom: true,
    begin: loseSome,
    change: ({ udp }) => udp.loses = () => false,
    before: ["webtransport", "websocket"],
    after: ["webtransport", "websocket"],
  },
  {
    name: "UDP with 20 % loss, without WebSocket",
    transports: ["webtransport"],
    // The runtime waits 1, 2 and 4 s for the first packets of a handshake, and the client redials
    // after 10 s.
    mostMs: 15_000,
    isRandom: true,
    begin: loseSome,
    change: ({ udp }) => udp.loses = () => false,
    before: ["webtransport"],
    after: ["webtransport"],
  },
  ...([200, 400, "strip"] as const).map((upgrades): HostileNetwork => ({
    name: upgrades === "strip" ? "upgrade stripped" : `upgrade answered with ${upgrades}`,
    begin: ({ tcp }) => tcp.upgrades = upgrades,
    change: ({ tcp, udp }) => {
      tcp.restore();
      udp.cut();
    },
    before: ["webtransport"],
    after: ["websocket"],
  })),
  ...([400, "strip"] as const).map((upgrades): HostileNetwork => ({
    name: upgrades === "strip"
      ? "upgrade stripped, UDP dropped"
      : `upgrade answered with ${upgrades}, UDP dropped`,
    begin: ({ tcp, udp }) => {
      tcp.upgrades = upgrades;
      udp.cut();
    },
    change: ({ tcp }) => tcp.restore(),
    // WebTransport gets its head start, plus 3 s after WebSocket has failed.
    possibleMs: () => 3_500,
    before: ["http"],
    after: ["http"],
  })),
  {
    name: "all dropped",
    begin: ({ tcp, udp }) => {
      tcp.cut();
      udp.cut();
    },
    change: ({ tcp }) => tcp.restore(),
    // An attempt without any response lasts 10 s.
    mostMs: 15_000,
    before: [],
    after: ["websocket"],
  },
  {
    name: "late answer, UDP dropped",
    begin: ({ tcp, udp }, { responseMs }) => {
      tcp.responseDelayMs = responseMs;
      udp.cut();
    },
    possibleMs: ({ responseMs }) => responseMs,
    before: ["websocket"],
    after: ["websocket"],
  },
  {
    name: "late answer",
    begin: ({ tcp, udp }, { responseMs }) => {
      tcp.responseDelayMs = responseMs;
      udp.hold();
      setTimeout(() => void udp.release(), responseMs);
    },
    possibleMs: ({ responseMs }) => responseMs,
    before: ["webtransport", "websocket"],
    after: ["webtransport", "websocket"],
  },
  {
    name: "UDP stalls after 1 MiB",
    changeOnce: ({ udp }, changed) => {
      udp.loses = () => {
        const isOver = udp.counts.server.bytes > STALL_BYTES;
        if (isOver) changed();
        return isOver;
      };
    },
    before: ["webtransport"],
    after: ["websocket"],
  },
  {
    name: "TCP stalls after 1 MiB, UDP dropped",
    begin: dropAll,
    changeOnce: ({ tcp }, changed) => {
      tcp.stallsAfterBytes = STALL_BYTES;
      tcp.onStall = () => {
        tcp.stallsAfterBytes = Infinity;
        changed();
      };
    },
    before: ["websocket"],
    after: ["websocket"],
  },
];

/**
 * Runs a new server and client on one network.
 *
 * @returns The result, after the client has reconnected and caught up.
 */
export async function runHostile(
  network: HostileNetwork,
  times: HostileTimes,
): Promise<HostileResult> {
  await using server = listen({
    authorize: () => true,
    history: { news: HISTORY },
    ...times.server,
    webTransport: { cacheFolder: null, ...times.server?.webTransport as object },
  });
  await using paths = pathsTo(server.url, server.webTransportUrl!);
  network.begin?.(paths, times);
  const holdsWebSocket = times.holdsWebSocket && network.begin === undefined;
  if (holdsWebSocket) paths.tcp.cut();
  const startedAt = performance.now();
  await using client = connect(`http://127.0.0.1:${paths.tcp.port}/`, {
    serverCertificateHashes: server.certificateHashes!,
    ...(network.transports && { transports: network.transports }),
    ...times.client,
  });
  using publisher = new Publisher((data) => server.publish("news", data));
  using reader = new Reader(client, publisher);

  let changedAt: number | undefined;
  const changed = () => changedAt ??= performance.now();
  if (network.changeOnce !== undefined) publisher.payloadBytes = STALL_PAYLOAD_BYTES;
  const changedOnce = () => {
    publisher.payloadBytes = 0;
    changed();
  };
  network.changeOnce?.(paths, changedOnce);
  if (holdsWebSocket) {
    await reader.until(() => reader.transports.length > 0);
    paths.tcp.restore();
  }
  const isPossible = network.before.length > 0;
  await reader.until(() => isPossible ? reader.delivered >= DELIVERED_BEFORE : reader.failures > 0);
  await reader.until(() => performance.now() - startedAt >= times.holdMs);
  if (network.change !== undefined) {
    changed();
    network.change(paths);
  }
  if (network.changeOnce !== undefined) {
    // A client that lost its session early or uses another transport never triggers the change.
    const isElsewhere = () => !network.before.includes(reader.transports.at(-1)!);
    await reader.until(() => changedAt !== undefined || isElsewhere());
    changedOnce();
  }
  const willChange = network.change !== undefined || network.changeOnce !== undefined;
  if (willChange) await reader.until(() => reader.hasSince(changedAt));
  // The missed publications arrive first.
  const newest = publisher.at.length;
  await reader.until(() => reader.has(newest));
  // If a session over WebTransport fell silent, WebTransport waits up to a second for the peer's
  // close. A WebSocket ends together with its path.
  const silent = reader.connections.slice(0, -1).filter((one) => one.transport === "webtransport");
  await Promise.allSettled(silent.map(({ closed }) => closed));
  const { connectedAt, firstAt, transports, delivered, lost, doubled } = reader;
  return {
    name: network.name,
    possibleMs: network.possibleMs?.(times) ?? 0,
    connectedMs: isPossible ? connectedAt! - startedAt : undefined,
    deliveredMs: firstAt! - startedAt,
    backMs: changedAt === undefined ? undefined : reader.firstSince(changedAt)! - changedAt,
    transports: [transports[0]!, transports.at(-1)!],
    sessions: transports.length,
    delivered,
    lost,
    doubled,
  };
}

/** Opens both paths on one port, like a server that offers TCP and UDP under one name. */
function pathsTo(url: string, webTransportUrl: string): Paths & AsyncDisposable {
  const portOf = (url: string) => Number(new URL(url).port);
  while (true) {
    const udp = new UdpPath(portOf(webTransportUrl));
    try {
      const tcp = new TcpPath(portOf(url), { port: udp.port });
      const close = async () => {
        await Promise.all([tcp[Symbol.asyncDispose](), udp[Symbol.asyncDispose]()]);
      };
      return { tcp, udp, [Symbol.asyncDispose]: close };
    } catch (error) {
      // The port is in use for TCP.
      void udp[Symbol.asyncDispose]();
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}

/** A publication, numbered from 0. */
interface News {
  readonly count: number;
  readonly payload: string;
}

/** Publishes at a steady rate. */
class Publisher implements Disposable {
  /** Size of a publication. */
  payloadBytes = 0;
  /** The time of each publication. */
  readonly at: number[] = [];
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(publish: (news: News) => void) {
    this.#timer = setInterval(() => {
      const count = this.at.push(performance.now()) - 1;
      publish({ count, payload: "x".repeat(this.payloadBytes) });
    }, PUBLISH_EVERY_MS);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/** Reads publications, and records when they arrive. */
class Reader implements Disposable {
  readonly transports: TransportName[] = [];
  readonly connections: Connection[] = [];
  connectedAt: number | undefined;
  /** Number of lost connections and failed attempts. */
  failures = 0;
  doubled = 0;
  readonly #published: Publisher;
  /** Delivery time of each publication, by number. */
  readonly #at = new Map<number, number>();
  readonly #ended: Disposable;
  #wake = Promise.withResolvers<void>();
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(client: Client, published: Publisher) {
    this.#published = published;
    this.#timer = setInterval(() => this.#look(), PUBLISH_EVERY_MS);
    const observe = (status: ClientStatus) => {
      if (status.name === "connected") {
        this.connectedAt ??= performance.now();
        this.transports.push(status.transport as TransportName);
        this.connections.push(client.session![internals].connection);
      } else if (status.name === "reconnecting") this.failures++;
      this.#look();
    };
    this.#ended = { [Symbol.dispose]: client.status.subscribe(observe) };
    void this.#read(client);
  }

  get delivered(): number {
    return this.#at.size;
  }

  get firstAt(): number | undefined {
    return this.#at.values().next().value;
  }

  /** Number of missing publications between the first and the newest. */
  get lost(): number {
    const counts = [...this.#at.keys()];
    return Math.max(...counts) - Math.min(...counts) + 1 - counts.length;
  }

  has(count: number): boolean {
    return this.#at.has(count);
  }

  /** True if a publication made after a time was delivered. */
  hasSince(time: number | undefined): boolean {
    return time !== undefined && this.firstSince(time) !== undefined;
  }

  /** The first delivery time of a publication made after a time. */
  firstSince(time: number): number | undefined {
    for (const [count, at] of this.#at) if (this.#published.at[count]! > time) return at;
    return undefined;
  }

  /** Waits for a condition, which is checked at each delivery and at each publication. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await this.#wake.promise;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#ended[Symbol.dispose]();
  }

  async #read(client: Client): Promise<void> {
    for await (const { data } of client.subscribe("news")) {
      const { count } = data as News;
      if (this.#at.has(count)) this.doubled++;
      else this.#at.set(count, performance.now());
      this.#look();
    }
  }

  #look(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }
}
