/**
 * SETUP of a peer, on a separate stream, some time after the session began.
 *
 * @module
 */
import { ProtocolError } from "../../../errors.ts";
import { FieldReader } from "../wire/bytes.ts";
import { HOP_PARAMETER, PATH_PARAMETER } from "./_setup.ts";
import type { MoqParameters } from "../wire/messages.ts";

/** The SETUP of a peer, once received. */
export class PeerSetup {
  /** Resolves when SETUP arrives; rejects if the session ends first. */
  readonly arrived: Promise<void>;
  readonly #arrived: PromiseWithResolvers<void> = Promise.withResolvers();
  #parameters: MoqParameters | undefined = undefined;
  #path: string | undefined = undefined;

  constructor() {
    this.arrived = this.#arrived.promise;
    this.arrived.catch(() => {}); // Most sessions do not wait for SETUP.
  }

  /** The parameters; `undefined` before SETUP. */
  get parameters(): MoqParameters | undefined {
    return this.#parameters;
  }

  /** The path, if SETUP has one. */
  get path(): string | undefined {
    return this.#path;
  }

  /**
   * Takes SETUP.
   *
   * @throws {ProtocolError} If SETUP came before, or a parameter is malformed.
   */
  take(parameters: MoqParameters): void {
    if (this.#parameters !== undefined) {
      throw new ProtocolError("Expected one SETUP, received a second one");
    }
    const hop = parameters.get(HOP_PARAMETER);
    if (hop !== undefined) new FieldReader(hop, "the hop of SETUP").varint62();
    const path = parameters.get(PATH_PARAMETER.stream);
    if (path !== undefined) this.#path = new TextDecoder().decode(path);
    this.#parameters = parameters;
    this.#arrived.resolve();
  }

  /** Ends the wait for SETUP with the session. */
  end(error: unknown): void {
    this.#arrived.reject(error);
  }
}
