/** The newest states of logs that this node has seen, which tell if JetStream has lost changes. */
import type { LogInfo } from "../../../streams/logs/log.ts";

/** Maximum number of logs whose newest state is remembered. */
const MAX_HEARD_LOGS = 16_384;

/** The newest known state of a log. */
export type HeardLog = Pick<LogInfo, "identity" | "tail"> & { readonly isEnded: boolean };

/** The part of a state that is compared. */
type LogPlace = Pick<LogInfo, "identity" | "tail"> & Partial<Pick<LogInfo, "end">>;

/** The newest known state of each log, in the order of use. */
export class HeardLogs {
  readonly #heard = new Map<string, HeardLog>();

  /** Remembers a state, unless a newer one of the same log is known. */
  note(id: string, { identity, tail, end }: LogPlace): void {
    const before = this.#heard.get(id);
    const known = before?.identity === identity ? before : { tail: 0, isEnded: false };
    this.#heard.delete(id);
    this.#heard.set(id, {
      identity,
      tail: Math.max(tail, known.tail),
      isEnded: known.isEnded || end !== undefined,
    });
    if (this.#heard.size > MAX_HEARD_LOGS) this.#heard.delete(this.#heard.keys().next().value!);
  }

  /** Returns the newest known state of a log. */
  newest(id: string): HeardLog | undefined {
    return this.#heard.get(id);
  }
}

/** True if a state lacks changes of the same log that this node has heard of. */
export function isBehind(state: LogPlace | undefined, heard: HeardLog | undefined): boolean {
  if (state === undefined || state.identity !== heard?.identity) return false;
  return state.tail < heard.tail || heard.isEnded && state.end === undefined;
}
