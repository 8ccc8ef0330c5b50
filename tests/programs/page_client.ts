/**
 * The client of a page that connects without a contract; `bundle_test.ts` measures its bundle.
 *
 * @module
 */
export { connect } from "../../client.ts";
