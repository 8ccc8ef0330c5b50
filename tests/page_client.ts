/**
 * The client of a page that connects without a contract; `bundle_test.ts` weighs the bundle.
 *
 * @module
 */
export { connect } from "../client.ts";
