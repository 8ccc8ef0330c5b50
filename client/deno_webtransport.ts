/** WebTransport of clients in Deno: loaded at the first attempt. */
import { dialWebTransport } from "../transport/h3/client.ts";
import type { WebTransportLeg } from "../transport/race/options.ts";
import { webTransportLeg } from "../transport/race/webtransport_leg.ts";

/** Opens WebTransport on the QUIC of Deno. */
export const openWebTransport: WebTransportLeg = webTransportLeg(dialWebTransport);
