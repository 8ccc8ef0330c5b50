/**
 * What a session loads when it is first asked for, in one part.
 *
 * @module
 */
export { debugState, diagnostics } from "./diagnostics.ts";
export { issues, monitorHealth, ping, summary } from "./health.ts";
export { grantCredit, incomingStreams, sendDatagram } from "./incoming_streams.ts";
export { structuredDatagrams, structuredStream } from "./structured.ts";
