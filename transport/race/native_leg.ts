/**
 * WebTransport of the platform, and the race of the two transports.
 *
 * @module
 */
import { dialNativeWebTransport } from "../native/client.ts";
import { engineDefect } from "../native/engines.ts";
import { race } from "./run.ts";
import type { CheckedTransports } from "./transports.ts";
import { webTransportLeg } from "./webtransport_leg.ts";
import type { RacingDialer, TransportPlatform } from "./options.ts";

/** Races the platform's own WebTransport, found at the server, and a WebSocket. */
export function raceNative(
  webSocket: TransportPlatform["webSocket"],
  options: CheckedTransports,
): RacingDialer {
  const webTransport = webTransportLeg(dialNativeWebTransport);
  return race({ webSocket, webTransport, defect: engineDefect("session") }, options);
}
