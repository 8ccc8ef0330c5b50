/** Options of a `NatsBroker`, and their checks. */
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { checkOptions, integer, POSITIVE, RUNTIME } from "../../base/options/option_checks.ts";
import { type OptionKinds, withoutUndefined } from "../../base/options/options.ts";
import { MAX_TTL_MS } from "../../base/wait.ts";
import { MAX_SHARDS, type NatsShards, type ShardCounts } from "./shards.ts";

/**
 * Maximum wait, in milliseconds. A repetition is recognized for two minutes, so later repetitions
 * are not allowed, and a publication may wait a tenth longer.
 */
const MAX_GIVE_UP_MS = 100_000;

/**
 * Minimum time for which positions are remembered. A stream keeps its messages at least as long as
 * it recognizes repetitions.
 */
const MIN_REMEMBER_MS = 120_000;

/** Servers and connection options, passed to `connect` of the client library. */
export interface NatsServers {
  /** One server, or several of a cluster, each as `host:port`. */
  readonly servers: string | string[];
  /** Name of the connection, for the server's reports. */
  readonly name?: string | undefined;
  /** A user's name. */
  readonly user?: string | undefined;
  /** The user's password. */
  readonly pass?: string | undefined;
  /** A token, instead of a user. */
  readonly token?: string | undefined;
  /**
   * Other credentials: `nkeyAuthenticator`, `jwtAuthenticator` or `credsAuthenticator` from
   * `@nats-io/nats-core`. The authenticator is called for each attempt to connect, so that rotated
   * credentials are read again.
   */
  readonly authenticator?:
    | ((nonce?: string) => object | void)
    | ((nonce?: string) => object | void)[]
    | undefined;
  /** TLS; `null` turns it off. By default, the server decides. */
  readonly tls?:
    | {
      /**
       * True if TLS starts before the server's first message, as it does with the server option
       * `handshake_first` (NATS 2.10.4 or later). Client certificates require this.
       */
      readonly handshakeFirst?: boolean | undefined;
      /** Certificates of trusted authorities. */
      readonly ca?: string | undefined;
      /** File for `ca`. */
      readonly caFile?: string | undefined;
      /** This client's certificate, together with `key` or `keyFile`. */
      readonly cert?: string | undefined;
      /** File for `cert`. */
      readonly certFile?: string | undefined;
      /** This client's private key. */
      readonly key?: string | undefined;
      /** File for `key`. */
      readonly keyFile?: string | undefined;
    }
    | null
    | undefined;
  /** Prefix of the subjects for replies, if permissions need one. */
  readonly inboxPrefix?: string | undefined;
  /** True to try servers in the given order. */
  readonly noRandomize?: boolean | undefined;
  /** True to try only `servers`, and not the other members that a cluster announces. */
  readonly ignoreClusterUpdates?: boolean | undefined;
  /** Time limit of an attempt to connect, in milliseconds. */
  readonly timeout?: number | undefined;
  /** Interval of pings to the server, in milliseconds. */
  readonly pingInterval?: number | undefined;
  /** Maximum number of pings without a reply. */
  readonly maxPingOut?: number | undefined;
  /** Wait between two attempts to reconnect to a server, in milliseconds. */
  readonly reconnectTimeWait?: number | undefined;
  /** Maximum random addition to that wait, in milliseconds. */
  readonly reconnectJitter?: number | undefined;
  /** Maximum random addition with TLS, in milliseconds. */
  readonly reconnectJitterTLS?: number | undefined;
  /**
   * Opens the connection in place of the broker's own transport, which uses Node's sockets. For
   * NATS over WebSocket, for example, pass `wsconnect` of `@nats-io/nats-core`. The broker calls
   * the function until a connection opens, and closes that connection when the broker is closed.
   *
   * @param options All options for the client library, including the broker's.
   * @returns A `NatsConnection` of the client library.
   */
  readonly connect?: ((options: NatsServers) => Promise<NatsClient>) | undefined;
}

/** A `NatsConnection` of the client library, over any of its transports. */
export interface NatsClient {
  /** Returns true if the connection has closed. */
  isClosed(): boolean;
  /** Resolves once the server has received all sent messages. */
  flush(): Promise<void>;
  /** Reports changes of the connection. */
  status(): AsyncIterable<object>;
  /** Closes the connection. The broker calls this only for connections that `connect` opened. */
  close(): Promise<void>;
}

/** Address of NATS. */
export type NatsSource = NatsServers | {
  /**
   * An open connection that the application provides. It must receive its own publications, and
   * should reconnect indefinitely.
   */
  readonly connection: NatsClient;
};

/** Options for {@linkcode NatsBroker}. */
export interface NatsBrokerOptions {
  /**
   * Clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
  /**
   * Prefix of the names of all subjects, streams and buckets, which isolates brokers from each
   * other: at most 32 ASCII letters, digits, `-` and `_`.
   *
   * @default {"skein"}
   */
  readonly prefix?: string | undefined;
  /**
   * Maximum number of publications that wait for NATS or for its reply; further publications are
   * dropped.
   *
   * @default {65536}
   */
  readonly maxWaiting?: number | undefined;
  /**
   * Maximum number of bytes of waiting publications.
   *
   * @default {67108864}
   */
  readonly maxWaitingBytes?: number | undefined;
  /**
   * Time for which a publication waits before it is dropped, in milliseconds, or up to a tenth
   * longer; at most 100,000, because the stream must recognize a repetition.
   *
   * @default {30000}
   */
  readonly giveUpMs?: number | undefined;
  /**
   * Storage in which JetStream keeps histories, logs and the nodes' shared state.
   *
   * @default {"file"}
   */
  readonly storage?: "file" | "memory" | undefined;
  /**
   * Number of servers in a cluster on which JetStream keeps histories, logs and the nodes' shared
   * state. With 3 or more, these and the epochs survive if the process of one server is lost.
   *
   * @default {1}
   */
  readonly replicas?: number | undefined;
  /**
   * Time for which a topic's position is remembered after its last publication, in milliseconds; at
   * least 120,000.
   *
   * Publications stay in the stream for the same time, up to the maximum number of publications.
   *
   * @default {3600000}
   */
  readonly rememberMs?: number | undefined;
  /**
   * Maximum size of each JetStream stream that stores histories, in bytes and across all topics.
   *
   * @default {the server's limits}
   */
  readonly maxStreamBytes?: number | undefined;
  /**
   * True if a restart of the server loses no acknowledged write, because it syncs each to disk
   * (`sync_interval: always`, NATS 2.10 or later). Epochs then survive restarts.
   *
   * @default {false}
   */
  readonly survivesRestart?: boolean | undefined;
  /**
   * Time for which a claim or a sequence number is kept after its last write, in milliseconds. A
   * claim cannot last longer.
   *
   * Numbers that must be remembered for longer, up to a week, are kept in a separate bucket.
   *
   * @default {3600000}
   */
  readonly storeTtlMs?: number | undefined;
  /**
   * JetStream domain of the servers that store the data, if this node connects to another one, such
   * as a leaf node.
   *
   * @default {that of the connected server}
   */
  readonly domain?: string | undefined;
  /**
   * Numbers of streams and buckets among which the broker spreads its data. The first node that
   * stores something fixes the numbers for the `prefix`.
   *
   * Each takes a bounded number of writes per second. Nodes with other numbers are rejected.
   *
   * @default {{ histories: 1, logs: 8, buckets: 8 }}
   */
  readonly shards?: NatsShards | undefined;
}

/** The options with all defaults filled in; -1 for no limit, as in JetStream. */
export interface NatsSettings extends Required<Omit<NatsBrokerOptions, "domain" | "shards">> {
  readonly domain: string | undefined;
  /** The given numbers. */
  readonly shards: Partial<ShardCounts>;
}

/** A token of a subject. */
const DOMAIN = /^[A-Za-z0-9_-]+$/;

const SHARDS = integer(1, MAX_SHARDS);

const OPTIONS: OptionKinds<NatsBrokerOptions> = {
  domain: "string",
  giveUpMs: integer(1, MAX_GIVE_UP_MS),
  maxStreamBytes: POSITIVE,
  maxWaiting: POSITIVE,
  maxWaitingBytes: POSITIVE,
  prefix: "string",
  rememberMs: integer(MIN_REMEMBER_MS, MAX_TTL_MS),
  replicas: integer(1, 5),
  runtime: RUNTIME,
  shards: { buckets: SHARDS, histories: SHARDS, logs: SHARDS },
  storage: ["file", "memory"],
  storeTtlMs: integer(1_000, MAX_TTL_MS),
  survivesRestart: "boolean",
};

export function natsSettings(options: NatsBrokerOptions): NatsSettings {
  checkOptions("create broker", options, OPTIONS);
  const { domain } = options;
  if (domain !== undefined && !DOMAIN.test(domain)) {
    throw new TypeError(
      `Cannot create broker: domain must be letters, digits, "-" or "_", received ${
        JSON.stringify(domain)
      }`,
    );
  }
  return {
    runtime: options.runtime ?? platformRuntime(),
    prefix: options.prefix ?? "skein",
    maxWaiting: options.maxWaiting ?? 65_536,
    maxWaitingBytes: options.maxWaitingBytes ?? 67_108_864,
    giveUpMs: options.giveUpMs ?? 30_000,
    storage: options.storage ?? "file",
    replicas: options.replicas ?? 1,
    rememberMs: options.rememberMs ?? 3_600_000,
    maxStreamBytes: options.maxStreamBytes ?? -1,
    survivesRestart: options.survivesRestart ?? false,
    storeTtlMs: options.storeTtlMs ?? 3_600_000,
    domain: options.domain,
    shards: withoutUndefined(options.shards ?? {}),
  };
}

/** The settings that all nodes should share, by name. */
export function sharedSettings(settings: NatsSettings): Record<string, string> {
  const names = [
    "maxStreamBytes",
    "rememberMs",
    "replicas",
    "storage",
    "storeTtlMs",
    "survivesRestart",
  ] as const;
  return Object.fromEntries(names.map((name) => [`${name} of the broker`, `${settings[name]}`]));
}

/**
 * Checks the source. Other keys are passed to the client library, except the broker's options.
 * Without `servers`, or with an empty address, such as from a variable of the environment that is
 * not set, the client library would connect to its default server.
 *
 * @returns The source without keys that are `undefined`, because these would override the client
 * library's defaults.
 */
export function checkSource(given: NatsSource): NatsSource {
  const source = withoutUndefined(typeof given === "string" ? {} : { ...given }) as NatsSource;
  const { servers, connection } = source as Partial<NatsServers & { connection: NatsClient }>;
  if ((servers === undefined) === (connection === undefined)) {
    const keys = Object.keys(source).join(", ");
    throw new TypeError(
      `Cannot create broker: either servers or a connection is needed, received ${keys || "{}"}`,
    );
  }
  const addresses: unknown[] = [servers ?? []].flat();
  const isLacking = servers !== undefined && addresses.length === 0;
  if (isLacking || addresses.some((one) => typeof one !== "string" || one.trim() === "")) {
    throw new TypeError(
      `Cannot create broker: servers must be one or more addresses, received ${
        JSON.stringify(servers)
      }`,
    );
  }
  for (const key of Object.keys(source)) {
    if (!(key in natsSettings({}))) continue;
    throw new TypeError(
      `Cannot create broker: ${key} belongs into the second argument: ` +
        `new NatsBroker({ servers }, { ${key} })`,
    );
  }
  if (servers !== undefined && !("connect" in source)) checkTransport(source as NatsServers);
  return source;
}

/** Checks the settings of the broker's own transport. */
function checkTransport({ servers, tls }: NatsServers): void {
  const socket = [servers].flat().find((one) => /^wss?:/i.test(one));
  if (socket !== undefined) {
    throw new TypeError(
      `Cannot create broker: NATS over WebSocket needs the option connect, received ${socket}`,
    );
  }
  if (!tls) return;
  const { handshakeFirst = false, cert, certFile, key, keyFile } = tls;
  if ((tls as { rejectUnauthorized?: unknown }).rejectUnauthorized !== undefined) {
    throw new TypeError(
      "Cannot create broker: certificates are always checked, received tls.rejectUnauthorized; " +
        "name the authority in tls.ca",
    );
  }
  const hasCertificate = (cert ?? certFile) !== undefined;
  if (hasCertificate !== ((key ?? keyFile) !== undefined)) {
    const [given, missing] = hasCertificate ? ["cert", "key"] : ["key", "cert"];
    throw new TypeError(
      `Cannot create broker: tls.cert and tls.key belong together, received tls.${given} without tls.${missing}`,
    );
  }
  if (hasCertificate && !handshakeFirst) {
    throw new TypeError(
      `Cannot create broker: tls.cert needs tls.handshakeFirst, received ${handshakeFirst}`,
    );
  }
}
