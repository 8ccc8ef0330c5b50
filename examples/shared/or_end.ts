/**
 * Ends an example that cannot start.
 *
 * @module
 */
import { BrokerError } from "../../mod.ts"; // jsr:@skein/skein

/** Errors whose messages tell the user what to change. */
const EXPECTED = [BrokerError, TypeError, RangeError, Deno.errors.AddrInUse];

/**
 * Starts a part of a program. If the port is in use, or a file or option cannot be used, it prints
 * one line and exits with code 1.
 *
 * @param start Starts the part.
 * @returns What `start` returns.
 */
export async function orEnd<T>(start: () => T | Promise<T>): Promise<T> {
  try {
    return await start();
  } catch (error) {
    if (!EXPECTED.some((kind) => error instanceof kind)) throw error;
    console.error((error as Error).message);
    return Deno.exit(1);
  }
}
