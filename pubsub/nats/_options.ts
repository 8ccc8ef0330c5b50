/**
 * Options of a {@linkcode NatsBroker}, checked.
 *
 * @module
 */
import { checkKeys } from "../../session/base/option_keys.ts";

/** Repetitions are recognized for two minutes, and nothing may be sent again after that. */
const MAX_GIVE_UP_MS = 110_000;

/** A stream keeps its messages at least as long as it recognizes repetitions. */
const MIN_REMEMBER_MS = 120_000;

/** Answers a server that asks who it is; those that the client library makes are such. */
export type NatsAuthenticator = (nonce?: string) => object | void;

/** How a connection is encrypted; PEM as text, or the names of files. */
export interface NatsTls {
  /** Whether TLS begins before the server says anything. */
  readonly handshakeFirst?: boolean;
  /** Certificates of authorities that are trusted. */
  readonly ca?: string;
  /** The file of `ca`. */
  readonly caFile?: string;
  /** The certificate of this client. */
  readonly cert?: string;
  /** The file of `cert`. */
  readonly certFile?: string;
  /** The private key of this client. */
  readonly key?: string;
  /** The file of `key`. */
  readonly keyFile?: string;
  /** Whether a server with another certificate is refused. */
  readonly rejectUnauthorized?: boolean;
}

/** Servers, and how to connect: handed on to `connect` of the client library as it is. */
export interface NatsServers {
  /** One server or several of a cluster, each as `host:port`. */
  readonly servers: string | string[];
  /** What the connection is called in what the server tells of it. */
  readonly name?: string;
  /** A user's name. */
  readonly user?: string;
  /** The user's password. */
  readonly pass?: string;
  /** A token, in the place of a user. */
  readonly token?: string;
  /** Credentials of other kinds, such as a JWT. */
  readonly authenticator?: NatsAuthenticator | NatsAuthenticator[];
  /** How to encrypt; `null` for not at all. Without it, as the server wants it. */
  readonly tls?: NatsTls | null;
  /** What subjects for answers begin with, where permissions ask for that. */
  readonly inboxPrefix?: string;
  /** Whether servers are tried in their order. */
  readonly noRandomize?: boolean;
  /** Whether only `servers` are tried, and not those that a cluster tells of. */
  readonly ignoreClusterUpdates?: boolean;
  /** How long an attempt to connect may take, in milliseconds. */
  readonly timeout?: number;
  /** How often the server is asked whether it is alive, in milliseconds. */
  readonly pingInterval?: number;
  /** How many times it may leave that unanswered. */
  readonly maxPingOut?: number;
  /** How long to wait between two attempts to connect to a server again, in milliseconds. */
  readonly reconnectTimeWait?: number;
  /** Most that is added to that at random, in milliseconds. */
  readonly reconnectJitter?: number;
  /** The same, with TLS. */
  readonly reconnectJitterTLS?: number;
}

/** A `NatsConnection` of the client library, by any of its transports. */
export interface NatsClient {
  /** Whether it has ended. */
  isClosed(): boolean;
  /** Resolves once the server has what was sent. */
  flush(): Promise<void>;
  /** What happens to it. */
  status(): AsyncIterable<object>;
  /** Ends it; the broker never does. */
  close(): Promise<void>;
}

/** Where NATS is. */
export type NatsSource = NatsServers | {
  /**
   * A connection that was made elsewhere. It must hear its own publications, and should reconnect
   * for ever.
   */
  readonly connection: NatsClient;
};

/** Options for {@linkcode NatsBroker}. */
export interface NatsBrokerOptions {
  /**
   * What the names of all subjects, streams and buckets begin with; brokers with different ones do
   * not meet. At most 32 letters and digits of ASCII, `-` and `_`.
   *
   * @default {"skein"}
   */
  readonly prefix?: string;
  /**
   * Most publications that wait for NATS or for its answer; further ones are given up.
   *
   * @default {65536}
   */
  readonly maxWaiting?: number;
  /**
   * Most bytes of the publications that wait.
   *
   * @default {67108864}
   */
  readonly maxWaitingBytes?: number;
  /**
   * How long a publication waits at most, in milliseconds; then it is given up. At most 110,000:
   * what is sent again must be recognized.
   *
   * @default {30000}
   */
  readonly giveUpMs?: number;
  /**
   * Where JetStream keeps histories and the store.
   *
   * @default {"file"}
   */
  readonly storage?: "file" | "memory";
  /**
   * On how many servers of a cluster JetStream keeps them. From 3 on, they and their epochs outlive
   * the process of one server.
   *
   * @default {1}
   */
  readonly replicas?: number;
  /**
   * How long the place in a topic's history is remembered after its last publication, in
   * milliseconds; publications stay in the stream as long, up to their number. At least 120,000.
   *
   * @default {3600000}
   */
  readonly rememberMs?: number;
  /**
   * Most bytes of each stream, over all topics; without it, the server's own limits count.
   *
   * @default {undefined}
   */
  readonly maxStreamBytes?: number;
  /**
   * Whether a restart of the server loses nothing that it acknowledged, since it syncs every write
   * to its disk (`sync_interval: always`, from NATS 2.10 on). Then epochs outlive restarts.
   *
   * @default {false}
   */
  readonly survivesRestart?: boolean;
  /**
   * How long rows of the store are kept after they were last written, in milliseconds; no window and
   * no claim can be longer.
   *
   * @default {3600000}
   */
  readonly storeTtlMs?: number;
}

/** The options, each with its value; -1 for no limit, as JetStream has it. */
export type NatsSettings = Required<NatsBrokerOptions>;

/** Checks the options. */
export function natsSettings(options: NatsBrokerOptions): NatsSettings {
  const settings: NatsSettings = {
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
  };
  checkKeys(options, settings, "create broker: options");
  const { maxWaiting, maxWaitingBytes, giveUpMs, replicas, rememberMs, storeTtlMs } = settings;
  check("maxWaiting", maxWaiting, 1);
  check("maxWaitingBytes", maxWaitingBytes, 1);
  check("giveUpMs", giveUpMs, 1, MAX_GIVE_UP_MS);
  check("replicas", replicas, 1, 5);
  check("rememberMs", rememberMs, MIN_REMEMBER_MS);
  check("storeTtlMs", storeTtlMs, 1_000);
  if (options.maxStreamBytes !== undefined) check("maxStreamBytes", options.maxStreamBytes, 1);
  if (settings.storage !== "file" && settings.storage !== "memory") {
    throw new TypeError(
      `Cannot create broker: storage must be "file" or "memory", received ${settings.storage}`,
    );
  }
  return settings;
}

/**
 * Checks where NATS is. Keys for the client library pass, but none that belongs elsewhere: without
 * `servers` the library would connect to its default.
 */
export function checkSource(source: NatsSource): void {
  const { servers, connection } = source as Partial<NatsServers & { connection: NatsClient }>;
  if ((servers === undefined) === (connection === undefined)) {
    const keys = Object.keys(source).join(", ");
    throw new TypeError(
      `Cannot create broker: either servers or a connection is needed, received ${keys || "{}"}`,
    );
  }
  for (const key of Object.keys(source)) {
    if (!(key in natsSettings({}))) continue;
    throw new TypeError(
      `Cannot create broker: ${key} must stand in the second argument, received it in the first`,
    );
  }
}

function check(name: string, value: number, from: number, to = Number.MAX_SAFE_INTEGER): void {
  if (Number.isSafeInteger(value) && value >= from && value <= to) return;
  const rule = to === Number.MAX_SAFE_INTEGER ? `from ${from}` : `from ${from} to ${to}`;
  throw new RangeError(
    `Cannot create broker: ${name} must be a whole number ${rule}, received ${value}`,
  );
}
