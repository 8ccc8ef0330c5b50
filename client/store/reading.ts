/** Reads what a store has, which may be anybody's bytes. */
import type { GuardedStore } from "./guarded_store.ts";
import { after } from "./keys.ts";
import type { StoreEntry, StoreRange } from "./store.ts";

const DECODER = /* @__PURE__ */ new TextDecoder("utf-8", { fatal: true });

/** Reads all entries of a range, page by page. Ends early if the store fails. */
export async function* entriesIn(
  store: Pick<GuardedStore, "read">,
  { from, to }: StoreRange,
): AsyncGenerator<StoreEntry> {
  for (;;) {
    const page = await store.read({ from, to });
    yield* page?.entries ?? [];
    const last = page?.entries.at(-1);
    if (last === undefined || page!.isComplete) return;
    from = after(last.key);
  }
}

/** Parses JSON. Returns `undefined` for anything else. */
export function jsonIn(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(DECODER.decode(bytes));
  } catch {
    return undefined;
  }
}

/** True for a number that counts something, or a time. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}
