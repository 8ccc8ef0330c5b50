/** The calls of live states, and the names of their options. */
import type { StateWriteOptions } from "../../session/state_types.ts";
import type { ClientStateOptions } from "./state.ts";

/** The options of each call, as in `ClientCalls`. */
export interface StateCalls {
  readonly "call mutation": Pick<StateWriteOptions, "signal">;
  readonly "delete row": Pick<StateWriteOptions, "expect" | "signal">;
  readonly "insert row": Omit<StateWriteOptions, "expect">;
  readonly "open state": ClientStateOptions;
  readonly "read changes": { readonly signal?: AbortSignal | undefined };
  readonly "update state": Pick<StateWriteOptions, "signal">;
  readonly "write row": Pick<StateWriteOptions, "ttlMs">;
  readonly "write state": StateWriteOptions;
}

/** The names of the options, which a page checks. They load with the first state. */
export const NAMES: {
  readonly [Call in keyof StateCalls]: { readonly [Name in keyof StateCalls[Call]]-?: 1 };
} = {
  "call mutation": { signal: 1 },
  "delete row": { expect: 1, signal: 1 },
  "insert row": { signal: 1, ttlMs: 1 },
  "open state": { mutations: 1, onConflict: 1, store: 1, user: 1 },
  "read changes": { signal: 1 },
  "update state": { signal: 1 },
  "write row": { ttlMs: 1 },
  "write state": { expect: 1, signal: 1, ttlMs: 1 },
};
