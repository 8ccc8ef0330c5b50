/** Claims and numbers in the store of the engine, from several nodes, beside a model. */
import type { Broker, BrokerStore, TokenRate } from "../../../../../pubsub/broker.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** Nodes that use the store. */
const NODES = 3;

/** Rounds of operations at once. */
const ROUNDS = 16;

/** Time of the rounds, in milliseconds. */
const ALL_MS = 13_000;

/** Most members of a scope. */
const MAX_MEMBERS = 3;

/** Times for which claims hold, in milliseconds; a scope has claims of both. */
const TTLS_MS = [900, 2_400] as const;

/** Time around the end of a claim in which the claim may be there or not, in milliseconds. */
const EDGE_MS = 120;

/** Longest pause between two rounds, in milliseconds. */
const PAUSE_MS = 1_000;

/** Time in which the operations of one round begin, in milliseconds. */
const SPREAD_MS = 12;

/** Renewals of a full scope, and the time between two, as a share of the time of the claims. */
const [RENEWALS, RENEW_SHARE] = [6, { least: 0.3, most: 0.7 }] as const;

/** Time behind a wait for tokens, in milliseconds, as long as a request. */
const LATER_MS = 20;

/** Time for which a number is remembered at least, in milliseconds. */
const WINDOW_MS = 4_000;

/** Largest step of a number. */
const MAX_STEP = 5;

/** Largest number of tokens in a bucket, and that of one take. */
const [MAX_BURST, MAX_AMOUNT] = [5, 3] as const;

/** Tokens that buckets of one audit get each second. */
const RATES = [0.5, 1, 2] as const;

/** Share of several takes at once, and of refused takes that are repeated after the told wait. */
const [GROUP_SHARE, PATIENT_SHARE] = [0.3, 0.4] as const;

/** Difference of two clocks that show whole milliseconds. */
const TICK_MS = 2;

/** Nodes with the store of the engine. */
interface Nodes {
  readonly audit: Audit;
  readonly random: () => number;
  /** The store of one of the nodes. */
  readonly store: () => BrokerStore;
}

/** Earliest and latest time of an event, such as the end of a claim without renewal. */
interface End {
  readonly fromMs: number;
  readonly toMs: number;
}

/** A scope of the model. */
interface Scope {
  readonly name: string;
  readonly max: number;
  /** Ends of the claims, by member. */
  readonly ends: Map<string, End>;
}

/**
 * Claims, renews and gives up places from several nodes at once, advances numbers and takes tokens.
 *
 * @param audit The audit.
 */
export async function auditClaims(audit: Audit): Promise<void> {
  const { engine } = audit;
  const { random } = audit;
  // Two changes at once may both pass on an inexact engine.
  if (engine.hasExactRows !== true) return;
  const brokers: Broker[] = [];
  for (let i = 0; i < NODES; i++) {
    const broker = engine.broker(audit.host(`claimant-${i}`));
    if (broker !== undefined) brokers.push(broker);
  }
  const stores = brokers.flatMap(({ store }) => store ?? []);
  await audit.until(() => brokers.every(({ status }) => status.current.name === "connected"));
  const store = () => oneOf(random, stores);
  const nodes: Nodes = { audit, random, store };
  const endMs = audit.nowMs + ALL_MS;
  await Promise.all([
    claimPlaces(nodes, endMs),
    renewPlaces(nodes),
    advanceNumbers(nodes, endMs),
    ...RATES.map((perSecond) => takeTokens(nodes, perSecond, endMs)),
  ]);
  await Promise.all(brokers.map((broker) => broker.close()));
}

/** Plays rounds in one scope after the other. */
async function claimPlaces(nodes: Nodes, endMs: number): Promise<void> {
  const { audit, random } = nodes;
  let count = 0;
  let scope: Scope | undefined;
  for (let round = 0; round < ROUNDS && audit.nowMs < endMs; round++) {
    scope ??= {
      name: `audit-claims-${round}`,
      max: 1 + Math.floor(random() * MAX_MEMBERS),
      ends: new Map(),
    };
    await leaveEdges(audit, scope);
    if (!await playRound(nodes, scope, () => `member-${count++}`)) scope = undefined;
    if (random() < 0.6) await audit.pause(PAUSE_MS * random());
  }
}

/** Lets time pass until no claim is about to end, and forgets ended claims. */
async function leaveEdges(audit: Audit, { ends }: Scope): Promise<void> {
  const isNear = ({ fromMs, toMs }: End) =>
    fromMs - 2 * EDGE_MS < audit.nowMs && audit.nowMs < toMs + EDGE_MS;
  while ([...ends.values()].some(isNear)) await audit.pause(EDGE_MS);
  for (const [member, { toMs }] of ends) if (toMs < audit.nowMs) ends.delete(member);
}

/**
 * Claims, renews and releases at once.
 *
 * @returns False if a claim may have ended meanwhile, so that the outcome says nothing.
 */
async function playRound(nodes: Nodes, scope: Scope, newMember: () => string): Promise<boolean> {
  const { audit, random, store } = nodes;
  const { name, max, ends } = scope;
  const startMs = audit.nowMs;
  const taken = ends.size;
  const operations: Promise<unknown>[] = [];
  const at = async <T>(operate: (store: BrokerStore) => Promise<T>): Promise<T> => {
    const one = store();
    await audit.pause(SPREAD_MS * random());
    return await operate(one);
  };
  const claim = (member: string, what: string) => {
    const ttlMs = oneOf(random, TTLS_MS);
    const claiming = at((one) => one.claim(name, member, { max, ttlMs }));
    operations.push(claiming.then((isClaimed) => {
      if (isClaimed) ends.set(member, { fromMs: startMs + ttlMs, toMs: audit.nowMs + ttlMs });
      else if (what === "renewal") failed.push(member);
      else refused++;
    }));
  };
  const failed: string[] = [];
  let [claims, released, refused] = [0, 0, 0];
  const untouched: End[] = [];
  for (const [member, end] of [...ends]) {
    const choice = random();
    if (choice < 0.35) {
      released++;
      ends.delete(member);
      operations.push(at((one) => one.release(name, member)));
    } else if (choice < 0.7) claim(member, "renewal");
    else untouched.push(end);
  }
  for (const most = Math.floor(random() * (max + 2)); claims < most; claims++) {
    claim(newMember(), "claim");
  }
  await Promise.all(operations);
  const listed = await store().claims(name);
  if (untouched.some(({ fromMs }) => fromMs - EDGE_MS < audit.nowMs)) return false;
  if ([...ends.values()].some(({ fromMs }) => fromMs - EDGE_MS < audit.nowMs)) return false;
  const what = `with ${taken} of ${max}, ${released} released and ${claims} claimed at once`;
  audit.examine("places", `refused renewals, ${what}`, [], failed);
  audit.examine("places", `members, ${what}`, [...ends.keys()].toSorted(), listed.toSorted());
  const [least, most] = [max - taken, max - taken + released].map((free) => Math.min(claims, free));
  const got = claims - refused;
  audit.examine("places", `${got} places got, ${what}`, true, got >= least! && got <= most!);
  return true;
}

/** Renews the places of a full scope for longer than a claim holds: a guest gets no place. */
async function renewPlaces({ audit, random, store }: Nodes): Promise<void> {
  const ttlMs = oneOf(random, TTLS_MS);
  const max = 1 + Math.floor(random() * MAX_MEMBERS);
  const members = Array.from({ length: max }, (_, i) => `holder-${i}`);
  const claim = (member: string) => store().claim("audit-renewals", member, { max, ttlMs });
  for (let i = 0; i <= RENEWALS; i++) {
    const startMs = audit.nowMs;
    const held = await Promise.all(members.map(claim));
    const what = `after ${i} renewals of ${max} for ${ttlMs} ms`;
    audit.examine("places", `places ${what}`, members.map(() => true), held);
    await audit.pause(ttlMs * between(random, RENEW_SHARE.least, RENEW_SHARE.most));
    const [listed, isFree] = await Promise.all([
      store().claims("audit-renewals"),
      claim("guest"),
    ]);
    // A slow engine may take longer than a claim holds.
    if (audit.nowMs - startMs > ttlMs - EDGE_MS) return;
    audit.examine("places", `members ${what}`, members, listed.toSorted());
    audit.examine("places", `place for a guest ${what}`, false, isFree);
  }
}

/** Advances one number from several nodes at once, and reads the number later. */
async function advanceNumbers({ audit, random, store }: Nodes, endMs: number): Promise<void> {
  let [key, newest, untilMs] = ["", -1, -Infinity];
  for (let round = 0; round < ROUNDS && audit.nowMs < endMs; round++) {
    // The number may be remembered longer.
    if (audit.nowMs > untilMs - EDGE_MS) [key, newest] = [`audit-numbers-${round}`, -1];
    const startMs = audit.nowMs;
    const numbers = Array.from(
      { length: 1 + Math.floor(random() * NODES) },
      () => Math.max(0, newest - 1 + Math.floor(random() * MAX_STEP)),
    );
    const results = await Promise.all(numbers.map((n) => store().advance(key, n, WINDOW_MS)));
    if (newest >= 0 && audit.nowMs > untilMs) continue;
    const what = `${numbers} after ${newest}`;
    const largest = Math.max(...numbers);
    const old = results.filter((isNew, i) => isNew && numbers[i]! <= newest);
    audit.examine("places", `old numbers that are new, of ${what}`, [], old);
    const count = results.filter((isNew, i) => isNew && numbers[i] === largest).length;
    audit.examine("places", `largest new number of ${what}`, largest > newest ? 1 : 0, count);
    if (largest > newest) [newest, untilMs] = [largest, startMs + WINDOW_MS];
    await audit.pause((untilMs - audit.nowMs - EDGE_MS) * random() ** 2);
    const read = await store().newest(key, WINDOW_MS);
    if (audit.nowMs < untilMs) audit.examine("places", `number behind ${what}`, newest, read);
  }
}

/** Takes tokens from one bucket by several nodes, at once and one after the other. */
async function takeTokens(
  { audit, random, store }: Nodes,
  perSecond: number,
  endMs: number,
): Promise<void> {
  const rate = { perSecond, burst: 1 + Math.floor(random() * MAX_BURST) };
  const key = `audit-tokens-${perSecond}`;
  const of = `of a bucket of ${rate.burst}, then ${perSecond} a second`;
  const bucket = new Bucket(rate, audit.nowMs);
  while (audit.nowMs < endMs) {
    const amount = 1 + Math.floor(random() * Math.min(rate.burst, MAX_AMOUNT));
    const count = random() < GROUP_SHARE ? 2 + Math.floor(random() * rate.burst) : 1;
    const fromMs = audit.nowMs;
    const takes = Array.from({ length: count }, () => store().take?.(key, amount, rate));
    const taken = (await Promise.all(takes)).flatMap((one) => one ?? []);
    if (taken.length < count) return;
    bucket.fill({ fromMs, toMs: audit.nowMs });
    const { least, most } = bucket;
    const [fewest, greatest] = [least, most].map((n) => Math.min(count, Math.floor(n / amount)));
    const refusals = taken.filter(({ granted }) => !granted);
    const grants = count - refusals.length;
    const what = `of ${count} takes of ${amount} at once, with ${least} to ${most} ${of}`;
    const isRight = grants >= fewest! && grants <= greatest!;
    audit.examine("places", `${grants} grants ${what}`, true, isRight);
    bucket.take(amount, grants, refusals.length > 0);
    const longestMs = bucket.msUntil(amount, bucket.least) + TICK_MS;
    // A take of a group may be refused shortly before another one is granted.
    const shortestMs = grants > 0 ? 1 : bucket.msUntil(amount, bucket.most) - TICK_MS;
    const waits = taken.map(({ retryAfterMs }) => retryAfterMs);
    const areRight = taken.every(({ granted, retryAfterMs: ms }) =>
      granted ? ms === 0 : ms > 0 && ms >= shortestMs && ms <= longestMs
    );
    audit.examine("places", `waits of ${waits} ms ${what}`, true, areRight);
    if (!isRight || !areRight) return;
    const [refusal] = refusals;
    const isPatient = refusal !== undefined && random() < PATIENT_SHARE;
    const tokenMs = 1_000 / perSecond;
    await audit.pause(isPatient ? refusal.retryAfterMs + LATER_MS : tokenMs * random());
  }
}

/** A bucket as the contract knows it: the tokens that nodes may have left, by times of calls. */
class Bucket {
  /** Least and largest number of tokens. */
  least: number;
  most: number;
  readonly #rate: TokenRate;
  #at: End;

  constructor(rate: TokenRate, nowMs: number) {
    this.least = this.most = rate.burst;
    this.#rate = rate;
    this.#at = { fromMs: nowMs, toMs: nowMs };
  }

  /** Adds the tokens of the time up to a call. */
  fill(at: End): void {
    const { perSecond, burst } = this.#rate;
    const after = (tokens: number, ms: number) =>
      Math.min(burst, tokens + Math.max(0, ms) * perSecond / 1_000);
    this.least = after(this.least, at.fromMs - this.#at.toMs - TICK_MS);
    this.most = after(this.most, at.toMs - this.#at.fromMs + TICK_MS);
    this.#at = at;
  }

  /** Takes an amount several times; after a refusal less than the amount is left. */
  take(amount: number, grants: number, isRefused: boolean): void {
    this.least = Math.max(0, this.least - amount * grants);
    const left = this.most - amount * grants;
    this.most = isRefused ? Math.min(left, amount) : left;
  }

  /** Time until a number of tokens becomes another one, in milliseconds. */
  msUntil(amount: number, tokens: number): number {
    return Math.ceil((amount - tokens) / this.#rate.perSecond * 1_000);
  }
}
