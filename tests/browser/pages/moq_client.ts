/**
 * Exports Skein's client to a page.
 *
 * @module
 */
export { dialMoq } from "../../../moq/client/dial.ts";
export { MoqError } from "../../../moq/wire/errors.ts";
export { TrackMux } from "../../../moq/track/mux.ts";
