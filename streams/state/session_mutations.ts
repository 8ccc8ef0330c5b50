/** Mutations of clients, over their sessions. */
import { BrokerError, RequestError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { internals } from "../../session/session.ts";
import { MAX_WRITES, type WriteResult } from "../../session/wire/rows.ts";
import type { StreamLogs } from "../logs/stream_logs.ts";
import type { WriteTime, WriteTimes } from "./change_decisions.ts";
import { type MutationCaller, MutationMark, type MutationNumber } from "./mutation_marks.ts";
import type { MutationSource, StateMutations } from "./mutations.ts";
import { forNow } from "./rejections.ts";
import {
  MAX_TURN_MS,
  missingRejection,
  readTimeout,
  type SessionSource,
} from "./session_writes.ts";
import { type WriteRejected, writeRejection } from "./state.ts";
import type { Transacted } from "./transact.ts";

/** The name of a client or of a transaction, chosen at random. */
const NAME = /^[\w-]{8,32}$/;

/** Parts of {@linkcode mutateRows}. */
export interface SessionMutationsParts {
  readonly runtime: Runtime;
  readonly mutations: StateMutations;
  readonly source: SessionSource & MutationSource;
  readonly caller: MutationCaller;
  readonly times: WriteTimes;
  /** Appends to the stream; creates a state of the contract that is not stored yet. */
  readonly append: StreamLogs["append"];
  /** Returns whether this server is about to create the state anew, if it is missing. */
  readonly isAwaited: () => boolean;
  /** Makes the readers of the state find out whether it was lost. */
  readonly recheck: () => void;
}

/**
 * Runs the mutations of a client, one after another.
 *
 * @param id The id of the state.
 * @param data The publication's data.
 * @param parts The client, and the parts of the server.
 * @returns The outcomes, in the order of the mutations. The last one may be a rejection; the mutations
 * after it were not begun.
 * @throws {RequestError} With the code `malformed` if the data is no list of mutations, and
 * `unavailable` if the broker is unreachable; the first mutation may have been made.
 */
export async function mutateRows(
  id: string,
  data: unknown,
  parts: SessionMutationsParts,
): Promise<{ readonly results: readonly WriteResult[] }> {
  const { runtime, source, caller, times } = parts;
  const time = times.of(readTimeout(data));
  const { calls, number, txids } = readMutations(data);
  const results: WriteResult[] = [];
  let mark: MutationMark | undefined;
  let turnMs = runtime.monotonic();
  let debtMs = 0;
  const spend = (publications: number) => {
    debtMs = source.session[internals].receiving.meter?.spent(publications) ?? 0;
  };
  for (const [i, [name, input]] of calls.entries()) {
    // A broker in memory replies within the turn, in which other clients could do nothing.
    if (runtime.monotonic() - turnMs > MAX_TURN_MS) {
      await new Promise<void>((end) => runtime.schedule(end));
      turnMs = runtime.monotonic();
    }
    // The client sends the rest again in its next session.
    if (i > 0 && source.session.isClosed) break;
    if (i > 0 && debtMs > 0) {
      results.push({ error: forNow("earlier mutations have read many rows", debtMs).failure });
      break;
    }
    if (i > 0 && runtime.monotonic() > time.waitUntilMs) {
      results.push({ error: forNow("earlier mutations took too long", 0).failure });
      break;
    }
    const since = Math.max(number.since, mark?.version ?? 0);
    mark = new MutationMark({ ...number, n: number.n + i }, caller, mark?.version);
    try {
      const call = { name, input, mark, since, txid: txids?.[i], time, spend };
      const result = await mutate(id, call, parts);
      results.push(result);
      if (!("version" in result)) break;
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error;
      if (i > 0) break;
      throw new RequestError("unavailable", error.message, { cause: error });
    }
  }
  return { results };
}

async function mutate(
  id: string,
  call: {
    readonly name: string;
    readonly input: unknown;
    readonly mark: MutationMark;
    readonly since: number;
    readonly txid: string | undefined;
    readonly time: WriteTime;
    readonly spend: (publications: number) => void;
  },
  { mutations, source, append, ...finding }: SessionMutationsParts,
): Promise<WriteResult> {
  try {
    const made = await mutations.run(id, { ...call, source, append });
    const version = versionOf(id, made, finding);
    if (made.kind === "appended") call.mark.written(version);
    return { version };
  } catch (error) {
    if (error instanceof RequestError) return { error: error.failure };
    throw error;
  }
}

/**
 * Returns a version of the state that includes a mutation.
 *
 * @param id The id of the state.
 * @param made The result of the mutation.
 * @param finding What a missing state means.
 * @throws {RequestError} If the mutation was not made.
 */
export function versionOf(
  id: string,
  made: Transacted,
  finding: Pick<SessionMutationsParts, "isAwaited" | "recheck">,
): number {
  switch (made.kind) {
    case "appended":
      return made.info.tail;
    case "made":
    case "unchanged":
      return made.version;
    case "missing":
      throw missingRejection(id, finding);
  }
  throw writeRejection(id, made as WriteRejected);
}

function readMutations(data: unknown): {
  readonly calls: readonly (readonly [name: string, input: unknown])[];
  readonly number: MutationNumber;
  readonly txids: readonly string[] | undefined;
} {
  const { mutations, client, n, since, again = false, txids } = Object(data) as Record<
    string,
    unknown
  >;
  const isCount = (count: unknown): count is number =>
    Number.isSafeInteger(count) && count as number >= 0;
  const isName = (name: unknown): name is string => typeof name === "string" && NAME.test(name);
  const isValid = Array.isArray(mutations) && mutations.length > 0 &&
    mutations.length <= MAX_WRITES &&
    mutations.every((call) => Array.isArray(call) && typeof call[0] === "string") &&
    isName(client) && isCount(n) && isCount(n + mutations.length) && isCount(since) &&
    typeof again === "boolean" &&
    (txids === undefined ||
      Array.isArray(txids) && txids.length === mutations.length && txids.every(isName));
  if (isValid) return { calls: mutations, number: { client, n, since, isAgain: again }, txids };
  throw new RequestError(
    "malformed",
    `Expected {"mutations":[[name,input]],"client":name,"n":1,"since":0} with 1 to ${MAX_WRITES} ` +
      "mutations",
  );
}
