/**
 * Reports of nodes about the accounts that use much of their shares: numbered changes, as many as a
 * budget of bytes allows.
 */
/** Maximum number of accounts that one node reports. */
export const MAX_REPORTED = 256;

/** Maximum length of a key in a report, as JSON. Accounts with longer keys are not reported. */
const MAX_KEY_CHARS = 300;

/** Largest count in a report, so that sums across all nodes are exact. */
const MAX_REPORTED_COUNT = 1_000_000_000;

/** Number of nodes that request a repetition, on average, if all nodes miss the same report. */
const ASKING_NODES = 4;

const encoder = new TextEncoder();

/** Slots of an account on one node. */
export interface AccountUsage {
  /** Name of the quota. */
  readonly name: string;
  readonly key: string;
  readonly taken: number;
  /** The used fraction of the share. */
  readonly part: number;
}

/** The slots of an account: the name of the quota, the key of the account, and the number. */
export type ReportedUsage = readonly [name: string, key: string, taken: number];

/**
 * A report of a node.
 *
 * A pass repeats all accounts of the node, in one or several reports. A node starts with a pass,
 * and makes another one if a node requests it.
 */
export interface UsageReport {
  /** Number of the last report with changes; each is one higher than the one before. */
  readonly n: number;
  /** Accounts whose number of slots changed or is repeated; absent if `n` is an earlier report. */
  readonly used?: readonly ReportedUsage[] | undefined;
  /** True for the first report of a pass. */
  readonly isFirst?: boolean | undefined;
  /** True for the last report of a pass: accounts that the pass did not list have no slots. */
  readonly isLast?: boolean | undefined;
  /** True if another pass follows, so that no node needs to request one. */
  readonly willRepeat?: boolean | undefined;
}

/** Slots as the other nodes know them. */
interface Told {
  readonly name: string;
  readonly key: string;
  taken: number;
  part: number;
  /** True if the running pass has listed the account. */
  isInPass: boolean;
}

/** A change that the other nodes don't know yet. */
interface Change extends AccountUsage {
  readonly id: string;
  /** How much the other nodes are wrong, as a fraction of the share, times the reports waited. */
  readonly urgency: number;
}

/**
 * Reports the accounts of this node.
 *
 * - **Changes:** a report lists the accounts that changed, the greatest changes first. A change
 *   that waits becomes more urgent with each report, so that none waits forever.
 * - **Budget:** a report has at most the given number of bytes, or one account.
 * - **Losses:** reports are numbered. A node that misses one requests a pass, which repeats all
 *   accounts for all nodes, within the same budget. However many nodes request it, one pass follows.
 * - **Bounds:** at most {@linkcode MAX_REPORTED} accounts, namely those that use most of their share.
 */
export class UsageReporter {
  readonly #told = new Map<string, Told>(); // At most `MAX_REPORTED`.
  /** Number of reports for which each change has waited. */
  #waited = new Map<string, number>(); // At most twice `MAX_REPORTED`.
  #n = 0;
  #pass: "first" | "running" | "over" = "first";
  #isRequested = false;

  /** Makes another pass, after the running one. */
  repeat(): void {
    this.#isRequested = true;
  }

  /**
   * Reports that no account has slots.
   *
   * @returns The report; `undefined` if nothing was reported before.
   */
  clear(): UsageReport | undefined {
    if (this.#n === 0) return undefined;
    const isNews = this.#told.size > 0 || this.#isRequested;
    this.#told.clear();
    this.#waited.clear();
    this.#isRequested = false;
    this.#pass = "over";
    return isNews ? { n: ++this.#n, used: [], isFirst: true, isLast: true } : { n: this.#n };
  }

  /**
   * Makes the next report.
   *
   * @param usages All accounts that use much of their share.
   * @param maxBytes The budget.
   * @returns The report; `undefined` if nothing was ever reported.
   */
  next(usages: AccountUsage[], maxBytes: number): UsageReport | undefined {
    const holders = mostOf(usages);
    if (this.#isRequested && this.#pass === "over") {
      this.#isRequested = false;
      this.#pass = "first";
      for (const told of this.#told.values()) told.isInPass = false;
    }
    if (this.#n === 0 && holders.size === 0) return undefined;
    const used = this.#choose(this.#changes(holders), maxBytes);
    const isFirst = this.#pass === "first";
    const isPassing = this.#pass !== "over";
    const isLast = isPassing && this.#told.values().every(({ isInPass }) => isInPass);
    if (isPassing) this.#pass = isLast ? "over" : "running";
    const willRepeat = this.#isRequested || undefined;
    if (used.length === 0 && !isPassing) return { n: this.#n, willRepeat };
    return {
      n: ++this.#n,
      used,
      isFirst: isFirst || undefined,
      isLast: isLast || undefined,
      willRepeat,
    };
  }

  /** Lists what the other nodes don't know, the most urgent first. */
  #changes(holders: ReadonlyMap<string, AccountUsage>): Change[] {
    const changes: Change[] = [];
    const add = (id: string, usage: AccountUsage, wrong: number) => {
      const urgency = wrong * (1 + (this.#waited.get(id) ?? 0));
      changes.push({ ...usage, id, urgency });
    };
    for (const [id, usage] of holders) {
      const told = this.#told.get(id);
      const isRepeated = told !== undefined && this.#pass !== "over" && !told.isInPass;
      if (isRepeated || told === undefined) add(id, usage, usage.part);
      else if (told.taken !== usage.taken) add(id, usage, Math.abs(usage.part - told.part));
    }
    for (const [id, { name, key, part }] of this.#told) {
      if (!holders.has(id)) add(id, { name, key, taken: 0, part: 0 }, part);
    }
    return changes.sort((one, other) => other.urgency - one.urgency);
  }

  /** Takes as many changes as the budget allows; the others wait. */
  #choose(changes: readonly Change[], maxBytes: number): ReportedUsage[] {
    const used: ReportedUsage[] = [];
    const waiting = new Map<string, number>();
    let bytes = 0;
    for (const { id, name, key, taken, part } of changes) {
      const entry: ReportedUsage = [name, key, taken];
      const size = encoder.encode(JSON.stringify(entry)).length + 1;
      const isFull = used.length > 0 && bytes + size > maxBytes;
      const hasNoPlace = !this.#told.has(id) && this.#told.size >= MAX_REPORTED;
      if (isFull || hasNoPlace) {
        waiting.set(id, (this.#waited.get(id) ?? 0) + 1);
        continue;
      }
      bytes += size;
      used.push(entry);
      if (taken === 0) this.#told.delete(id);
      else this.#told.set(id, { name, key, taken, part, isInPass: true });
    }
    this.#waited = waiting;
    return used;
  }
}

/** Chooses the accounts that use most of their share, by quota and key. */
function mostOf(usages: AccountUsage[]): Map<string, AccountUsage> {
  if (usages.length > MAX_REPORTED) usages.sort((one, other) => other.part - one.part);
  const most = new Map<string, AccountUsage>();
  for (const usage of usages) {
    if (most.size >= MAX_REPORTED) break;
    const { name, key } = usage;
    if (JSON.stringify(key).length <= MAX_KEY_CHARS) most.set(idOf(name, key), usage);
  }
  return most;
}

/** Counts the slots of accounts on other nodes. */
export interface RemoteCounts {
  /** Adds slots to an account, or removes them if the difference is negative. */
  addRemote(key: string, difference: number): void;
}

/** The slots that another node reported for an account. */
interface ReportedSlots {
  readonly name: string;
  readonly key: string;
  taken: number;
  /** True if the running pass has listed the account. */
  isInPass: boolean;
}

/** The accounts that another node reports. */
export class ReportedUsages {
  readonly #quotaOf: (name: string) => RemoteCounts | undefined;
  /** Bounded by `MAX_REPORTED` before and after a pass. */
  readonly #slots = new Map<string, ReportedSlots>();
  #n = 0;
  /** True if every report since the start of the last complete pass has arrived. */
  #isWhole = false;
  /** True if every report since the start of the running pass has arrived. */
  #isInPass = false;
  /** Reports since this node first missed one. */
  #missedFor = 0;

  /**
   * Starts without accounts.
   *
   * @param quotaOf Finds the quota with a name, in which the accounts count.
   */
  constructor(quotaOf: (name: string) => RemoteCounts | undefined) {
    this.#quotaOf = quotaOf;
  }

  /** Counts the accounts of a quota that has just been opened. */
  opened(name: string, quota: RemoteCounts): void {
    for (const slots of this.#slots.values()) {
      if (slots.name === name) quota.addRemote(slots.key, slots.taken);
    }
  }

  /** Counts a report. */
  take({ n, used, isFirst = false, isLast = false }: UsageReport): void {
    const isNews = used !== undefined && n > this.#n;
    if (n !== this.#n + (isNews ? 1 : 0)) this.#isWhole = this.#isInPass = false;
    this.#n = n;
    if (isFirst) {
      this.#isInPass = true;
      for (const slots of this.#slots.values()) slots.isInPass = false;
    }
    for (const [name, key, taken] of used ?? []) this.#set(name, key, taken);
    if (!isLast || !this.#isInPass) return;
    this.#isWhole = true;
    this.#isInPass = false;
    for (const [id, slots] of this.#slots) if (!slots.isInPass) this.#delete(id, slots);
  }

  /**
   * Decides whether to request a pass. If many nodes have missed the same report, few of them do;
   * the chance doubles with each report.
   *
   * @param nodes The number of nodes that may have missed the same report.
   * @param random A number in [0, 1).
   */
  isMissing({ willRepeat = false }: UsageReport, nodes: number, random: number): boolean {
    if (this.#isWhole || this.#isInPass || willRepeat) {
      this.#missedFor = 0;
      return false;
    }
    return random < ASKING_NODES * 2 ** this.#missedFor++ / nodes;
  }

  /** Stops counting the node's slots. */
  clear(): void {
    for (const [id, slots] of this.#slots) this.#delete(id, slots);
  }

  #set(name: string, key: string, taken: number): void {
    const id = idOf(name, key);
    const known = this.#slots.get(id);
    if (taken === 0) return known && this.#delete(id, known);
    if (known === undefined) {
      if (this.#slots.size >= 2 * MAX_REPORTED) return;
      this.#slots.set(id, { name, key, taken, isInPass: true });
    } else known.isInPass = true;
    this.#quotaOf(name)?.addRemote(key, taken - (known?.taken ?? 0));
    if (known !== undefined) known.taken = taken;
  }

  #delete(id: string, { name, key, taken }: ReportedSlots): void {
    this.#slots.delete(id);
    this.#quotaOf(name)?.addRemote(key, -taken);
  }
}

function idOf(name: string, key: string): string {
  return `${name} ${key}`;
}

/** Reads a report; `undefined` if malformed. */
export function readReport(value: unknown): UsageReport | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { n, used, isFirst, isLast, willRepeat } = value as Record<string, unknown>;
  if (!Number.isSafeInteger(n) || n as number < 1) return undefined;
  if (used !== undefined && !isUsed(used)) return undefined;
  return {
    n: n as number,
    used,
    isFirst: isFirst === true,
    isLast: isLast === true,
    willRepeat: willRepeat === true,
  };
}

function isUsed(value: unknown): value is ReportedUsage[] {
  return Array.isArray(value) && value.length <= 2 * MAX_REPORTED && value.every(isReported);
}

function isReported(value: unknown): boolean {
  if (!Array.isArray(value) || value.length !== 3) return false;
  const [name, key, taken] = value as readonly unknown[];
  return typeof name === "string" && typeof key === "string" && key.length <= MAX_KEY_CHARS &&
    Number.isSafeInteger(taken) && taken as number >= 0 && taken as number <= MAX_REPORTED_COUNT;
}
