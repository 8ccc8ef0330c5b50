/**
 * What a page loads when it first tries WebTransport: all that a WebSocket does
 * not need.
 *
 * @module
 */
import "./common.ts";

export { raceNative } from "../transport/race/native_leg.ts";
