/** Hashes of names, keys and options. */
import { builtin } from "./builtins.ts";

/** Hashes a text with SHA-256. Synchronous, unlike Web Crypto, because a name is a property. */
export function hashOf(text: string): Uint8Array {
  return builtin("node:crypto").createHash("sha256").update(text).digest();
}
