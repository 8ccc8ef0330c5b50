/** Mutations of live states over HTTP, for programs without Skein. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import {
  type Broker,
  connect,
  createServer,
  defineContract,
  guest,
  MemoryBroker,
  RequestError,
  type ServeOptions,
} from "../mod.ts";
import { defineMutations, type MutationFunctions } from "../session/mutations/mod.ts";
import {
  durableStreams,
  DurableStreamsHandler,
  type DurableStreamsOptions,
  liveState,
} from "../streams/mod.ts";
import { FaultyStore, loseReply, pass } from "./faulty_broker.ts";
import { MutatingPeer } from "./peers/mutating_peer.ts";
import { listen } from "./servers.ts";
import { until } from "./waiting.ts";
import { slowTest } from "../tools/run_tests/slow.ts";

const contract = defineContract({
  state: {
    "hall:{id}": {
      collections: {
        seats: z.string(),
        coins: z.number().int().min(0),
        cursors: { schema: z.string(), ephemeral: true },
      },
      mutations: {
        claimSeat: z.object({ seat: z.string(), note: z.string().default("none") }),
        move: { input: z.object({ from: z.string(), to: z.string() }) },
        act: z.string().optional(),
      },
      writes: "mutations",
    },
    "open:{id}": { rows: z.string() },
  },
});

type Contracted = typeof contract;

const ACTS: MutationFunctions<Contracted> = {
  async claimSeat(tx, { seat, note }, { user }) {
    const owner = await tx.get("seats", seat);
    if (owner !== undefined) throw new RequestError("taken", `Seat ${seat} is taken`);
    await tx.set("seats", seat, `${user}/${note}`);
  },
  async move(tx, { from, to }) {
    const coins = await tx.get("coins", from) ?? 0;
    if (coins === 0) throw new RequestError("poor", `${from} has none`);
    await tx.set("coins", from, coins - 1);
    await tx.set("coins", to, (await tx.get("coins", to) ?? 0) + 1);
  },
  act() {},
};

interface HallOptions {
  readonly broker?: Broker;
  readonly acts?: Partial<MutationFunctions<Contracted>>;
  readonly serve?: ServeOptions<string | typeof guest, Contracted>;
  readonly streams?: DurableStreamsOptions;
}

interface Asked {
  readonly id?: string;
  readonly user?: string;
  /** The key of the request. */
  readonly key?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** The body; by default, the input as JSON. */
  readonly raw?: string | Uint8Array<ArrayBuffer>;
  readonly signal?: AbortSignal;
}

interface Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Readonly<Record<string, unknown>>;
}

/** A server with the state `hall:1`, in which `a` has 100 coins. */
async function open({ broker = new MemoryBroker(), acts, serve, streams }: HallOptions = {}) {
  await using stack = new AsyncDisposableStack();
  const errors: string[] = [];
  const mutations = defineMutations(contract, { ...ACTS, ...acts });
  const states = liveState(contract, { mutations });
  const server = stack.use(listen<string | typeof guest, Contracted>({
    webTransport: false,
    broker,
    contract,
    features: [states, durableStreams({ path: "/streams", authorize: () => true, ...streams })],
    authenticate: ({ token }) => token ?? guest,
    onError: (error) => errors.push(`${error}`),
    ...serve,
  }));
  const hall = stack.use(await states.open("hall:1", { initial: { coins: { a: 100 } } }));
  const origin = server.url.replace("ws:", "http:");
  const ask = async (
    path: string,
    body: unknown,
    { user, key, headers, raw, signal }: Asked = {},
  ): Promise<Reply> => {
    const response = await fetch(origin + path, {
      method: "POST",
      body: raw ?? (body === undefined ? null : JSON.stringify(body)),
      headers: {
        ...(body !== undefined && { "content-type": "application/json" }),
        ...(user !== undefined && { authorization: `Bearer ${user}` }),
        ...(key !== undefined && { "idempotency-key": key }),
        ...headers,
      },
      signal,
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: JSON.parse(text || "{}") };
  };
  const owned = stack.move();
  return {
    server,
    states,
    hall,
    errors,
    origin,
    ask,
    /** Calls a mutation of a hall. */
    call: (name: string, input: unknown, { id = "hall:1", ...asked }: Asked = {}) =>
      ask(`streams/${id}?action=mutate&name=${name}`, input, asked),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

type Hall = Awaited<ReturnType<typeof open>>;

/** The status of a response, and the code of its problem. */
function told({ status, body }: Reply): unknown[] {
  return body.code === undefined ? [status] : [status, body.code];
}

/** The coins of `a` and `b`, once the handle of this server has all changes. */
async function coinsOf({ hall }: Hall): Promise<unknown[]> {
  await hall.transaction(async (tx) => void await tx.get("coins", "a"));
  const coins = hall.collection("coins");
  return [coins.get("a"), coins.get("b")];
}

const MOVE = { from: "a", to: "b" };

Deno.test("A mutation over HTTP changes the rows, and the function's rejection is the response", async () => {
  await using hall = await open();
  const { call } = hall;
  const first = await call("claimSeat", { seat: "7" }, { user: "ann" });
  const { headers } = first;
  assertEquals({ status: first.status, body: first.body, cache: headers.get("cache-control") }, {
    status: 200,
    body: { version: 2 },
    cache: "no-store",
  });
  assertEquals(hall.hall.collection("seats").get("7"), "ann/none");
  const second = await call("claimSeat", { seat: "7" }, { user: "bob" });
  assertEquals(second.body, {
    type: "urn:skein:problem:taken",
    title: "Taken",
    status: 409,
    code: "taken",
    detail: "Seat 7 is taken",
  });
  assertEquals(second.headers.get("content-type"), "application/problem+json");
  await Promise.all(Array.from({ length: 20 }, () => call("move", MOVE)));
  assertEquals(await coinsOf(hall), [80, 20]);
});

Deno.test("A mutation over HTTP stores a state that no one has written", async () => {
  await using hall = await open();
  assertEquals((await hall.call("claimSeat", { seat: "7" }, { id: "hall:2" })).body, {
    version: 1,
  });
  await using other = await hall.states.open("hall:2");
  assertEquals(other.collection("seats").get("7"), "undefined/none");
});

Deno.test("A mutation over HTTP has a status for each reason to reject it", async () => {
  await using hall = await open({
    acts: {
      async act(tx, how) {
        await tx.set("coins", "a", 1);
        if (how === "error") throw new Error("SELECT secret");
        if (how === "row") await tx.set("coins", "a", -1);
        if (how === "later") throw new RequestError("busy", "Later", { retryAfterMs: 1_500 });
        if (how === "now") throw new RequestError("unavailable", "Down", { retryAfterMs: 7_000 });
        if (how === "large") {
          for (let i = 0; i < 1_001; i++) await tx.set("seats", `${i}`, "x");
        }
      },
    },
    streams: { maxAppendBytes: 1_000 },
  });
  const { ask, call } = hall;
  const replies = {
    "unknown name": await call("steal", {}),
    "name of an object": await call("constructor", {}),
    "unknown state": await call("act", "x", { id: "street:1" }),
    "state without mutations": await call("act", "x", { id: "open:1" }),
    "no name": await ask("streams/hall:1?action=mutate", {}),
    "two names": await ask("streams/hall:1?action=mutate&name=act&name=move", {}),
    "another action": await ask("streams/hall:1?action=mutates&name=act", {}),
    "bad input": await call("claimSeat", { seat: 7 }),
    "no input": await call("claimSeat", undefined),
    "not JSON": await call("act", "", { raw: "{" }),
    "not UTF-8": await call("act", "", { raw: new Uint8Array([34, 255, 34]) }),
    "another type": await call("act", "", { headers: { "content-type": "text/plain" } }),
    "large body": await call("claimSeat", { seat: "x".repeat(1_000) }),
    "bad key": await call("act", undefined, { key: "é".repeat(3) }),
    error: await call("act", "error"),
    row: await call("act", "row"),
    later: await call("act", "later"),
    now: await call("act", "now"),
    large: await call("act", "large"),
  };
  const statuses = Object.fromEntries(
    Object.entries(replies).map(([what, reply]) => [what, told(reply)]),
  );
  assertEquals(statuses, {
    "unknown name": [404, "unknown-mutation"],
    "name of an object": [404, "unknown-mutation"],
    "unknown state": [404, "unknown-mutation"],
    "state without mutations": [404, "unknown-mutation"],
    "no name": [400, "bad-query"],
    "two names": [400, "bad-query"],
    "another action": [400, "bad-query"],
    "bad input": [422, "invalid"],
    "no input": [422, "invalid"],
    "not JSON": [400, "malformed"],
    "not UTF-8": [400, "malformed"],
    "another type": [415, "unsupported-type"],
    "large body": [413, "too-large"],
    "bad key": [400, "bad-header"],
    error: [500, "failed"],
    row: [422, "invalid"],
    later: [409, "busy"],
    now: [503, "unavailable"],
    large: [413, "too-large"],
  });
  const { "bad input": bad, error, later, now } = replies;
  assertEquals(bad.body.pointer, "/seat");
  assert(!JSON.stringify(error.body).includes("secret"));
  assertEquals(hall.errors.length, 1, hall.errors.join());
  assertStringIncludes(hall.errors[0]!, "SELECT secret");
  const waits = [later, now].map(({ headers }) => headers.get("retry-after"));
  assertEquals(waits, ["2", "7"]);
  assertEquals(await coinsOf(hall), [100, undefined]);
  // Without a body, there is no input.
  assertEquals(told(await call("act", undefined)), [200]);
});

Deno.test("A mutation over HTTP needs the right to call it with its input, and no other right", async () => {
  const asked: unknown[] = [];
  const decided: unknown[] = [];
  await using hall = await open({
    streams: {
      authorize: ({ user, action, id, mutation }) => {
        asked.push([user, action, id, mutation]);
        return action === "mutate" && (mutation!.input as { seat: string }).seat !== "1";
      },
    },
    serve: {
      authorizeChange: (change) => {
        decided.push(change);
        return false;
      },
    },
  });
  const { call } = hall;
  assertEquals(told(await call("claimSeat", { seat: "7" }, { user: "ann" })), [200]);
  assertEquals(told(await call("claimSeat", { seat: "1" }, { user: "ann" })), [403, "forbidden"]);
  // The input is checked first.
  assertEquals(told(await call("claimSeat", { seat: 1 })), [422, "invalid"]);
  const input = { seat: "7", note: "none" };
  assertEquals(asked, [
    ["ann", "mutate", "hall:1", { name: "claimSeat", input }],
    ["ann", "mutate", "hall:1", { name: "claimSeat", input: { ...input, seat: "1" } }],
  ]);
  assertEquals(decided, []);
  assertEquals([...hall.hall.collection("seats")], [["7", "ann/none"]]);
  // Without `authorize`, all is denied.
  await using closed = await open({ streams: { authorize: undefined } });
  assertEquals(told(await closed.call("claimSeat", { seat: "7" })), [403, "forbidden"]);
});

Deno.test("A mutation over HTTP is not made if its user is disconnected meanwhile", async () => {
  for (const place of ["authorize", "function"]) {
    const [isAsked, isDecided] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const decide = async () => {
      isAsked.resolve();
      await isDecided.promise;
    };
    await using hall = await open({
      acts: {
        async act(tx) {
          await tx.set("coins", "a", 1);
          if (place === "function") await decide();
        },
      },
      streams: {
        authorize: async () => {
          if (place === "authorize") await decide();
          return true;
        },
      },
    });
    const calling = hall.call("act", "x", { user: "ann" });
    await isAsked.promise;
    await hall.server.disconnect("ann");
    isDecided.resolve();
    assertEquals(told(await calling), [403, "removed"], place);
    assertEquals((await coinsOf(hall))[0], 100, place);
  }
});

Deno.test("A mutation over HTTP that never ends is rejected in time, and holds nothing", async () => {
  await using hall = await open({
    acts: { act: () => new Promise<void>(() => {}) },
    serve: { session: { requestTimeoutMs: 200 } },
  });
  assertEquals(told(await hall.call("act", "x")), [500, "failed"]);
  assertStringIncludes(hall.errors.join(), "act");
  assertEquals(told(await hall.call("move", MOVE)), [200]);
  const { quotaStats, httpStats } = hall.server;
  assertEquals(quotaStats["states.mutations"]?.taken, 0);
  assertEquals(quotaStats["durableStreams.mutations"]?.taken, 0);
  assertEquals(httpStats.durableStreams?.active, 0);
});

Deno.test("A client that leaves during its mutation leaves nothing behind", async () => {
  const entered = Promise.withResolvers<void>();
  const isOver = Promise.withResolvers<void>();
  await using hall = await open({
    acts: {
      async act() {
        entered.resolve();
        await isOver.promise;
      },
    },
  });
  const leaving = new AbortController();
  const call = hall.call("act", "x", { signal: leaving.signal, key: "k" });
  await entered.promise;
  leaving.abort();
  await call.catch(() => {});
  isOver.resolve();
  const { server } = hall;
  await until(() => server.httpStats.durableStreams?.active === 0);
  assertEquals(server.quotaStats["states.mutations"]?.taken, 0);
  assertEquals(told(await hall.call("move", MOVE)), [200]);
});

Deno.test("A body that never ends uses no slot of other changes", async () => {
  await using hall = await open({ streams: { maxRequests: 1 } });
  const { origin, server } = hall;
  const body = new TransformStream<Uint8Array, Uint8Array>();
  const leaving = new AbortController();
  const slow = fetch(`${origin}streams/hall:1?action=mutate&name=move`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: body.readable,
    signal: leaving.signal,
  });
  await until(() => server.quotaStats["durableStreams.mutations"]?.taken === 1);
  assertEquals(told(await hall.call("move", MOVE)), [429, "too-many"]);
  const put = await fetch(`${origin}streams/log`, { method: "PUT" });
  await put.body?.cancel();
  assertEquals(put.status, 201);
  leaving.abort();
  await slow.catch(() => {});
  await until(() => server.quotaStats["durableStreams.mutations"]?.taken === 0);
  assertEquals(told(await hall.call("move", MOVE)), [200]);
});

Deno.test("Mutations over HTTP count toward the rates of changes", async () => {
  const publications = { perSecond: 0.001, burst: 3 };
  await using hall = await open({ serve: { rates: { perSession: { publications } } } });
  const replies: unknown[] = [];
  for (let i = 0; i < 4; i++) replies.push(told(await hall.call("move", MOVE, { user: "ann" })));
  assertEquals(replies, [[200], [200], [200], [429, "too-many"]]);
  assertEquals(told(await hall.call("move", MOVE, { user: "bob" })), [200]);
  assertEquals(await coinsOf(hall), [96, 4]);
});

Deno.test("Mutations over HTTP count for each 100 rows that they read, too", async () => {
  const publications = { perSecond: 0.001, burst: 5 };
  const acts: Partial<MutationFunctions<Contracted>> = {
    async act(tx) {
      for await (const _row of tx.entries("seats"));
    },
  };
  await using hall = await open({ acts, serve: { rates: { perSession: { publications } } } });
  await hall.hall.transaction((tx) => {
    for (let i = 0; i < 250; i++) tx.set("seats", `${i}`, "ann");
  });
  const replies: unknown[] = [];
  for (let i = 0; i < 3; i++) replies.push(told(await hall.call("act", "all", { user: "ann" })));
  assertEquals(replies, [[200], [200], [429, "too-many"]]);
  assertEquals(told(await hall.call("move", MOVE, { user: "bob" })), [200]);
});

Deno.test("A DurableStreamsHandler has no mutations", async () => {
  await using broker = new MemoryBroker();
  await using streams = new DurableStreamsHandler({
    broker,
    path: "/streams",
    authorize: () => true,
  });
  const url = "http://localhost/streams/hall:1?action=mutate&name=move";
  const response = await streams.fetch(new Request(url, { method: "POST" }));
  assertEquals([response.status, (await response.json()).code], [404, "unknown-mutation"]);
});

Deno.test("A repeated Idempotency-Key is answered, and the mutation is not made again", async () => {
  let runs = 0;
  await using hall = await open({
    acts: {
      claimSeat: (tx, input, context) => {
        runs++;
        return ACTS.claimSeat(tx, input, context);
      },
    },
  });
  const { call } = hall;
  const claim = (key: string, asked: Asked = {}, seat = "7") =>
    call("claimSeat", { seat }, { user: "ann", key, ...asked });
  const first = await claim("one");
  assertEquals([first.body, first.headers.has("idempotency-replayed")], [{ version: 2 }, false]);
  const second = await claim("one");
  const replayed = second.headers.get("idempotency-replayed");
  assertEquals([second.status, second.body, replayed], [200, { version: 2 }, "true"]);
  assertEquals(runs, 1);
  // Other keys come in between, and some of them in the same row.
  for (let i = 0; i < 70; i++) {
    assertEquals(told(await claim(`other ${i}`.replace(" ", "-"), {}, `${i + 100}`)), [200]);
  }
  runs = 0;
  assertEquals(told(await claim("one")), [200]);
  assertEquals(runs, 0);
  // A key belongs to one input, one caller and one state.
  assertEquals(told(await claim("one", {}, "8")), [422, "key-reused"]);
  assertEquals(told(await claim("one", { user: "bob" })), [409, "taken"]);
  assertEquals(told(await claim("one", { id: "hall:2" })), [200]);
  assertEquals(runs, 2);
});

Deno.test("A mutation that was rejected may be sent again with its key", async () => {
  await using hall = await open();
  const { call } = hall;
  const back = { from: "b", to: "a" };
  assertEquals(told(await call("move", back, { key: "k" })), [409, "poor"]);
  assertEquals(told(await call("move", MOVE)), [200]);
  assertEquals(told(await call("move", back, { key: "k" })), [200]);
  assertEquals(told(await call("move", back, { key: "k" })), [200]);
  assertEquals(await coinsOf(hall), [100, 0]);
});

Deno.test("Requests with the same key at the same time make one mutation", async () => {
  const store = new FaultyStore();
  await using one = await open({ broker: store.connect() });
  await using two = await open({ broker: store.connect() });
  const halls = Array.from({ length: 10 }, (_, i) => i % 2 === 0 ? one : two);
  const moved = await Promise.all(halls.map(({ call }) => call("move", MOVE, { key: "k" })));
  assertEquals(moved.map(({ status }) => status), Array(10).fill(200));
  assertEquals(moved.filter(({ headers }) => !headers.has("idempotency-replayed")).length, 1);
  const claimed = await Promise.all(
    halls.map(({ call }) => call("claimSeat", { seat: "7" }, { key: "l" })),
  );
  assertEquals(claimed.map(({ status }) => status), Array(10).fill(200));
  assertEquals(await coinsOf(one), [99, 1]);
});

Deno.test("A mutation whose outcome the broker did not tell is made once by its key", async () => {
  const broker = new FaultyStore().connect();
  await using hall = await open({ broker });
  const { call } = hall;
  broker.make("logs.append", (run, call) => {
    const isMade = call.args[1].changes?.some(({ operation }) => operation === "set");
    return isMade ? loseReply(run, call) : run();
  });
  const input = { seat: "7" };
  assertEquals(told(await call("claimSeat", input, { key: "k" })), [503, "unavailable"]);
  broker.make("logs.append", pass);
  const again = await call("claimSeat", input, { key: "k" });
  assertEquals([...told(again), again.headers.get("idempotency-replayed")], [200, "true"]);
});

Deno.test("A key is known to another server on the same file", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const move = async () => {
      await using broker = await SqliteBroker.open(`${folder}/a.db`);
      await using hall = await open({ broker });
      const { status, headers } = await hall.call("move", MOVE, { key: "k", user: "ann" });
      return [status, headers.get("idempotency-replayed"), ...await coinsOf(hall)];
    };
    assertEquals(await move(), [200, null, 99, 1]);
    assertEquals(await move(), [200, "true", 99, 1]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

slowTest(
  "The keys of a caller are bounded, and none is forgotten in its first minute",
  async () => {
    using time = new FakeTime();
    const mutations = defineMutations(contract, ACTS);
    await using server = createServer<string, Contracted>({
      contract,
      features: [
        liveState(contract, { mutations }),
        durableStreams({ path: "/streams", authorize: () => true }),
      ],
      authenticate: ({ token }) => token!,
      rates: { perSession: { publications: { perSecond: Infinity } } },
    });
    const claim = async (seat: number, key: string | number = seat, user = "ann") => {
      const url = "http://localhost/streams/hall:1?action=mutate&name=claimSeat";
      const response = await server.fetch(
        new Request(url, {
          method: "POST",
          headers: {
            "authorization": `Bearer ${user}`,
            "content-type": "application/json",
            "idempotency-key": `${key}`,
          },
          body: JSON.stringify({ seat: `${seat}` }),
        }),
      );
      const { code } = await response.json();
      return { code, isReplayed: response.headers.has("idempotency-replayed"), response };
    };
    let count = 0;
    let rejected: Awaited<ReturnType<typeof claim>>;
    do rejected = await claim(++count); while (rejected.code === undefined);
    // 64 rows of 100 keys: the first row is full long before all are.
    assert(count > 1_000, `${count}`);
    assertEquals(rejected.code, "too-many");
    assertEquals(rejected.response.status, 429);
    assertMatch(rejected.response.headers.get("retry-after")!, /^(?:[1-9]|[1-5]\d|60)$/);
    const isKnown = async (seat: number) => {
      const { code, isReplayed } = await claim(seat);
      return code === undefined && isReplayed;
    };
    for (let seat = 1; seat < count; seat += 50) assert(await isKnown(seat), `${seat}`);
    // Others have their own.
    assertEquals((await claim(count, count, "bob")).code, undefined);
    await time.tickAsync(60_001);
    assertEquals((await claim(count + 1, count)).code, undefined);
    assert(await isKnown(count - 1));
    await time.tickAsync(86_400_001);
    assertEquals((await claim(1)).code, "taken");
  },
);

Deno.test("Clients have no way around the mutations of a state whose contract says so", async () => {
  await using hall = await open({
    streams: { authorize: () => ({ close: true }) },
    serve: { authorize: () => true, tokens: { inMessage: true } },
  });
  const { origin, states } = hall;
  await using source = await states.open("open:1", { initial: { rows: { a: "x" } } });
  await using peer = await MutatingPeer.connect(hall.server, "ann");
  const change = (operation = "upsert", more: object = {}) => ({
    type: "coins",
    key: "a",
    ...(operation !== "delete" && operation !== "check" && { value: 1_000 }),
    headers: { operation, txid: "t", ...more },
  });
  const session = async (writes: unknown) => {
    const [result] = await peer.publish({ writes }, "hall:1");
    const { error } = result as { error?: { code: string; message: string } };
    return [error?.code, error?.message];
  };
  const http = async (
    method: string,
    { id = "hall:1", body, headers }: { id?: string; body?: unknown; headers?: HeadersInit } = {},
  ) => {
    const response = await fetch(`${origin}streams/${id}`, {
      method,
      body: body === undefined ? null : JSON.stringify(body),
      headers: { "content-type": "application/json", ...headers },
    });
    const { code, detail } = JSON.parse(await response.text() || "{}");
    return [code, detail, response.status];
  };
  const producer = { "producer-id": "p", "producer-epoch": "0", "producer-seq": "0" };
  const keyed = { "stream-keyed": "true" };
  const from = { "stream-forked-from": `/streams/${source.id}` };
  const ways: Record<string, unknown[]> = {
    "session: set": await session([[change()]]),
    "session: update": await session([[change("update", { expect: 1 })]]),
    "session: deletion": await session([[change("delete")]]),
    "session: expiry": await session([[change("upsert", { ttl: 1 })]]),
    "session: condition": await session([[change("check", { expect: 1 })]]),
    "HTTP: append": await http("POST", { body: [change()] }),
    "HTTP: deletion": await http("POST", { body: change("delete") }),
    "HTTP: expiry": await http("POST", { body: change("upsert", { ttl: 1 }) }),
    "HTTP: condition": await http("POST", { body: change("check", { expect: 1 }) }),
    "HTTP: producer": await http("POST", { body: change(), headers: producer }),
    "HTTP: sequence": await http("POST", { body: change(), headers: { "stream-seq": "1" } }),
    "HTTP: with the end": await http("POST", {
      body: change(),
      headers: { "stream-closed": "true" },
    }),
    "PUT: new state": await http("PUT", { id: "hall:2", headers: keyed }),
    "PUT: present state": await http("PUT", { headers: keyed }),
    "PUT: body": await http("PUT", { id: "hall:2", body: [change()], headers: keyed }),
    "PUT: other stream": await http("PUT", { id: "hall:2", body: [change()] }),
    "PUT: expiry": await http("PUT", { id: "hall:2", headers: { ...keyed, "stream-ttl": "1" } }),
    "PUT: end": await http("PUT", { id: "hall:2", headers: { ...keyed, "stream-closed": "true" } }),
    fork: await http("PUT", { id: "hall:2", headers: from }),
    "keyed fork": await http("PUT", { id: "hall:2", headers: { ...keyed, ...from } }),
  };
  for (const [way, [code, message, status = 403]] of Object.entries(ways)) {
    assertEquals([code, status], ["forbidden", 403], way);
    assertStringIncludes(`${message}`, 'by its mutations only (writes: "mutations")', way);
  }
  assertEquals(await coinsOf(hall), [100, undefined]);
  await using other = await states.open("hall:2");
  assertEquals(other.version, 0);

  // Ephemeral rows and the server's own writes stay.
  await using client = connect(hall.server.url, { contract });
  using shown = await client.state("hall:1");
  await shown.ready;
  await shown.collection("cursors").set("ann", "here");
  await until(() => hall.hall.collection("cursors").get("ann") === "here");
  assertEquals(await hall.hall.collection("coins").set("b", 1), 2);
});

Deno.test("A change over HTTP may depend on rows that it only checks", async () => {
  const decided: unknown[] = [];
  await using hall = await open({
    streams: { authorize: ({ user, action }) => action !== "read" || user === "ann" },
    serve: {
      authorizeChange: ({ collection, key, action }) => {
        decided.push([action, collection, key]);
        return true;
      },
    },
  });
  await using state = await hall.states.open("open:1", { initial: { rows: { a: "x", b: "y" } } });
  const check = (key: string, conditions: object) => ({
    type: "rows",
    key,
    headers: { operation: "check", ...conditions },
  });
  const set = { type: "rows", key: "c", value: "z", headers: { operation: "upsert" } };
  const append = async (changes: unknown, user = "ann") => {
    const reply = await hall.ask("streams/open:1", changes, { user });
    const { code, row } = reply.body as { code?: string; row?: unknown };
    return code === undefined ? [reply.status, state.version] : [reply.status, code, row];
  };
  const b = { type: "rows", key: "b", version: 1 };
  const change = { type: "rows", key: "b", value: "y" };
  assertEquals(await append([check("a", { expect: 1 }), check("b", { since: 1 }), set]), [204, 2]);
  assertEquals(await append([check("d", { expect: 0 }), set]), [204, 3]);
  // A condition alone changes nothing, and needs no value.
  assertEquals(await append(check("a", { expect: 1 })), [204, 3]);
  const [status, code, row] = await append([check("b", { expect: 2 }), set]);
  assertEquals([status, code], [409, "conflict"]);
  const { change: shown, ...rest } = row as { change: Record<string, unknown> };
  const { headers: _, ...value } = shown;
  assertEquals([rest, value], [b, change]);
  assertEquals(await append([check("b", { since: 0 }), set], "bob"), [409, "conflict", b]);
  assertEquals(await append([check("d", { since: 0, expect: 1 }), set], "bob"), [
    409,
    "conflict",
    { type: "rows", key: "d", version: 0, since: 3 },
  ]);
  assertEquals(await append({ ...check("a", {}), headers: { operation: "checks" } }), [
    400,
    "bad-change",
    undefined,
  ]);
  assertEquals(state.version, 3);
  // Once for each change, and not for conditions.
  assertEquals(decided, Array(5).fill(["set", "rows", "c"]));
});
