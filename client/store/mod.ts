/**
 * Stores, in which a client keeps what must survive its page or process: {@linkcode indexedDbStore}
 * for pages, {@linkcode fileStore} for Deno and Node, and the interface for others.
 *
 * @example A store in a page
 * ```ts ignore
 * import { connect } from "@skein/skein/client";
 * import { indexedDbStore } from "@skein/skein/store";
 *
 * const client = connect("/chat", { store: indexedDbStore({ user: "ann" }) });
 * ```
 *
 * @module
 */
export type { DropReason, KeptKind, OutboxDrop } from "./dropped.ts";
export { StoreError } from "../../errors.ts";
export { fileStore, type FileStoreOptions } from "./file.ts";
export { indexedDbStore, type IndexedDbStoreOptions } from "./indexeddb.ts";
export { type ClientStore, keptIn } from "./keeper.ts";
export { KeptPositions } from "./positions.ts";
export type {
  Durability,
  Store,
  StoreBatch,
  StoreEntry,
  StorePage,
  StoreRange,
  StoreReadOptions,
} from "./store.ts";
