/**
 * Requests that a server refuses must not depend on the size of the state that they are about: each
 * of them is sent to a state of 50,000 rows, and the broker counts the rows that the server reads.
 */
import { assert, assertEquals } from "@std/assert";
import { z } from "zod";
import { defineContract, RequestError } from "../mod.ts";
import type { RequestedChange, Server } from "../server.ts";
import type { DurableStreamAction } from "../streams/mod.ts";
import { FaultyStore } from "./faulty_broker.ts";
import { Caller } from "./peers/caller.ts";
import { listen, portOf } from "./servers.ts";
import { statesOf, streamFeatures } from "./stream_features.ts";
import { until } from "./waiting.ts";

const ROWS = 50_000;
const BIG = "board:big";

/** Maximum size of the rows that a server reads at a time for a write, in bytes. */
const PAGE_BYTES = 262_144;

const contract = defineContract({
  state: {
    "board:{id}": {
      cards: z.string(),
      cursors: { schema: z.number(), ephemeral: true },
    },
  },
});

/** The rights of clients; by default, they may do everything. */
interface Rights {
  readonly topic?: ((topic: string, action: string) => boolean) | undefined;
  readonly change?: ((change: RequestedChange) => boolean | Promise<boolean>) | undefined;
  readonly http?: ((action: DurableStreamAction, id: string) => boolean) | undefined;
}

/** A server with a state that no one has open, whose broker counts. */
class Bench implements AsyncDisposable {
  readonly #store = new FaultyStore();
  readonly #broker = this.#store.connect();
  readonly server: Server;
  rights: Rights = {};
  /** Reads, and the rows and bytes that the broker returned, since the last {@linkcode take}. */
  #read = { calls: 0, rows: 0, bytes: 0 };
  /** Rows that are copied with a new stream. */
  #copied = 0;
  /** The ETag of the first page of the state. */
  etag = "";
  /** A valid offset of another state. */
  foreign = "";

  /** Creates a server that checks rows by a contract and `authorizeChange`, unless `isPlain`. */
  constructor(isPlain: boolean = false) {
    this.#broker.make("logs.read", async (run) => {
      const page = await run();
      this.#read.calls++;
      if (typeof page === "object") {
        this.#read.rows += page.records.length;
        for (const record of page.records) this.#read.bytes += record.length;
      }
      return page;
    });
    this.#broker.make("logs.create", (run, { args: [, { rows }] }) => {
      this.#copied += rows?.set.length ?? 0;
      return run();
    });
    this.server = listen({
      webTransport: false,
      broker: this.#broker,
      contract: isPlain ? undefined : contract,
      clientAddress: () => "192.0.2.1",
      authenticate: ({ token }) => token ?? "eve",
      authorize: (_session, topic, action) => this.rights.topic?.(topic, action) ?? true,
      authorizeChange: isPlain ? undefined : (change) => this.rights.change?.(change) ?? true,
      limits: { maxTopicsPerSession: 1 },
      // How many changes the earlier requests had doesn't matter.
      rates: { perSession: { publications: { perSecond: Infinity } } },
      onError() {},
      features: streamFeatures({
        path: "/streams",
        maxRows: ROWS,
        maxReaders: 2,
        maxReadersPerUser: 1,
        authorize: ({ action, id }) => this.rights.http?.(action, id) ?? true,
      }),
    }) as unknown as Server;
  }

  static async open(isPlain?: boolean): Promise<Bench> {
    const bench = new Bench(isPlain);
    await using other = await statesOf(bench.server).open("board:other");
    await other.collection("cards").set("a", "x");
    bench.foreign = (await bench.ask("HEAD", "board:other")).offset;
    await using state = await statesOf(bench.server).open(BIG);
    for (let first = 0; first < ROWS; first += 1_000) {
      await state.transaction((rows) => {
        for (let i = first; i < first + 1_000; i++) rows.set("cards", `${i}`, "a card of a board");
      });
    }
    bench.etag = (await bench.ask("GET", BIG)).etag;
    return bench;
  }

  /** Returns the reads, and the rows that were read and copied, since the last call. */
  take(): { calls: number; rows: number; bytes: number; copied: number } {
    const taken = { ...this.#read, copied: this.#copied };
    this.#read = { calls: 0, rows: 0, bytes: 0 };
    this.#copied = 0;
    return taken;
  }

  async ask(
    method: string,
    query: string,
    { headers = {}, body }: { headers?: Record<string, string>; body?: unknown } = {},
  ): Promise<{ readonly code: string; readonly offset: string; readonly etag: string }> {
    const response = await fetch(`http://127.0.0.1:${portOf(this.server)}/streams/${query}`, {
      method,
      headers: { authorization: "Bearer eve", "content-type": "application/json", ...headers },
      body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
    });
    const text = await response.text();
    const code = text === "" || response.ok ? `${response.status}` : JSON.parse(text).code;
    const of = (name: string) => response.headers.get(name) ?? "";
    return { code, offset: of("stream-next-offset"), etag: of("etag") };
  }

  async http(...asked: Parameters<Bench["ask"]>): Promise<string> {
    return (await this.ask(...asked)).code;
  }

  async session(envelope: object, { first }: { first?: object } = {}): Promise<string> {
    await using caller = await Caller.dial(this.server, { from: "192.0.2.1", user: "eve" });
    if (first !== undefined) assertEquals((await caller.ask(first)).error, undefined);
    // The reads of the first request are not counted.
    if (first !== undefined) this.take();
    const { data, error } = await caller.ask(envelope);
    if (error !== undefined) return error.code;
    const [result] = (data?.["results"] ?? []) as { error?: { code: string }; conflict?: object }[];
    return result?.error?.code ?? (result?.conflict ? "conflict" : "ok");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await this.#broker.close();
  }
}

/** A request that the server refuses. */
interface Refused {
  /** Code of the refusal; over HTTP, the status if the response has no body. */
  readonly code: string;
  /** Most rows that the server may read: those that the request names. */
  readonly rows?: number;
  readonly rights?: Rights;
  readonly ask: (bench: Bench) => Promise<string>;
}

function card(key: string, value?: unknown, headers: object = {}): object {
  const operation = value === undefined ? "delete" : "upsert";
  return { type: "cards", key, value, headers: { operation, ...headers } };
}

/** Transactions that the server refuses, by any way. */
const WRITES: Readonly<
  Record<string, { readonly changes: readonly object[] } & Omit<Refused, "ask">>
> = {
  "a change that authorizeChange denies": {
    code: "forbidden",
    rows: 1,
    rights: { change: () => false },
    changes: [card("7", "x")],
  },
  "a transaction whose last change is denied": {
    code: "forbidden",
    rows: 3,
    rights: { change: ({ key }) => key !== "9" },
    changes: [card("7", "x"), card("8"), card("9", "x"), card("none", "x")],
  },
  "a change while authorizeChange fails": {
    code: "undecided",
    rows: 1,
    rights: {
      change() {
        throw new Error("Away");
      },
    },
    changes: [card("7", "x")],
  },
  "a change that authorizeChange rejects with a reason": {
    code: "busy",
    rows: 1,
    rights: {
      change() {
        throw new RequestError("busy", "Later");
      },
    },
    changes: [card("7", "x")],
  },
  "a change of another version": {
    code: "conflict",
    rows: 1,
    changes: [card("7", "x", { expect: 0 })],
  },
  "a change since another version": {
    code: "conflict",
    rows: 1,
    changes: [card("7", "x", { since: 0 })],
  },
  "an update of a missing row": {
    code: "conflict",
    changes: [card("none", "x", { operation: "update" })],
  },
  "a row too many": { code: "full", changes: [card("new", "x")] },
  "a row that does not fit its schema": { code: "invalid", changes: [card("7", 7)] },
  "a row of no collection": {
    code: "unknown-collection",
    changes: [{ ...card("7", 7), type: "no" }],
  },
  "a stored ephemeral row": { code: "ephemeral", changes: [{ ...card("7", 7), type: "cursors" }] },
  "no change": { code: "bad-change", changes: [{ type: "cards" }] },
};

const SESSION: Readonly<Record<string, Refused>> = {
  ...Object.fromEntries(
    Object.entries(WRITES).map(([name, { changes, ...refused }]): [string, Refused] => [name, {
      ...refused,
      ask: (bench) => bench.session({ publish: `stream:${BIG}`, data: { writes: [changes] } }),
    }]),
  ),
  "a write that authorize denies": {
    code: "forbidden",
    rights: { topic: (_, action) => action !== "publish" },
    ask: (bench) => bench.session(writing([card("7", "x")])),
  },
  "a write of no transactions": {
    code: "malformed",
    ask: (bench) => bench.session({ publish: `stream:${BIG}`, data: { writes: [] } }),
  },
  "a transaction of too many changes": {
    code: "too-large",
    ask: (bench) => bench.session(writing(Array.from({ length: 1_001 }, (_, i) => card(`${i}`)))),
  },
  "a write to no state": {
    code: "not-found",
    ask: (bench) => bench.session({ publish: "stream:none", data: { writes: [[card("7", "x")]] } }),
  },
  "a cancellation that authorize denies": {
    code: "forbidden",
    rights: { topic: (_, action) => action !== "cancel" },
    ask: (bench) => bench.session({ publish: `stream:${BIG}`, data: { cancel: "" } }),
  },
  "a subscription that authorize denies": {
    code: "forbidden",
    rights: { topic: (_, action) => action !== "subscribe" },
    ask: (bench) => bench.session({ subscribe: `stream:${BIG}` }),
  },
  "a subscription after another offset": {
    code: "malformed",
    ask: (bench) =>
      bench.session({ subscribe: `stream:${BIG}`, since: { epoch: "", offset: "x" } }),
  },
  "a subscription after an offset of another state": {
    code: "gone",
    ask: (bench) => {
      const [position, epoch] = bench.foreign.split("_");
      return bench.session({
        subscribe: `stream:${BIG}`,
        since: { epoch, offset: Number(position) },
      });
    },
  },
  "a subscription to a topic too many": {
    code: "too-many",
    ask: (bench) =>
      bench.session({ subscribe: `stream:${BIG}` }, { first: { subscribe: "stream:board:other" } }),
  },
};

/** The envelope with a transaction. */
function writing(changes: readonly object[]): object {
  return { publish: `stream:${BIG}`, data: { writes: [changes] } };
}

const KEYED_FORK = { "stream-forked-from": `/streams/${BIG}`, "stream-keyed": "true" };

const HTTP: Readonly<Record<string, Refused>> = {
  ...Object.fromEntries(
    Object.entries(WRITES).map(([name, { changes, ...refused }]): [string, Refused] => [name, {
      ...refused,
      ask: (bench) => bench.http("POST", BIG, { body: changes }),
    }]),
  ),
  "an append that authorize denies": denied("append", "POST"),
  "an append of too many changes": {
    code: "too-large",
    ask: (bench) =>
      bench.http("POST", BIG, { body: Array.from({ length: 1_001 }, (_, i) => card(`${i}`)) }),
  },
  "an append of another type": {
    code: "wrong-type",
    ask: (bench) =>
      bench.http("POST", BIG, { body: "x", headers: { "content-type": "text/plain" } }),
  },
  "an append that is no JSON": {
    code: "bad-json",
    ask: (bench) => bench.http("POST", BIG, { body: "[" }),
  },
  "an append that is too large": {
    code: "too-large",
    ask: (bench) => bench.http("POST", BIG, { body: [card("7", "x".repeat(300_000))] }),
  },
  "an append of a producer that skips a number": {
    code: "sequence-gap",
    rows: 1,
    ask: (bench) =>
      bench.http("POST", BIG, {
        body: [card("7", "x")],
        headers: { "producer-id": "p", "producer-epoch": "0", "producer-seq": "7" },
      }),
  },
  "a creation that authorize denies": denied("create", "PUT"),
  "a creation of a state that exists": {
    code: "keyed",
    ask: (bench) => bench.http("PUT", BIG, { headers: { "content-type": "text/plain" } }),
  },
  "a fork into an id whose rows are checked": {
    code: "forbidden",
    ask: (bench) => bench.http("PUT", "fork", { headers: KEYED_FORK }),
  },
  "a read that authorize denies": denied("read", "GET"),
  "a read after a malformed offset": {
    code: "bad-offset",
    ask: (bench) => bench.http("GET", `${BIG}?offset=x`),
  },
  "a long poll without an offset": {
    code: "bad-offset",
    ask: (bench) => bench.http("GET", `${BIG}?live=long-poll`),
  },
  ...Object.fromEntries(["", "&live=long-poll", "&live=sse"].map((live): [string, Refused] => [
    `a read after an offset of another state${live}`,
    { code: "gone", ask: (bench) => bench.http("GET", `${BIG}?offset=${bench.foreign}${live}`) },
  ])),
  "a conditional read when nothing has changed": {
    code: "304",
    ask: (bench) => bench.http("GET", BIG, { headers: { "if-none-match": bench.etag } }),
  },
  "a deletion that authorize denies": denied("delete", "DELETE"),
  "a cancellation that authorize denies": denied("cancel", "POST", `${BIG}?action=cancel`),
};

/** Forks of a server that checks no rows. */
const FORKS: Readonly<Record<string, Refused>> = {
  "a fork of a state that is too large": {
    code: "full",
    ask: (bench) => bench.http("PUT", "fork", { headers: KEYED_FORK }),
  },
  "a fork of a state that the client may not read": {
    code: "forbidden",
    rights: { http: (action) => action !== "read" },
    ask: (bench) => bench.http("PUT", "fork", { headers: KEYED_FORK }),
  },
  "a fork after an old offset": {
    code: "gone",
    ask: (bench) =>
      bench.http("PUT", "fork", { headers: { ...KEYED_FORK, "stream-fork-offset": "-1" } }),
  },
  "a fork into an id in use": {
    code: "exists",
    ask: (bench) => bench.http("PUT", BIG, { headers: KEYED_FORK }),
  },
  "a fork of another type": {
    code: "wrong-type",
    ask: (bench) =>
      bench.http("PUT", "fork", {
        headers: { "stream-forked-from": `/streams/${BIG}`, "content-type": "text/plain" },
      }),
  },
};

function denied(action: DurableStreamAction, method: string, query: string = BIG): Refused {
  return {
    code: "forbidden",
    rights: { http: (asked) => asked !== action },
    ask: (bench) => bench.http(method, query),
  };
}

Deno.test("Servers read no more rows for a refused request than it names", async (t) => {
  await using bench = await Bench.open();
  await walk(t, bench, { session: SESSION, HTTP }, 3);
});

Deno.test("Servers read no rows for a refused fork", async (t) => {
  await using bench = await Bench.open(true);
  // The source and the id.
  await walk(t, bench, { HTTP: FORKS }, 2);
});

async function walk(
  t: Deno.TestContext,
  bench: Bench,
  ways: Readonly<Record<string, Readonly<Record<string, Refused>>>>,
  maxReads: number,
): Promise<void> {
  for (const [way, cases] of Object.entries(ways)) {
    for (const [name, { code, rows = 0, rights = {}, ask }] of Object.entries(cases)) {
      await t.step(`${way}: ${name}`, async () => {
        bench.rights = rights;
        bench.take();
        assertEquals(await ask(bench), code);
        const read = bench.take();
        assert(read.rows <= rows, `read ${read.rows} rows, expected at most ${rows}`);
        // With NATS, each read is a request of its own.
        assert(read.calls <= maxReads, `made ${read.calls} reads, expected at most ${maxReads}`);
        assertEquals(read.copied, 0);
      });
    }
  }
}

Deno.test("Servers read the rows of a write in parts, and as far as they decide", async () => {
  await using bench = new Bench();
  {
    await using state = await statesOf(bench.server).open(BIG);
    for (let i = 0; i < 40; i++) await state.collection("cards").set(`${i}`, "x".repeat(100_000));
  }
  const deletions = writing(Array.from({ length: 40 }, (_, i) => card(`${i}`)));
  const seen: string[] = [];
  let denied = "0";
  const change = ({ key, before }: RequestedChange) => {
    assertEquals((before as string).length, 100_000);
    seen.push(key);
    return key !== denied;
  };
  bench.rights = { change };
  bench.take();
  assertEquals(await bench.session(deletions), "forbidden");
  const first = bench.take();
  assertEquals(seen.splice(0), ["0"]);
  assert(first.bytes <= PAGE_BYTES, `read ${first.bytes} bytes`);
  denied = "39";
  assertEquals(await bench.session(deletions), "forbidden");
  assertEquals([bench.take().rows, seen.splice(0).length], [40, 40]);
  denied = "";
  assertEquals(await bench.session(deletions), "ok");
  assertEquals([bench.take().rows, seen.length], [40, 40]);
  await using state = await statesOf(bench.server).open(BIG);
  assertEquals(state.collection("cards").size, 0);
});

Deno.test("Servers read no rows that the write before has left to the next", async () => {
  await using bench = new Bench();
  await (await statesOf(bench.server).open(BIG))[Symbol.asyncDispose]();
  const allowing = Promise.withResolvers<boolean>();
  const seen: unknown[] = [];
  bench.rights = { change: ({ before }) => (seen.push(before), allowing.promise) };
  const writes = Array.from({ length: 20 }, (_, i) => bench.session(writing([card("7", `${i}`)])));
  await until(() => bench.server.quotaStats["states.waiting"]!.taken === 19);
  allowing.resolve(true);
  for (const write of writes) assertEquals(await write, "ok");
  assertEquals([seen.length, new Set(seen).size, bench.take().rows], [20, 20, 0]);
});
