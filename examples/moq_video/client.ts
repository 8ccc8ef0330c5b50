/**
 * The part of the library that the page uses. In your own project, import these names from
 * `@skein/skein/moq`; a bundler leaves out the rest.
 *
 * @module
 */
export { connectMoq, LiveBroadcast } from "../../moq/mod.ts";
