/** Hashes of names, keys and options. */
import { builtin } from "./builtins.ts";

/**
 * Hashes a text with SHA-256. Synchronous, unlike Web Crypto, because a name is a property. The
 * runtime encodes the hash faster than it returns bytes.
 *
 * @returns 43 characters in base64url.
 */
export function hashOf(text: string): string {
  return builtin("node:crypto").createHash("sha256").update(text).digest("base64url");
}
