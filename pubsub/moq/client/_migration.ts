/**
 * Where to go after GOAWAY.
 *
 * @module
 */
import type { AllowMigration } from "./client_options.ts";

/**
 * Judges where a server says to go.
 *
 * @param uri What stands in GOAWAY: absolute, or relative to where the client is.
 * @param from Where the client is, if that is known.
 * @param allow The application's rule; the same origin without one.
 * @returns Where to go; `undefined` for the usual place.
 */
export function migrationTarget(
  uri: string,
  from: string | URL | undefined,
  allow: AllowMigration | undefined,
): string | undefined {
  const here = from === undefined ? undefined : URL.parse(from) ?? undefined;
  const there = uri === "" ? null : URL.parse(uri, here);
  if (there === null) return undefined;
  try {
    const isAllowed = allow === undefined ? isSameOrigin(there, here) : allow(there, here);
    return isAllowed === true ? there.href : undefined;
  } catch {
    return undefined;
  }
}

/** `origin` says nothing of schemes that the platform does not know, such as `moqt:`. */
function isSameOrigin(there: URL, here: URL | undefined): boolean {
  return here !== undefined && there.protocol === here.protocol && there.host === here.host;
}
