import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { stub } from "@std/testing/mock";
import { z } from "zod";
import {
  type ChangeDecision,
  defineContract,
  type RequestedChange,
  RequestError,
  serve,
  type StandardSchema,
} from "../../mod.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { rowChange } from "../logs/change_message.ts";
import { FaultyStore, pass } from "../../tests/faulty_broker.ts";
import { Page } from "../../tests/peers/page.ts";
import type { Runtime } from "../../base/runtime.ts";
import { MovableClock } from "../../tests/movable_clock.ts";
import { hurried, listen, RawSocket } from "../../tests/servers.ts";
import { until } from "../../tests/waiting.ts";
import { statesOf, streamFeatures, streamsOf } from "../../tests/stream_features.ts";
import { logsOf } from "../logs/logs_of.ts";

const CARD = z.object({ title: z.string().min(1).max(9), votes: z.number().default(0) });

const slowSchema: StandardSchema<string> = {
  "~standard": {
    version: 1,
    vendor: "test",
    validate: (value) =>
      Promise.resolve(
        value === "bad" ? { issues: [{ message: "Not good" }] } : { value: `${value}!` },
      ),
  },
};

const contract = defineContract({
  state: {
    "board:{id}": {
      cards: CARD,
      notes: slowSchema,
      free: z.unknown(),
      pairs: z.object({ list: z.array(z.object({ "a/b": z.number() })) }),
    },
  },
});

interface Outcome {
  readonly code: string;
  readonly retryAfterMs?: number | undefined;
  readonly path?: readonly (string | number)[] | undefined;
  readonly message?: string;
}

/** One way to change rows. Resolves with the failure, or with the code `ok`. */
type Way = (id: string, changes: readonly object[], headers?: HeadersInit) => Promise<Outcome>;

interface BenchOptions {
  readonly authorizeChange?: (
    change: RequestedChange,
  ) => ChangeDecision | Promise<ChangeDecision>;
  readonly broker?: Broker;
  readonly requestTimeoutMs?: number;
  readonly runtime?: Runtime;
  readonly onError?: (error: unknown) => void;
}

/** A change message as a client sends it. */
function change(type: string, key: string, value?: unknown, headers: object = {}): object {
  const operation = value === undefined ? "delete" : "upsert";
  return { type, key, value, headers: { operation, ...headers } };
}

class Bench implements AsyncDisposable {
  readonly broker: Broker;
  readonly server;

  constructor({ broker, requestTimeoutMs, ...options }: BenchOptions = {}) {
    this.broker = broker ?? new MemoryBroker();
    this.server = listen({
      webTransport: false,
      broker: this.broker,
      contract,
      authenticate: ({ token }) => token ?? "guest",
      authorize: () => true,
      features: streamFeatures({ path: "/streams", authorize: () => true }),
      session: { requestTimeoutMs },
      ...options,
    });
  }

  get clients(): Readonly<Record<string, Way>> {
    return { http: this.http, session: this.session };
  }

  get ways(): Readonly<Record<string, Way>> {
    return { ...this.clients, server: this.own };
  }

  readonly http: Way = async (id, changes, headers = {}) => {
    const response = await fetch(`${this.url}/${id}`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer ann", ...headers },
      body: JSON.stringify(changes),
    });
    const text = await response.text();
    if (response.ok) return { code: "ok" };
    const { code, detail: message, pointer, status } = JSON.parse(text);
    assertEquals(response.headers.get("content-type"), "application/problem+json");
    assertEquals(status, STATUS[code] ?? 403, text);
    const after = response.headers.get("retry-after");
    const retryAfterMs = after === null ? undefined : Number(after) * 1_000;
    return { code, message, retryAfterMs, path: pointer?.split("/").slice(1) };
  };

  readonly session: Way = async (id, changes) => {
    await using page = await Page.open(`${this.server.url}?token=ann`, "skein.1");
    const { data, error } = await page.ask({
      publish: `stream:${id}`,
      data: { writes: [changes] },
    });
    if (error !== undefined) return error;
    const [result] = data!["results"] as { readonly error?: Outcome; readonly conflict?: object }[];
    return result!.error ?? { code: result!.conflict === undefined ? "ok" : "conflict" };
  };

  readonly own: Way = async (id, changes) => {
    await using state = await statesOf(this.server).open(id as `board:${string}`);
    try {
      await state.transaction((transaction) => {
        // deno-lint-ignore no-explicit-any
        for (const { type, key, value } of changes as readonly any[]) {
          if (value === undefined) transaction.delete(type, key);
          else transaction.set(type, key, value);
        }
      });
      return { code: "ok" };
    } catch (error) {
      if (error instanceof RequestError) return error.failure;
      throw error;
    }
  };

  /** Number of clients' writes that wait for others. */
  get waiting(): number {
    return this.server.quotaStats["states.waiting"]!.taken;
  }

  get url(): string {
    return `http://127.0.0.1:${this.server.address!.port}/streams`;
  }

  async create(id: string): Promise<void> {
    await (await statesOf(this.server).open(id as `board:${string}`))[Symbol.asyncDispose]();
  }

  /** Writes a row as another server would. */
  async elsewhere(id: string, type: string, key: string, value: unknown): Promise<void> {
    const operation = value === undefined ? "delete" : "upsert";
    const encoded = rowChange({ type, key, operation, value: JSON.stringify(value) }, 0);
    await logsOf(this.broker)!.append(id, { records: [], changes: [encoded], maxBytes: 1e6 });
  }

  async rows(id: string, collection: string): Promise<Record<string, unknown>> {
    await using state = await statesOf(this.server).open(id as `board:${string}`);
    return Object.fromEntries(state.collection(collection as "cards"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    if (this.broker instanceof MemoryBroker) await this.broker.close();
  }
}

const STATUS: Readonly<Record<string, number>> = {
  closed: 409,
  conflict: 409,
  internal: 500,
  invalid: 400,
  "not-found": 404,
  "too-large": 413,
  "too-many": 429,
  unavailable: 503,
  undecided: 503,
  "unknown-collection": 400,
};

const WAYS = ["http", "session", "own"] as const;
const CLIENTS = ["http", "session"] as const;

/** Runs a test for each way, with the state `board:1`. */
async function walk<W extends "http" | "session" | "own">(
  t: Deno.TestContext,
  ways: readonly W[],
  { options = {}, test }: {
    readonly options?: BenchOptions;
    readonly test: (bench: Bench, write: Way, way: W) => Promise<void>;
  },
): Promise<void> {
  for (const way of ways) {
    await t.step(way, async () => {
      await using bench = new Bench(options);
      await bench.create("board:1");
      await test(bench, bench[way], way);
    });
  }
}

Deno.test("ChangeGate stores the results of the contract's schemas", async (t) => {
  await walk(t, WAYS, {
    async test(bench, write) {
      const cards = [change("cards", "a", { title: "A", more: 1 }), change("cards", "b")];
      const notes = [change("notes", "a", "slow")];
      assertEquals((await write("board:1", [...cards, ...notes])).code, "ok");
      assertEquals(await bench.rows("board:1", "cards"), { a: { title: "A", votes: 0 } });
      assertEquals(await bench.rows("board:1", "notes"), { a: "slow!" });
      assertEquals((await write("board:1", [change("cards", "a")])).code, "ok");
      assertEquals(await bench.rows("board:1", "cards"), {});
    },
  });
});

Deno.test("ChangeGate rejects rows that do not fit the contract, and their transaction", async (t) => {
  await walk(t, WAYS, {
    async test(bench, write) {
      const good = change("cards", "a", { title: "A" });
      const cases: [changed: object, code: string, path?: (string | number)[]][] = [
        [change("cards", "b", { title: "" }), "invalid", ["title"]],
        [change("cards", "b", 7), "invalid", []],
        [change("notes", "b", "bad"), "invalid", []],
        [change("lists", "b", {}), "unknown-collection"],
        [change("constructor", "b", {}), "unknown-collection"],
      ];
      for (const [changed, code, path] of cases) {
        const { message, ...outcome } = await write("board:1", [good, changed]);
        assertEquals(outcome.code, code, message);
        if (code === "invalid") assertEquals(outcome.path ?? [], path);
        assert(message?.startsWith("Cannot write state: "), message);
      }
      assertEquals(await bench.rows("board:1", "cards"), {});
      assertEquals((await write("board:1", [good])).code, "ok");
    },
  });
});

Deno.test("ChangeGate reports the path of an invalid value as a JSON Pointer over HTTP", async () => {
  await using bench = new Bench();
  await bench.create("board:1");
  const { path } = await bench.http("board:1", [change("pairs", "a", { list: [{ "a/b": "" }] })]);
  assertEquals(path, ["list", "0", "a~1b"]);
});

Deno.test("ChangeGate does not check keyed streams that the contract does not define", async (t) => {
  await walk(t, CLIENTS, {
    async test(bench, write) {
      const streams = streamsOf(bench.server);
      await streams.create("other:1", { keyed: true });
      assertEquals((await write("other:1", [change("lists", "a", 1)])).code, "ok");
      assertEquals((await streams.info("other:1"))?.rows?.count, 1);
    },
  });
});

Deno.test("ChangeGate rejects a row whose schema throws or never decides", async (t) => {
  for (
    const fault of [() => Promise.reject(new Error("Lost")), () => new Promise<never>(() => {})]
  ) {
    for (const way of CLIENTS) {
      await t.step(way, async () => {
        const reported = Promise.withResolvers<unknown>();
        await using bench = new Bench({ requestTimeoutMs: 50, onError: reported.resolve });
        await bench.create("board:1");
        using _fault = stub(slowSchema["~standard"], "validate", fault);
        using _warn = stub(console, "warn");
        using _error = stub(console, "error");
        const { code } = await bench[way]("board:1", [change("notes", "a", "A")]);
        assert(["failed", "internal", "unavailable"].includes(code), code);
        if (way === "session") await reported.promise;
      });
    }
  }
});

Deno.test("ChangeGate lets the other transactions of a session pass if one fails", async () => {
  const errors: unknown[] = [];
  await using bench = new Bench({ onError: (error) => errors.push(error) });
  await bench.create("board:1");
  using _fault = stub(slowSchema["~standard"], "validate", () => {
    throw new Error("Lost");
  });
  await using page = await Page.open(bench.server.url, "skein.1");
  const writes = [
    [change("cards", "a", { title: "A" })],
    [change("notes", "b", "B")],
    [change("cards", "c", { title: "" })],
    [change("cards", "d", { title: "D" })],
  ];
  const { data } = await page.ask({ publish: "stream:board:1", data: { writes } });
  const results = data!["results"] as { readonly version?: number; readonly error?: Outcome }[];
  assertEquals(results.map(({ version, error }) => version ?? error!.code), [
    1,
    "failed",
    "invalid",
    2,
  ]);
  assertEquals(errors.map(String), ["Error: Lost"]);
});

Deno.test("LiveState.open() keeps the order of writes that no asynchronous schema delays", async () => {
  await using bench = new Bench();
  await using board = await statesOf(bench.server).open("board:1");
  const cards = board.collection("cards");
  const many = board.transaction((transaction) => {
    for (let i = 0; i < 100; i++) transaction.set("cards", `${i}`, { title: "many" });
  });
  await Promise.all([many, cards.set("99", { title: "last" })]);
  assertEquals(cards.get("99")?.title, "last");
});

Deno.test("authorizeChange receives each change of a client, and none of the server", async (t) => {
  const asked: RequestedChange[] = [];
  const authorizeChange = (change: RequestedChange) => (asked.push(change), true);
  await walk(t, CLIENTS, {
    options: { authorizeChange },
    async test(bench, write, way) {
      asked.length = 0;
      await using board = await statesOf(bench.server).open("board:1");
      await board.collection("cards").set("a", { title: "old" });
      assertEquals(asked, []);
      const changes = [
        change("cards", "a", { title: "new" }),
        change("cards", "a"),
        change("cards", "b", { title: "B" }),
      ];
      assertEquals((await write("board:1", changes)).code, "ok");
      const [old, young] = ["old", "new"].map((title) => ({ title, votes: 0 }));
      const seen = asked.map(({ session: _session, request: _request, ...rest }) => rest);
      const of = {
        id: "board:1",
        collection: "cards",
        user: "ann",
        ttlMs: undefined,
        since: undefined,
      };
      const set = { ...of, action: "set", operation: "upsert" } as const;
      const remove = { ...of, action: "delete", operation: "delete" } as const;
      assertEquals(seen, [
        { ...set, key: "a", value: young, before: old },
        { ...remove, key: "a", value: undefined, before: young },
        { ...set, key: "b", value: { title: "B", votes: 0 }, before: undefined },
      ]);
      const [{ session, request }] = asked as [RequestedChange];
      assertEquals(
        [session?.user, request?.method],
        way === "http" ? [undefined, "POST"] : [
          "ann",
          undefined,
        ],
      );
      await until(() => board.collection("cards").has("b"));
      assertEquals(board.collection("cards").has("a"), false);
    },
  });
});

Deno.test("authorizeChange decides about each change of a transaction", async (t) => {
  const decisions: Record<string, () => unknown> = {
    allowed: () => true,
    later: () => Promise.resolve(true),
    other: () => ({ value: { title: "other", votes: 7 } }),
    denied: () => false,
    "denied later": () => Promise.resolve(false),
    nothing: () => undefined,
    empty: () => ({}),
    locked: () => {
      throw new RequestError("locked", "The board is locked");
    },
    broken: () => {
      throw new TypeError("Broken");
    },
    "throws nothing": () => {
      throw undefined;
    },
    rejecting: () => Promise.reject(new TypeError("Broken")),
    hanging: () => new Promise(() => {}),
    "no JSON": () => ({ value: new Map() }),
    "no value": () => ({ value: undefined }),
  };
  const codes: Record<string, string> = {
    denied: "forbidden",
    "denied later": "forbidden",
    nothing: "forbidden",
    empty: "undecided",
    locked: "locked",
    broken: "undecided",
    "throws nothing": "undecided",
    rejecting: "undecided",
    hanging: "undecided",
    "no JSON": "undecided",
    "no value": "undecided",
  };
  let isHanging = false;
  const authorizeChange = ({ key }: RequestedChange) => decisions[key]!() as ChangeDecision;
  using _warn = stub(console, "warn");
  using _error = stub(console, "error");
  await walk(t, CLIENTS, {
    options: {
      authorizeChange,
      requestTimeoutMs: 8_000,
      runtime: hurried(50, (ms) => isHanging && ms > 5_000 && ms <= 8_000),
      onError() {},
    },
    async test(bench, write) {
      const title = { title: "mine" };
      for (const key of Object.keys(decisions)) {
        const changes = [change("cards", "allowed", title), change("cards", key, title)];
        isHanging = key === "hanging";
        const outcome = await write("board:1", changes);
        assertEquals(outcome.code, codes[key] ?? "ok", `${key}: ${outcome.message}`);
        if (codes[key] !== undefined) continue;
        const { allowed, [key]: row } = await bench.rows("board:1", "cards");
        const mine = { title: "mine", votes: 0 };
        assertEquals([allowed, row], [mine, key === "other" ? { title: "other", votes: 7 } : mine]);
        await write("board:1", [change("cards", "allowed")]);
      }
      const rows = Object.keys(await bench.rows("board:1", "cards"));
      assertEquals(rows.sort(), ["later", "other"]);
      const { code } = await write("board:1", [change("cards", "other")]);
      assertEquals(code, "undecided", "a deletion has no other row");
    },
  });
});

Deno.test("authorizeChange decides again if the row changes meanwhile", async (t) => {
  let bench: Bench;
  let races = 0;
  const seen: unknown[] = [];
  const authorizeChange = async ({ key, before }: RequestedChange) => {
    if (key !== "raced") return true;
    seen.push(before);
    if (races > 0) await bench.elsewhere("board:1", "cards", "raced", --races);
    return before !== "secret";
  };
  for (const way of CLIENTS) {
    await t.step(way, async () => {
      await using opened = bench = new Bench({ authorizeChange });
      await opened.create("board:1");
      const changes = [
        change("cards", "calm", { title: "calm" }),
        change("cards", "raced", { title: "mine" }),
      ];
      for (const count of [0, 1, 4, 9]) {
        await bench.elsewhere("board:1", "cards", "raced", undefined);
        [races, seen.length] = [count, 0];
        assertEquals((await bench[way]("board:1", changes)).code, "ok");
        const newer = Array.from({ length: count }, (_, i) => count - 1 - i);
        assertEquals(seen, [undefined, ...newer]);
        const { raced } = await bench.rows("board:1", "cards");
        assertEquals(raced, { title: "mine", votes: 0 });
      }
    });
  }
});

Deno.test("authorizeChange decides again for half of the request's time, then the write is undecided", async (t) => {
  let bench: Bench;
  let races = 0;
  let isRacing = true;
  const clock = new MovableClock();
  const authorizeChange = async () => {
    if (isRacing) await bench.elsewhere("board:1", "cards", "raced", ++races);
    if (isRacing) clock.pass(4_000);
    return true;
  };
  for (const way of CLIENTS) {
    await t.step(way, async () => {
      await using opened = bench = new Bench({ authorizeChange, runtime: clock.runtime });
      await opened.create("board:1");
      isRacing = true;
      const changes = [change("cards", "raced", { title: "mine" })];
      const { code, message, retryAfterMs } = await bench[way]("board:1", changes);
      assertEquals({ code, message, retryAfterMs }, {
        code: "undecided",
        message:
          'Cannot write state: others changed the row "raced" of "cards" during each attempt',
        retryAfterMs: 1_000,
      });
      assertEquals((await bench.rows("board:1", "cards"))["raced"], races);
      isRacing = false;
      assertEquals((await bench[way]("board:1", changes)).code, "ok");
    });
  }
});

Deno.test("authorizeChange decides about one change of a row after another", async (t) => {
  for (const way of CLIENTS) {
    await t.step(way, async () => {
      let running = 0;
      const seen: unknown[] = [];
      const authorizeChange = async ({ key, before }: RequestedChange) => {
        if (key === "a") seen.push(before);
        assertEquals(++running, 1);
        await new Promise((resolve) => setTimeout(resolve));
        running--;
        return { value: { title: "count", votes: (Object(before).votes ?? 0) + 1 } };
      };
      await using bench = new Bench({ authorizeChange });
      await bench.create("board:1");
      const writes = Array.from({ length: 20 }, (_, i) => {
        const card = change("cards", "a", { title: "mine" });
        // Transactions with rows in any order don't block each other.
        const other = change("cards", "b", { title: "mine" });
        return bench[way]("board:1", [[card], [card, other], [other, card]][i % 3]!);
      });
      const codes = (await Promise.all(writes)).map(({ code }) => code);
      assertEquals(codes.filter((code) => code !== "ok"), []);
      const { a } = await bench.rows("board:1", "cards");
      assertEquals(a, { title: "count", votes: 20 });
      // Each decision was made once.
      assertEquals(seen.length, 20);
    });
  }
});

Deno.test("authorizeChange that hangs holds up no write of the server, and others only for a while", async (t) => {
  using _warn = stub(console, "warn");
  for (const way of CLIENTS) {
    await t.step(way, async () => {
      const asked = Promise.withResolvers<void>();
      let calls = 0;
      const authorizeChange = () => {
        if (++calls > 1) return true;
        asked.resolve();
        return new Promise<boolean>(() => {});
      };
      await using bench = new Bench({ authorizeChange, requestTimeoutMs: 1_000, onError() {} });
      await bench.create("board:1");
      await using board = await statesOf(bench.server).open("board:1");
      const cards = board.collection("cards");
      const card = (title: string) => [change("cards", "a", { title })];
      const hanging = bench[way]("board:1", card("hangs"));
      await asked.promise;
      const waiting = bench[way]("board:1", card("waits"));
      await cards.set("a", { title: "own" });
      await cards.update("a", (row) => ({ ...row, votes: row.votes + 1 }));
      assertEquals([cards.get("a"), calls], [{ title: "own", votes: 1 }, 1]);
      assertEquals((await waiting).code, "ok");
      assertEquals((await hanging).code, "undecided");
      await until(() => cards.get("a")?.title === "waits");
    });
  }
});

Deno.test("authorizeChange is not asked about a write that waits when its client leaves", async (t) => {
  const gate = Promise.withResolvers<void>();
  const seen: unknown[] = [];
  const authorizeChange = async ({ value }: RequestedChange) => {
    seen.push(Object(value).title);
    if (seen.length === 1) await gate.promise;
    return true;
  };
  await using bench = new Bench({ authorizeChange });
  await bench.create("board:1");
  const card = (title: string) => [change("cards", "a", { title })];
  const first = bench.session("board:1", card("first"));
  await until(() => seen.length === 1);
  await t.step("http", async () => {
    const leaving = new AbortController();
    const request = fetch(`${bench.url}/board:1`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer ann" },
      body: JSON.stringify(card("http")),
      signal: leaving.signal,
    });
    await until(() => bench.waiting === 1);
    leaving.abort();
    await assertRejects(() => request, DOMException);
    await until(() => bench.waiting === 0);
  });
  await t.step("session", async () => {
    const page = await Page.open(`${bench.server.url}?token=ann`, "skein.1");
    page.say({ publish: "stream:board:1", data: { writes: [card("gone")] }, id: 1 });
    await until(() => bench.waiting === 1);
    await page[Symbol.asyncDispose]();
    await until(() => bench.server.manager.count === 1);
  });
  const last = bench.session("board:1", card("last"));
  await until(() => bench.waiting === 2);
  gate.resolve();
  assertEquals([(await first).code, (await last).code], ["ok", "ok"]);
  assertEquals([seen, bench.waiting], [["first", "last"], 0]);
});

/** A client of one session, whose updates of the row `a` have a version as condition. */
class Voter implements AsyncDisposable {
  readonly #page: Page;

  private constructor(page: Page) {
    this.#page = page;
  }

  static async open(bench: Bench): Promise<Voter> {
    return new Voter(await Page.open(`${bench.server.url}?token=ann`, "skein.1"));
  }

  /** Resolves with the version, the conflict, or the code of the error. */
  async vote(expect: number): Promise<unknown> {
    const write = change("cards", "a", { title: "vote" }, { operation: "update", expect });
    const { data } = await this.#page.ask({
      publish: "stream:board:1",
      data: { writes: [[write]] },
    });
    // deno-lint-ignore no-explicit-any
    const [{ version, conflict, error }] = data!["results"] as any;
    return version ?? error?.code ?? [conflict.version, conflict.turn];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#page[Symbol.asyncDispose]();
  }
}

Deno.test("ChangeGate lets other updates wait for a client that repeats its own", async (t) => {
  for (const authorizeChange of [undefined, () => true] as const) {
    await t.step(authorizeChange === undefined ? "unchecked" : "checked", async () => {
      const link = new FaultyStore().connect();
      await using bench = new Bench({ broker: link, ...(authorizeChange && { authorizeChange }) });
      await bench.create("board:1");
      const voters: [Voter, Voter, Voter] = [
        await Voter.open(bench),
        await Voter.open(bench),
        await Voter.open(bench),
      ];
      await using _voters = new AsyncDisposableStack();
      for (const voter of voters) _voters.use(voter);
      const [one, two, three] = voters;
      await bench.session("board:1", [change("cards", "a", { title: "new" })]);
      /** Lets three voters vote in this order, with the version that they all know. */
      const race = async (expect: number) => {
        const gate = Promise.withResolvers<void>();
        const begun = Promise.withResolvers<void>();
        link.make("logs.append", async (run) => {
          begun.resolve();
          await gate.promise;
          return await run();
        });
        const first = one.vote(expect);
        await begun.promise;
        link.make("logs.append", pass);
        const second = two.vote(expect);
        await until(() => bench.waiting === 1);
        const third = three.vote(expect);
        await until(() => bench.waiting === 2);
        gate.resolve();
        assertEquals(await first, expect + 1);
        return { second: await second, third };
      };
      const used = await race(1);
      assertEquals([used.second, bench.waiting], [[2, true], 1]);
      assertEquals(await two.vote(2), 3);
      // No one else waits for the last one.
      assertEquals(await used.third, [3, undefined]);
      assertEquals(await three.vote(3), 4);
      // An unused turn ends, and the next one is not kept until the client has made an update.
      const unused = await race(4);
      assertEquals([unused.second, await unused.third], [[5, true], [5, undefined]]);
      const again = await race(5);
      assertEquals([again.second, await again.third], [[6, undefined], [6, undefined]]);
      assertEquals(await two.vote(6), 7);
      const forgiven = await race(7);
      assertEquals([forgiven.second, bench.waiting], [[8, true], 1]);
      await two[Symbol.asyncDispose]();
      assertEquals(await forgiven.third, [8, undefined]);
    });
  }
});

Deno.test("ChangeGate keeps no turn for an update of a row that does not exist", async () => {
  await using bench = new Bench();
  await bench.create("board:1");
  await using one = await Voter.open(bench);
  await using two = await Voter.open(bench);
  const votes = Array.from({ length: 4 }, (_, i) => [one, two][i % 2]!.vote(3));
  for (const vote of votes) assertEquals(await vote, [0, undefined]);
});

Deno.test("authorizeChange decides about the row that the client expects", async (t) => {
  const seen: unknown[] = [];
  const authorizeChange = ({ before }: RequestedChange) => (seen.push(before), true);
  for (const way of CLIENTS) {
    await t.step(way, async () => {
      const link = new FaultyStore().connect();
      await using bench = new Bench({ authorizeChange, broker: link });
      await using open = await statesOf(bench.server).open("board:1");
      const card = (headers: object) => [change("cards", "a", { title: "mine" }, headers)];
      assertEquals((await bench[way]("board:1", card({ expect: 0 }))).code, "ok");
      await until(() => open.collection("cards").get("a") !== undefined);
      assertEquals((await bench[way]("board:1", card({ expect: 0 }))).code, "conflict");
      assertEquals((await bench[way]("board:1", card({ expect: 9 }))).code, "conflict");
      // This server does not receive that the row has changed.
      link.onDelivery = () => {};
      await bench.elsewhere("board:1", "cards", "a", "newer");
      assertEquals((await bench[way]("board:1", card({ expect: 1 }))).code, "conflict");
      assertEquals((await bench[way]("board:1", card({ expect: 2 }))).code, "ok");
      // The second decision was about an old row, so that its change had no effect.
      assertEquals(seen.splice(0), [undefined, { title: "mine", votes: 0 }, "newer"]);
    });
  }
});

Deno.test("authorizeChange decides about the broker's rows if the state is not open", async (t) => {
  const seen: unknown[] = [];
  for (const way of CLIENTS) {
    await t.step(way, async () => {
      const store = new FaultyStore();
      const link = store.connect();
      const authorizeChange = ({ before }: RequestedChange) => (seen.push(before), true);
      await using bench = new Bench({ authorizeChange, broker: link });
      await bench.create("board:1");
      link.onDelivery = () => {};
      await bench.elsewhere("board:1", "cards", "a", "newer");
      const both = [change("cards", "a", { title: "mine" }), change("cards", "b")];
      assertEquals((await bench[way]("board:1", both)).code, "ok");
      assertEquals((await bench[way]("board:1", both)).code, "ok");
      const mine = { title: "mine", votes: 0 };
      assertEquals(seen.splice(0), ["newer", undefined, mine, undefined]);
    });
  }
});

Deno.test("authorizeChange is asked once about a row that was deleted since", async (t) => {
  let calls = 0;
  await walk(t, CLIENTS, {
    options: { authorizeChange: () => (calls++, true) },
    async test(_bench, write) {
      const card = (since: number) => change("cards", "a", { title: "mine" }, { since });
      assertEquals((await write("board:1", [card(0)])).code, "ok");
      assertEquals((await write("board:1", [change("cards", "a")])).code, "ok");
      calls = 0;
      assertEquals((await write("board:1", [card(0)])).code, "conflict");
      assertEquals(calls, 1);
      assertEquals((await write("board:1", [card(2)])).code, "ok");
    },
  });
});

Deno.test("authorizeChange is not asked about an update of a row that does not exist", async (t) => {
  let calls = 0;
  await walk(t, CLIENTS, {
    options: { authorizeChange: () => (calls++, true) },
    async test(bench, write) {
      calls = 0;
      const update = (title: string) => change("cards", "a", { title }, { operation: "update" });
      assertEquals((await write("board:1", [update("none")])).code, "conflict");
      assertEquals(calls, 0);
      const both = [change("cards", "a", { title: "first" }), update("second")];
      assertEquals((await write("board:1", both)).code, "ok");
      assertEquals((await write("board:1", [update("third")])).code, "ok");
      assertEquals(await bench.rows("board:1", "cards"), { a: { title: "third", votes: 0 } });
      assertEquals(calls, 3);
    },
  });
});

Deno.test("authorizeChange does not deny a repeated append of a producer", async () => {
  const authorizeChange = ({ before }: RequestedChange) => before === undefined;
  await using bench = new Bench({ authorizeChange });
  await bench.create("board:1");
  const append = async (title: string, seq: number) => {
    const headers = { "producer-id": "p", "producer-epoch": "0", "producer-seq": `${seq}` };
    return (await bench.http("board:1", [change("cards", "a", { title })], headers)).code;
  };
  assertEquals(await append("first", 0), "ok");
  assertEquals(await append("first", 0), "ok");
  assertEquals(await append("other", 1), "forbidden");
  assertEquals(await bench.rows("board:1", "cards"), { a: { title: "first", votes: 0 } });
});

Deno.test("authorizeChange is not asked about streams that are no states", async (t) => {
  let calls = 0;
  await walk(t, CLIENTS, {
    options: { authorizeChange: () => (calls++, true) },
    async test(bench, write, way) {
      const changes = [change("cards", "a", { title: "A" })];
      assertEquals((await write("other:1", changes)).code, "not-found");
      await using _writer = await streamsOf(bench.server).create("plain");
      const { code } = await write("plain", changes);
      assertEquals(code, way === "http" ? "ok" : "wrong-type"); // Over HTTP, it is a record.
      assertEquals(calls, 0);
    },
  });
});

Deno.test("authorizeChange sees the rows of a state that was deleted and created again", async (t) => {
  const seen: unknown[] = [];
  for (const way of CLIENTS) {
    await t.step(way, async () => {
      const link = new FaultyStore().connect();
      const authorizeChange = ({ before }: RequestedChange) => (seen.push(before), true);
      await using bench = new Bench({ authorizeChange, broker: link });
      await bench.create("board:1");
      const write = () => bench[way]("board:1", [change("cards", "a", { title: "A" })]);
      assertEquals((await write()).code, "ok");
      // This server does not receive that the stream was deleted.
      link.onDelivery = () => {};
      await link.logs!.delete("board:1");
      await bench.create("board:1");
      assertEquals((await write()).code, "ok");
      assertEquals(seen.splice(0).at(-1), undefined);
    });
  }
});

Deno.test("StateCollection.update() of a missing row is a conflict, whatever its schema", async () => {
  await using bench = new Bench();
  await using state = await statesOf(bench.server).open("board:1");
  for (const name of ["cards", "notes"] as const) {
    const updating = () => state.collection(name).update("none", (row) => row as never);
    const error = await assertRejects(updating, RequestError, "there is no row");
    assertEquals(error.failure.code, "conflict");
  }
  assertEquals(state.version, 0);
});

Deno.test("LiveState.open() is typed by the contract", async () => {
  await using bench = new Bench();
  const { server } = bench;
  await using board = await statesOf(server).open("board:1");
  const cards = board.collection("cards");
  await cards.set("a", { title: "A" });
  await cards.update("a", ({ title, votes }) => ({ title: title + "!", votes: votes + 1 }));
  await board.transaction((transaction) => {
    transaction.set("notes", "a", "text", { ttlMs: 60_000 });
    transaction.delete("cards", "b");
    // @ts-expect-error There is no such collection.
    assertThrows(() => transaction.set("", "a", 1), RangeError);
  });
  const row: { title: string; votes: number } | undefined = cards.get("a");
  assertEquals([row, board.collection("notes").get("a")], [{ title: "A!", votes: 1 }, "text!"]);
  // @ts-expect-error There is no such collection.
  const other = board.collection("lists");
  const names = "must be one of cards, notes, free, pairs";
  await assertRejects(() => other.set("a", 1 as never), RequestError, names);
  // @ts-expect-error The row is not complete.
  await assertRejects(() => cards.set("a", { votes: 1 }), RequestError, "must fit the contract");
  // @ts-expect-error The contract has no such state.
  await assertRejects(() => statesOf(server).open("other:1"), RequestError, "fits no pattern");
  const changes = board.changes();
  const next = changes.next();
  await cards.set("b", { title: "B" });
  const { value } = await next;
  if (value?.collection === "cards") assertEquals(value.value?.votes, 0);
  else assertEquals(value?.collection, "cards");
  await changes.return();
});

Deno.test("LiveState.open() needs states in a contract, and no contract", async () => {
  const options = { port: 0, onListen() {}, webTransport: false };
  await using bare = serve({ ...options, features: streamFeatures() });
  await using free = await statesOf(bare).open("any");
  await free.collection<number>("cards").set("a", 1);
  const contract = defineContract({ toServer: {} });
  await using server = serve({ ...options, contract, features: streamFeatures() });
  // @ts-expect-error The contract has no states.
  await using state = await statesOf(server).open("any");
  assertEquals(state.version, 0);
});

Deno.test("authorizeChange sees each row that its decision replaces, on two servers", async () => {
  const authorizeChange = ({ before }: RequestedChange) =>
    Promise.resolve({ value: { title: "count", votes: (Object(before).votes ?? 0) + 1 } });
  const store = new FaultyStore();
  await using one = new Bench({ authorizeChange, broker: store.connect() });
  await using two = new Bench({ authorizeChange, broker: store.connect() });
  await one.create("board:1");
  const writes = Array.from({ length: 40 }, (_, i) => {
    const way = CLIENTS[i % 2]!;
    return [one, two][i >> 1 & 1]![way]("board:1", [change("cards", "a", { title: "mine" })]);
  });
  const codes = (await Promise.all(writes)).map(({ code }) => code);
  assertEquals(codes.filter((code) => code !== "ok"), []);
  assertEquals(await one.rows("board:1", "cards"), { a: { title: "count", votes: 40 } });
});

Deno.test("authorizeChange decides about a transaction again at once, however many rows have changed", async () => {
  const begun = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const asked: unknown[] = [];
  const authorizeChange = async ({ value, before }: RequestedChange) => {
    asked.push(before);
    if (value !== "late") return true;
    begun.resolve();
    await gate.promise;
    return true;
  };
  const store = new FaultyStore();
  const link = store.connect();
  await using one = new Bench({ broker: link, authorizeChange });
  await using two = new Bench({ broker: store.connect() });
  await one.create("board:1");
  const keys = Array.from({ length: 100 }, (_, i) => `${i}`);
  /** Writes all rows, and the first one twice. */
  const write = (bench: Bench, value: string) =>
    bench.session("board:1", [...keys, "0"].map((key) => change("free", key, value)));
  assertEquals((await write(one, "early")).code, "ok");
  const late = write(one, "late");
  await begun.promise;
  assertEquals((await write(two, "theirs")).code, "ok");
  assertEquals((await two.own("board:1", [change("free", "1")])).code, "ok");
  await until(async () => (await one.rows("board:1", "free"))["1"] === undefined);
  let appends = 0;
  link.make("logs.append", (run) => {
    appends++;
    return run();
  });
  asked.length = 0;
  gate.resolve();
  assertEquals((await late).code, "ok");
  assertEquals(
    await two.rows("board:1", "free"),
    Object.fromEntries(keys.map((key) => [key, "late"])),
  );
  // The first attempt begins before the conflict.
  const again = asked.slice(-keys.length - 1).toSorted();
  const theirs = Array<unknown>(keys.length - 1).fill("theirs");
  assertEquals([appends, again], [2, ["late", ...theirs, undefined].toSorted()]);
});

Deno.test("a row of a client with a number beyond JSON is rejected, and no handler is blamed", async () => {
  const errors: unknown[] = [];
  await using bench = new Bench({ onError: (error) => void errors.push(error) });
  await bench.create("board:1");
  const row = `{"type":"free","key":"a","value":[1e999],"headers":{"operation":"upsert"}}`;
  const response = await fetch(`http://127.0.0.1:${bench.server.address!.port}/streams/board:1`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer ann" },
    body: `[${row}]`,
  });
  const { code, status } = await response.json();
  using socket = await RawSocket.open(bench.server.address!.port, { protocol: "skein.1" });
  await socket.envelope();
  await socket.frame(`{"publish":"stream:board:1","id":1,"data":{"writes":[[${row}]]}}`);
  const { data } = await socket.envelope();
  const { results: [result] } = data as { readonly results: readonly { error: Outcome }[] };
  assertEquals(
    { http: { code, status }, session: result!.error.code, errors },
    { http: { code: "malformed", status: 400 }, session: "malformed", errors: [] },
  );
  assertEquals(await bench.rows("board:1", "free"), {});
});

Deno.test("authorizeChange decides about a row that begins to expire as about its deletion", async (t) => {
  const asked: string[] = [];
  let decide: (change: RequestedChange) => ChangeDecision = () => true;
  const authorizeChange = (change: RequestedChange) => {
    const { action, operation, ttlMs, since, key } = change;
    asked.push(
      [action, operation, key, ttlMs, since].filter((part) => part !== undefined).join(" "),
    );
    return decide(change);
  };
  await walk(t, CLIENTS, {
    options: { authorizeChange },
    async test(bench, write) {
      const id = "board:1";
      await using board = await statesOf(bench.server).open(id);
      const cards = board.collection("cards");
      await cards.set("stays", { title: "S" });
      await cards.set("lent", { title: "L" }, { ttlMs: 3_600_000 });
      const lend = (key: string, headers: object = {}) =>
        change("cards", key, { title: "T" }, { ttl: 60, ...headers });
      /** The outcome, the questions, and whether the row now expires. */
      const outcome = async (key: string, changes: readonly object[]) => {
        asked.length = 0;
        const { code } = await write(id, changes);
        const page = await logsOf(bench.broker)!.read(id, {
          after: 0,
          maxRecords: 99,
          maxBytes: 1e6,
          renews: false,
        });
        assert(typeof page === "object");
        const index = page.records.findIndex((record) => String(record).includes(`"key":"${key}"`));
        return [code, [...asked], (page.expiries?.[index] ?? 0) > 0];
      };
      decide = ({ action }) => action === "set";
      assertEquals(await outcome("new", [lend("new")]), ["ok", ["set upsert new 60000"], true]);
      assertEquals(await outcome("new", [lend("new", { operation: "update" })]), [
        "ok",
        ["set update new 60000"],
        true,
      ]);
      assertEquals((await outcome("lent", [lend("lent")]))[0], "ok");
      const both = ["set upsert stays 60000", "delete delete stays 60000"];
      assertEquals(await outcome("stays", [lend("stays")]), ["forbidden", both, false]);
      // In a transaction, the row is the one of the changes before.
      const twice = [change("cards", "stays", { title: "U" }), lend("stays")];
      assertEquals((await outcome("stays", twice))[0], "forbidden");
      assertEquals(await outcome("pair", [change("cards", "pair", { title: "U" }), lend("pair")]), [
        "forbidden",
        ["set upsert pair", "set upsert pair 60000", "delete delete pair 60000"],
        false,
      ]);
      assertEquals((await outcome("pair", [lend("pair"), lend("pair")]))[0], "ok");
      assertEquals(await outcome("gone", [change("cards", "gone", undefined, { ttl: 60 })]), [
        "forbidden",
        ["delete delete gone"],
        false,
      ]);
      decide = () => true;
      const since = board.version;
      assertEquals(await outcome("stays", [lend("stays", { since })]), [
        "ok",
        both.map((one) => `${one} ${since}`),
        true,
      ]);
      await cards.set("stays", { title: "S" });
      decide = ({ action, ttlMs }) => action === "set" && { ttlMs };
      assertEquals(await outcome("stays", [lend("stays")]), ["ok", [both[0]!], true]);
      await cards.set("stays", { title: "S" });
      decide = ({ value }) => ({ value, ttlMs: undefined });
      assertEquals(await outcome("stays", [lend("stays")]), ["ok", [both[0]!], false]);
      for (const ttlMs of [0, 1.5, NaN, "1"]) {
        decide = () => ({ ttlMs: ttlMs as number });
        assertEquals((await outcome("stays", [lend("stays")]))[0], "undecided");
      }
      decide = ({ action }) => action === "delete" ? { ttlMs: 1 } : true;
      assertEquals((await outcome("stays", [lend("stays")]))[0], "undecided");
      assertEquals(cards.get("stays")?.title, "T");
    },
  });
});

Deno.test("authorizeChange is asked again if another server lets the row stay meanwhile", async () => {
  const asked: string[] = [];
  const elsewhere: (() => Promise<void>)[] = [];
  await using bench = new Bench({
    async authorizeChange({ action }) {
      asked.push(action);
      await elsewhere.pop()?.();
      return action === "set";
    },
  });
  await using board = await statesOf(bench.server).open("board:1");
  await board.collection("cards").set("a", { title: "A" }, { ttlMs: 3_600_000 });
  elsewhere.push(() => bench.elsewhere("board:1", "cards", "a", { title: "B", votes: 0 }));
  const lent = change("cards", "a", { title: "C" }, { ttl: 1 });
  assertEquals((await bench.http("board:1", [lent])).code, "forbidden");
  assertEquals(asked, ["set", "set", "delete"]);
});
