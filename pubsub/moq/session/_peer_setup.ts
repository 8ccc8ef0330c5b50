/**
 * SETUP of a peer that comes on a stream of its own, some time after the session began.
 *
 * @module
 */
import { ProtocolError } from "../../../errors.ts";
import { FieldReader } from "../wire/bytes.ts";
import { HOP_PARAMETER, PATH_PARAMETER } from "./_setup.ts";
import type { MoqParameters } from "../wire/messages.ts";

/** What a peer says of itself, once it came. */
export class PeerSetup {
  /** Resolves once it came; rejects if the session ends before. */
  readonly arrived: Promise<void>;
  readonly #arrived: PromiseWithResolvers<void> = Promise.withResolvers();
  #parameters: MoqParameters | undefined = undefined;
  #path: string | undefined = undefined;

  /** Begins without one. */
  constructor() {
    this.arrived = this.#arrived.promise;
    this.arrived.catch(() => {}); // Most sessions do not wait for it.
  }

  /** What it said; `undefined` before. */
  get parameters(): MoqParameters | undefined {
    return this.#parameters;
  }

  /** Where it wants to be, if it said so. */
  get path(): string | undefined {
    return this.#path;
  }

  /**
   * It came.
   *
   * @throws {ProtocolError} If one came before, or a parameter is malformed.
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

  /** It will not come. */
  end(error: unknown): void {
    this.#arrived.reject(error);
  }
}
