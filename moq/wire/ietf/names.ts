/** Namespaces of the IETF's drafts: lists of fields, as paths. */
import type { FieldReader, FieldWriter } from "../fields.ts";
import { type BroadcastPath, MAX_PATH_BYTES, MAX_PATH_PARTS } from "../path.ts";

/** The maximum length of a namespace with the name of a track, in bytes. */
export const MAX_NAME_BYTES = 4_096;

// A byte order mark belongs to a name like any other character.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Adds the fields of a path. */
export function writeNamespace(fields: FieldWriter, path: BroadcastPath | string): void {
  const parts = partsOf(path);
  fields.varint(parts.length);
  for (const part of parts) fields.string(part);
}

/**
 * Reads a namespace.
 *
 * @returns The path; `undefined` for a namespace that no path can tell apart from another one,
 * because a field has a slash or is not UTF-8, or that is too long for a path.
 * @throws {ProtocolError} If the namespace breaks a rule of the drafts.
 */
export function readNamespace(fields: FieldReader): BroadcastPath | undefined {
  const count = fields.varint();
  if (count > MAX_PATH_PARTS) {
    throw fields.fault(`a namespace has at most ${MAX_PATH_PARTS} fields, received ${count}`);
  }
  let byteLength = 0;
  const parts: (string | undefined)[] = [];
  for (let at = 0; at < count; at++) {
    const bytes = fields.sized();
    if (bytes.byteLength === 0) throw fields.fault("a field of a namespace has at least one byte");
    byteLength += bytes.byteLength;
    if (byteLength > MAX_NAME_BYTES) {
      throw fields.fault(`a namespace has at most ${MAX_NAME_BYTES} bytes`);
    }
    parts.push(textOf(bytes));
  }
  const isUsable = parts.every((part) => part !== undefined && !part.includes("/"));
  return isUsable && byteLength + count <= MAX_PATH_BYTES ? `/${parts.join("/")}` : undefined;
}

/** Reads the name of a track; `undefined` if it is not UTF-8. */
export function readTrackName(fields: FieldReader): string | undefined {
  const bytes = fields.sized();
  if (bytes.byteLength > MAX_NAME_BYTES) {
    throw fields.fault(`a name has at most ${MAX_NAME_BYTES} bytes`);
  }
  return textOf(bytes);
}

/** Returns true for a namespace that the drafts reserve for the session itself. */
export function isReserved(path: BroadcastPath): boolean {
  const first = path.split("/", 2)[1];
  return first === "." || first === ".session";
}

function partsOf(path: string): string[] {
  return path.split("/").filter((part) => part !== "");
}

function textOf(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes);
  } catch {
    return undefined;
  }
}
