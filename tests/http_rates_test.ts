/**
 * Tests the rates of changes over HTTP: a client has the rates of one session there, whatever the
 * number of its connections, and its changes are counted, not its requests.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { RequestError } from "../mod.ts";
import { guest, type ServeOptions } from "../server.ts";
import type { DurableStreamsOptions } from "../streams/mod.ts";
import { passTime, type TestServer, testServer } from "../testing/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { statesOf, streamFeatures } from "./stream_features.ts";

/** The address of a client that takes all that it may. */
const GREEDY = "203.0.113.66";

/** The address of another client. */
const HONEST = "198.51.100.7";

/** A client over HTTP. */
interface Who {
  readonly user?: string;
  readonly address?: string;
}

/** A request; by default, a change of a row of `board`. */
interface Asked {
  readonly id?: string;
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Number of rows that are changed. */
  readonly rows?: number;
  readonly body?: string;
}

interface Reply {
  readonly status: number;
  readonly detail: string | undefined;
  /** The header `Retry-After`, in seconds. */
  readonly retryAfter: number;
}

/** A server with a state that HTTP serves, and that counts the calls of `authorizeChange`. */
class Board implements AsyncDisposable {
  decided = 0;
  readonly server: TestServer<string | typeof guest>;
  #row = 0;

  private constructor(
    options: ServeOptions<string | typeof guest>,
    streams: DurableStreamsOptions,
  ) {
    this.server = testServer<string | typeof guest>({
      authenticate: ({ token }) => token ?? guest,
      authorize: () => true,
      authorizeChange: () => {
        this.decided++;
        return true;
      },
      features: streamFeatures({
        path: "/streams",
        authorize: ({ user }) => ({ close: true, ...(user !== undefined && { caller: user }) }),
        ...streams,
      }),
      ...options,
    });
  }

  static async open(
    options: ServeOptions<string | typeof guest> = {},
    streams: DurableStreamsOptions = {},
  ): Promise<Board> {
    const board = new Board(options, streams);
    await using _state = await statesOf(board.server).open("board");
    return board;
  }

  async ask({ user, address }: Who, asked: Asked = {}): Promise<Reply> {
    const { id = "board", method = "POST", headers, rows = 1 } = asked;
    const { body = method === "POST" ? JSON.stringify(this.#changes(rows)) : null } = asked;
    const request = new Request(`http://localhost/streams/${id}`, {
      method,
      body,
      headers: {
        "content-type": "application/json",
        ...(user !== undefined && { authorization: `Bearer ${user}` }),
        ...headers,
      },
    });
    const remoteAddr = address === undefined
      ? undefined
      : { transport: "tcp", hostname: address, port: 0 } as const;
    const response = await this.server.fetch(request, { remoteAddr });
    const { detail } = JSON.parse(await response.text() || "{}");
    const retryAfter = Number(response.headers.get("retry-after"));
    return { status: response.status, detail, retryAfter };
  }

  /** Makes requests until one is rejected; returns the number of those before, and the rejection. */
  async askAll(
    who: Who | ((i: number) => Who),
    asked: Asked = {},
  ): Promise<{ readonly count: number; readonly last: Reply }> {
    for (let count = 0;; count++) {
      const last = await this.ask(typeof who === "function" ? who(count) : who, asked);
      if (last.status >= 300) return { count, last };
    }
  }

  #changes(count: number): unknown[] {
    return Array.from({ length: count }, () => ({
      type: "cards",
      key: `${this.#row++ % 2_000}`,
      value: 1,
      headers: { operation: "upsert" },
    }));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.server.close();
  }
}

Deno.test("A user over HTTP changes 1,000 rows at once, then 200 a second, and a denied request asks nothing", async () => {
  using time = new FakeTime();
  await using board = await Board.open();
  const eve = { user: "eve", address: GREEDY };
  const { count, last } = await board.askAll(eve, { rows: 50 });
  assertEquals([count, board.decided], [20, 1_000]);
  assertEquals([last.status, last.retryAfter], [429, 1]);
  assertEquals(
    last.detail,
    "Cannot append: at most 200 publications a second over HTTP per user, and each change is one",
  );
  assertEquals((await board.ask(eve)).status, 429);
  assertEquals([board.decided, board.server.manager.stats().rates.rejected.session], [1_000, 2]);
  // Others are served meanwhile, also at the same address.
  for (const who of [{ user: "ann", address: GREEDY }, { address: GREEDY }, { address: HONEST }]) {
    assertEquals((await board.ask(who)).status, 204);
  }
  await passTime(time, 1_000);
  assertEquals((await board.askAll(eve, { rows: 50 })).count, 4);
  await passTime(time, 60_000);
  assertEquals((await board.askAll(eve, { rows: 50 })).count, 20);
});

Deno.test("A request with more changes than are left waits as long as Retry-After says", async () => {
  using time = new FakeTime();
  await using board = await Board.open();
  const eve = { user: "eve", address: GREEDY };
  assertEquals((await board.ask(eve, { rows: 600 })).status, 204);
  const { status, retryAfter } = await board.ask(eve, { rows: 1_000 });
  assertEquals([status, retryAfter], [429, 3]);
  // The rejected request has taken nothing.
  assertEquals((await board.ask(eve, { rows: 400 })).status, 204);
  await passTime(time, 3_000);
  assertEquals((await board.ask(eve, { rows: 1_000 })).status, 429);
  await passTime(time, 2_000);
  assertEquals((await board.ask(eve, { rows: 1_000 })).status, 204);
});

Deno.test("A user has one rate over HTTP and one in each session, and perUser counts both", async () => {
  using _time = new FakeTime();
  const publications = { perSecond: 0.001, burst: 3 };
  for (const [scope, left] of [["perSession", 3], ["perUser", 0]] as const) {
    const own = scope === "perSession" ? {} : { perSession: { publications: { perSecond: 1e6 } } };
    await using board = await Board.open({ rates: { ...own, [scope]: { publications } } });
    const { count, last } = await board.askAll({ user: "eve", address: GREEDY });
    assertEquals([count, last.status], [3, 429]);
    const session = await board.server.dial({ headers: { authorization: "Bearer eve" } });
    const publish = () => session.publish("news", 1);
    for (let i = 0; i < left; i++) await publish();
    await assertRejects(publish, RequestError, "at most 0.001 publications a second");
    assertEquals((await board.ask({ user: "ann", address: GREEDY })).status, 204);
  }
});

Deno.test("Rates of messages, of bytes, and of an address count changes over HTTP", async () => {
  using _time = new FakeTime();
  const rate = { perSecond: 0.001, burst: 300 };
  const cases = [
    [{ perSession: { messages: rate } }, 6, "messages a second over HTTP per user"],
    [{ perSession: { bytes: rate } }, 1, "bytes a second over HTTP per user"],
    [{ perUser: { messages: rate } }, 6, "messages a second per user"],
    [{ perAddress: { publications: rate } }, 6, "publications a second per network address"],
  ] as const;
  for (const [rates, count, text] of cases) {
    await using board = await Board.open({ rates });
    const { last, ...taken } = await board.askAll({ user: "eve", address: GREEDY }, { rows: 50 });
    // A body of 50 changes is larger than the burst of bytes, so it is accepted once.
    assertEquals(taken.count, count);
    assertStringIncludes(last.detail!, text);
    assertEquals((await board.ask({ user: "ann", address: HONEST })).status, 204);
  }
});

for (
  const [whose, count, addressOf, text] of [
    [
      "an address",
      20,
      () => GREEDY,
      "200 publications a second over HTTP for the guests of an address",
    ],
    [
      "a /48",
      16 * 20,
      (i: number) => `2001:db8:66:${(i % 256 * 256).toString(16)}::1`,
      "3200 publications a second over HTTP for the guests of a network",
    ],
    [
      "private addresses",
      10 * 20,
      (i: number) => `10.0.0.${i % 256}`,
      "2000 publications a second over HTTP for all guests at private or unknown addresses",
    ],
    [
      "unknown addresses",
      10 * 20,
      () => undefined,
      "2000 publications a second over HTTP for all guests at private or unknown addresses",
    ],
  ] as const
) {
  Deno.test(`The guests of ${whose} share their changes over HTTP, and others are served`, async () => {
    using print = captureConsole();
    using time = new FakeTime();
    await using board = await Board.open();
    const whoOf = (i: number): Who => {
      const address = addressOf(i);
      return address === undefined ? {} : { address };
    };
    const taken = await board.askAll(whoOf, { rows: 50 });
    assertEquals(taken.count, count);
    assertStringIncludes(taken.last.detail!, text);
    assertEquals((await board.ask({ address: HONEST })).status, 204);
    assertEquals((await board.ask({ ...whoOf(0), user: "ann" })).status, 204);
    await passTime(time, 1_000);
    assertEquals((await board.askAll(whoOf, { rows: 50 })).count, count / 5);
    const lines = print.lines.filter((line) => line.includes("clientAddress: forwardedAddress("));
    assertEquals(lines.length, whose === "private addresses" ? 1 : 0);
  });
}

Deno.test("rates.perSession.publications lifts the rate over HTTP, too", async () => {
  using _time = new FakeTime();
  const rates = { perSession: { publications: { perSecond: Infinity } } };
  await using board = await Board.open({ rates });
  for (let i = 0; i < 5; i++) {
    const { status } = await board.ask({ user: "eve", address: GREEDY }, { rows: 1_000 });
    assertEquals(status, 204);
  }
});

Deno.test("A caller that authorize names has a rate of its own over HTTP", async () => {
  using _time = new FakeTime();
  await using board = await Board.open({
    rates: { perSession: { publications: { perSecond: 0.001, burst: 2 } } },
  }, { authorize: ({ request }) => ({ caller: request.headers.get("x-agent") ?? "none" }) });
  for (const agent of ["a", "b"]) {
    const headers = { "x-agent": agent };
    assertEquals((await board.askAll({ user: "bots", address: GREEDY }, { headers })).count, 2);
  }
});

Deno.test("Only changes, and requests to close or cancel a stream, count over HTTP", async () => {
  using _time = new FakeTime();
  const rates = { perSession: { publications: { perSecond: 0.001, burst: 3 } } };
  await using board = await Board.open({ rates, authorizeChange: undefined });
  const eve = { user: "eve", address: GREEDY };
  const plain = { id: "log", body: '["a"]' };
  const free: readonly Asked[] = [
    { id: "log", method: "PUT" },
    plain,
    { id: "log", method: "HEAD" },
    { method: "GET" },
    { id: "copy", method: "PUT", headers: { "stream-forked-from": "/streams/board" } },
    { id: "copy", method: "DELETE" },
    { id: "new", method: "PUT", headers: { "stream-keyed": "true" } },
  ];
  for (const asked of free) {
    const request = board.ask(eve, asked);
    assert((await request).status < 300, JSON.stringify(asked));
  }
  const close = { id: "new", headers: { "stream-closed": "true" }, body: "" };
  const cancel = { id: "log?action=cancel", body: "stop" };
  assertEquals((await board.ask(eve, { ...plain, body: '["a","b","c","d"]' })).status, 204);
  for (const asked of [cancel, {}, close]) {
    assertEquals((await board.ask(eve, asked)).status, 204, JSON.stringify(asked));
  }
  for (const asked of [cancel, {}, close, { body: '{"not":"a change"}' }]) {
    assertEquals((await board.ask(eve, asked)).status, 429, JSON.stringify(asked));
  }
  for (const asked of [plain, { method: "GET" }]) {
    assert((await board.ask(eve, asked)).status < 300, JSON.stringify(asked));
  }
});

Deno.test("A producer sends an append again after a 429, and it is stored once", async () => {
  using time = new FakeTime();
  const rates = { perSession: { publications: { perSecond: 1, burst: 2 } } };
  await using board = await Board.open({ rates });
  const eve = { user: "eve", address: GREEDY };
  const append = (seq: number) =>
    board.ask(eve, {
      headers: { "producer-id": "p", "producer-epoch": "0", "producer-seq": `${seq}` },
      body: JSON.stringify({
        type: "votes",
        key: `${seq}`,
        value: 1,
        headers: { operation: "upsert" },
      }),
    });
  assertEquals((await append(0)).status, 200);
  // A repetition is a request like another.
  assertEquals((await append(0)).status, 204);
  const { status, retryAfter } = await append(1);
  assertEquals([status, retryAfter], [429, 1]);
  await passTime(time, retryAfter * 1_000);
  assertEquals((await append(1)).status, 200);
  await using state = await statesOf(board.server).open("board");
  assertEquals([...state.collection("votes").keys()], ["0", "1"]);
  assertEquals(state.version, 2);
});
