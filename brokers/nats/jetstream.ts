/** Streams, and the consumers that read them, as the broker creates them in JetStream. */
import {
  AckPolicy,
  type ConsumerConfig,
  type ConsumerInfo,
  type DirectMsgRequest,
  DiscardPolicy,
  JetStreamApiError,
  type JetStreamManager,
  type MsgRequest,
  RetentionPolicy,
  StorageType,
  type StoredMsg,
  type StreamConfig,
  type StreamInfo,
} from "@nats-io/jetstream";
import type { Runtime } from "../../base/runtime.ts";
import { settlesWithin } from "../../base/wait.ts";
import { BrokerError } from "../../errors.ts";
import { hash32 } from "../../session/rows/row_hash.ts";
import type { NatsSettings } from "./options.ts";

/**
 * Wait for the reply to a read before the read is repeated, in milliseconds. A server may lose the
 * first direct read of a stream that it has just created.
 */
const REPEAT_READ_MS = 500;

/** Idle time after which the server deletes a consumer, in nanoseconds. */
const INACTIVE_NS = 10_000 * 1e6;

export function storageOf({ storage }: Pick<NatsSettings, "storage">): StorageType {
  return storage === "memory" ? StorageType.Memory : StorageType.File;
}

/** Status of a stream that currently has no leader. */
export const UNAVAILABLE = 503;

/** Settings that all streams have. */
export function streamConfig(
  settings: Pick<NatsSettings, "storage" | "replicas">,
): Partial<StreamConfig> {
  return {
    storage: storageOf(settings),
    num_replicas: settings.replicas,
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.Old,
    allow_direct: true,
  };
}

/** Error codes of JetStream for a missing stream, and for one with another configuration. */
export const NOT_FOUND = 10059;
export const NAME_TAKEN = 10058;

/** The code of an error of JetStream; `undefined` for other errors. */
export function codeOf(error: unknown): number | undefined {
  return error instanceof JetStreamApiError ? error.code : undefined;
}

/** Thrown if a stream has another storage than this node's option says. */
export class OtherStorageError extends BrokerError {
  constructor(found: string, wanted: string) {
    super(
      `its storage is "${found}", and the option storage of this node is "${wanted}"; JetStream ` +
        `can't change it, so set the option to "${found}", or stop all nodes and delete the stream`,
    );
  }
}

/**
 * Creates a stream, or adapts the existing stream of the name. A limit that another node has set
 * wider stays as it is.
 *
 * @param options `mayNarrow` is true if no other node needs wider limits.
 * @throws {OtherStorageError} If the existing stream has another storage.
 */
export async function openStream(
  { streams }: JetStreamManager,
  wanted: Partial<StreamConfig> & { readonly name: string },
  { mayNarrow = false }: { readonly mayNarrow?: boolean } = {},
): Promise<StreamInfo> {
  try {
    return await streams.add(wanted);
  } catch (error) {
    if (!(error instanceof JetStreamApiError) || error.code !== NAME_TAKEN) throw error;
  }
  const info = await streams.info(wanted.name);
  const { config } = info;
  if (config.storage !== wanted.storage) {
    throw new OtherStorageError(config.storage, `${wanted.storage}`);
  }
  const next = mayNarrow ? wanted : { ...wanted, ...widestLimits(config, wanted) };
  const differs = Object.entries(next).some(([key, value]) => {
    return JSON.stringify(config[key as keyof StreamConfig]) !== JSON.stringify(value);
  });
  return differs ? await streams.update(wanted.name, next) : info;
}

/** True if the servers that store a stream are a cluster. A single server reports only its name. */
export function isCluster(cluster: StreamInfo["cluster"]): boolean {
  return cluster?.name !== undefined && cluster.name !== "";
}

/** Pause between two looks at a stream without the right leader, in milliseconds. */
const LEADER_PAUSE_MS = 100;

/** Maximum number of these looks. */
const MAX_LOOKS = 50;

/** Time limit of a look, in milliseconds. */
const LOOK_TIMEOUT_MS = 1_000;

/** The part of a connection that reaches JetStream. */
interface JetStreamLink {
  /** Prefix of the API's subjects. */
  readonly api: string;
  readonly isUp: boolean;
  manager(timeoutMs: number): Promise<JetStreamManager>;
  pause(ms: number): Promise<void>;
  request(subject: string, body: string): Promise<unknown>;
}

/**
 * Waits until a replicated stream has a leader, because calls before that are rejected. Leaders of
 * new shards are spread over the servers: the leader of an empty stream steps down until the right
 * server follows. Servers take their turns from a different one for each kind of stream.
 *
 * @param name Name of the stream.
 * @param turn The shard; absent for a stream whose leader may be anywhere.
 */
export async function settleLeader(
  link: JetStreamLink,
  name: string,
  turn?: number,
): Promise<void> {
  // A stream without a leader may not reply at all.
  const { streams } = await link.manager(LOOK_TIMEOUT_MS);
  for (let look = 0; look < MAX_LOOKS; look++) {
    const info = await streams.info(name).catch((error) => {
      // The server that replies may not know the new stream yet.
      const isEarly = !(error instanceof JetStreamApiError) || error.code === NOT_FOUND ||
        error.status === UNAVAILABLE;
      if (!isEarly || !link.isUp) throw error;
    });
    if (info?.cluster?.leader) {
      const { leader, replicas = [] } = info.cluster;
      const servers = [leader, ...replicas.map((one) => one.name)].sort();
      const first = hash32(name.slice(0, name.lastIndexOf("_")));
      const isRight = turn === undefined || servers[(first + turn) % servers.length] === leader;
      if (isRight || info.state.last_seq > 0) return;
      try {
        await link.request(`${link.api}.STREAM.LEADER.STEPDOWN.${name}`, "");
      } catch {
        return; // Without this permission, any server may lead.
      }
    }
    await link.pause(LEADER_PAUSE_MS);
  }
}

/** Limits of a stream. */
const LIMITS = ["max_msgs_per_subject", "max_age", "max_bytes", "num_replicas"] as const;

function widestLimits(
  found: StreamConfig,
  wanted: Partial<StreamConfig>,
): Partial<StreamConfig> {
  return Object.fromEntries(LIMITS.flatMap((key) => {
    const [one, other] = [found[key], wanted[key]];
    if (other === undefined) return [];
    // Without a limit, JetStream says -1, and 0 for the age.
    return [[key, one <= 0 || other <= 0 ? Math.min(one, other) : Math.max(one, other)]];
  }));
}

/**
 * Creates a consumer for one read: in memory, on one server, without acknowledgments. Delete it
 * with {@linkcode forget}.
 */
export function consume(
  manager: JetStreamManager,
  stream: string,
  config: Partial<ConsumerConfig>,
): Promise<ConsumerInfo> {
  return manager.consumers.add(stream, {
    ack_policy: AckPolicy.None,
    inactive_threshold: INACTIVE_NS,
    mem_storage: true,
    num_replicas: 1,
    ...config,
  });
}

/** Reads something, and repeats the read if no reply arrives soon. The first reply counts. */
export async function repeatedRead<T>(
  runtime: Runtime,
  read: () => Promise<T>,
  readAgain = read,
): Promise<T> {
  const first = read();
  if (await settlesWithin(runtime, first, REPEAT_READ_MS)) return await first;
  return await Promise.race([first, readAgain()]);
}

/**
 * Reads a message of a stream. A lagging replica would reply to a direct read with an old message.
 */
export function readMessage(
  { runtime, manager, isReplicated }: {
    readonly runtime: Runtime;
    readonly manager: JetStreamManager;
    readonly isReplicated: boolean;
  },
  stream: string,
  query: DirectMsgRequest & MsgRequest,
): Promise<StoredMsg | null> {
  const { streams, direct } = manager;
  return isReplicated
    ? streams.getMessage(stream, query)
    : repeatedRead(runtime, () => direct.getMessage(stream, query));
}

/** Deletes a consumer. A failure does not matter, because the server deletes idle consumers. */
export function forget(manager: JetStreamManager, stream: string, name: string): void {
  manager.consumers.delete(stream, name).catch(() => {});
}
