/** Options of the hardened WebSocket engine in simulated clusters. */
import type { Host } from "../../../simulator/host.ts";
import type { HardenedWebSocketOptions } from "../../../../transport/hardened/mod.ts";

/** Minimum sizes of messages to compress in bytes, one of which is chosen at random. */
const MIN_BYTES = [0, 64, 512] as const;

/**
 * Picks the engine options of a host at random. Limits on handshakes are off, because the machines
 * of a simulation open many connections at once.
 *
 * @param mayCompress False if parts of the plan count message bytes.
 */
export function hardenedOptions(
  { name, runtime }: Host,
  mayCompress: boolean,
): HardenedWebSocketOptions {
  const drawn = mayCompress && name.startsWith("node") ? runtime.random() : 1;
  const minBytes = MIN_BYTES[Math.floor(drawn * MIN_BYTES.length / 0.7)];
  return {
    handshakesPerSecond: 1_000_000,
    handshakeBurst: Infinity,
    maxPendingPerAddress: Infinity,
    maxPending: Infinity,
    compression: minBytes === undefined ? false : { minBytes },
  };
}
