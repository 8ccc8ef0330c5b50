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

/** The ends of the texts for errors of the system, whose own texts name no address. */
const CAUSES = {
  AddrInUse: ": the address is in use",
  AddrNotAvailable: ": this machine does not have the address; 0.0.0.0 stands for all it has",
  PermissionDenied: ": the system denies it, as it does for ports below 1024 without a privilege",
} as const;

/**
 * Calls `listen`. If the system denies the address, or it is none, the error names it.
 *
 * @param place The address to name in the error.
 * @returns The result of `listen`.
 * @throws {Deno.errors.AddrInUse} If the address is already in use.
 * @throws {Deno.errors.AddrNotAvailable} If the machine does not have the address.
 * @throws {Deno.errors.PermissionDenied} If the system denies the port.
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
    const names = Object.keys(CAUSES) as (keyof typeof CAUSES)[];
    const name = names.find((name) => isRuntimeError(cause, name));
    if (name === undefined) throw cause;
    const host = hostname.includes(":") ? `[${hostname}]` : hostname;
    const where = `${host}:${port} (${transport})`;
    throw runtimeError(name, `Cannot listen on ${where}${CAUSES[name]}`, { cause });
  }
}
