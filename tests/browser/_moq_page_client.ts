/**
 * Exports Skein's client to a page.
 *
 * @module
 */
export { dialMoq } from "../../pubsub/moq/client/dial.ts";
export { MoqError } from "../../pubsub/moq/wire/errors.ts";
export { TrackMux } from "../../pubsub/moq/track/mux.ts";
