/**
 * What the page takes of the library. In a project of your own, the page imports it from
 * `@skein/skein/moq`, and a bundler leaves out the rest.
 *
 * @module
 */
export { connectMoq, LiveBroadcast } from "../../pubsub/moq/mod.ts";
