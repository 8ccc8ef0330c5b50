/** Network addresses of requests, and listening at an address. */
import { isRuntimeError, runtimeError } from "../base/platform.ts";

/** Information from an HTTP server about a request. */
export interface RequestInfo {
  /** Remote address of the request. */
  readonly remoteAddr?: Deno.Addr | undefined;
}

/**
 * Returns the network address of a peer.
 *
 * @returns The address; `undefined` where the HTTP server does not pass one on.
 */
export function peerAddress({ remoteAddr }: RequestInfo): string | undefined {
  return remoteAddr !== undefined && "hostname" in remoteAddr ? remoteAddr.hostname : undefined;
}

interface ListenPlace {
  /** IP address or host name. */
  readonly hostname: string;
  readonly port: number;
  /** Transport of the port. */
  readonly transport: "TCP" | "UDP";
}

/**
 * Listens, and throws an error with the address if the address is in use.
 *
 * @param place Address to name in the error.
 * @returns The result of `listen`.
 * @throws {Deno.errors.AddrInUse} If the address is in use.
 */
export function listenAt<T>({ hostname, port, transport }: ListenPlace, listen: () => T): T {
  try {
    return listen();
  } catch (cause) {
    if (!isRuntimeError(cause, "AddrInUse")) throw cause;
    const host = hostname.includes(":") ? `[${hostname}]` : hostname;
    throw runtimeError(
      "AddrInUse",
      `Cannot listen on ${host}:${port} (${transport}): the address is in use`,
      { cause },
    );
  }
}
