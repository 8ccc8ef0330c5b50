/**
 * Late chunk of WebTransport and of recovery; `page.ts` says how chunks work. They share a chunk
 * because nearly every browser has WebTransport and loads this chunk first, so recovery needs no
 * further request.
 */
import "./page.ts";
import { dialNativeWebTransport } from "../../transport/native/client.ts";
import { engineDefect } from "../../transport/native/engines.ts";
import type {
  CheckedTransports,
  RacingDialer,
  TransportPlatform,
} from "../../transport/race/options.ts";
import { race } from "../../transport/race/race.ts";
import { webTransportLeg } from "../../transport/race/webtransport_leg.ts";

export * from "../recovery.ts";

/** Creates a dialer that races the platform's WebTransport against a WebSocket. */
export function raceNative(
  webSocket: TransportPlatform["webSocket"],
  options: CheckedTransports,
): RacingDialer {
  const webTransport = webTransportLeg(dialNativeWebTransport);
  return race({ webSocket, webTransport, defect: engineDefect("session") }, options);
}
