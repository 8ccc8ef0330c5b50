/**
 * The streams that clients create, over HTTP or by the first write of a state, counted on all nodes,
 * with a share per client.
 */
import type { Runtime } from "../../base/runtime.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { QuotaShares, QuotaStats } from "../../base/quotas/shares.ts";
import type { StreamCreated, StreamLogs } from "../logs/stream_logs.ts";
import type { RetainedLedger } from "../responses/retained_ledger.ts";
import { RetainedShares, UNKNOWN } from "../responses/retained_shares.ts";

/** Options of {@linkcode ClientStreams}. */
export interface ClientStreamsOptions {
  readonly runtime: Runtime;
  readonly streams: StreamLogs;
  readonly maxStreams: number;
  readonly streamShares: QuotaShares;
}

/**
 * Limits the streams of clients.
 *
 * - **Share:** while more than half of the limit is used, an account that has reached its share
 *   cannot create another stream. Durable streams are never dropped to make room.
 * - **Owner:** the client that created the stream owns it. Streams created by the server have no
 *   account, and count only towards the limit.
 */
export class ClientStreams {
  readonly #streams: StreamLogs;
  readonly #shares: RetainedShares;

  constructor({ runtime, streams, maxStreams: max, streamShares }: ClientStreamsOptions) {
    this.#streams = streams;
    this.#shares = new RetainedShares({
      runtime,
      streams,
      kind: "stream",
      limit: "maxStreams",
      shareLimits: { address: "maxStreamsPerAddress", user: "maxStreamsPerUser" },
      verb: "create",
      what: "streams",
      max,
      ...streamShares,
    });
  }

  get stats(): QuotaStats {
    return this.#shares.stats;
  }

  /**
   * Creates a stream, if its account's share allows it.
   *
   * @param create Creates the stream with these keys of its account, if known.
   * @returns The result of `create`.
   * @throws {LimitError} If a share has been reached; the error includes the level.
   */
  async create(
    { id, account }: { readonly id: string; readonly account: Account },
    create: (keys: string | undefined) => Promise<StreamCreated>,
  ): Promise<StreamCreated> {
    const keys = await this.#shares.keysOf(account);
    if (keys === UNKNOWN) return await create(undefined);
    const counting = await this.#count(id, keys);
    let isCreated = false;
    try {
      const created = await create(keys);
      isCreated = created.kind === "created";
      return created;
    } finally {
      if (!isCreated) { for (const ledger of counting) ledger.remove(id); }
    }
  }

  /** Records that a stream was deleted on this node. */
  deleted(id: string): void {
    for (const ledger of this.#shares.ledgers) ledger.remove(id);
  }

  /**
   * Counts a stream before the broker has it, so that concurrent requests cannot exceed a share.
   */
  async #count(id: string, keys: string): Promise<RetainedLedger[]> {
    const shares = this.#shares;
    await shares.prepare();
    // A repeated request to create a stream uses no slot, even while the first request is pending.
    if (shares.ledgers.some((ledger) => ledger.has(id))) return [];
    // Others may have deleted streams since the last list.
    if (shares.full(keys) !== undefined && shares.isOld) await shares.list();
    const full = shares.full(keys);
    if (full === undefined) return shares.ledgers.filter((ledger) => ledger.add(id, keys));
    // The ledger may lack a stream of the application.
    if ((await this.#streams.info(id)).kind === "page") return [];
    return shares.reject(full.level, shares.mostOf(full));
  }
}
