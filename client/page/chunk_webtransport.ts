/** The late chunk with WebTransport and the race; `page.ts` explains how chunks work. */
import "./page.ts";
import { UnsupportedError } from "../../errors.ts";
import { dialNativeWebTransport } from "../../transport/native/client.ts";
import { engineDefect } from "../../transport/native/engines.ts";
import type {
  CheckedTransports,
  RacingDialer,
  TransportPlatform,
  WebTransportLeg,
} from "../../transport/race/options.ts";
import { race } from "../../transport/race/race.ts";
import { webTransportLeg } from "../../transport/race/webtransport_leg.ts";
import { isNativeWebTransportAvailable } from "../../transport/webtransport.ts";

const dial = webTransportLeg(dialNativeWebTransport);

/** Opens the platform's WebTransport. */
export const openWebTransport: WebTransportLeg = async (url, options) => {
  if (isNativeWebTransportAvailable()) return await dial(url, options);
  throw new UnsupportedError("This platform has no WebTransport");
};

/** Creates a dialer that races the platform's WebTransport against the other transports. */
export function raceNative(
  webSocket: TransportPlatform["webSocket"],
  options: CheckedTransports,
): RacingDialer {
  const webTransport = openWebTransport;
  return race({ webSocket, webTransport, defect: engineDefect("session") }, options);
}
