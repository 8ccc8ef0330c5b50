/** The late chunk with WebTransport; `page.ts` explains how chunks work. */
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

/** Creates a dialer that races the platform's WebTransport against WebSocket. */
export function raceNative(
  webSocket: TransportPlatform["webSocket"],
  options: CheckedTransports,
): RacingDialer {
  const webTransport = webTransportLeg(dialNativeWebTransport);
  return race({ webSocket, webTransport, defect: engineDefect("session") }, options);
}
