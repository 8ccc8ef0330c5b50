/**
 * The conformance suite for stores, with which you can test your own.
 *
 * @example Testing your own store, also after its process was killed
 * ```ts ignore
 * import { checkAfterKill, testStore, writeUntilKilled } from "@skein/skein/store/testing";
 * import { AppStore } from "./app_store.ts";
 *
 * testStore("AppStore", (storage) => new AppStore(storage));
 *
 * // In a program of its own, which the test kills:
 * await writeUntilKilled(new AppStore("killed"), (number) => console.log(number));
 *
 * // In the test, with the last number that the program printed:
 * await checkAfterKill(new AppStore("killed"), 17);
 * ```
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
