/** Hashes for the names of guests, and for keys in the broker. */
import { builtin } from "../../base/builtins.ts";

/** Hashes a text with SHA-256. Synchronous, unlike Web Crypto, because a name is a property. */
export function hashOf(text: string): Uint8Array {
  return builtin("node:crypto").createHash("sha256").update(text).digest();
}
