/** Reads the network addresses of requests, and listens at an address. */
import { isRuntimeError, runtimeError } from "../base/platform.ts";
import { isBadHostname } from "./deno_errors.ts";

/** The information that an HTTP server provides about a request. */
export interface RequestInfo {
  /** The remote address of the request. */
  readonly remoteAddr?: Deno.Addr | undefined;
}

/**
 * Returns the network address of a peer.
 *
 * @returns The address, or `undefined` if the HTTP server does not report one.
 */
export function peerAddress({ remoteAddr }: RequestInfo): string | undefined {
  return remoteAddr !== undefined && "hostname" in remoteAddr ? remoteAddr.hostname : undefined;
}

interface ListenPlace {
  readonly hostname: string;
  readonly port: number;
  readonly transport: "TCP" | "UDP";
}

/**
 * Calls `listen`. If the address is already in use, or is none, the error names it.
 *
 * @param place The address to name in the error.
 * @returns The result of `listen`.
 * @throws {Deno.errors.AddrInUse} If the address is already in use.
 * @throws {TypeError} If the hostname has a wrong form or is unknown.
 */
export function listenAt<T>({ hostname, port, transport }: ListenPlace, listen: () => T): T {
  try {
    return listen();
  } catch (cause) {
    if (isBadHostname(cause)) {
      throw new TypeError(
        "Cannot listen: hostname must be an address or a name of this machine, received " +
          JSON.stringify(hostname),
        { cause },
      );
    }
    if (!isRuntimeError(cause, "AddrInUse")) throw cause;
    const host = hostname.includes(":") ? `[${hostname}]` : hostname;
    throw runtimeError(
      "AddrInUse",
      `Cannot listen on ${host}:${port} (${transport}): the address is in use`,
      { cause },
    );
  }
}
