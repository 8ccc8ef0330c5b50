/** The WebTransport of browsers and of other platforms that have it, as a participant of the race. */
import { UnsupportedError } from "../../errors.ts";
import type { Connection } from "../connection.ts";
import { dialNativeWebTransport } from "../native/client.ts";
import { isNativeWebTransportAvailable } from "../webtransport.ts";
import type { WebTransportLeg } from "./options.ts";
import { webTransportLeg } from "./webtransport_leg.ts";

/**
 * Opens the platform's WebTransport, as {@linkcode webTransportLeg} describes.
 *
 * @throws {UnsupportedError} If the platform has none.
 */
export async function nativeLeg(...args: Parameters<WebTransportLeg>): Promise<Connection> {
  if (isNativeWebTransportAvailable()) {
    return await webTransportLeg(dialNativeWebTransport)(...args);
  }
  throw new UnsupportedError("This platform has no WebTransport");
}
