/**
 * Late chunk of the features that a session loads on first use. Like every chunk, this module
 * imports the modules that a page loads at first, so that bundlers keep those in one file.
 */
import "../../client/common.ts";

export { debugState, diagnostics, summary } from "./diagnostics.ts";
export { issues, monitorHealth } from "./health.ts";
export { grantCredit, incomingStreams, sendDatagram } from "../streams/incoming_streams.ts";
export { structuredStream } from "../streams/structured.ts";
export { structuredDatagrams } from "../streams/structured_datagrams.ts";
export { ping } from "./ping.ts";
export { openWatched } from "./watch.ts";
