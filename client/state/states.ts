/** The live states of a client. This module loads with the first state. */
import { readStream } from "../durable_stream.ts";
import { checkRowName } from "../../session/wire/rows.ts";
import type { Keeper } from "../store/keeper.ts";
import { NAMES } from "./calls.ts";
import type { KeptSource } from "./keeping.ts";
import { RetryLine } from "./retry_line.ts";
import { type ClientStateParts, SharedState } from "./shared_state.ts";
import { ClientState, type ClientStateOptions } from "./state.ts";

/** The parts of a client that its states use. */
export interface ClientStatesParts
  extends Pick<ClientStateParts, "client" | "contract" | "settings"> {
  readonly checkOptions: (call: string, options: unknown, names?: object) => void;
  /** Keeps data in the client's store, if it has one. */
  readonly keeper?: Keeper | undefined;
}

export class ClientStates {
  readonly #parts: ClientStatesParts;
  /** The states by id; bounded by the handles of the application. */
  readonly #open = new Map<string, SharedState>();

  readonly #line: RetryLine;

  constructor(parts: ClientStatesParts) {
    this.#parts = parts;
    this.#line = new RetryLine(parts.settings.runtime);
  }

  /** Opens a state. Called by `client.state`. */
  async open(id: string, options: ClientStateOptions = {}): Promise<ClientState> {
    const { checkOptions } = this.#parts;
    const check: ClientStateParts["check"] = (call, options) =>
      checkOptions(call, options, (NAMES as Record<string, object>)[call]);
    check("open state", options);
    checkRowName("open state", "id", id);
    const { keeper } = this.#parts;
    const isKept = options.store ?? false;
    if (isKept && !keeper) {
      throw new TypeError(
        "Cannot open state: store needs a client with the option store",
      );
    }
    const keep = keeper && ((source: KeptSource) => keeper.state(source));
    const parts = { ...this.#parts, check, readStream, line: this.#line, keep };
    const shared = this.#share(id, parts, isKept);
    // Joins first, so that another handle which closes meanwhile does not end the state.
    const state = new ClientState(shared, options, parts);
    if (isKept) await shared.keep();
    return state;
  }

  #share(id: string, parts: ClientStateParts, isKept: boolean): SharedState {
    const known = this.#open.get(id);
    if (known?.isUsable) return known;
    const shared: SharedState = new SharedState(id, parts, () => {
      if (this.#open.get(id) === shared) this.#open.delete(id);
    }, isKept);
    this.#open.set(id, shared);
    return shared;
  }
}
