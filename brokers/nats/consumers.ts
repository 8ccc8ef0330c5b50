/** Consumers of JetStream that exist for one read: in memory, on one server, without acknowledgements. */
import {
  AckPolicy,
  type ConsumerConfig,
  type ConsumerInfo,
  type JetStreamManager,
} from "@nats-io/jetstream";

/** Idle time after which the server deletes a consumer, in nanoseconds. */
const INACTIVE_NS = 10_000 * 1e6;

/** Makes a consumer, to be deleted by {@linkcode forget}. */
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

/** Deletes a consumer. A failure does not matter: the server deletes an idle one. */
export function forget(manager: JetStreamManager, stream: string, name: string): void {
  manager.consumers.delete(stream, name).catch(() => {});
}
