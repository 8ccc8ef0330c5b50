/**
 * The address in errors about it: that of the runtime says only that one is in use.
 *
 * @module
 */

/** Where something is to listen. */
export interface ListenPlace {
  /** The address. */
  readonly hostname: string;
  /** The port. */
  readonly port: number;
  /** The transport that the port is of. */
  readonly transport: "TCP" | "UDP";
}

/**
 * Listens, and names the address where that is in use.
 *
 * @typeParam T Whatever listens.
 * @param place See {@linkcode ListenPlace}.
 * @param listen Listens.
 * @returns What `listen` returns.
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
