/**
 * Exports the scenarios of a peer to a page. Another script contains the library.
 *
 * @module
 */
export { loadNet } from "../../interop/peers/moq_js/net.ts";
export { play } from "../../interop/peers/moq_js/scenarios.ts";
