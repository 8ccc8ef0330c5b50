/** Streams, and the consumers that read them, as the broker creates them in JetStream. */
import {
  AckPolicy,
  type ConsumerConfig,
  type ConsumerInfo,
  DiscardPolicy,
  type JetStreamManager,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
} from "@nats-io/jetstream";
import type { NatsSettings } from "./options.ts";

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

/** Deletes a consumer. A failure does not matter, because the server deletes idle consumers. */
export function forget(manager: JetStreamManager, stream: string, name: string): void {
  manager.consumers.delete(stream, name).catch(() => {});
}
