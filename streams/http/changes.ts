/** Reads the changes of a keyed stream from the body of a request. */
import { z } from "zod";
import { placed } from "../../base/standard_schema.ts";
import { badRequest, MAX_TTL_S, tooLarge } from "./request.ts";
import type { Problem } from "../../server/http/problem.ts";
import type { ClientChange } from "../logs/change_message.ts";
import { countFault, HIDDEN_PREFIX, MAX_ROW_NAME_BYTES, rowName } from "../../session/wire/rows.ts";
import { exceedsBytes } from "../../session/wire/utf8.ts";

const name = z.string().min(1).refine((text) => !exceedsBytes(text, MAX_ROW_NAME_BYTES), {
  error: `must have at most ${MAX_ROW_NAME_BYTES} bytes`,
});

const collection = name.refine((text) => !text.startsWith(HIDDEN_PREFIX), {
  error: `must not start with "${HIDDEN_PREFIX}", which is reserved`,
});

/** The operations of changes without a value. */
const VALUELESS: ReadonlySet<string> = new Set(["delete", "check"]);

/** A change message; unknown members are ignored. */
const MESSAGE = z.object({
  type: collection,
  key: name,
  value: z.unknown().optional(),
  headers: z.object({
    operation: z.enum(["insert", "update", "upsert", "delete", "check"]),
    txid: z.string().min(1).max(256).optional(),
    expect: z.number().int().min(0).optional(),
    since: z.number().int().min(0).optional(),
    ttl: z.number().int().min(1).max(MAX_TTL_S).optional(),
  }),
}).refine(({ value, headers }) => value !== undefined || VALUELESS.has(headers.operation), {
  error: "must be given unless the operation is delete or check",
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
 * @throws {Problem} With 400 for anything else than change messages, and 413 for too many of them.
 */
export function readChanges(records: readonly string[]): readonly ClientChange[] {
  const fault = countFault(records.length);
  if (fault !== undefined) throw tooLarge(fault);
  return records.map((record, index) => readChange(JSON.parse(record), index));
}

/** A condition on a collection, which sessions may send; the key is empty. */
const SCAN = z.object({
  type: collection,
  key: z.literal(""),
  headers: z.object({ operation: z.literal("check"), since: z.number().int().min(0) }),
});

/**
 * Reads a transaction of a session: changes, and conditions on collections.
 *
 * @returns The changes, and for each collection the version after which it must not have changed.
 * @throws {Problem} With 400 for other values.
 */
export function readWrite(
  messages: readonly unknown[],
): { readonly changes: readonly ClientChange[]; readonly scans: ReadonlyMap<string, number> } {
  const scans = new Map<string, number>();
  const changes = messages.flatMap((message, index) => {
    const scan = (Object(message) as { key?: unknown }).key === ""
      ? SCAN.safeParse(message)
      : undefined;
    if (!scan?.success) return [readChange(message, index)];
    const { type, headers: { since } } = scan.data;
    scans.set(type, Math.min(since, scans.get(type) ?? since));
    return [];
  });
  return { changes, scans };
}

/**
 * Reads a change message, as {@linkcode readChanges} does.
 *
 * @param index Its index in the transaction, for the error.
 * @throws {Problem} With 400 for another value.
 */
function readChange(message: unknown, index: number): ClientChange {
  const parsed = MESSAGE.safeParse(message);
  if (!parsed.success) throw badChange(index, parsed.error.issues[0]!);
  const { type, key, value, headers: { operation, txid, ttl, ...conditions } } = parsed.data;
  const ttlMs = ttl && ttl * 1_000;
  const row = rowName(type, key);
  return { type, key, row, operation, txid, ...conditions, ttlMs, data: value };
}

function badChange(index: number, issue: z.core.$ZodIssue): Problem {
  const rule = `element ${index} is not a change message of the State Protocol`;
  return badRequest("bad-change", `Cannot append: ${rule}${placed(issue)}`);
}
