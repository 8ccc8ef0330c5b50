/** Shares of the logs of one kind on all nodes: responses, or streams created by clients. */
import { LimitError, type LimitLevel } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { type Account, UDP_PROXY } from "../../base/quotas/accounts.ts";
import {
  isContended,
  limitError,
  mostOfNetwork,
  type QuotaOptions,
  type QuotaStats,
} from "../../base/quotas/shares.ts";
import type { OwnedKind } from "../logs/log_names.ts";
import type { RetainedLog } from "../logs/rules.ts";
import type { StreamLogs } from "../logs/stream_logs.ts";
import { type Party, RetainedLedger } from "./retained_ledger.ts";
import { digest } from "../options.ts";

/** Minimum time between two lists of all logs, in milliseconds. */
const REFRESH_MS = 5_000;

/**
 * Pause after listing the logs, as a multiple of the time that it took, so that a twentieth of the
 * time is spent on listing.
 */
const REFRESH_FACTOR = 20;

/** Logs per page of the list. */
const PAGE = 1_000;

/** Part of the limit below which the ledger is discarded. */
const FORGET_PART = 0.4;

/** Most accounts whose keys are remembered. */
const MAX_KEYS = 1_024;

/** Characters of a key: 96 bits, so that no one can guess another account's key. */
const KEY_LENGTH = 16;

/** Network of all clients behind a UDP proxy, with as many shares as a /48. */
const BEHIND_UDP_PROXY = { key: UDP_PROXY, factor: 16 };

/** Keys of an unknown account. */
export const UNKNOWN = "a1.nobody";

/** Options of {@linkcode RetainedShares}. */
export interface RetainedSharesOptions
  extends Omit<QuotaOptions, "name" | "isCostly" | "exact" | "retryAfterMs"> {
  readonly runtime: Runtime;
  readonly streams: StreamLogs;
  readonly kind: OwnedKind;
  /** Called with each new ledger, once it contains all logs. */
  readonly onListed?: ((ledger: RetainedLedger) => void) | undefined;
}

/**
 * Tracks who owns the logs of one kind.
 *
 * - **Half of the limit:** while less than half of the limit is used, a log needs no extra call.
 *   Above that, the node occasionally reads a list of the logs and their accounts from the broker,
 *   and tracks its own changes in between.
 * - **Keys:** the broker stores digests with each log instead of addresses or names.
 */
export class RetainedShares {
  readonly #options: RetainedSharesOptions;
  readonly #keys = new Map<string, Promise<string>>(); // At most `MAX_KEYS`.
  readonly #rejected: Record<LimitLevel, number> = { server: 0, address: 0, user: 0, session: 0 };
  #ledger: RetainedLedger | undefined;
  /** The ledger that a running list fills. */
  #next: RetainedLedger | undefined;
  #listing: Promise<RetainedLedger> | undefined;
  #listAgainAtMs = -Infinity;

  constructor(options: RetainedSharesOptions) {
    this.#options = options;
  }

  /** Counters. `taken` covers all nodes, as of the newest log on this node. */
  get stats(): QuotaStats {
    const { max } = this.#options;
    return { taken: this.#taken, max, rejected: { ...this.#rejected } };
  }

  /** True if the last list is outdated or a newer list is being read. */
  get isOld(): boolean {
    const isDue = this.#options.runtime.monotonic() >= this.#listAgainAtMs;
    return isDue || this.#listing !== undefined;
  }

  /** The ledger, and the next one while it is being filled; empty while no share applies. */
  get ledgers(): RetainedLedger[] {
    return [this.#ledger, this.#next].filter((ledger) => ledger !== undefined);
  }

  /** Reads the accounts of the logs, while shares apply. */
  async prepare(): Promise<void> {
    if (this.#isBusy || this.#strict.length > 0) await this.known();
    else if (this.#taken < this.#options.max * FORGET_PART) this.#ledger = undefined;
  }

  /** Finds an account's party whose share is used up, as of {@linkcode RetainedShares.prepare}. */
  full(keys: string): Party | undefined {
    const isBusy = this.#isBusy;
    return this.#ledger?.partiesOf(keys).find((party) =>
      party.count >= this.mostOf(party) && (isBusy || this.#strict.includes(party.level))
    );
  }

  shareOf({ level, factor }: Pick<Party, "level" | "factor">): number {
    return (this.#options.shares[level] ?? Infinity) * factor;
  }

  /** Most logs of a party under contention. */
  mostOf({ level, factor }: Party): number {
    const { max, shares } = this.#options;
    const share = shares[level] ?? Infinity;
    if (level !== "address") return share;
    return mostOfNetwork({ share, factor, max, isStrict: this.#strict.includes(level) });
  }

  /**
   * Counts a rejection.
   *
   * @throws {LimitError} Always.
   */
  reject(level: LimitLevel, most: number = this.#options.max): never {
    this.#rejected[level]++;
    throw limitError(this.#options, { level, most });
  }

  /**
   * Counts a rejection of an account that has replaced as many logs as its share within an hour.
   *
   * @throws {LimitError} Always.
   */
  rejectUntil(party: Party, retryAfterMs: number): never {
    const { level } = party;
    this.#rejected[level]++;
    const { limit, verb, what, remedies } = this.#options;
    const rule = `your ${level} may replace at most ${this.shareOf(party)} ${what} an hour`;
    const remedy = remedies?.[level];
    const message = `Cannot ${verb}: ${rule}${remedy === undefined ? "" : `; ${remedy}`}`;
    throw new LimitError(limit, message, { retryAfterMs, level });
  }

  /** The ledger. An outdated ledger is renewed in the background. */
  async known(): Promise<RetainedLedger> {
    if (this.#ledger === undefined) return await this.list();
    if (this.isOld) this.list().catch(() => {}); // The next call retries.
    return this.#ledger;
  }

  /** Lists all logs; concurrent calls share the list. */
  list(): Promise<RetainedLedger> {
    return this.#listing ??= this.#listAll().finally(() => {
      this.#next = this.#listing = undefined;
    });
  }

  /**
   * Creates the keys of an account as the broker stores them, narrowest first: user or guest, then
   * networks with their shares.
   */
  async keysOf(
    { user, guest, isFamiliar, isBehindProxy, isBehindUdpProxy, networks: all }: Account,
  ): Promise<string> {
    const isStrict = this.#strict.includes("address");
    const networks = isBehindUdpProxy ? [BEHIND_UDP_PROXY] : isBehindProxy && !isStrict ? [] : all;
    const name = user === undefined ? guest && `guest ${guest}` : `user ${user}`;
    const kind = isFamiliar ? "f" : "a";
    const keys = networks.map(({ key, factor }) => this.#key(`${kind}${factor}.`, `at ${key}`));
    // Without a known address, the user counts as an address.
    if (networks.length === 0 && name !== undefined) keys.push(this.#key("a1.", name));
    if (name !== undefined) keys.unshift(this.#key(user === undefined ? "g." : "u.", name));
    return keys.length === 0 ? UNKNOWN : (await Promise.all(keys)).join(" ");
  }

  get #isBusy(): boolean {
    return isContended(this.#taken, this.#options.max);
  }

  /** Levels whose share always applies. */
  get #strict(): NonNullable<QuotaOptions["strict"]> {
    return this.#options.strict ?? [];
  }

  get #taken(): number {
    return this.#options.streams.countOf(this.#options.kind);
  }

  async #listAll(): Promise<RetainedLedger> {
    const { runtime, streams, kind, onListed } = this.#options;
    const ledger = this.#next = new RetainedLedger();
    const startMs = runtime.monotonic();
    this.#listAgainAtMs = startMs + REFRESH_MS;
    const all: RetainedLog[] = [];
    let after: string | undefined;
    do {
      const page = await streams.list(kind, { limit: PAGE, after });
      all.push(...page.logs);
      after = page.next;
    } while (after !== undefined);
    all.sort((a, b) => (a.endedAt ?? Infinity) - (b.endedAt ?? Infinity) || 0);
    for (const { id, owner = UNKNOWN, endedAt } of all) ledger.add(id, owner, endedAt);
    onListed?.(ledger);
    const tookMs = runtime.monotonic() - startMs;
    this.#listAgainAtMs = startMs + Math.max(REFRESH_MS, tookMs * REFRESH_FACTOR);
    return this.#ledger = ledger;
  }

  #key(prefix: string, what: string): Promise<string> {
    const name = prefix + what;
    const key = this.#keys.get(name) ??
      digest(this.#options.runtime, what).then((text) => prefix + text.slice(0, KEY_LENGTH));
    this.#keys.delete(name);
    this.#keys.set(name, key);
    if (this.#keys.size > MAX_KEYS) this.#keys.delete(this.#keys.keys().next().value!);
    return key;
  }
}
