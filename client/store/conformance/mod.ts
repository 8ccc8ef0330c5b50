/**
 * The conformance suite for stores, for a third one next to those of this package.
 *
 * @module
 */
export {
  checkAfterKill,
  type RegisterTest,
  type StoreTestOptions,
  testStore,
  writeUntilKilled,
} from "./suite.ts";
