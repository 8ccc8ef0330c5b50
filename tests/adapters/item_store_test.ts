/** Runs the conformance suite on the store from the page "Write a store". */
import { testStore } from "../../client/store/conformance/mod.ts";
import { type Items, ItemStore } from "../../examples/adapters/item_store.ts";

const stored = new Map<string, string>();

/** A storage in memory, in place of `AsyncStorage`. */
const items: Items = {
  getItem: (name) => Promise.resolve(stored.get(name) ?? null),
  setItem: (name, text) => Promise.resolve(void stored.set(name, text)),
};

testStore("ItemStore", (storage) => new ItemStore(items, storage));
