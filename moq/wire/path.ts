/**
 * Broadcast paths: one form in the program, for every form on the wire. gomoqt needs slashes, while
 * moq-rs and its JavaScript trim slashes and write none.
 */
import { ProtocolError } from "../../errors.ts";

/**
 * The path of a broadcast, such as `/live/alice`: a leading slash, single slashes between the
 * parts, and no slash at the end. `/` alone is the empty path.
 */
export type BroadcastPath = `/${string}`;

/** The maximum number of parts of a path, as in moq-rs. */
export const MAX_PATH_PARTS = 32;

/** The maximum size of a path, in bytes. */
export const MAX_PATH_BYTES = 1_024;

/**
 * Normalizes a path: removes extra slashes, and adds a missing leading slash.
 *
 * @param text A path, with or without a leading slash.
 * @returns The path in the form that this library uses.
 * @throws {TypeError} If the path is not a string.
 * @throws {RangeError} If the path has too many parts or bytes.
 *
 * @example Usage
 * ```ts
 * import { broadcastPath } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(broadcastPath("live//alice/"), "/live/alice");
 * ```
 */
export function broadcastPath(text: string): BroadcastPath {
  if (typeof text !== "string") {
    throw new TypeError(`Cannot use path: it must be a string, received ${typeof text}`);
  }
  const fault = pathFault(text);
  if (fault !== undefined) throw new RangeError(`Cannot use path: ${fault}`);
  return normalized(text);
}

/**
 * Normalizes a path that a peer sent.
 *
 * @throws {ProtocolError} If the path has too many parts or bytes.
 */
export function receivedPath(text: string): BroadcastPath {
  const fault = pathFault(text);
  if (fault !== undefined) throw new ProtocolError(`Cannot read path: ${fault}`);
  return normalized(text);
}

/**
 * Formats a path for the wire.
 *
 * @param isSlashed True if the peer needs the leading slash.
 */
export function wirePath(path: BroadcastPath, isSlashed: boolean): string {
  return isSlashed ? path : path.slice(1);
}

/**
 * Formats a prefix for the wire. A prefix with slashes ends with a slash. It is never empty,
 * because gomoqt does not survive an empty prefix.
 *
 * @param isSlashed True if the peer needs slashes.
 */
export function wirePrefix(prefix: BroadcastPath, isSlashed: boolean): string {
  if (!isSlashed) return prefix.slice(1);
  return prefix === "/" ? "/" : `${prefix}/`;
}

/**
 * Removes a prefix from a path, at a part boundary.
 *
 * @returns The rest, without a leading slash; `undefined` if the path is not below the prefix.
 */
export function suffixOf(prefix: BroadcastPath, path: BroadcastPath): string | undefined {
  if (prefix === "/") return path.slice(1);
  if (path === prefix) return "";
  return path.startsWith(`${prefix}/`) ? path.slice(prefix.length + 1) : undefined;
}

/**
 * Joins a prefix and a suffix.
 *
 * @throws {ProtocolError} If the path has too many parts or bytes.
 */
export function joinPath(prefix: BroadcastPath, suffix: string): BroadcastPath {
  return receivedPath(`${prefix}/${suffix}`);
}

function normalized(text: string): BroadcastPath {
  return `/${text.split("/").filter((part) => part !== "").join("/")}`;
}

function pathFault(text: string): string | undefined {
  const parts = text.split("/").filter((part) => part !== "").length;
  if (parts > MAX_PATH_PARTS) {
    return `it must have at most ${MAX_PATH_PARTS} parts, received ${parts}`;
  }
  const bytes = text.length > MAX_PATH_BYTES / 3 ? new TextEncoder().encode(text).byteLength : 0;
  if (bytes > MAX_PATH_BYTES) {
    return `it must have at most ${MAX_PATH_BYTES} bytes, received ${bytes}`;
  }
  return undefined;
}
