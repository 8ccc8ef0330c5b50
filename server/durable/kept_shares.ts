/** Shares of the logs of one kind, on all nodes: of answers, or of the streams of clients. */
import type { LimitLevel } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Owner } from "../../base/owners.ts";
import {
  isContended,
  limitError,
  mostOfNetwork,
  type QuotaOptions,
  type QuotaStats,
} from "../../base/shares.ts";
import type { KeptLog, OwnedKind } from "../../pubsub/logs/rules.ts";
import type { StreamLogs } from "../../pubsub/logs/stream_logs.ts";
import { KeptLedger, type Party } from "./kept_ledger.ts";
import { digest } from "./options.ts";

/** Least time between two lists of all logs, in milliseconds. */
const REFRESH_MS = 5_000;

/** Times that a list takes to pass before the next one, so that lists take a twentieth of the time. */
const REFRESH_FACTOR = 20;

/** Logs in one page of the list. */
const PAGE = 1_000;

/** Part of the bound below which the ledger is forgotten. */
const FORGET_PART = 0.4;

/** Most owners whose keys are remembered. */
const MAX_KEYS = 1_024;

/** Characters of a key: 96 bits, so that nobody finds the key of another. */
const KEY_LENGTH = 16;

/** Keys of an owner that is not known. */
export const UNKNOWN = "a1.nobody";

/** Options of {@linkcode KeptShares}. */
export interface KeptSharesOptions
  extends
    Pick<QuotaOptions, "limit" | "shareLimits" | "verb" | "what" | "max" | "shares" | "strict"> {
  readonly runtime: Runtime;
  readonly streams: StreamLogs;
  readonly kind: OwnedKind;
  /** Called with each new ledger, once all logs are in it. */
  readonly onListed?: ((ledger: KeptLedger) => void) | undefined;
}

/**
 * Tells whose the logs of a kind are.
 *
 * - **Half of the bound:** below, a log costs no question more. Above, the node knows whose the logs
 *   are by a list of the engine, read again from time to time, and by what this node did since.
 * - **Keys:** the engine keeps digests with each log, and so has no address and no name.
 */
export class KeptShares {
  readonly #options: KeptSharesOptions;
  readonly #keys = new Map<string, Promise<string>>(); // At most `MAX_KEYS`.
  readonly #refused: Record<LimitLevel, number> = { server: 0, address: 0, user: 0, session: 0 };
  #ledger: KeptLedger | undefined;
  /** The ledger that a list under way fills. */
  #next: KeptLedger | undefined;
  #listing: Promise<KeptLedger> | undefined;
  #listAgainAtMs = -Infinity;

  constructor(options: KeptSharesOptions) {
    this.#options = options;
  }

  /** Counters; those taken are of all nodes, at the newest log of this one. */
  get stats(): QuotaStats {
    const { max } = this.#options;
    return { taken: this.#taken, max, refused: { ...this.#refused } };
  }

  /** True if the last list is to be read again, or a newer one is under way. */
  get isOld(): boolean {
    const isDue = this.#options.runtime.monotonic() >= this.#listAgainAtMs;
    return isDue || this.#listing !== undefined;
  }

  /** The ledger, and the next one while it is filled; empty while no share counts. */
  get ledgers(): KeptLedger[] {
    return [this.#ledger, this.#next].filter((ledger) => ledger !== undefined);
  }

  /** Learns whose the logs are, while shares count. */
  async prepare(): Promise<void> {
    if (this.#isBusy || this.#strict.length > 0) await this.known();
    else if (this.#taken < this.#options.max * FORGET_PART) this.#ledger = undefined;
  }

  /**
   * Finds the party of an owner that has its share already, as far as {@linkcode KeptShares.prepare}
   * knows.
   */
  full(keys: string): Party | undefined {
    const isBusy = this.#isBusy;
    return this.#ledger?.partiesOf(keys).find((party) =>
      party.count >= this.mostOf(party) && (isBusy || this.#strict.includes(party.level))
    );
  }

  /** Shares of a party, of any bound. */
  shareOf({ level, factor }: Pick<Party, "level" | "factor">): number {
    return (this.#options.shares[level] ?? Infinity) * factor;
  }

  /** Most logs that a party keeps, in contention. */
  mostOf({ level, factor }: Party): number {
    const { max, shares } = this.#options;
    const share = shares[level] ?? Infinity;
    if (level !== "address") return share;
    return mostOfNetwork({ share, factor, max, isStrict: this.#strict.includes(level) });
  }

  /**
   * Counts a refusal.
   *
   * @throws {LimitError} Always.
   */
  refuse(level: LimitLevel, most: number = this.#options.max): never {
    this.#refused[level]++;
    throw limitError(this.#options, { level, most });
  }

  /** The ledger; an old one is renewed meanwhile. */
  async known(): Promise<KeptLedger> {
    if (this.#ledger === undefined) return await this.list();
    if (this.isOld) this.list().catch(() => {}); // The next call tries again.
    return this.#ledger;
  }

  /** Lists all logs; calls at once share the list. */
  list(): Promise<KeptLedger> {
    return this.#listing ??= this.#listAll().finally(() => {
      this.#next = this.#listing = undefined;
    });
  }

  /**
   * Makes the keys of an owner, the narrowest first, as the engine keeps them: of the user or guest, and
   * of the networks with their shares.
   */
  async keysOf({ user, guest, isFamiliar, isBehindProxy, networks: all }: Owner): Promise<string> {
    const isStrict = this.#strict.includes("address");
    const networks = isBehindProxy && !isStrict ? [] : all;
    const name = user === undefined ? guest && `guest ${guest}` : `user ${user}`;
    const kind = isFamiliar ? "f" : "a";
    const keys = networks.map(({ key, factor }) => this.#key(`${kind}${factor}.`, `at ${key}`));
    // Without an address of its own, a user stands for one.
    if (networks.length === 0 && name !== undefined) keys.push(this.#key("a1.", name));
    if (name !== undefined) keys.unshift(this.#key(user === undefined ? "g." : "u.", name));
    return keys.length === 0 ? UNKNOWN : (await Promise.all(keys)).join(" ");
  }

  get #isBusy(): boolean {
    return isContended(this.#taken, this.#options.max);
  }

  /** Levels whose share always counts. */
  get #strict(): NonNullable<QuotaOptions["strict"]> {
    return this.#options.strict ?? [];
  }

  get #taken(): number {
    return this.#options.streams.countOf(this.#options.kind);
  }

  async #listAll(): Promise<KeptLedger> {
    const { runtime, streams, kind, onListed } = this.#options;
    const ledger = this.#next = new KeptLedger();
    const startMs = runtime.monotonic();
    this.#listAgainAtMs = startMs + REFRESH_MS;
    const all: KeptLog[] = [];
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
