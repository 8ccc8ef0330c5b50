/** Tests states of a contract that no one has created: what readers see, and how a write stores it. */
import { assert, assertEquals, assertRejects, assertThrows, equal } from "@std/assert";
import { z } from "zod";
import {
  type Broker,
  type Client,
  type ClientStateOf,
  connect,
  defineContract,
  MemoryBroker,
  RequestError,
  type Server,
  type Session,
} from "../mod.ts";
import {
  durableStreams,
  liveState,
  type LiveStateOptions,
  type LiveStates,
} from "../streams/mod.ts";
import { fail, FaultyStore, loseReply, pass } from "./faulty_broker.ts";
import { listen } from "./servers.ts";
import { turns, until } from "./waiting.ts";

const contract = defineContract({
  state: {
    "board:{id}": {
      columns: z.object({ title: z.string().min(1) }),
      cards: z.string(),
      cursors: { schema: z.number(), ephemeral: true },
    },
  },
});
type Contract = typeof contract;
type Board = ClientStateOf<Contract, `board:${string}`>;
type OnOpen = LiveStateOptions<Contract>["onOpen"];

const COLUMNS = { columns: { a: { title: "To do" }, b: { title: "Done" } } };

/** A server of boards, whose clients a test opens. */
class Node implements AsyncDisposable {
  readonly server: Server<string, Contract>;
  readonly states: LiveStates<Contract>;
  readonly streams: ReturnType<typeof durableStreams>;
  readonly errors: unknown[] = [];
  /** The ids that `onOpen` was called for. */
  readonly opened: string[] = [];
  readonly #clients: Client<Contract>[] = [];

  constructor(
    {
      broker = new MemoryBroker(),
      onOpen = () => COLUMNS,
      limits = {},
      ...options
    }: { broker?: Broker; onOpen?: OnOpen; limits?: object } & Record<string, unknown> = {},
  ) {
    this.states = liveState(contract, {
      onOpen: (of) => {
        this.opened.push(of.id);
        return onOpen!(of);
      },
    });
    this.streams = durableStreams({ path: "/streams", authorize: () => true, ...limits });
    this.server = listen<string, Contract>({
      webTransport: false,
      broker,
      contract,
      features: [this.streams, this.states],
      authenticate: ({ token }) => token ?? "guest",
      tokens: { inMessage: true },
      authorize: () => true,
      onError: (error) => void this.errors.push(error),
      ...options,
    });
  }

  connect(token = "ann"): Client<Contract> {
    const client = connect(this.server.url, {
      contract,
      token,
      transports: ["websocket"],
      backoff: { firstDelayMs: 1, maxDelayMs: 5 },
    });
    this.#clients.push(client);
    return client;
  }

  /** Opens a board in a new client. */
  async open(id = "board:1", token?: string): Promise<Board> {
    const state = await this.connect(token).state(id as "board:1");
    await state.ready;
    return state as unknown as Board;
  }

  /** Requests the stream of a board. */
  async ask(id: string, init?: RequestInit) {
    const url = `http://127.0.0.1:${this.server.address!.port}/streams/${id}`;
    const response = await fetch(url, init);
    const { headers, status } = response;
    return { headers, status, text: await response.text() };
  }

  /** Reads the stream of a board, and returns the status. */
  async fetch(id = "board:1"): Promise<number> {
    return (await this.ask(id)).status;
  }

  /** Creates a board over HTTP. */
  async put(id: string, headers: Record<string, string> = {}) {
    const keyed = { "content-type": "application/json", "stream-keyed": "true" };
    return await this.ask(id, { method: "PUT", headers: { ...keyed, ...headers } });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) await client.close();
    await this.server.close();
  }
}

function rowsOf(board: Board): Record<string, unknown> {
  return Object.fromEntries(
    [...board.collections()].map(([name, rows]) => [name, Object.fromEntries(rows)]),
  );
}

/** Subscribes without the types of the contract. */
function subscribe(session: object, topic: string): Promise<unknown> {
  return (session as Session).subscribe(topic);
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, RequestError)).failure.code;
}

Deno.test("a state of the contract is there without a creation, and nothing is stored", async () => {
  const broker = new MemoryBroker();
  await using node = new Node({ broker });
  const board = await node.open();
  assertEquals([rowsOf(board), board.status.current], [COLUMNS, "live"]);
  assertEquals([await node.fetch(), node.opened], [404, ["board:1"]]);
  assertEquals(await node.streams.info("board:1"), undefined);
  board[Symbol.dispose]();
  await until(() => node.server.topics.stats.topics === 0);
  const again = await node.open();
  assertEquals([rowsOf(again), node.opened.length], [COLUMNS, 2]);
});

Deno.test("the first write of a state stores the first rows and its own in one step", async () => {
  const store = new FaultyStore();
  const broker = store.connect();
  await using node = new Node({ broker });
  const [ann, bob] = [await node.open(), await node.open("board:1", "bob")];
  const statuses: string[] = [];
  bob.status.observe((status) => statuses.push(status));
  assertEquals(await ann.collection("cards").set("1", "Tea"), 2);
  await until(() => bob.collection("cards").has("1"));
  assertEquals(rowsOf(bob), { ...COLUMNS, cards: { 1: "Tea" } });
  assertEquals(await bob.collection("cards").set("2", "Milk"), 3);
  await until(() => ann.collection("cards").has("2"));
  // The readers went on, because this server stored what they had.
  assertEquals([statuses, node.opened.length], [["live"], 1]);
  assertEquals(broker.callsOf("logs.create").length, 1);
  const later = await node.open();
  assertEquals(rowsOf(later), { ...COLUMNS, cards: { 1: "Tea", 2: "Milk" } });
  assertEquals([await node.fetch(), node.opened.length], [200, 1]);
  // The history has the first rows, and each write.
  assert((await node.ask("board:1?tail=all")).text.includes("To do"));
});

Deno.test("of two servers the first write wins, and the others' readers see its rows", async () => {
  const store = new FaultyStore();
  await using one = new Node({ broker: store.connect() });
  await using two = new Node({
    broker: store.connect(),
    onOpen: () => ({ columns: { z: { title: "Other" } } }),
  });
  const [near, far] = [await one.open(), await two.open()];
  assertEquals(rowsOf(far), { columns: { z: { title: "Other" } } });
  await Promise.all([
    near.collection("cards").set("1", "a"),
    far.collection("cards").set("2", "b"),
  ]);
  await until(() => equal(rowsOf(near), rowsOf(far)));
  const { cards, columns } = rowsOf(near);
  assertEquals(cards, { 1: "a", 2: "b" });
  // Never the rows of both.
  assert(equal(columns, COLUMNS.columns) || equal(columns, { z: { title: "Other" } }));
  await until(() => near.status.current === "live" && far.status.current === "live");
});

Deno.test("readers of another server learn of a creation with one swap", async () => {
  const store = new FaultyStore();
  await using one = new Node({ broker: store.connect() });
  await using two = new Node({ broker: store.connect(), onOpen: () => undefined });
  const far = await two.open();
  assertEquals(rowsOf(far), {});
  const seen: unknown[] = [];
  far.collection("columns").subscribe((rows) => void seen.push([...rows.keys()].join()));
  await using state = await one.states.open("board:1", {
    initial: { columns: { x: { title: "X" }, y: { title: "Y" } }, cards: { 1: "Tea" } },
  });
  assertEquals([...state.collection("cards")], [["1", "Tea"]]);
  await until(() => far.collection("cards").has("1"));
  assertEquals([seen, one.opened], [["", "x,y"], []]);
});

Deno.test("a state that another server creates during onOpen is read as it was created", async () => {
  const store = new FaultyStore();
  const [asked, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  await using one = new Node({ broker: store.connect() });
  await using two = new Node({
    broker: store.connect(),
    onOpen: async () => {
      asked.resolve();
      await gate.promise;
      return { columns: { z: { title: "Other" } } };
    },
  });
  const far = await two.connect().state("board:1");
  await asked.promise;
  const near = await one.open();
  await near.collection("cards").set("1", "a");
  gate.resolve();
  await far.ready;
  assertEquals(rowsOf(far), { ...COLUMNS, cards: { 1: "a" } });
  assertEquals(far.status.current, "live");
});

Deno.test("one call of onOpen serves all readers of a server", async () => {
  const gate = Promise.withResolvers<void>();
  await using node = new Node({
    onOpen: async () => {
      await gate.promise;
      return COLUMNS;
    },
  });
  const opening = Array.from({ length: 100 }, () => node.open());
  await until(() => node.server.topics.stats.topics === 1 && node.opened.length > 0);
  gate.resolve();
  for (const board of await Promise.all(opening)) assertEquals(rowsOf(board), COLUMNS);
  assertEquals(node.opened.length, 1);
});

Deno.test("onOpen that fails is reported, and its readers and writers get unavailable", async () => {
  let fault: (() => never) | undefined = () => {
    throw new Error("no database");
  };
  await using node = new Node({ onOpen: () => fault?.() ?? COLUMNS });
  const session = await node.connect().whenConnected();
  const error = await assertRejects(() => subscribe(session, "stream:board:1"), RequestError);
  const { code, retryAfterMs } = error.failure;
  assertEquals([code, retryAfterMs! > 0], ["unavailable", true]);
  assertEquals(node.errors.map(String), ["Error: onOpen of liveState() failed: no database"]);
  fault = undefined;
  const board = await node.open();
  assertEquals(rowsOf(board), COLUMNS);
});

Deno.test("onOpen is bounded in time and rows, and its rows must fit the contract", async () => {
  const rows: (() => ReturnType<NonNullable<OnOpen>>)[] = [
    () => new Promise(() => {}),
    () => ({ cards: Object.fromEntries(Array.from({ length: 1_001 }, (_, i) => [i, ""])) }),
    () => ({ cards: { 1: "a".repeat(2_000_000) } }),
    () => ({ columns: { a: { title: "" } } }),
    () => ({ cursors: { a: 1 } }),
    () => ({ other: {}, more: { a: 1 } }) as never,
    () => [] as never,
    () => "rows" as never,
  ];
  for (const [i, onOpen] of rows.entries()) {
    // The first function never returns.
    await using node = new Node({ onOpen, ...i === 0 && { session: { requestTimeoutMs: 20 } } });
    const session = await node.connect().whenConnected();
    assertEquals(await codeOf(subscribe(session, "stream:board:1")), "unavailable");
    assertEquals([node.errors.length, node.opened.length], [1, 1]);
  }
});

Deno.test("clients that may only read or only write use a state that does not exist", async () => {
  await using node = new Node({
    authorize: ({ value }: { value: string }, _topic: string, action: string) =>
      value === "reader" ? action === "subscribe" : action === "publish",
  });
  const reader = await node.open("board:1", "reader");
  assertEquals(await codeOf(reader.collection("cards").set("1", "Tea")), "forbidden");
  assertEquals(await node.streams.info("board:1"), undefined);
  const writer = await node.connect("writer").state("board:1");
  assertEquals(await codeOf(writer.ready), "forbidden");
  assertEquals(await writer.collection("cards").set("1", "Tea"), 2);
  await until(() => reader.collection("cards").has("1"));
  assertEquals(rowsOf(reader), { ...COLUMNS, cards: { 1: "Tea" } });
});

Deno.test("authorizeChange decides about the first rows, also without a reader", async () => {
  const asked: unknown[] = [];
  await using node = new Node({
    authorize: (_session: unknown, _topic: string, action: string) => action === "publish",
    authorizeChange: ({ key, before }: { key: string; before: unknown }) => {
      asked.push([key, before]);
      return key === "a";
    },
  });
  const writer = await node.connect().state("board:1");
  const columns = writer.collection("columns");
  assertEquals(await codeOf(columns.delete("b")), "forbidden");
  assertEquals(await node.streams.info("board:1"), undefined);
  assertEquals(await columns.delete("a"), 2);
  assertEquals(asked, [["b", { title: "Done" }], ["a", { title: "To do" }]]);
  await using board = await node.states.open("board:1");
  assertEquals([...board.collection("columns").keys()], ["b"]);
});

Deno.test("a write that changes no row stores nothing", async () => {
  await using node = new Node();
  const board = await node.open();
  assertEquals(await board.collection("cards").delete("none"), 1);
  assertEquals(await codeOf(board.collection("cards").update("none", (card) => card)), "conflict");
  assertEquals(await node.streams.info("board:1"), undefined);
});

Deno.test("many first writes at once are all stored, after one creation", async () => {
  const store = new FaultyStore();
  const broker = store.connect();
  await using node = new Node({ broker, authorizeChange: async () => await Promise.resolve(true) });
  const boards = await Promise.all(Array.from({ length: 12 }, () => node.open()));
  await Promise.all(boards.map((board, i) => board.collection("cards").set(`${i}`, `${i}`)));
  assertEquals((await node.streams.info("board:1"))!.rows!.count, 2 + 12);
  assertEquals([broker.callsOf("logs.create").length, node.opened.length], [1, 1]);
});

Deno.test("a first write whose reply is lost is stored once", async () => {
  const store = new FaultyStore();
  const broker = store.connect();
  await using node = new Node({ broker });
  const board = await node.open();
  broker.make("logs.create", loseReply);
  assertEquals(await board.collection("cards").set("1", "Tea"), 2);
  await using state = await node.states.open("board:1");
  assertEquals([state.version, state.collection("columns").size], [2, 2]);
  await until(() => equal(rowsOf(board), { ...COLUMNS, cards: { 1: "Tea" } }));
});

Deno.test("a deleted state is as it was before the first write", async () => {
  const store = new FaultyStore();
  await using one = new Node({ broker: store.connect() });
  await using two = new Node({ broker: store.connect() });
  const [near, far] = [await one.open(), await two.open()];
  await near.collection("cards").set("1", "Tea");
  await until(() => far.collection("cards").has("1"));
  await one.streams.delete("board:1");
  for (const board of [near, far]) {
    await until(() => equal(rowsOf(board), COLUMNS) && board.status.current === "live");
  }
  assertEquals(await far.collection("cards").set("2", "Milk"), 2);
  await until(() => near.collection("cards").has("2"));
  assertEquals(rowsOf(near), { ...COLUMNS, cards: { 2: "Milk" } });
});

Deno.test("ephemeral rows of a state that does not exist are shared, and not stored", async () => {
  await using node = new Node();
  const [ann, bob] = [await node.open(), await node.open("board:1", "bob")];
  await ann.collection("cursors").set("ann", 1);
  await until(() => bob.collection("cursors").get("ann") === 1);
  assertEquals(await node.streams.info("board:1"), undefined);
});

Deno.test("an id that fits no pattern of the contract is no state", async () => {
  await using node = new Node();
  const name = "list" as `board:${string}`;
  const error = await assertRejects(() => node.states.open(name), RequestError, "fits no pattern");
  assertEquals(error.failure.code, "not-found");
  const session = await node.connect().whenConnected();
  await assertRejects(() => subscribe(session, "stream:list"), RequestError, "fits no pattern");
  assertEquals(node.opened, []);
  // Other durable streams are no states.
  await using writer = await node.streams.create("list");
  assertEquals(writer.id, "list");
  await subscribe(session, "stream:list");
});

Deno.test("LiveStates.open() creates a state with its rows in one step, unless it exists", async () => {
  const store = new FaultyStore();
  const broker = store.connect();
  await using node = new Node({ broker });
  const initial = { cards: { 1: "Tea", 2: "Milk" } };
  await using first = await node.states.open("board:1", { initial });
  assertEquals([...first.collection("cards")], [["1", "Tea"], ["2", "Milk"]]);
  assertEquals([first.version, broker.callsOf("logs.append").length], [1, 0]);
  await using again = await node.states.open("board:1", { initial: { cards: { 3: "No" } } });
  assertEquals([...again.collection("cards").keys()], ["1", "2"]);
  assertEquals(node.opened, []);
  await using other = await node.states.open("board:2");
  assertEquals([[...other.collection("columns").keys()], node.opened], [["a", "b"], ["board:2"]]);
  const wrong = { columns: { a: { title: "" } } };
  assertEquals(await codeOf(node.states.open("board:3", { initial: wrong })), "invalid");
  assertEquals(
    await codeOf(node.states.open("board:3", { initial: { cursors: { a: 1 } } })),
    "ephemeral",
  );
  assertEquals(await node.streams.info("board:3"), undefined);
  const readers = await node.open("board:3");
  await using stored = await node.states.open("board:3");
  await stored.collection("cards").set("1", "Tea");
  await until(() => readers.collection("cards").has("1"));
});

Deno.test("LiveStates.open() stores the first rows after the creation by a client has failed", async () => {
  const broker = new FaultyStore().connect();
  await using node = new Node({ broker });
  const board = await node.open();
  const [asked, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  broker.make("logs.create", async (run, call) => {
    broker.make("logs.create", pass);
    asked.resolve();
    await gate.promise;
    return await fail(run, call);
  });
  const written = codeOf(board.collection("cards").set("1", "Tea"));
  await asked.promise;
  const opening = node.states.open("board:1");
  await turns(9);
  gate.resolve();
  await using opened = await opening;
  assertEquals(Object.fromEntries(opened.collection("columns")), COLUMNS.columns);
  assertEquals(await written, "unknown");
});

Deno.test("a state that is created without a write has its first rows, and its lifetime", async () => {
  const ttlMs = 60_000;
  const creations: ((node: Node, ttlMs?: number) => Promise<string>)[] = [
    async (node, ms = ttlMs) => {
      const { status, text } = await node.put("board:1", { "stream-ttl": `${ms / 1_000}` });
      return status < 300 ? "created" : JSON.parse(text).code;
    },
    (node, ms = ttlMs) =>
      node.streams.create("board:1", { keyed: true, ttlMs: ms }).then(
        () => "created",
        (error) => error.failure.code,
      ),
  ];
  for (const create of creations) {
    await using node = new Node();
    const board = await node.open();
    const statuses: string[] = [];
    board.status.observe((status) => statuses.push(status));
    assertEquals([await create(node), await create(node)], ["created", "created"]);
    assertEquals(await create(node, 2 * ttlMs), "exists");
    assertEquals((await node.ask("board:1", { method: "HEAD" })).headers.get("stream-ttl"), "60");
    assert((await node.ask("board:1")).text.includes("To do"));
    assertEquals(rowsOf(await node.open()), COLUMNS);
    // Earlier readers went on, because they have received these rows.
    assertEquals(await board.collection("cards").set("1", "Tea"), 2);
    assertEquals([rowsOf(board), statuses, node.opened.length], [
      { ...COLUMNS, cards: { 1: "Tea" } },
      ["live"],
      1,
    ]);
  }
});

Deno.test("a state that is created without a write is stored with its first rows or not at all", async () => {
  let fault: (() => never) | undefined = () => {
    throw new Error("no database");
  };
  await using node = new Node({
    onOpen: () => fault?.() ?? COLUMNS,
    limits: {
      authorize: ({ action }: { action: string }) =>
        action === "close" ? { close: true } : { caller: "ann" },
      maxStreams: 2,
      maxStreamsPerUser: 1,
    },
  });
  const failed = await node.put("board:1");
  assertEquals([failed.status, failed.headers.get("retry-after")], [503, "2"]);
  const creation = node.streams.create("board:1", { keyed: true });
  assertEquals(await codeOf(creation), "unavailable");
  assertEquals(await node.streams.info("board:1"), undefined);
  fault = undefined;
  assertEquals((await node.put("board:1", { "stream-closed": "true" })).status, 201);
  const closed = await node.ask("board:1");
  assertEquals([closed.headers.get("stream-closed"), closed.text.includes("To do")], [
    "true",
    true,
  ]);
  assertEquals((await node.put("board:2")).status, 429);
  assertEquals(await node.streams.info("board:2"), undefined);
});

Deno.test("liveState() rejects onOpen without a section state", () => {
  const plain = defineContract({});
  assertThrows(() => liveState(plain, { onOpen: () => undefined }), TypeError, "section state");
  assertThrows(() => liveState(contract, { onopen: 1 } as never), TypeError, "onOpen");
});

Deno.test("streams that first writes create count for their user, on all servers", async () => {
  const store = new FaultyStore();
  const limits = { maxStreams: 100, maxStreamsPerUser: 3 };
  await using one = new Node({ broker: store.connect(), limits });
  await using two = new Node({ broker: store.connect(), limits });
  const write = async (node: Node, user: string, board: number) => {
    const state = await node.open(`board:${board}`, user);
    return await state.collection("cards").set("1", "Tea");
  };
  for (let i = 0; i < 3; i++) assertEquals(await write(one, "ann", i), 2);
  for (const [i, node] of [one, two].entries()) {
    const error = await assertRejects(() => write(node, "ann", 10 + i), RequestError, "your user");
    assertEquals(error.failure.code, "full");
    // Others have room, and ann still changes and reads the boards that exist.
    assertEquals(await write(node, "bob", 20 + i), 2);
    assertEquals(await write(node, "ann", 1), 3 + i);
  }
  assertEquals(await one.streams.info("board:10"), undefined);
  // Reading creates nothing.
  for (let i = 0; i < 20; i++) await one.open(`board:${100 + i}`, "ann");
  assertEquals(await write(two, "eve", 30), 2);
});
