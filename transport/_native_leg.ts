/**
 * WebTransport of the platform, and the race of the two transports.
 *
 * @module
 */
import { dialNativeWebTransport } from "./native_client.ts";
import type { WebTransportLeg } from "./race.ts";
import { webTransportLeg } from "./webtransport_leg.ts";

export { race } from "./_race.ts";

/** Finds the WebTransport of a server, and opens it with the platform's own. */
export const openNativeWebTransport: WebTransportLeg = webTransportLeg(dialNativeWebTransport);
