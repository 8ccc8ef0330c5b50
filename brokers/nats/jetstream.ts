/** Streams, and the consumers that read them, as the broker creates them in JetStream. */
import {
  AckPolicy,
  type ConsumerConfig,
  type ConsumerInfo,
  type DirectMsgRequest,
  DiscardPolicy,
  type JetStreamManager,
  type MsgRequest,
  RetentionPolicy,
  StorageType,
  type StoredMsg,
  type StreamConfig,
} from "@nats-io/jetstream";
import type { Runtime } from "../../base/runtime.ts";
import { settlesWithin } from "../../base/wait.ts";
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
