/**
 * Race between the platform's own WebTransport and a WebSocket.
 *
 * @module
 */
import { dialNativeWebTransport } from "../native/client.ts";
import { engineDefect } from "../native/engines.ts";
import { race } from "./run.ts";
import type { CheckedTransports } from "./transports.ts";
import { webTransportLeg } from "./webtransport_leg.ts";
import type { RacingDialer, TransportPlatform } from "./options.ts";

/** Makes a dialer that races the platform's own WebTransport against a WebSocket. */
export function raceNative(
  webSocket: TransportPlatform["webSocket"],
  options: CheckedTransports,
): RacingDialer {
  const webTransport = webTransportLeg(dialNativeWebTransport);
  return race({ webSocket, webTransport, defect: engineDefect("session") }, options);
}
