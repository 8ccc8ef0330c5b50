/**
 * The UDP sockets of clients.
 *
 * @module
 */
import { permittedHost } from "./runtime.ts";

/** Sockets that wait for their next connection; more are closed. */
const MAX_IDLE_ENDPOINTS = 8;

/**
 * Endpoints for clients, one for each connection at a time. The runtime gives a
 * socket back only when it collects its garbage, so a socket whose connection
 * ended is used again: who dials often would run out of files otherwise.
 */
export class ClientEndpoints {
  // State of the module, as the one of the runtime that it stands for.
  static readonly #idle: Deno.QuicEndpoint[] = [];

  /**
   * Takes an endpoint.
   *
   * @returns One that has no connection.
   */
  static take(): Deno.QuicEndpoint {
    return this.#idle.pop() ?? newEndpoint();
  }

  /**
   * Gives back an endpoint whose connection ended.
   *
   * @param endpoint The endpoint.
   */
  static giveBack(endpoint: Deno.QuicEndpoint): void {
    if (this.#idle.length < MAX_IDLE_ENDPOINTS) this.#idle.push(endpoint);
    else endpoint.close({ closeCode: 0, reason: "" });
  }
}

function newEndpoint(): Deno.QuicEndpoint {
  // The user is asked for one permission, not for two.
  const hostname = permittedHost();
  try {
    return new Deno.QuicEndpoint({ hostname: hostname ?? "::", port: 0 });
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return new Deno.QuicEndpoint({ hostname: "0.0.0.0", port: 0 });
  }
}
