/** The live states of a client. This module loads with the first state. */
import { checkRowName } from "../../session/wire/rows.ts";
import type { SessionSettings } from "../../session/settings/settings.ts";
import type { ClientOptions } from "../client_options.ts";
import {
  ClientState,
  type ClientStateOptions,
  type ClientStateParts,
  type StateClient,
} from "./state.ts";

/** The parts of a client that its states use. */
export interface ClientStatesParts extends Pick<ClientOptions, "contract"> {
  readonly client: StateClient;
  readonly settings: Pick<SessionSettings, "runtime">;
  readonly recovery: () => Promise<Pick<ClientStateParts, "readStream">>;
  readonly checkOptions: ClientStateParts["check"];
}

/** The states of one client. */
export class ClientStates {
  readonly #parts: ClientStatesParts;

  constructor(parts: ClientStatesParts) {
    this.#parts = parts;
  }

  /** Opens a state. Called by `client.state`. */
  async open(id: string, options: ClientStateOptions = {}): Promise<ClientState> {
    const { client, contract, settings: { runtime }, recovery, checkOptions: check } = this.#parts;
    check("open state", options);
    checkRowName("open state", "id", id);
    const { readStream } = await recovery();
    return new ClientState(id, options, client, { runtime, contract, check, readStream });
  }
}
