/** Writes of clients to a state, over their sessions. */
import { readWrite } from "../http/changes.ts";
import { Problem } from "../../server/http/problem.ts";
import { BrokerError, RequestError } from "../../errors.ts";
import { type Change, type ClientChange, encodeTransaction } from "../logs/change_message.ts";
import type { StreamAppended } from "../logs/stream_logs.ts";
import { internals, type Session } from "../../session/session.ts";
import {
  checkRow,
  countFault,
  MAX_SESSION_ROWS,
  MAX_WRITES,
  readRowName,
  retryAfterMsOf,
  rowName,
  WRITE_TIMEOUT_MS,
  type WriteResult,
} from "../../session/wire/rows.ts";
import type { ChangeSource, WriteTime } from "./change_decisions.ts";
import type { EphemeralRows } from "./ephemeral_rows.ts";
import { forNow } from "./rejections.ts";
import { missingState, type StateParts, writeRejection } from "./state.ts";
import { appendUnchanged, type Scans } from "./unchanged.ts";

/** Time after which a publication lets other events be handled, in milliseconds. */
export const MAX_TURN_MS = 5;

/** Pause before a client sends a write again to a state that is created anew, in milliseconds. */
const AWAITED_MS = 200;

/** A client with a session. */
export interface SessionSource extends ChangeSource {
  readonly session: Session;
  /** Returns whether the client may read the stream. */
  readonly mayRead: () => Promise<boolean>;
}

/**
 * Writes the transactions of a client to a keyed stream, one after another. Each of them takes
 * effect completely or not at all.
 *
 * @param id The id of the stream.
 * @param data The publication's data.
 * @param source The client.
 * @returns The outcomes, in the order of the transactions. There are fewer of them than
 * transactions after a conflict, after a rejection for now (see `retryAfterMsOf`), or if the broker
 * became unreachable in between. A transaction whose schema fails is reported to the application, and has
 * the code `failed`.
 * @throws {RequestError} With the code `malformed` if the data is no list of transactions, and
 * `unavailable` if the broker is unreachable; the first transaction may have taken effect.
 */
export async function writeRows(
  id: string,
  data: unknown,
  { source, ephemeral, ...parts }: StateParts & {
    readonly source: SessionSource;
    /** The ephemeral rows of the state, if this server has them open. */
    readonly ephemeral: EphemeralRows | undefined;
    /** Returns whether this server is about to create the state anew, if it is missing. */
    readonly isAwaited: () => boolean;
    /** Makes the readers of the state find out whether it was lost. */
    readonly recheck: () => void;
  },
): Promise<{ readonly results: readonly WriteResult[] }> {
  const { runtime, gate } = parts;
  const time = gate.times.of(readTimeout(data));
  const { ephemeral: rows } = Object(data) as { readonly ephemeral?: unknown };
  if (rows !== undefined) {
    return await writeEphemeral(id, rows, { ...parts, source, time, ephemeral });
  }
  const results: WriteResult[] = [];
  let turnMs = runtime.monotonic();
  for (const write of readWrites(data)) {
    // A broker in memory replies within the turn, in which other clients could do nothing.
    if (runtime.monotonic() - turnMs > MAX_TURN_MS) {
      await new Promise<void>((end) => runtime.schedule(end));
      turnMs = runtime.monotonic();
    }
    // The client sends the rest again in its next session.
    if (results.length > 0 && source.session.isClosed) break;
    // The client receives the outcomes in time, and sends the others again.
    if (results.length > 0 && runtime.monotonic() > time.waitUntilMs) {
      results.push({ error: forNow("earlier writes took too long", 0).failure });
      break;
    }
    try {
      const result = await writeOne(id, write, { ...parts, source, time });
      results.push(result);
      // The reply has room for one row.
      if ("conflict" in result) break;
      // Other rows may be free, but each wait of a publication would add to its time.
      if (retryAfterMsOf(result) !== undefined) break;
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error;
      if (results.length > 0) break;
      throw new RequestError("unavailable", error.message, { cause: error });
    }
  }
  return { results };
}

/** Reads the time for which the client waits for the reply. */
export function readTimeout(data: unknown): number {
  const { timeoutMs = WRITE_TIMEOUT_MS } = Object(data) as { readonly timeoutMs?: unknown };
  if (typeof timeoutMs === "number" && timeoutMs >= 0) return timeoutMs;
  throw new RequestError("malformed", "Expected a timeoutMs of 0 or more");
}

function readWrites(data: unknown): readonly (readonly unknown[])[] {
  const { writes } = Object(data) as { readonly writes?: unknown };
  const isValid = Array.isArray(writes) && writes.length > 0 && writes.length <= MAX_WRITES &&
    writes.every((write) => Array.isArray(write) && write.length > 0);
  if (isValid) return writes;
  throw new RequestError(
    "malformed",
    `Expected {"cancel":reason}, or {"writes":[[change]]} with 1 to ${MAX_WRITES} transactions`,
  );
}

/** Writes ephemeral rows of a client, each on its own. */
async function writeEphemeral(
  id: string,
  data: unknown,
  { source, time, gate, ephemeral }: StateParts & {
    readonly source: SessionSource;
    readonly time: WriteTime;
    readonly ephemeral: EphemeralRows | undefined;
  },
): Promise<{ readonly results: readonly WriteResult[] }> {
  const { session, account } = source;
  const isValid = Array.isArray(data) && data.length > 0 && data.length <= MAX_SESSION_ROWS &&
    data.every(Array.isArray);
  if (!isValid) {
    const rule = `Expected {"ephemeral":[[type,key,value]]} with 1 to ${MAX_SESSION_ROWS} rows`;
    throw new RequestError("malformed", rule);
  }
  const results: WriteResult[] = [];
  for (const write of data) {
    results.push(
      await settled(source, async () => {
        const change = readEphemeral(write);
        const { type, key } = change;
        if (ephemeral?.names.has(type) === false) {
          const names = [...ephemeral.names].join(", ");
          const rule = `the collection must be one of ${names}, received "${type}"`;
          throw new RequestError("unknown-collection", `Cannot write state: ${rule}`);
        }
        const checkReads = () => {
          // The session may have ended, or its client may have moved to another one.
          if (ephemeral?.feed?.has(session)) return ephemeral;
          const rule = "a session must subscribe to ephemeral rows before it writes them";
          throw new RequestError("superseded", `Cannot write state: ${rule}`);
        };
        const rows = checkReads();
        const version = await gate.writeEphemeral(id, change, {
          source,
          time,
          present: () => rows.collection(type).get(key),
          make: (allowed) => checkReads().write(session, allowed, account),
        });
        return { version };
      }),
    );
  }
  return { results };
}

function readEphemeral([type, key, data]: readonly unknown[]): ClientChange {
  try {
    checkRow(type as string, key as string);
  } catch (cause) {
    throw new RequestError("malformed", (cause as Error).message, { cause });
  }
  const row = { type: type as string, key: key as string };
  return { ...row, operation: data === undefined ? "delete" : "upsert", data };
}

async function writeOne(
  id: string,
  write: readonly unknown[],
  { source, time, gate, isAwaited, recheck, ...parts }: StateParts & {
    readonly source: SessionSource;
    readonly time: WriteTime;
    readonly isAwaited: () => boolean;
    readonly recheck: () => void;
  },
): Promise<WriteResult> {
  return await settled(source, async () => {
    const fault = countFault(write.length);
    if (fault !== undefined) throw tooLarge(fault);
    const { changes, scans } = readWrite(write);
    const append = (checked: readonly Change[], identity?: string) =>
      appendChanges(id, checked, { ...parts, identity, scans, untilMs: time.waitUntilMs });
    const result = await gate.write(id, changes, { source, time, append });
    if (result.kind === "appended") return { version: result.info.tail };
    if (result.kind === "missing") throw missingRejection(id, { isAwaited, recheck });
    if (result.kind !== "conflict") throw writeRejection(id, result);
    const [type, key] = readRowName(result.row);
    const { version, since, text, keepsTurn } = result;
    const present = text === undefined ? {} : JSON.parse(text);
    if (text === undefined || await source.mayRead()) {
      const turn = keepsTurn ? true : undefined;
      return { conflict: { ...present, type, key, version, since, turn } };
    }
    // A client that may not read the row still learns that the write took effect.
    const txid: unknown = present.headers?.txid;
    const isOwn = txid !== undefined && changes.some((change) => change.txid === txid);
    return { conflict: { type, key, version, since, ...(isOwn && { headers: { txid } }) } };
  });
}

/** Returns the result of a write, also if it is an error that the client receives. */
async function settled(
  source: SessionSource,
  write: () => Promise<WriteResult>,
): Promise<WriteResult> {
  try {
    return await write();
  } catch (error) {
    if (error instanceof RequestError) return { error: error.failure };
    if (error instanceof BrokerError) throw error;
    if (error instanceof Problem) return { error: { code: error.code, message: error.message } };
    source.session[internals].handlerFailed(error, "A handler failed");
    return { error: { code: "failed", message: "The check of a row failed" } };
  }
}

/** Appends changes, unless they are too large for a message. */
async function appendChanges(
  id: string,
  changes: readonly Change[],
  { runtime, logs, maxTransactionBytes, identity, scans, untilMs }: Omit<StateParts, "gate"> & {
    readonly identity: string | undefined;
    /** The collections that must be as they were. */
    readonly scans: Scans;
    /** End of the attempts on the monotonic clock. */
    readonly untilMs: number;
  },
): Promise<StreamAppended> {
  const options = { now: runtime.now(), maxBytes: maxTransactionBytes(id) };
  const encoded = encodeTransaction(changes, options);
  if (encoded.fault !== undefined) throw tooLarge(encoded.fault);
  const append = (ifTail?: number) =>
    logs.append(id, { identity, records: [], changes: encoded.changes, ifTail });
  if (scans.size === 0) return await append();
  const result = await appendUnchanged(id, scans, { append, identity, logs, runtime, untilMs });
  if (result.kind !== "changed") return result;
  const { type, version } = result;
  return { kind: "conflict", row: rowName(type, ""), version, since: version };
}

/** Returns why a write to a missing state was not made, and lets its readers find out more. */
export function missingRejection(
  id: string,
  { isAwaited, recheck }: {
    readonly isAwaited: () => boolean;
    readonly recheck: () => void;
  },
): RequestError {
  if (isAwaited()) {
    const text = `Cannot write state: the server creates "${id}" anew`;
    return new RequestError("unavailable", text, { retryAfterMs: AWAITED_MS });
  }
  recheck();
  return missingState(id);
}

function tooLarge(fault: string): RequestError {
  return new RequestError("too-large", `Cannot write state: ${fault}`);
}
