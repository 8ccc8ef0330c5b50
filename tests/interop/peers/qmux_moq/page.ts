/**
 * What a page loads to be a peer: the library, and what it is to do with it.
 *
 * @module
 */
export { default as Session } from "npm:@moq/qmux@0.3.3";
export { play } from "./scenarios.ts";
