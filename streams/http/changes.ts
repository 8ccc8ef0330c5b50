/** Reads the changes of a keyed stream from the body of a request. */
import { z } from "zod";
import { badRequest, MAX_TTL_S, tooLarge } from "./request.ts";
import type { Problem } from "../../server/http/problem.ts";
import type { ClientChange } from "../logs/change_message.ts";
import { countFault, MAX_ROW_NAME_BYTES, rowName } from "../../session/wire/rows.ts";
import { exceedsBytes } from "../../session/wire/utf8.ts";

const name = z.string().min(1).refine((text) => !exceedsBytes(text, MAX_ROW_NAME_BYTES), {
  error: `must have at most ${MAX_ROW_NAME_BYTES} bytes`,
});

/** A change message; unknown members are ignored. */
const MESSAGE = z.object({
  type: name,
  key: name,
  value: z.unknown().optional(),
  headers: z.object({
    operation: z.enum(["insert", "update", "upsert", "delete"]),
    txid: z.string().min(1).max(256).optional(),
    expect: z.number().int().min(0).optional(),
    since: z.number().int().min(0).optional(),
    ttl: z.number().int().min(1).max(MAX_TTL_S).optional(),
  }),
}).refine(({ value, headers }) => value !== undefined || headers.operation === "delete", {
  error: "must be given unless the operation is delete",
  path: ["value"],
});

/**
 * Reads a body as one transaction of a keyed stream.
 *
 * - Each change message of the State Protocol is a change. `headers.expect` is the version that the
 *   row must have, `headers.since` the version of the stream after which it must not have changed,
 *   and `headers.ttl` the number of seconds after which it expires.
 * - `old_value`, `headers.timestamp` and unknown members are ignored: readers must be able to trust
 *   them.
 *
 * @param records The elements of the body, as JSON.
 * @returns The changes.
 * @throws {Problem} With 400 for anything else than change messages, and 413 for too many of them.
 */
export function readChanges(records: readonly string[]): readonly ClientChange[] {
  const fault = countFault(records.length);
  if (fault !== undefined) throw tooLarge(fault);
  return records.map((record, index) => readChange(JSON.parse(record), index));
}

/**
 * Reads a change message, as {@linkcode readChanges} does.
 *
 * @param message The message.
 * @param index Its index in the transaction, for the error.
 * @throws {Problem} With 400 for another value.
 */
export function readChange(message: unknown, index: number): ClientChange {
  const parsed = MESSAGE.safeParse(message);
  if (!parsed.success) throw badChange(index, parsed.error.issues[0]!);
  const { type, key, value, headers: { operation, txid, ttl, ...conditions } } = parsed.data;
  const ttlMs = ttl && ttl * 1_000;
  const row = rowName(type, key);
  return { type, key, row, operation, txid, ...conditions, ttlMs, data: value };
}

function badChange(index: number, { path, message }: z.core.$ZodIssue): Problem {
  const place = path.length === 0 ? "" : ` at ${path.join(".")}`;
  return badRequest(
    "bad-change",
    `Cannot append: element ${index} must be a change message of the State Protocol, received ` +
      `another value${place}: ${message}`,
  );
}
