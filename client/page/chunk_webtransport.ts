/** The late chunk with WebTransport and the race; `page.ts` explains how chunks work. */
import "./page.ts";
import { engineDefect } from "../../transport/native/engines.ts";
import type {
  CheckedTransports,
  RacingDialer,
  TransportPlatform,
} from "../../transport/race/options.ts";
import { nativeLeg } from "../../transport/race/native_leg.ts";
import { race } from "../../transport/race/race.ts";

export { nativeLeg };

/** Creates a dialer that races the platform's WebTransport against the other transports. */
export function raceNative(
  webSocket: TransportPlatform["webSocket"],
  options: CheckedTransports,
): RacingDialer {
  return race({ webSocket, webTransport: nativeLeg, defect: engineDefect("session") }, options);
}
