/**
 * A collection of TanStack DB with the rows of a state, over a Skein session: live queries, with
 * optimistic changes that the server may reject.
 *
 * Copy this file into your project.
 *
 * @module
 */
import type { ClientState } from "../../client.ts"; // jsr:@skein/skein/client
import type { CollectionConfig } from "npm:@tanstack/db@0.15.2";

/** Options of {@linkcode stateCollection}. */
export interface StateCollectionOptions<T extends object> {
  /** The state, from `await client.state(id)`. The application closes it. */
  readonly state: ClientState;
  /** Name of the collection in the state. */
  readonly name: string;
  /** Returns the key of a row, which is also its key in the state. */
  readonly getKey: (row: T) => string;
}

/**
 * Creates the options of a collection: `createCollection(stateCollection({ … }))`.
 *
 * - **Ready** once the state is. If the state cannot be read, the collection fails with its error.
 * - **Changes:** the changes of one TanStack transaction are one transaction of the state. If the
 *   server rejects it, TanStack rolls all of them back.
 * - **Offline:** changes wait in the state, and stay optimistic until the server has replied.
 */
export function stateCollection<T extends object>(
  { state, name, getKey }: StateCollectionOptions<T>,
): CollectionConfig<T, string> {
  const rows = state.collection<T>(name);
  const save = async ({ transaction }: { readonly transaction: Changed<T> }) => {
    await state.transaction((to) => {
      for (const { type, key, modified } of transaction.mutations) {
        if (type === "delete") to.delete(name, String(key));
        else to.set(name, String(key), { ...modified });
      }
    });
  };
  return {
    id: `${state.id}/${name}`,
    getKey,
    onInsert: save,
    onUpdate: save,
    onDelete: save,
    sync: {
      sync({ begin, write, commit, markReady, markError }) {
        let known: ReadonlyMap<string, T> = new Map();
        const follow = () =>
          rows.subscribe((current, changed) => {
            begin();
            for (const key of changed) {
              const value = current.get(key);
              if (value === undefined) write({ type: "delete", key });
              else write({ type: known.has(key) ? "update" : "insert", value });
            }
            known = current;
            commit();
          });
        let leave: (() => void) | undefined;
        let isLeft = false;
        state.ready.then(() => {
          if (isLeft) return;
          leave = follow();
          markReady();
        }, markError);
        return () => {
          isLeft = true;
          leave?.();
        };
      },
    },
  };
}

/** A transaction of TanStack DB, with its changes. */
interface Changed<T> {
  readonly mutations: readonly {
    readonly type: "insert" | "update" | "delete";
    readonly key: unknown;
    readonly modified: T;
  }[];
}
