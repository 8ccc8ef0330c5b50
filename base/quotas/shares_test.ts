import { assertEquals, assertThrows } from "@std/assert";
import { platformRuntime, type Runtime } from "../runtime.ts";
import { type Account, type AccountFacts, Accounts, NOBODY } from "./accounts.ts";
import { Quota, type QuotaOptions, Quotas, type Slot } from "./shares.ts";
import { LimitError } from "../../errors.ts";

const HOUR_MS = 3_600_000;

function quotaOf(options: Partial<QuotaOptions> = {}): Quota {
  return new Quota({
    limit: "maxTents",
    verb: "camp",
    what: "tents",
    max: 10,
    shares: {},
    ...options,
  });
}

function at(key: string, facts: AccountFacts = {}): Account {
  return { networks: [{ key, factor: 1 }], isBehindProxy: false, isFamiliar: false, ...facts };
}

/** Facts about a user or guest at an address. */
function peer(address: string, facts: AccountFacts = {}): AccountFacts {
  return { address, ...facts };
}

function accountsWithClock(): { readonly accounts: Accounts; readonly tick: (ms: number) => void } {
  let now = 1_000;
  const runtime: Runtime = Object.create(platformRuntime(), { monotonic: { value: () => now } });
  return { accounts: new Accounts(runtime), tick: (ms) => void (now += ms) };
}

/** Takes slots until one is rejected, and returns the level of the rejection. */
function fill(quota: Quota, account: Account): { readonly count: number; readonly level: unknown } {
  for (let count = 0;; count++) {
    try {
      quota.take(account);
    } catch (error) {
      return { count, level: (error as LimitError).level };
    }
  }
}

Deno.test("Quota.take() gives one account half of the limit, and another one the rest", () => {
  const quota = quotaOf({ shares: { address: 1 } });
  assertEquals(fill(quota, at("192.0.2.1")), { count: 5, level: "address" });
  quota.take(at("192.0.2.2"));
  assertEquals(fill(quota, at("192.0.2.2")), { count: 0, level: "address" });
  assertEquals(fill(quota, NOBODY), { count: 4, level: "server" });
  assertEquals(quota.stats, {
    taken: 10,
    max: 10,
    rejected: { server: 1, address: 2, user: 0, session: 0 },
  });
});

Deno.test("Quota.take() always applies a share that the application set", () => {
  const quota = quotaOf({ shares: { address: 8, user: 2 }, strict: ["user"] });
  assertEquals(fill(quota, at("192.0.2.1", { user: "ann" })), { count: 2, level: "user" });
  assertEquals(fill(quota, at("192.0.2.1", { user: "bob" })), { count: 2, level: "user" });
});

Deno.test("Quota.take() rejects by the narrowest level, and names the share that is reached", () => {
  const account = at("192.0.2.1", { user: "ann", session: "s-1" });
  for (
    const [shares, level, text] of [
      [{ session: 2, user: 2, address: 2 }, "session", "your session may have at most 2 tents"],
      [{ user: 2, address: 2 }, "user", "your user may have at most 2 tents"],
      [{ address: 2 }, "address", "your address may have at most 2 tents"],
      [{}, "server", "this server may have at most 4 tents"],
    ] as const
  ) {
    for (const isStrict of [false, true]) {
      const strict = isStrict ? ["session", "user", "address"] as const : [];
      const quota = quotaOf({ max: 4, shares, strict });
      fill(quota, account);
      const error = assertThrows(() => quota.take(account), LimitError, `Cannot camp: ${text}`);
      assertEquals({ level: error.level, limit: error.limit, retryAfterMs: error.retryAfterMs }, {
        level,
        limit: "maxTents",
        retryAfterMs: 5_000,
      });
      assertEquals(
        error.message.endsWith("while the server is busy"),
        !isStrict && level !== "server",
      );
    }
  }
});

Deno.test("Quota releases every slot once, however often it is taken", () => {
  const account = at("192.0.2.1", { user: "ann", session: "s-1" });
  const quota = quotaOf({ max: 20, shares: { address: 10, user: 10, session: 10 } });
  for (let round = 0; round < 3; round++) {
    const slots = Array.from({ length: 10 }, () => quota.take(account));
    assertThrows(() => quota.take(account), LimitError, "may have at most 10");
    assertEquals(slots.map(({ isHeld }) => isHeld), slots.map(() => true));
    for (const slot of [...slots, ...slots]) slot[Symbol.dispose]();
    assertEquals([quota.taken, slots[0]!.isHeld], [0, false]);
  }
});

Deno.test("Quota.take() with ignoresShares exceeds shares, but never the limit", () => {
  const quota = quotaOf({ max: 2, shares: { user: 1 }, strict: ["user"] });
  const ann = at("192.0.2.1", { user: "ann" });
  quota.take(ann);
  quota.take(ann, { ignoresShares: true });
  assertThrows(() => quota.take(ann, { ignoresShares: true }), LimitError, "this server");
});

Deno.test("Quota.take() gives wider networks more, and one /48 no more than its share", () => {
  const quota = quotaOf({ max: 10_000, shares: { address: 10 }, strict: ["address"] });
  let count = 0;
  const levels = new Set<unknown>();
  for (let i = 0; i < 1_000; i++) {
    const networks = [
      { key: `2001:db8:1:${i}::/64`, factor: 1 },
      { key: `2001:db8:1:${i >> 8}::/56`, factor: 4 },
      { key: "2001:db8:1::/48", factor: 16 },
    ];
    const filled = fill(quota, { ...NOBODY, networks });
    levels.add(filled.level);
    count += filled.count;
  }
  assertEquals([count, [...levels]], [160, ["address"]]);
  assertEquals(fill(quota, at("2001:db8:2:1::/64")).count, 10);
});

Deno.test("Quota.take() gives no address and no network more than half of the limit", () => {
  const { accounts } = accountsWithClock();
  const count = (options: Partial<QuotaOptions>, addressOf: (i: number) => string) => {
    const tents = quotaOf({ max: 20, ...options });
    let taken = 0;
    assertThrows(() => {
      while (true) {
        tents.take(accounts.of(peer(addressOf(taken))));
        taken++;
      }
    }, LimitError);
    return taken;
  };
  const shares = { address: 100 };
  assertEquals(count({ shares }, () => "192.0.2.1"), 10);
  assertEquals(count({ shares: { address: 2 } }, (i) => `2001:db8:1:${i % 9}00::1`), 10);
  // For an address, a share that the application set may be larger.
  assertEquals(count({ shares, strict: ["address"] }, () => "192.0.2.1"), 20);
  const strict: Partial<QuotaOptions> = { shares: { address: 2 }, strict: ["address"] };
  assertEquals(count(strict, (i) => `2001:db8:1:${i % 9}00::1`), 10);
  assertEquals(count({ max: 1, shares }, () => "192.0.2.1"), 1);
});

Deno.test("Accounts treats users as familiar after an hour, with ten shares of their address", () => {
  const { accounts, tick } = accountsWithClock();
  const facts = peer("192.0.2.1", { user: "ann" });
  const quota = quotaOf({ max: 1_000, shares: { address: 3 }, strict: ["address"] });
  const fresh = accounts.of(facts);
  assertEquals(fill(quota, fresh).count, 3);
  tick(HOUR_MS - 1);
  assertEquals(accounts.of(facts).isFamiliar, false);
  tick(1);
  assertEquals([fresh.isFamiliar, accounts.of(facts).isFamiliar], [true, true]);
  assertEquals(accounts.of(peer("192.0.2.2", { user: "ann" })).isFamiliar, false);
  assertEquals(accounts.of(peer("192.0.2.1", { guest: "guest:1" })).isFamiliar, false);
  assertEquals(fill(quota, fresh).count, 30);
  tick(24 * HOUR_MS);
  assertEquals(accounts.of(facts).isFamiliar, false, "A user who is away for a day is forgotten");
});

Deno.test("Quota counts two slots of one client once, and never three", () => {
  const quota = quotaOf({ max: 2, shares: { address: 1 }, strict: ["address"] });
  const account = at("192.0.2.1");
  const first = quota.take(account);
  assertThrows(() => quota.take(account), LimitError);
  const second = quota.take(account, { beside: first });
  assertEquals([quota.taken, quota.accounts], [1, 1]);
  for (const beside of [first, second]) {
    assertThrows(() => quota.take(account, { beside }), LimitError);
  }
  const elsewhere = quota.take(at("192.0.2.2"));
  first[Symbol.dispose]();
  assertEquals([quota.taken, quota.accounts], [2, 2]);
  assertThrows(() => quota.take(account, { beside: first }), LimitError, "your address");
  for (const slot of [second, elsewhere]) slot[Symbol.dispose]();
  assertEquals([quota.taken, quota.accounts], [0, 0]);
});

Deno.test("Slot.change() counts only for the new account, or for the old one if it is rejected", () => {
  const quota = quotaOf({ shares: { address: 1, user: 1 }, strict: ["address", "user"] });
  const guest = quota.take(at("192.0.2.1"));
  const bob = quota.take(at("192.0.2.2", { user: "bob" }));
  assertThrows(() => guest.change(at("192.0.2.1", { user: "bob" })), LimitError, "your user");
  assertEquals([quota.accounts, quota.stats.rejected.user], [3, 1]);
  guest.change(at("192.0.2.1", { user: "ann" }));
  assertEquals([quota.taken, quota.accounts], [2, 4]);
  for (const slot of [guest, bob]) slot[Symbol.dispose]();
  assertThrows(() => guest.change(NOBODY), TypeError, "Cannot change slot: it was released");
  assertEquals([quota.taken, quota.accounts], [0, 0]);
});

Deno.test("Quota.take() counts a proxy's address only if the application set its share", () => {
  const accounts = new Accounts(platformRuntime(), { isProxy: (key) => key === "127.0.0.1" });
  for (const [strict, expected] of [[[], 10], [["address"], 2]] as const) {
    const quota = quotaOf({ shares: { address: 2 }, strict });
    assertEquals(fill(quota, accounts.of({ address: "127.0.0.1" })).count, expected);
  }
  assertEquals(
    fill(quotaOf({ shares: { address: 2 } }), accounts.of({ address: "192.0.2.1" })).count,
    5,
  );
});

Deno.test("Quotas.open() returns one quota per name, and stats lists each once", () => {
  const quotas = new Quotas(platformRuntime());
  const open = (name: string) =>
    quotas.open({ limit: "maxTents", name, verb: "camp", what: "tents", max: 1, shares: {} });
  const [first, second, other] = [open("tents"), open("tents"), open("huts")];
  using _slot = first.take();
  assertThrows(() => second.take(), LimitError);
  assertEquals([second.taken, other.taken], [1, 0]);
  const none = { server: 0, address: 0, user: 0, session: 0 };
  assertEquals(quotas.stats, {
    tents: { taken: 1, max: 1, rejected: { ...none, server: 1 } },
    huts: { taken: 0, max: 1, rejected: none },
  });
});

Deno.test("Quota.tryTake() returns the level of a rejection, which levelFull() does not count", () => {
  const quota = quotaOf({ max: 2, shares: { address: 1 } });
  assertEquals(quota.levelFull(at("192.0.2.1")), undefined);
  const slot = quota.tryTake(at("192.0.2.1")) as Slot;
  assertEquals(quota.levelFull(at("192.0.2.1")), "address");
  assertEquals(quota.levelFull(at("192.0.2.1"), { factor: 2 }), undefined);
  assertEquals(quota.stats.rejected.address, 0);
  assertEquals(quota.tryTake(at("192.0.2.1")), "address");
  quota.tryTake(at("192.0.2.2"));
  assertEquals([quota.tryTake(at("192.0.2.3")), quota.tryTake()], ["server", "server"]);
  assertEquals(quota.stats.rejected, { server: 2, address: 1, user: 0, session: 0 });
  slot[Symbol.dispose]();
  assertEquals([quota.levelFull(), quota.taken], [undefined, 1]);
});

Deno.test("Quota reports a proxy whose address has no share once that share would apply", () => {
  const told: (string | undefined)[] = [];
  const { accounts } = new Quotas(platformRuntime(), {
    isProxy: (key) => key === "10.0.0.1",
    onProxy: (key) => void told.push(key),
  });
  const quota = quotaOf({ max: 4, shares: { address: 1 } });
  const take = (address: string, user?: string) => quota.take(accounts.of({ address, user }));
  take("10.0.0.1");
  take("10.0.0.1", "ann");
  assertEquals(told, []);
  take("192.0.2.1");
  take("10.0.0.1", "ann");
  assertEquals(told, ["10.0.0.1"]);
});

const LIMITS: QuotaOptions = {
  limit: "maxTents",
  verb: "camp",
  what: "tents",
  max: 10_000,
  shares: { address: 32, user: 16, session: 1 },
  strict: ["address", "user"],
};

function nodeOf(options: Partial<QuotaOptions> = {}) {
  const quotas = new Quotas(platformRuntime());
  const quota = quotas.open({ ...LIMITS, ...options });
  const take = (count: number, account: Account) =>
    Array.from({ length: count }, () => quota.take(account));
  return { quotas, quota, take };
}

/** Budget for all accounts of a test. */
const ENOUGH = { maxBytes: 100_000 } as const;

/** A node's only report. */
function whole(...used: unknown[]): unknown {
  return { n: 1, isFirst: true, isLast: true, used };
}

Deno.test("Quotas.report() lists accounts with a sixteenth of their share, and no sessions", () => {
  const { quotas, take } = nodeOf();
  assertEquals(quotas.report(ENOUGH), undefined);
  take(1, at("192.0.2.1"));
  const [slot] = take(2, at("192.0.2.2", { session: "s" }));
  take(1, { ...NOBODY, user: "ann" });
  take(1, { ...NOBODY, guest: "guest:1" });
  assertEquals(quotas.report(ENOUGH)!.used, [
    ["maxTents", "at 192.0.2.2", 2],
    ["maxTents", "user ann", 1],
    ["maxTents", "guest guest:1", 1],
  ]);
  slot![Symbol.dispose]();
  assertEquals(quotas.report(ENOUGH)!.used, [["maxTents", "at 192.0.2.2", 0]]);
  assertEquals(quotas.report(ENOUGH)!.used, undefined);
});

Deno.test("Quotas.report() lists at most 256 accounts, the ones that use most of their share", () => {
  const { quotas, take } = nodeOf();
  for (let i = 0; i < 300; i++) take(2, at(`a${i}`));
  take(2, { ...NOBODY, user: "ann" });
  take(1, { ...NOBODY, user: "\0".repeat(255) });
  const { used } = quotas.report(ENOUGH)!;
  assertEquals([used!.length, used![0]], [256, ["maxTents", "user ann", 2]]);
  assertEquals(used!.some(([, key]) => key.includes("\0")), false);
});

Deno.test("Quotas.receiveReport() counts the reports of each node until the node is forgotten", () => {
  const { quotas, quota, take } = nodeOf();
  const ann = at("192.0.2.1", { user: "ann" });
  const used = (taken: number) => [["maxTents", "user ann", taken], ["maxHuts", "user ann", 9]];
  quotas.receiveReport("one", whole(...used(9)));
  quotas.receiveReport("two", whole(...used(6)));
  take(1, ann);
  const error = assertThrows(() => quota.take(ann), LimitError, "your user may have at most 16");
  assertEquals([error.level, quota.taken], ["user", 1]);
  quota.take(ann, { beside: quota.take(ann, { ignoresShares: true }) });
  for (let n = 2; n < 5; n++) quotas.receiveReport("one", { n, used: used(8) });
  assertThrows(() => quota.take(ann), LimitError);
  quotas.forget("two");
  quotas.forget("unknown");
  assertEquals(fill(quota, ann), { count: 6, level: "user" });
  quotas.receiveReport("one", undefined);
  assertEquals(fill(quota, ann), { count: 8, level: "user" });
});

Deno.test("Quotas.receiveReport() counts slots on other nodes for shares, never for the limit", () => {
  const { quotas, quota } = nodeOf({ max: 10, strict: [] });
  const greedy = at("192.0.2.1");
  quotas.receiveReport("one", whole(["maxTents", "at 192.0.2.1", 32]));
  assertEquals(fill(quota, greedy), { count: 5, level: "address" });
  assertEquals(fill(quota, NOBODY), { count: 5, level: "server" });
});

Deno.test("Quotas.receiveReport() ignores shares that all nodes count exactly", () => {
  const { quotas, quota, take } = nodeOf({ exact: ["user"] });
  const ann = { ...NOBODY, user: "ann" };
  quotas.receiveReport("one", whole(["maxTents", "user ann", 16]));
  take(15, ann);
  assertEquals(quotas.report(ENOUGH), undefined);
  assertEquals(fill(quota, ann), { count: 1, level: "user" });
});

Deno.test("Quotas.open() counts slots that other nodes reported before", () => {
  const quotas = new Quotas(platformRuntime());
  quotas.receiveReport("one", whole(["maxTents", "user ann", 16]));
  const quota = quotas.open(LIMITS);
  assertEquals(fill(quota, { ...NOBODY, user: "ann" }), { count: 0, level: "user" });
  quotas.forget("one");
  assertEquals(fill(quota, { ...NOBODY, user: "ann" }), { count: 16, level: "user" });
});

Deno.test("Quotas.receiveReport() ignores a malformed report", () => {
  const { quotas, quota, take } = nodeOf();
  const fine = ["maxTents", "at 192.0.2.1", 32];
  for (
    const bad of [
      null,
      7,
      {},
      "maxTents",
      [fine],
      ...[0, -1, 0.5, "1", undefined].map((n) => ({ n, used: [fine] })),
      whole(7),
      whole([]),
      whole([...fine, 1]),
      whole(fine, ["maxTents", "at 192.0.2.1"]),
      whole(fine, ["maxTents", 5, 1]),
      whole(fine, [5, "at 192.0.2.1", 1]),
      whole(fine, ["maxTents", "x".repeat(301), 1]),
      ...[-1, 0.5, NaN, 1e9 + 1, "1"].map((taken) => whole(fine, ["maxTents", "user ann", taken])),
      whole(...Array.from({ length: 513 }, () => fine)),
    ]
  ) {
    quotas.receiveReport("one", whole(fine));
    assertThrows(() => quota.take(at("192.0.2.1")), LimitError);
    quotas.receiveReport("one", bad);
    for (const slot of take(32, at("192.0.2.1"))) slot[Symbol.dispose]();
  }
});

Deno.test("Quotas.receiveReport() counts the reports of at most a thousand nodes", () => {
  const { quotas, quota } = nodeOf({ shares: { user: 1_010 } });
  const one = whole(["maxTents", "user ann", 1]);
  for (let i = 0; i < 1_005; i++) quotas.receiveReport(`n${i}`, one);
  quotas.receiveReport("n0", { n: 2, used: [["maxTents", "user ann", 2]] });
  assertEquals(fill(quota, { ...NOBODY, user: "ann" }), { count: 9, level: "user" });
});

Deno.test("Quota divides a costly share of familiar users between them, once half of it is used", () => {
  let nowMs = 0;
  const runtime = Object.assign(platformRuntime(), { monotonic: () => nowMs });
  const quotas = new Quotas(runtime);
  const quota = quotas.open({
    ...LIMITS,
    max: 1_000,
    shares: { address: 4, user: 8 },
    isCostly: true,
  });
  const take = (user: string) => quota.tryTake(quotas.accounts.of({ address: "192.0.2.1", user }));
  const taken = (users: readonly string[], each: number) =>
    users.flatMap((user) => Array.from({ length: each }, () => take(user)))
      .filter((slot) => typeof slot !== "string").length;
  const users = Array.from({ length: 20 }, (_, i) => `u${i}`);
  for (const user of users) quotas.accounts.of({ address: "192.0.2.1", user });
  nowMs = 3_600_000;
  for (const user of users) quotas.accounts.of({ address: "192.0.2.1", user });
  // Ten times the share of four is 40: two for each of the 20 users.
  assertEquals(taken(["u0", "u1", "u2"], 10), 20);
  assertEquals(take("u0"), "user");
  assertThrows(
    () => quota.take(quotas.accounts.of({ address: "192.0.2.1", user: "u2" })),
    LimitError,
    "your user may have at most 2 tents while others at your address have many",
  );
  assertEquals(taken(users.slice(3), 1), 17);
  assertEquals([taken(["u3", "u4", "u5"], 2), take("u6")], [3, "address"]);
  // Another address has its own share.
  assertEquals(
    typeof quota.tryTake(quotas.accounts.of({ address: "192.0.2.2", user: "v" })),
    "object",
  );
});
