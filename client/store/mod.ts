/**
 * Stores that keep a client's data after its page or process has ended.
 *
 * Nothing in this module needs Deno or a page until a store is opened.
 *
 * @module
 */
export { StoreError } from "../../errors.ts";
export { type ClientStore, keptIn } from "./keeper.ts";
export type {
  Durability,
  Store,
  StoreBatch,
  StoreEntry,
  StorePage,
  StoreRange,
  StoreReadOptions,
} from "./store.ts";
