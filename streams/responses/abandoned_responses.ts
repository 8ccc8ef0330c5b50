/** Ends running responses of guests who have left, if no one is reading them. */
import { RequestError } from "../../errors.ts";
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { Quota } from "../../base/quotas/shares.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import type { StreamLogs } from "../logs/stream_logs.ts";

/**
 * Time after which an abandoned response ends, in milliseconds. A phone may be offline for some
 * minutes before its page requests the response again.
 */
export const ABANDONED_MS = 300_000;

/**
 * The same time, in milliseconds, while more than half of the limit on running responses is used. A
 * page reload or a network change takes less time than this.
 */
export const CONTENDED_ABANDONED_MS = 30_000;

/** Most streams in one request to the other nodes, so that it fits into a broker message. */
const MAX_ASKED = 1_000;

/** Longest wait for the other nodes, in milliseconds. */
const ASK_MS = 2_000;

/** Kind of the request for the streams that have readers on another node. */
const READ_STREAMS = "read-streams";

/** Reason for the generator, and for later readers. */
const REASON = "The caller has left, and no one reads the response";

/** A running response. */
export interface WatchedResponse {
  /** Id of the stream. */
  readonly id: string;
  /** The caller. */
  readonly account: Account;
  /** Ends the response with a reason for its readers. MUST NOT throw. */
  readonly end: (reason: RequestError) => void;
}

/** Parts of {@linkcode AbandonedResponses}. */
export interface AbandonedResponsesParts {
  readonly runtime: Runtime;
  /** The slots of all running responses. */
  readonly quota: Pick<Quota, "isContended">;
  /** The streams of this node. */
  readonly streams: Pick<StreamLogs, "isFollowed">;
  /** The nodes of the broker, if the server has one. */
  readonly nodes?: Pick<Nodes, "ask" | "handle" | "size"> | undefined;
}

/** A network address, or a guest without a known address. */
interface Caller {
  sessions: number;
  readonly responses: Set<WatchedResponse>;
}

/**
 * Ends the running responses of guests who have left, because each response may cost money.
 *
 * - **Abandoned:** a response is abandoned while this node has neither a session from the caller's
 *   network address nor a reader of the response. An IPv6 /64 counts as one address. If the address
 *   is unknown or belongs to a proxy, the guest's sessions count instead. If the response was taken
 *   over from another node, its caller is unknown, so only its readers count.
 * - **Time:** an abandoned response ends after 5 minutes, or after 30 s once more than half of the
 *   limit on running responses is used. A new session or reader stops the timer, which restarts
 *   when all sessions and readers have left. A read that does not wait also restarts the timer.
 * - **Other nodes** are queried for readers before a response ends; if there are any, the timer
 *   restarts. A node that does not respond within 2 s counts as one without readers. Sessions of
 *   the address on other nodes do not count.
 * - **End:** the code is `cancelled`.
 * - **Users:** responses of users never end by this rule.
 * - **Memory:** there is one entry per address with a session, and one per running response of a
 *   guest.
 */
export class AbandonedResponses {
  readonly #parts: AbandonedResponsesParts;
  /** Bounded by the sessions and the running responses. */
  readonly #callers = new Map<string, Caller>();
  /** Responses by stream; bounded by the running responses. */
  readonly #responses = new Map<string, WatchedResponse>();
  // An abandoned response is in one of these three.
  readonly #fresh: Deadlines<WatchedResponse>;
  readonly #patient: Deadlines<WatchedResponse>;
  readonly #due = new Set<WatchedResponse>();
  #ending: Promise<void> | undefined;
  readonly #handler: Disposable | undefined;

  constructor(parts: AbandonedResponsesParts) {
    this.#parts = parts;
    const { runtime, quota, streams, nodes } = parts;
    this.#patient = new Deadlines(
      runtime,
      ABANDONED_MS - CONTENDED_ABANDONED_MS,
      (response) => this.#endSoon(response),
    );
    this.#fresh = new Deadlines(
      runtime,
      CONTENDED_ABANDONED_MS,
      (response) => quota.isContended ? this.#endSoon(response) : this.#patient.add(response),
    );
    this.#handler = nodes?.handle(
      READ_STREAMS,
      (ids) => textsOf(ids).filter((id) => streams.isFollowed(id)),
    );
  }

  /** Counts a session of this node. */
  opened(account: Account): void {
    const key = clientKey(account);
    if (key === undefined) return;
    const caller = this.#callerOf(key);
    if (++caller.sessions === 1) this.#restartAll(caller);
  }

  /**
   * Removes a session from the count.
   *
   * @param account The account that `opened` was called with.
   */
  ended(account: Account): void {
    const key = clientKey(account);
    const caller = key === undefined ? undefined : this.#callers.get(key);
    if (key === undefined || caller === undefined || --caller.sessions > 0) return;
    this.#restartAll(caller);
    this.#tidy(key, caller);
  }

  /**
   * Called when a stream gets its first reader on this node, loses its last reader, or was read
   * once.
   */
  read(id: string): void {
    const response = this.#responses.get(id);
    if (response !== undefined) this.#restart(response);
  }

  /**
   * Watches a running response until disposal.
   *
   * @param response The response; a user's response is ignored.
   * @returns Stops watching on disposal.
   */
  watch(response: WatchedResponse): Disposable {
    const { id, account } = response;
    if (account.user !== undefined) return { [Symbol.dispose]() {} };
    const key = clientKey(account);
    if (key !== undefined) this.#callerOf(key).responses.add(response);
    this.#responses.set(id, response);
    this.#restart(response);
    return { [Symbol.dispose]: () => this.#forget(response) };
  }

  /** Ends responses that were abandoned for 30 s, if slots have become scarce. */
  taken(): void {
    if (!this.#parts.quota.isContended) return;
    for (const response of this.#patient.clear()) this.#endSoon(response);
  }

  /** Stops ending responses, and stops all timers. Idempotent. */
  close(): void {
    this.#handler?.[Symbol.dispose]();
    for (const response of [...this.#responses.values()]) this.#forget(response);
    this.#fresh.clear();
    this.#patient.clear();
  }

  #callerOf(key: string): Caller {
    let caller = this.#callers.get(key);
    if (caller === undefined) {
      caller = { sessions: 0, responses: new Set() };
      this.#callers.set(key, caller);
    }
    return caller;
  }

  #tidy(key: string, caller: Caller): void {
    if (caller.sessions === 0 && caller.responses.size === 0) this.#callers.delete(key);
  }

  #restartAll({ responses }: Caller): void {
    for (const response of responses) this.#restart(response);
  }

  /** Restarts or stops the timer of a response. */
  #restart(response: WatchedResponse): void {
    this.#stop(response);
    const key = clientKey(response.account);
    const hasSessions = key !== undefined && this.#callers.get(key)!.sessions > 0;
    if (!hasSessions && !this.#parts.streams.isFollowed(response.id)) this.#fresh.add(response);
  }

  #stop(response: WatchedResponse): void {
    this.#fresh.delete(response);
    this.#patient.delete(response);
    this.#due.delete(response);
  }

  #forget(response: WatchedResponse): void {
    this.#stop(response);
    if (this.#responses.get(response.id) === response) this.#responses.delete(response.id);
    const key = clientKey(response.account);
    const caller = key === undefined ? undefined : this.#callers.get(key);
    if (key === undefined || !caller?.responses.delete(response)) return;
    this.#tidy(key, caller);
  }

  #endSoon(response: WatchedResponse): void {
    this.#due.add(response);
    this.#ending ??= this.#endDue();
  }

  /** Ends due responses, unless they have readers on other nodes. Never rejects. */
  async #endDue(): Promise<void> {
    await Promise.resolve(); // One request for all streams of one turn.
    while (this.#due.size > 0) {
      const asked = [...this.#due].slice(0, MAX_ASKED);
      const read = await this.#readElsewhere(asked.map(({ id }) => id));
      for (const response of asked) {
        // A session or a reader may have arrived in between.
        if (!this.#due.has(response)) continue;
        if (read.has(response.id)) this.#restart(response);
        else {
          this.#forget(response);
          response.end(new RequestError("cancelled", REASON));
        }
      }
    }
    this.#ending = undefined;
  }

  /** Finds the streams that have readers on other nodes. */
  async #readElsewhere(ids: readonly string[]): Promise<Set<string>> {
    const { nodes } = this.#parts;
    if (nodes === undefined || nodes.size === 0) return new Set();
    const { replies } = await nodes.ask(READ_STREAMS, ids, { timeoutMs: ASK_MS });
    return new Set(replies.flatMap(({ data }) => textsOf(data)));
  }
}

/**
 * The key of an account's address, or of the guest if the address is unknown; `undefined` if
 * neither is known.
 */
function clientKey({ networks: [address], isBehindProxy, guest }: Account): string | undefined {
  if (address !== undefined && !isBehindProxy) return `at ${address.key}`;
  return guest === undefined ? undefined : `guest ${guest}`;
}

/** The texts in the data of another node. */
function textsOf(data: unknown): string[] {
  return Array.isArray(data) ? data.filter((one) => typeof one === "string") : [];
}
