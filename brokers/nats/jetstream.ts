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

/** Error code of JetStream for a stream with another configuration. */
const NAME_TAKEN = 10058;

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
export async function repeatedRead<T>(runtime: Runtime, read: () => Promise<T>): Promise<T> {
  const first = read();
  if (await settlesWithin(runtime, first, REPEAT_READ_MS)) return await first;
  return await Promise.race([first, read()]);
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
