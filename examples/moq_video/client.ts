/**
 * The part of the library that the page uses. In your own project the page imports these names from
 * `@skein/skein/moq`, and a bundler leaves out the rest.
 *
 * @module
 */
export { connectMoq, LiveBroadcast } from "../../moq/mod.ts";
