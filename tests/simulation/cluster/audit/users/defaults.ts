/** Limits of servers that leave some out, or set the least and none: as many places as documented. */
import { LimitError } from "../../../../../errors.ts";
import type { SessionManager } from "../../../../../manager/session_manager.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, type Expect, STEADY } from "../audit.ts";
import { Page } from "./page.ts";
import type { UserNode } from "./user_nodes.ts";

/** Limits of the documentation. */
const DEFAULTS = {
  maxSessions: 10_000,
  maxSessionsPerUser: 100,
  maxSessionsPerAddress: 1_000,
  maxTopicsPerSession: 128,
} as const;

/** Most places that are taken one by one: more take too much time in each plan. */
const MOST_PLACES = 2_400;

/** Share of the audits that fill the places of a server in all by default. */
const LARGE = 0.1;

/** Sockets for each session. */
const SOCKETS = 2;

/** Least burst of attempts of an address, and the share that comes back each second. */
const [LEAST_ATTEMPTS, ATTEMPTS_SHARE] = [100, 0.1] as const;

/** Longest time for attempts to come back, in milliseconds. */
const REFILL_MS = 900;

/** Difference of two clocks that show whole milliseconds. */
const TICK_MS = 2;

/** Least burst of subscriptions, and the subscriptions that come back each second. */
const [LEAST_SUBSCRIPTIONS, SUBSCRIPTIONS_PER_SECOND] = [256, 20] as const;

/** Share of audits that use up the least subscriptions of a session; those beyond are always used up. */
const SUBSCRIBES = 0.4;

/** Time for many envelopes and their answers, in milliseconds: less than that of one subscription. */
const ROUND_MS = 40;

/** Values of each limit between which a plan draws; `undefined` is left out. */
const VALUES = {
  maxSessions: [undefined, undefined, 1, 7, 60],
  maxSessionsPerUser: [undefined, undefined, 1, 2, 5, Infinity],
  maxSessionsPerAddress: [undefined, undefined, 1, 3, 8, 250, Infinity],
  maxTopicsPerSession: [undefined, 1, 127, 129, 160, 160],
} as const;

/** Limits of a server. */
type Limits = Record<keyof typeof VALUES, number>;

/** Limits for a single party. */
type PartyLimits = Record<
  Exclude<keyof Limits, "maxTopicsPerSession"> | "maxSocketsPerAddress",
  number
>;

/** Name of an error: the limit that refused. */
function takes(take: () => unknown): string {
  try {
    take();
    return "taken";
  } catch (error) {
    return error instanceof LimitError ? error.limit : `${error}`;
  }
}

/**
 * Fills the places of a server whose limits are drawn, and uses up the rates that are set by default.
 *
 * @param audit The audit.
 */
export async function auditDefaults(audit: Audit): Promise<void> {
  const random = audit.chanceOf("defaults");
  const limits = {} as Record<keyof Limits, number | undefined>;
  for (const [name, values] of Object.entries(VALUES)) {
    limits[name as keyof Limits] = oneOf<number | undefined>(random, values);
  }
  const set = Object.entries(limits).filter(([, value]) => value !== undefined);
  const known = { ...DEFAULTS, ...Object.fromEntries(set) } as Limits;
  const program = new SimulatedServer<unknown>(audit.network, audit.host("defaults"), () => ({
    limits: Object.fromEntries(set),
    authorize: () => true,
    onMessage() {},
  }));
  const { manager } = program.server;
  const expect: Expect = (what, ...values) =>
    audit.examine(
      "limits",
      `${what} with ${JSON.stringify(Object.fromEntries(set))}`,
      ...values,
    );
  const places = new Places(manager, inForce(known, limits), expect);
  places.fill("user", random() < LARGE);
  places.fill("address", random() < LARGE);
  places.fillSockets(random() < LARGE);
  await auditAttempts(audit, { manager, known, expect, random });
  if (random() < SUBSCRIBES || 2 * known.maxTopicsPerSession > LEAST_SUBSCRIPTIONS) {
    await auditSubscriptions(audit, { node: program as unknown as UserNode, known, expect });
  }
  await program.server.close();
}

/** Limits for a single party: by default, an address has half of all, and a user at least that. */
function inForce(known: Limits, set: Record<keyof Limits, number | undefined>): PartyLimits {
  const { maxSessions, maxSessionsPerUser } = known;
  const { maxSessionsPerAddress: ofAddress } = set;
  const half = Math.ceil(maxSessions / 2);
  return {
    maxSessions,
    maxSessionsPerUser: set.maxSessionsPerUser ?? Math.max(maxSessionsPerUser, half),
    maxSessionsPerAddress: ofAddress ?? half,
    maxSocketsPerAddress: ofAddress === undefined ? maxSessions : SOCKETS * ofAddress,
  };
}

/** The places of a manager. */
class Places {
  readonly #manager: SessionManager;
  readonly #limits: PartyLimits;
  readonly #expect: Expect;
  readonly #refused = { maxSessions: 0, maxSessionsPerUser: 0, maxSessionsPerAddress: 0 };

  constructor(manager: SessionManager, limits: PartyLimits, expect: Expect) {
    this.#manager = manager;
    this.#limits = limits;
    this.#expect = expect;
  }

  /** Reserves places for one user or address up to a limit, gives some back, and takes them again. */
  fill(by: "user" | "address", isLarge: boolean): void {
    const { maxSessions, maxSessionsPerUser, maxSessionsPerAddress } = this.#limits;
    const own = by === "user" ? maxSessionsPerUser : maxSessionsPerAddress;
    const name = by === "user" ? "maxSessionsPerUser" : "maxSessionsPerAddress";
    // With both limits at the same number, that of the user or address refuses first.
    const limit = own <= maxSessions ? name : "maxSessions";
    const most = Math.min(own, maxSessions);
    if (most > MOST_PLACES && !isLarge) return;
    const manager = this.#manager;
    const held: Disposable[] = [];
    const admit = () => held.push(manager.admit({ [by]: by === "user" ? "ann" : "192.0.2.1" }));
    const outcomes = new Set<string>();
    for (let n = 0; n < most; n++) outcomes.add(takes(admit));
    this.#expect(`${most} places of one ${by}`, ["taken"], [...outcomes]);
    const beyond = () => {
      this.#expect(`place beyond ${most} of one ${by}`, limit, takes(admit));
      this.#refused[limit]++;
    };
    beyond();
    // Others have places of their own while there are some in all.
    const other = () => {
      using _ = manager.admit({ [by]: by === "user" ? "ben" : "192.0.2.2" });
    };
    const isFull = most === maxSessions;
    this.#expect(`place of another ${by}`, isFull ? "maxSessions" : "taken", takes(other));
    if (isFull) this.#refused.maxSessions++;
    this.#compare(`at the limit of one ${by}`, held.length);
    // A place that is given back twice is free once.
    held[0]?.[Symbol.dispose]();
    held.shift()?.[Symbol.dispose]();
    this.#expect(`place of one ${by} that was given back`, "taken", takes(admit));
    beyond();
    for (const one of held.splice(0)) one[Symbol.dispose]();
    this.#compare(`once all places of one ${by} are free`, 0);
  }

  /** Takes sockets of one address up to the limit; those that linger count, too. */
  fillSockets(isLarge: boolean): void {
    const { maxSessions, maxSocketsPerAddress: own } = this.#limits;
    const limit = own <= SOCKETS * maxSessions ? "maxSessionsPerAddress" : "maxSessions";
    const most = Math.min(SOCKETS * maxSessions, own);
    if (most > MOST_PLACES && !isLarge) return;
    const manager = this.#manager;
    const { refused: before } = manager.stats().sockets;
    // All addresses of one /64 are one.
    const addresses = ["2001:db8::1", "2001:db8::2:0:0:1", "2001:db8:0:0:ffff::"];
    const leases: ReturnType<SessionManager["admitSocket"]>[] = [];
    let count = 0;
    const admit = () => {
      leases.push(manager.admitSocket({ address: addresses[count++ % addresses.length]! }));
    };
    const outcomes = new Set<string>();
    for (let n = 0; n < most; n++) outcomes.add(takes(admit));
    this.#expect(`${most} sockets of one address`, ["taken"], [...outcomes]);
    this.#expect(`socket beyond ${most} of one address`, limit, takes(admit));
    const lingering = Math.ceil(leases.length / 2);
    // A socket begins to linger once.
    for (const lease of leases.slice(0, lingering)) lease.closing();
    leases[0]?.closing();
    this.#expect(`socket beside ${lingering} that linger`, limit, takes(admit));
    const compare = (what: string, sockets: object) =>
      this.#expect(`sockets ${what}`, sockets, manager.stats().sockets);
    compare("at the limit", { open: most, lingering, refused: before + 2 });
    for (const lease of leases.slice(0, lingering)) lease[Symbol.dispose]();
    leases[0]?.[Symbol.dispose]();
    leases[0]?.closing();
    compare("that are left", { open: most - lingering, lingering: 0, refused: before + 2 });
    this.#expect("socket in a free place", "taken", takes(admit));
    for (const lease of leases) lease[Symbol.dispose]();
    compare("in the end", { open: 0, lingering: 0, refused: before + 2 });
  }

  /** Places without a session count neither as users nor as addresses. */
  #compare(when: string, reserved: number): void {
    const stats = this.#manager.stats();
    this.#expect(`figures ${when}`, {
      count: 0,
      created: 0,
      reserved,
      users: 0,
      addresses: 0,
      refused: { ...this.#refused, draining: 0 },
    }, {
      count: stats.count,
      created: stats.created,
      reserved: stats.reserved,
      users: stats.users,
      addresses: stats.addresses,
      refused: stats.refused,
    });
  }
}

/** Attempts of one address beyond the rate that is set by default. */
async function auditAttempts(
  audit: Audit,
  { manager, known, expect, random }: {
    readonly manager: SessionManager;
    readonly known: Limits;
    readonly expect: Expect;
    readonly random: () => number;
  },
): Promise<void> {
  const burst = Math.max(LEAST_ATTEMPTS, known.maxSessionsPerAddress);
  const address = "198.51.100.7";
  const attempt = () => manager.admitConnection({ address });
  const outcomes = new Set<string>();
  for (let n = 0; n < Math.min(burst, MOST_PLACES); n++) outcomes.add(takes(attempt));
  expect(`${burst} attempts of one address`, ["taken"], [...outcomes]);
  if (burst > MOST_PLACES) return;
  const limit = "perAddress.connections";
  expect(`attempt beyond ${burst} of one address`, limit, takes(attempt));
  const other = () => manager.admitConnection({ address: "198.51.100.8" });
  expect("attempt of another address", "taken", takes(other));
  const perSecond = burst * ATTEMPTS_SHARE;
  const beganMs = audit.nowMs;
  await audit.pause(between(random, REFILL_MS / 3, REFILL_MS));
  const tookMs = audit.nowMs - beganMs;
  let back = 0;
  while (back < burst && takes(attempt) === "taken") back++;
  const [least, most] = [tookMs - TICK_MS, tookMs + TICK_MS].map((ms) => ms * perSecond / 1_000);
  const isRight = back >= Math.floor(least!) && back <= Math.ceil(most!);
  expect(`${back} attempts ${tookMs} ms after ${burst}`, true, isRight);
  const { address: refused, user } = manager.stats().rates.refusedConnections;
  expect("refused attempts", [2, 0], [refused, user]);
}

/** Subscribes and leaves as often as a session may by default, and once more. */
async function auditSubscriptions(
  audit: Audit,
  { node, known, expect }: {
    readonly node: UserNode;
    readonly known: Limits;
    readonly expect: Expect;
  },
): Promise<void> {
  const { maxTopicsPerSession: max } = known;
  const machine = "defaults-page";
  audit.change(audit.host(machine), node.host, STEADY);
  const page = new Page(audit, "ann", machine, node);
  await audit.until(() => page.isIn);
  const burst = Math.max(LEAST_SUBSCRIPTIONS, 2 * max);
  const codesOf = (ids: readonly number[]) => ids.map((id) => page.answerTo(id)?.error?.code);
  // Up to the topics of a session, then one more, whose place in the rate is taken as well.
  const ids = Array.from({ length: max + 1 }, (_, i) => page.ask({ subscribe: `topic-${i}` }));
  for (let i = 0; i < burst - max - 1; i++) {
    ids.push(page.ask(i % 2 === 0 ? { unsubscribe: "topic-0" } : { subscribe: "topic-0" }));
  }
  const beyond = page.ask({ subscribe: "topic-0" });
  await audit.pause(ROUND_MS);
  const answers = codesOf(ids).map((code, i) => i === max ? code : code ?? "fine");
  const expected = ids.map((_, i) => i === max ? "too-many" : "fine");
  expect(`${burst} subscriptions and ends of these`, expected.join(), answers.join());
  expect(`subscription beyond ${burst}`, ["too-many"], codesOf([beyond]));
  const waitMs = page.answerTo(beyond)?.error?.retryAfterMs ?? 0;
  const isRight = waitMs > 0 && waitMs <= 1_000 / SUBSCRIPTIONS_PER_SECOND;
  expect(`wait of ${waitMs} ms for a subscription`, true, isRight);
  await audit.pause(waitMs + TICK_MS);
  const again = page.ask({ subscribe: "topic-0" });
  await audit.pause(ROUND_MS);
  expect("subscription in time", [undefined], codesOf([again]));
  const { refused, closed } = node.server.manager.stats().rates;
  expect("refusals of subscriptions", [{ session: 1, user: 0, address: 0 }, 0], [refused, closed]);
  page.close();
}
