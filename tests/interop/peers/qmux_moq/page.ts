/**
 * The script of a page that plays a peer. It exports the library and the scenarios.
 *
 * @module
 */
export { default as Session } from "npm:@moq/qmux@0.3.3";
export { play } from "./scenarios.ts";
