/** Errors for addresses in use that name the address, which the runtime's errors do not. */

/** Address to listen on. */
export interface ListenPlace {
  /** IP address or host name. */
  readonly hostname: string;
  /** Port number. */
  readonly port: number;
  /** Transport of the port. */
  readonly transport: "TCP" | "UDP";
}

/**
 * Listens, and throws an error with the address if the address is in use.
 *
 * @typeParam T Type of the listener.
 * @param place Address to name in the error.
 * @param listen Starts listening.
 * @returns The result of `listen`.
 * @throws {Deno.errors.AddrInUse} If the address is in use.
 */
export function listenAt<T>({ hostname, port, transport }: ListenPlace, listen: () => T): T {
  try {
    return listen();
  } catch (cause) {
    if (!(cause instanceof Deno.errors.AddrInUse)) throw cause;
    const host = hostname.includes(":") ? `[${hostname}]` : hostname;
    throw new Deno.errors.AddrInUse(
      `Cannot listen on ${host}:${port} (${transport}): the address is in use`,
      { cause },
    );
  }
}
