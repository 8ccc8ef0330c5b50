/**
 * What a page that connects, and has no contract, takes of the client: `bundle_test.ts` weighs it.
 *
 * @module
 */
export { connect } from "../client.ts";
