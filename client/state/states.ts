/** The live states of a client. This module loads with the first state. */
import { checkRowName } from "../../session/wire/rows.ts";
import type { StateWriteOptions } from "../../session/state_types.ts";
import type { OptionNames } from "../page/option_names.ts";
import { type ClientStateParts, SharedState } from "./shared_state.ts";
import { ClientState, type ClientStateOptions } from "./state.ts";

/** The parts of a client that its states use. */
export interface ClientStatesParts
  extends Pick<ClientStateParts, "client" | "contract" | "settings"> {
  readonly recovery: () => Promise<Pick<ClientStateParts, "readStream">>;
  readonly checkOptions: (call: string, options: unknown, names?: object) => void;
}

/** The options of each call, as in `ClientCalls`. */
export interface StateCalls {
  readonly "delete row": Pick<StateWriteOptions, "expect" | "signal">;
  readonly "insert row": Omit<StateWriteOptions, "expect">;
  readonly "open state": ClientStateOptions;
  readonly "read changes": { readonly signal?: AbortSignal | undefined };
  readonly "update state": Pick<StateWriteOptions, "signal">;
  readonly "write row": Pick<StateWriteOptions, "ttlMs">;
  readonly "write state": StateWriteOptions;
}

/** The names of the options, for pages. */
const NAMES: OptionNames<StateCalls> & { readonly [call: string]: object } = {
  "delete row": { expect: 1, signal: 1 },
  "insert row": { signal: 1, ttlMs: 1 },
  "open state": { onConflict: 1 },
  "write row": { ttlMs: 1 },
  "write state": { expect: 1, signal: 1, ttlMs: 1 },
};

/** The states of one client. */
export class ClientStates {
  readonly #parts: ClientStatesParts;
  /** The states by id; bounded by the handles of the application. */
  readonly #open = new Map<string, SharedState>();

  constructor(parts: ClientStatesParts) {
    this.#parts = parts;
  }

  /** Opens a state. Called by `client.state`. */
  async open(id: string, options: ClientStateOptions = {}): Promise<ClientState> {
    const { recovery, checkOptions } = this.#parts;
    const check = (call: string, options: unknown) => checkOptions(call, options, NAMES[call]);
    check("open state", options);
    checkRowName("open state", "id", id);
    const { readStream } = await recovery();
    const parts = { ...this.#parts, check, readStream };
    return new ClientState(this.#share(id, parts), options, parts);
  }

  #share(id: string, parts: ClientStateParts): SharedState {
    const known = this.#open.get(id);
    if (known?.isUsable) return known;
    const shared: SharedState = new SharedState(id, parts, () => {
      if (this.#open.get(id) === shared) this.#open.delete(id);
    });
    this.#open.set(id, shared);
    return shared;
  }
}
