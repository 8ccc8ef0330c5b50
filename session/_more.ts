/**
 * What a session loads when it is first asked for, in one part.
 *
 * @module
 */
import "../transport/common.ts";

export { debugState, diagnostics } from "./diagnostics.ts";
export { issues, monitorHealth, ping, summary } from "./health.ts";
export { grantCredit, incomingStreams, sendDatagram } from "./incoming_streams.ts";
export { structuredStream } from "./structured.ts";
export { structuredDatagrams } from "./structured_datagrams.ts";
export { openWatched } from "./watching.ts";
