/** The rules of producers that both sides of a session follow, see 11.16 of the protocol. */
import type { RequestFailure } from "../../errors.ts";

/** The name of a producer: 128 random bits in base64url. */
export const PRODUCER_NAME = /^[\w-]{22}$/;

/** Numbers and epochs of producers are below this number. */
export const MAX_PRODUCER_NUMBER = 0x1_0000_0000;

/** True for failures after which a client sends what it keeps again, later. */
export function isPostponed({ code, retryAfterMs }: RequestFailure): boolean {
  return code === "unavailable" || code === "too-many" || retryAfterMs !== undefined;
}
