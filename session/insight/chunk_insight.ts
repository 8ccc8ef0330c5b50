/**
 * What a session loads when it is first asked for, in one part. Like every part, it
 * imports all that a page loads at first, so that bundlers keep that in one file.
 *
 * @module
 */
import "../../client/common.ts";

export { debugState, diagnostics } from "./diagnostics.ts";
export { issues, monitorHealth, summary } from "./health.ts";
export { grantCredit, incomingStreams, sendDatagram } from "../streams/incoming_streams.ts";
export { structuredStream } from "../streams/structured.ts";
export { structuredDatagrams } from "../streams/structured_datagrams.ts";
export { ping } from "./ping.ts";
export { openWatched } from "./watch.ts";
