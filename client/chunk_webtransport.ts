/**
 * Code that a page loads for the first attempt to use WebTransport. A WebSocket does not need this
 * code.
 *
 * @module
 */
import "./common.ts";

export { raceNative } from "../transport/race/native_leg.ts";
