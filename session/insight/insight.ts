/** Diagnostics and other session features that load on first use. */
export { debugState, diagnostics, summary } from "./diagnostics.ts";
export { issues, monitorHealth } from "./health.ts";
export { grantCredit, incomingStreams, sendDatagram } from "../streams/incoming_streams.ts";
export { structuredStream } from "../streams/structured.ts";
export { structuredDatagrams } from "../streams/structured_datagrams.ts";
export { tellLoss } from "./losses.ts";
export { ping } from "./ping.ts";
