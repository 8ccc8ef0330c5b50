/** Connections to Redis: how they open and close, and how they are kept alive and busy. */
import { type Cluster, type ClusterOptions, Redis, type RedisOptions } from "ioredis";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { settlesWithin } from "../../base/wait.ts";
import { isOfDatabase, isOfReplica } from "./failures.ts";
import type { RedisSource } from "./options.ts";

/** Longest wait between two attempts to connect, in milliseconds. */
const MAX_RETRY_DELAY_MS = 1_000;

/** Longest wait for a connection to close, in milliseconds. */
const END_TIMEOUT_MS = 3_000;

function retryWith(runtime: Runtime): (attempts: number) => number {
  return (attempts) => Math.min(50 * attempts, MAX_RETRY_DELAY_MS) * (0.5 + runtime.random() / 2);
}

/**
 * Returns how a connection to one server is replaced. It leaves a server that became a replica:
 * Sentinel or the host name leads to the new master. It also leaves a server that rejects the
 * database. The longest wait follows, because the client library counts no attempt that opened a
 * connection.
 */
function renewal(runtime: Runtime): Pick<RedisOptions, "reconnectOnError" | "retryStrategy"> {
  const retry = retryWith(runtime);
  let isLeaving = false;
  return {
    reconnectOnError: (error) => {
      const leaves = isOfReplica(error) || isOfDatabase(error);
      isLeaving ||= leaves;
      return leaves;
    },
    retryStrategy: (attempts) => {
      const delayMs = retry(isLeaving ? Infinity : attempts);
      isLeaving = false;
      return delayMs;
    },
  };
}

/**
 * Turns off the client library's queue and retries. The broker itself limits waiting publications,
 * and knows which of them may be sent again. With zero retries per request, commands fail when
 * their connection is lost.
 */
const OWN: RedisOptions = {
  autoResubscribe: false,
  autoResendUnfulfilledCommands: false,
  enableOfflineQueue: false,
  maxRetriesPerRequest: 0,
  enableAutoPipelining: false,
  keyPrefix: "",
  lazyConnect: false,
  readOnly: false,
  stringNumbers: false,
  connectionName: "skein",
};

const OWN_CLUSTER: ClusterOptions = {
  // A node that is still connecting queues commands. The broker limits their number.
  enableOfflineQueue: true,
  // Commands sent to a lost node may have run, so the broker decides which ones to repeat.
  retryDelayOnFailover: 0,
  enableAutoPipelining: false,
  shardedSubscribers: false,
  scaleReads: "master",
  keyPrefix: "",
  lazyConnect: false,
};

/** Recognizes a cluster client, even from another copy of the library. */
export function isCluster(client: Redis | Cluster): client is Cluster {
  return client.isCluster;
}

export function openClient(runtime: Runtime, source: RedisSource): Redis | Cluster {
  const own = { ...OWN, ...renewal(runtime) };
  if ("url" in source) {
    const parts = /^rediss?:\/\/[^/?#]*(?:\/([^?#]*))?/.exec(source.url);
    if (parts === null) {
      throw new TypeError(
        `Cannot create broker: url must start with redis:// or rediss://, received "${source.url}"`,
      );
    }
    // The client library's error for such a database would end the process. The text does not show
    // the rest of the URL, which may be a part of a password.
    if (/\D/.test(parts[1] ?? "")) {
      throw new TypeError(
        "Cannot create broker: the database in url must be a number, as in redis://host:6379/1",
      );
    }
    return new Redis(source.url, own);
  }
  const client = source.client as Redis | Cluster | undefined;
  if (typeof client?.duplicate !== "function") {
    throw new TypeError(
      "Cannot create broker: new RedisBroker() needs { url } or { client }, a client of ioredis",
    );
  }
  if (!isCluster(client)) return client.duplicate(own);
  const { enableOfflineQueue: _, retryStrategy: clusterRetryStrategy, ...ofNodes } = own;
  const redisOptions = { ...client.options.redisOptions, ...ofNodes };
  return client.duplicate([], { ...OWN_CLUSTER, clusterRetryStrategy, redisOptions });
}

export function openSubscriber(runtime: Runtime, client: Redis): Redis {
  return client.duplicate({ ...OWN, ...renewal(runtime) });
}

/** Closes connections, and waits until they are closed. */
export async function endClient(runtime: Runtime, client: Redis | Cluster): Promise<void> {
  const all = isCluster(client) ? [client, ...client.nodes()] : [client];
  const ends = all.filter(({ status }) => !NOT_OPEN.has(status)).map((each) =>
    new Promise<void>((resolve) => each.once("end", resolve))
  );
  client.disconnect();
  // The library waits two seconds for the socket of a failed attempt to close, although it is
  // already closed.
  for (const each of all) {
    if (!isCluster(each) && each.stream?.closed) each.stream.emit("close");
  }
  await settlesWithin(runtime, Promise.all(ends), END_TIMEOUT_MS);
}

/** States without a socket, after which no `end` event would follow. */
const NOT_OPEN: ReadonlySet<string> = new Set(["wait", "reconnecting", "close", "end"]);

/** The newest errors of a cluster's nodes, which the client library keeps separate from its own. */
export class NodeErrors {
  readonly #client: Redis | Cluster;
  /** By address of the node. */
  readonly #errors = new Map<string, Error>();

  constructor(client: Redis | Cluster) {
    this.#client = client;
    client.on("node error", (error: Error, address: string) => this.#errors.set(address, error));
  }

  /** Lists the nodes without a connection, with the reason. */
  list(): readonly (readonly [address: string, error: Error])[] {
    const nodes = isCluster(this.#client) ? this.#client.nodes() : [];
    const away = new Set(
      nodes.filter(({ status }) => status !== "ready").map(({ options }) =>
        `${options.host}:${options.port}`
      ),
    );
    for (const address of this.#errors.keys()) {
      if (!away.has(address)) this.#errors.delete(address);
    }
    return [...this.#errors];
  }
}

/**
 * Gathers the writes of one turn of the event loop, so that many small commands cause one write
 * here and one read in Redis.
 */
export class WriteBatch {
  readonly #runtime: Runtime;
  readonly #client: Redis | Cluster;
  #isGathering = false;

  constructor(runtime: Runtime, client: Redis | Cluster) {
    this.#runtime = runtime;
    this.#client = client;
  }

  /** Holds back writes until the end of the turn. */
  begin(): void {
    if (this.#isGathering) return;
    this.#isGathering = true;
    const nodes = isCluster(this.#client) ? this.#client.nodes("master") : [this.#client];
    const streams = nodes.flatMap(({ stream }) => stream ?? []);
    for (const stream of streams) stream.cork();
    this.#runtime.schedule(() => {
      this.#isGathering = false;
      for (const stream of streams) stream.uncork();
    });
  }
}

/**
 * Number of consecutive heartbeats without a reply after which a connection is considered dead. A
 * single missing reply may be a delay in this process.
 */
const MAX_SILENT = 2;

/**
 * Pings connections at an interval, and closes those that do not reply, because a dead connection
 * may give no other sign. It also closes connections that open but receive no reply to the
 * greeting, because the client library limits only the time until a connection opens.
 */
export class ConnectionHeartbeat implements Disposable {
  readonly #runtime: Runtime;
  #timer: Timer | undefined;
  /** Heartbeats without a reply, for each connection with a pending ping. */
  readonly #silent = new Map<Redis, number>();
  /** Heartbeats since a connection opened, for each connection whose greeting has no reply yet. */
  readonly #greeting = new WeakMap<Redis, number>();

  constructor(runtime: Runtime, heartbeatMs: number, connections: () => Iterable<Redis>) {
    this.#runtime = runtime;
    const beat = () => {
      this.#timer = runtime.setTimeout(beat, heartbeatMs);
      for (const connection of connections()) this.#check(connection);
    };
    this.#timer = runtime.setTimeout(beat, heartbeatMs);
  }

  [Symbol.dispose](): void {
    this.#runtime.clearTimeout(this.#timer);
  }

  #check(connection: Redis): void {
    if (connection.status === "connect") {
      const beats = (this.#greeting.get(connection) ?? 0) + 1;
      if (beats <= MAX_SILENT) return void this.#greeting.set(connection, beats);
      this.#greeting.delete(connection);
      return connection.disconnect(true);
    }
    this.#greeting.delete(connection);
    if (connection.status !== "ready") return;
    const silent = this.#silent.get(connection);
    if (silent === undefined) {
      this.#silent.set(connection, 0);
      const answered = () => void this.#silent.delete(connection);
      connection.ping().then(answered, answered);
      return;
    }
    this.#silent.set(connection, silent + 1);
    if (silent + 1 === MAX_SILENT) connection.disconnect(true);
  }
}
