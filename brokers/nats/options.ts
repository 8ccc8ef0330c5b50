/** Options of a `NatsBroker`, and their checks. */
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { checkOptions, integer, POSITIVE, RUNTIME } from "../../base/option_checks.ts";
import { type OptionKinds, withoutUndefined } from "../../base/options.ts";

/**
 * Longest wait: repetitions are recognized for two minutes, so later repetitions are not allowed.
 */
const MAX_GIVE_UP_MS = 110_000;

/** Shortest memory: a stream keeps its messages at least as long as it recognizes repetitions. */
const MIN_REMEMBER_MS = 120_000;

/** Servers and connection options, passed to `connect` of the client library. */
export interface NatsServers {
  /** One server or several of a cluster, each as `host:port`. */
  readonly servers: string | string[];
  /** Name of the connection in the server's reports. */
  readonly name?: string | undefined;
  /** A user's name. */
  readonly user?: string | undefined;
  /** The user's password. */
  readonly pass?: string | undefined;
  /** A token, in the place of a user. */
  readonly token?: string | undefined;
  /**
   * Credentials of other kinds: `nkeyAuthenticator`, `jwtAuthenticator` or `credsAuthenticator` of
   * `@nats-io/nats-core`. Called for each attempt to connect, so that rotated credentials are read
   * again.
   */
  readonly authenticator?:
    | ((nonce?: string) => object | void)
    | ((nonce?: string) => object | void)[]
    | undefined;
  /** Encryption; `null` for none. By default, the server decides. */
  readonly tls?:
    | {
      /**
       * `true` if TLS begins before the server's first message, as with `handshake_first` of the server
       * (from NATS 2.10.4 on). A client certificate needs this.
       */
      readonly handshakeFirst?: boolean | undefined;
      /** Certificates of trusted authorities. */
      readonly ca?: string | undefined;
      /** The file of `ca`. */
      readonly caFile?: string | undefined;
      /** The certificate of this client, together with `key` or `keyFile`. */
      readonly cert?: string | undefined;
      /** The file of `cert`. */
      readonly certFile?: string | undefined;
      /** The private key of this client. */
      readonly key?: string | undefined;
      /** The file of `key`. */
      readonly keyFile?: string | undefined;
    }
    | null
    | undefined;
  /** Prefix of subjects for answers, where permissions need one. */
  readonly inboxPrefix?: string | undefined;
  /** `true` to try servers in their order. */
  readonly noRandomize?: boolean | undefined;
  /** `true` to try `servers` only, without the members that a cluster announces. */
  readonly ignoreClusterUpdates?: boolean | undefined;
  /** Longest time of an attempt to connect, in milliseconds. */
  readonly timeout?: number | undefined;
  /** Interval of pings to the server, in milliseconds. */
  readonly pingInterval?: number | undefined;
  /** Most pings without an answer. */
  readonly maxPingOut?: number | undefined;
  /** Wait between two attempts to reconnect to a server, in milliseconds. */
  readonly reconnectTimeWait?: number | undefined;
  /** Largest random addition to that wait, in milliseconds. */
  readonly reconnectJitter?: number | undefined;
  /** Largest random addition with TLS, in milliseconds. */
  readonly reconnectJitterTLS?: number | undefined;
  /**
   * Opens the connection in place of the broker's own transport over Deno's sockets, such as
   * `wsconnect` of `@nats-io/nats-core` for NATS over WebSocket. The broker calls the function again
   * until a connection opens, and closes that connection at its own end.
   *
   * @param options All options for the client library, those of the broker included.
   * @returns A `NatsConnection` of the client library.
   */
  readonly connect?: ((options: NatsServers) => Promise<NatsClient>) | undefined;
}

/** A `NatsConnection` of the client library, by any of its transports. */
export interface NatsClient {
  /** Tells if the connection has ended. */
  isClosed(): boolean;
  /** Resolves once the server has all sent messages. */
  flush(): Promise<void>;
  /** Reports changes of the connection. */
  status(): AsyncIterable<object>;
  /** Ends the connection; the broker never calls this. */
  close(): Promise<void>;
}

/** Address of NATS. */
export type NatsSource = NatsServers | {
  /**
   * An open connection of the application. The connection must receive its own publications, and
   * should reconnect for ever.
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
   * Prefix of the names of all subjects, streams and buckets; brokers with different prefixes do
   * not meet. At most 32 letters and digits of ASCII, `-` and `_`.
   *
   * @default {"skein"}
   */
  readonly prefix?: string | undefined;
  /**
   * Most publications that wait for NATS or for an answer; further ones are given up.
   *
   * @default {65536}
   */
  readonly maxWaiting?: number | undefined;
  /**
   * Most bytes of the publications that wait.
   *
   * @default {67108864}
   */
  readonly maxWaitingBytes?: number | undefined;
  /**
   * Longest wait of a publication, in milliseconds; afterwards the publication is given up. At most
   * 110,000, as the stream must recognize a repetition.
   *
   * @default {30000}
   */
  readonly giveUpMs?: number | undefined;
  /**
   * Storage in which JetStream keeps histories, logs and the store.
   *
   * @default {"file"}
   */
  readonly storage?: "file" | "memory" | undefined;
  /**
   * Number of a cluster's servers on which JetStream keeps histories, logs and the store. From 3 on,
   * these and epochs outlive the process of one server.
   *
   * @default {1}
   */
  readonly replicas?: number | undefined;
  /**
   * Time that the position of a topic's history is remembered after the last publication, in
   * milliseconds; publications stay in the stream as long, up to their number. At least 120,000.
   *
   * @default {3600000}
   */
  readonly rememberMs?: number | undefined;
  /**
   * Most bytes of each stream of histories, over all topics; by default, the server's limits apply.
   *
   * @default {undefined}
   */
  readonly maxStreamBytes?: number | undefined;
  /**
   * `true` if a restart of the server loses no acknowledged write, as the server syncs every write
   * to disk (`sync_interval: always`, from NATS 2.10 on). Epochs then outlive restarts.
   *
   * @default {false}
   */
  readonly survivesRestart?: boolean | undefined;
  /**
   * Time that a row of the store is kept after the last write, in milliseconds; no claim can be
   * longer. Rows of longer windows, up to a week, have a bucket of their own.
   *
   * @default {3600000}
   */
  readonly storeTtlMs?: number | undefined;
}

/** The options with all defaults filled in; -1 for no limit, as in JetStream. */
export type NatsSettings = Required<NatsBrokerOptions>;

const OPTIONS: OptionKinds<NatsBrokerOptions> = {
  giveUpMs: integer(1, MAX_GIVE_UP_MS),
  maxStreamBytes: POSITIVE,
  maxWaiting: POSITIVE,
  maxWaitingBytes: POSITIVE,
  prefix: "string",
  rememberMs: integer(MIN_REMEMBER_MS),
  replicas: integer(1, 5),
  runtime: RUNTIME,
  storage: ["file", "memory"],
  storeTtlMs: integer(1_000),
  survivesRestart: "boolean",
};

/** Checks the options. */
export function natsSettings(options: NatsBrokerOptions): NatsSettings {
  checkOptions("create broker", options, OPTIONS);
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
  };
}

/**
 * Checks the source. Other keys pass to the client library, except options of the broker. Without
 * `servers`, the client library would connect to its default.
 *
 * @returns The source without keys that are `undefined`: the client library would take these over
 * its defaults.
 */
export function checkSource(given: NatsSource): NatsSource {
  const source = withoutUndefined(given);
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
      `Cannot create broker: ${key} must be in the second argument, received it in the first`,
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
