/**
 * Pool of UDP sockets for clients.
 *
 * @module
 */
import { permittedHost } from "./runtime.ts";

/** Most idle sockets in the pool; beyond, a socket is closed. */
const MAX_IDLE_ENDPOINTS = 8;

/**
 * Pool of client endpoints, each for one connection at a time. The runtime frees a socket only on
 * garbage collection, so sockets are reused: otherwise frequent dials would exhaust the file
 * descriptors.
 */
export class ClientEndpoints {
  // State of the module, because the sockets of the runtime are global too.
  static readonly #idle: Deno.QuicEndpoint[] = [];

  /**
   * Takes an endpoint from the pool, or creates one.
   *
   * @returns An endpoint without a connection.
   */
  static take(): Deno.QuicEndpoint {
    return this.#idle.pop() ?? newEndpoint();
  }

  /** Returns an endpoint whose connection has ended. */
  static giveBack(endpoint: Deno.QuicEndpoint): void {
    if (this.#idle.length < MAX_IDLE_ENDPOINTS) this.#idle.push(endpoint);
    else endpoint.close({ closeCode: 0, reason: "" });
  }
}

function newEndpoint(): Deno.QuicEndpoint {
  // Chosen so that the user is asked for one permission instead of two.
  const hostname = permittedHost();
  try {
    return new Deno.QuicEndpoint({ hostname: hostname ?? "::", port: 0 });
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return new Deno.QuicEndpoint({ hostname: "0.0.0.0", port: 0 });
  }
}
