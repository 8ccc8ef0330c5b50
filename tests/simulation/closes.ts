/**
 * The status of a client after a close, as described in docs/protocol.md 15.4 and in the docs of
 * `ClientStatus`.
 */
import type { ClientStatus } from "../../client/client_options.ts";
import { CloseCode, type CloseInfo } from "../../errors.ts";

/** Close codes after which a client may stay closed. */
export const FINAL: ReadonlySet<number> = new Set([
  CloseCode.malformed,
  CloseCode.unauthenticated,
  CloseCode.forbidden,
  CloseCode.notFound,
]);

/**
 * Returns the name of a client's status after a session has ended or a connection attempt has
 * failed.
 *
 * @param end How it ended.
 * @param wasConnected True if a session ended, false if an attempt failed.
 */
export function nameAfter(
  { code, by }: Pick<CloseInfo, "code" | "by">,
  wasConnected: boolean,
): ClientStatus["name"] {
  if (code === CloseCode.normal && by !== "network") return "closed";
  if (by === "network" || !FINAL.has(code)) return "reconnecting";
  // After a token expires, the client retries once.
  const isExpired = wasConnected && by === "remote" && code === CloseCode.unauthenticated;
  const isMalformed = wasConnected && code === CloseCode.malformed;
  const isNotFound = by === "remote" && code === CloseCode.notFound;
  return isExpired || isMalformed || isNotFound ? "reconnecting" : "rejected";
}
