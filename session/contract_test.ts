import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { z } from "zod";
import {
  type Contract,
  type ContractData,
  type ContractDefinition,
  type ContractReply,
  type ContractTopic,
  defineContract,
  type MessageOf,
  type NoTopic,
  type Side,
  type StateIds,
  type StateInput,
  type StateRow,
  type StateRows,
  type TopicMessage,
} from "./contract.ts";
import type { PresenceNotice } from "./wire/presence_notice.ts";
import { type StandardSchema, validate } from "../base/standard_schema.ts";
import type { ContractMessage, UntypedMessage } from "./message.ts";
import { compileContract } from "./settings/check_settings.ts";
import { compileStates } from "./state_schemas.ts";

type PresenceMessage = ContractMessage<"presence:{topic}", PresenceNotice>;

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true
  : false;
function expectType<_T extends true>(): void {}

const byHand: StandardSchema<"in", "out"> = {
  "~standard": {
    version: 1,
    vendor: "test",
    validate: (value) => value === "in" ? { value: "out" } : { issues: [{ message: "Not in" }] },
  },
};

const contract = defineContract({
  toServer: {
    "chat:{room}": z.object({ text: z.string(), at: z.string().transform(Number) }),
    cursor: z.object({ x: z.number() }),
    "game/{id}/move/{n}": byHand,
  },
  toClient: {
    "chat:{room}": z.object({ text: z.string(), from: z.string().default("?") }),
    notice: z.union([z.string(), z.number()]),
  },
  requests: {
    join: { input: z.string(), output: z.array(z.string()) },
    "score/{id}": { input: z.null(), output: z.string().transform(Number) },
  },
});
type C = typeof contract;

const onlyToServer = defineContract({ toServer: { ping: z.null() } });
const empty = defineContract({});

function messageOf<S extends Side = "server">(
  pattern: string,
  topic: string,
  params: Record<string, string>,
  data: unknown,
): MessageOf<C, S> {
  const message: unknown = { pattern, topic, params, data, isRequest: false, reply() {} };
  return message as MessageOf<C, S>;
}

Deno.test("defineContract() returns a frozen contract that keeps its definition", () => {
  assert(Object.isFrozen(contract) && Object.isFrozen(contract.definition));
  assert(contract.definition.toServer["chat:{room}"] instanceof z.ZodObject);
  const any: Contract = contract;
  assertStrictEquals(any.definition.toClient, contract.definition.toClient);
});

Deno.test("defineContract() rejects patterns that overlap in one direction", () => {
  const [text, request] = [z.string(), { input: z.string(), output: z.string() }];
  const cases: ContractDefinition[] = [
    { toServer: { "chat:{room}": text, "chat:lobby": text } },
    { toClient: { "chat:{room}": text, "chat:lobby": text } },
    { toServer: { "chat:{room}": text }, requests: { "chat:lobby": request } },
    { toClient: { "chat:{room}": text }, requests: { "chat:lobby": request } },
    { requests: { "chat:{room}": request, "chat:lobby": request } },
    { state: { "chat:{room}": { lines: text }, "chat:lobby": { lines: text } } },
  ];
  for (const definition of cases) {
    assertThrows(
      () => defineContract(definition),
      TypeError,
      'Cannot define contract: patterns "chat:{room}" and "chat:lobby" overlap, ',
    );
  }
  defineContract({ toServer: { "chat:{room}": text }, toClient: { "chat:lobby": text } });
  defineContract({ toServer: { "chat:{room}": text }, state: { "chat:lobby": { lines: text } } });
});

const boards = defineContract({
  state: {
    "board:{id}": {
      cards: z.object({ title: z.string(), votes: z.number().default(0) }),
      columns: byHand,
      cursors: { schema: z.object({ x: z.number().default(0) }), ephemeral: true },
    },
    settings: { flags: z.boolean() },
  },
});
type Boards = typeof boards;

Deno.test("compileStates() finds the collections of a state", () => {
  const router = compileStates(boards)!;
  const { cards } = boards.definition.state["board:{id}"];
  assertStrictEquals(router.match("board:1")?.collections.get("cards")?.schema, cards);
  const { cursors } = boards.definition.state["board:{id}"];
  assertEquals(router.match("board:1")?.collections.get("cursors"), cursors);
  assertEquals([...router.match("settings")!.collections.keys()], ["flags"]);
  assertEquals(router.match("settings")?.collections.get("constructor"), undefined);
  assertEquals([router.match("board:"), compileStates(empty)?.match("board:1")], [
    undefined,
    undefined,
  ]);
  const { definition } = boards;
  assertEquals(compileStates({ definition }), undefined);
});

const versions = defineContract({
  state: {
    "long:{id}": { collections: { cards: z.string() }, version: 3 },
    "plain:{id}": { collections: { cards: { schema: z.string() } } },
    // A collection with this name.
    "schema:{id}": { collections: z.number() },
    "object:{id}": { collections: { schema: z.number(), ephemeral: true }, cards: z.string() },
  },
});

Deno.test("compileStates() tells the long form of a state from the short one", () => {
  const router = compileStates(versions)!;
  const found = ["long:1", "plain:1", "schema:1", "object:1"].map((id) => {
    const { collections, version } = router.match(id)!;
    return [[...collections.keys()], version];
  });
  assertEquals(found, [[["cards"], 3], [["cards"], 1], [["collections"], 1], [
    ["collections", "cards"],
    1,
  ]]);
  assertEquals(router.match("object:1")!.collections.get("collections")?.ephemeral, true);
});

Deno.test("defineContract() rejects long forms of states that it cannot read", () => {
  const cards = z.string();
  const entries: object[] = [
    { collections: { cards }, version: 0 },
    { collections: { cards }, version: 1.5 },
    { collections: { cards }, version: "2" },
    { collections: {} },
    { collections: 7 },
    { collections: undefined, version: 2 },
    { collections: { "": cards } },
  ];
  for (const entry of entries) {
    assertThrows(
      () => defineContract({ state: { "a:{id}": entry as never } }),
      TypeError,
      "each with a name and a schema, and a version",
    );
  }
});

Deno.test("states in the long form are typed like those in the short one", () => {
  type Versions = typeof versions;
  expectType<Equal<keyof StateRows<Versions, "long:1">, "cards">>();
  expectType<Equal<StateRow<StateRows<Versions, "long:1">, "cards">, string>>();
  expectType<Equal<StateRow<StateRows<Versions, "plain:1">, "cards">, string>>();
  expectType<Equal<StateRow<StateRows<Versions, "schema:1">, "collections">, number>>();
  expectType<Equal<keyof StateRows<Versions, "object:1">, "collections" | "cards">>();
  expectType<Equal<StateInput<StateRows<Versions, "object:1">, "collections">, number>>();
});

Deno.test("states are typed by id and collection", () => {
  expectType<Equal<StateIds<Boards>, `board:${string}` | "settings">>();
  expectType<Equal<StateIds<Contract>, string>>();
  expectType<Equal<StateIds<typeof empty>, string & NoTopic<"the contract has no state">>>();
  type Board = StateRows<Boards, "board:1">;
  expectType<Equal<keyof Board, "cards" | "columns" | "cursors">>();
  expectType<Equal<StateRow<Board, "cards">, { title: string; votes: number }>>();
  expectType<
    Equal<StateInput<Board, "cards">, { title: string; votes?: number | undefined }>
  >();
  expectType<Equal<StateRow<Board, "columns">, "out">>();
  expectType<Equal<StateRow<Board, "cursors">, { x: number }>>();
  expectType<Equal<StateInput<Board, "cursors">, { x?: number | undefined }>>();
  expectType<Equal<StateInput<Board, "columns">, "in">>();
  expectType<Equal<keyof StateRows<Boards, "settings">, "flags">>();
  expectType<Equal<keyof StateRows<Boards, "board:1" | "settings">, never>>();
  expectType<Equal<StateRow<StateRows<Contract, string>, "any">, unknown>>();
});

Deno.test("defineContract() rejects topics of presence notices", () => {
  const [text, request] = [z.string(), { input: z.string(), output: z.string() }];
  for (const topic of ["presence:lobby", "presence:{topic}", "presence:"]) {
    for (
      const definition of [
        { toServer: { [topic]: text } },
        { toClient: { [topic]: text } },
        { requests: { [topic]: request } },
      ]
    ) {
      assertThrows(
        () => defineContract(definition),
        TypeError,
        `Cannot define contract: topics under presence: are built in, received "${topic}"`,
      );
    }
  }
  assertThrows(() => defineContract({ toClient: { "{any}": text } }), TypeError, "overlap");
  defineContract({ toClient: { presence: text, presences: text } });
});

Deno.test("defineContract() rejects invalid definitions", () => {
  const cases: [definition: unknown, part: string][] = [
    [undefined, "a definition must be an object, received undefined"],
    [null, "a definition must be an object, received null"],
    [{ toSever: {} }, 'toServer, toClient, requests, presence and state, received "toSever"'],
    [{ toServer: { a: {} } }, 'a message topic must have a schema, received "a"'],
    [{ toServer: { a: undefined } }, 'a message topic must have a schema, received "a"'],
    [{ requests: { a: z.string() } }, "an input schema, and an output"],
    [{ requests: { a: { input: z.string() } } }, "an input schema, and an output"],
    [{ requests: { a: null } }, "an input schema, and an output"],
    [{ toServer: { "chat:{room": z.string() } }, "braces must come in pairs"],
    [{ toServer: { "": z.string() } }, "non-empty"],
    [{ state: { "board:{id": { cards: z.string() } } }, "braces must come in pairs"],
    [{ state: { "": { cards: z.string() } } }, "non-empty"],
    [
      { state: { board: {} } },
      'a state must have collections, each with a name and a schema, and a version, received "board"',
    ],
    [
      { state: { board: null } },
      'a state must have collections, each with a name and a schema, and a version, received "board"',
    ],
    [{ state: { board: { "": z.string() } } }, "each with a name"],
    [{ state: { board: { cards: {} } } }, "and a schema"],
    [{ state: { board: { cards: null } } }, "and a schema"],
    [{ state: { board: { cursors: { ephemeral: true } } } }, "and a schema"],
    [
      { state: { board: { cursors: { schema: z.string(), ephemral: true } } } },
      'the members of "cursors" of "board" are schema, ephemeral, received "ephemral"',
    ],
    [
      { state: { board: { collections: { cards: z.string() }, write: "mutations" } } },
      'the members of "board" are collections, version, mutations, writes, received "write"',
    ],
    [
      { requests: { a: { input: z.string(), stream: z.string(), resum: true } } },
      'the members of "a" are input, output, stream, resume, received "resum"',
    ],
  ];
  for (const [definition, part] of cases) {
    const error = assertThrows(
      () => defineContract(definition as ContractDefinition),
      TypeError,
      part,
    );
    assert(error.message.startsWith("Cannot define contract: "), error.message);
  }
  // @ts-expect-error There is no such section.
  assertThrows(() => defineContract({ toServer: {}, toSever: {} }), TypeError);
  // @ts-expect-error A request needs both schemas.
  assertThrows(() => defineContract({ requests: { a: { input: z.string() } } }), TypeError);
});

Deno.test("compileContract() routes the messages of each side", () => {
  const { toServer, toClient, requests } = contract.definition;
  const server = compileContract(contract, "server");
  assertEquals(server.match("chat:lobby"), {
    pattern: "chat:{room}",
    params: { room: "lobby" },
    input: toServer["chat:{room}"],
    output: undefined,
    kind: "message",
  });
  const client = compileContract(contract, "client");
  assertStrictEquals(client.match("chat:lobby")?.input, toClient["chat:{room}"]);
  assertEquals([server.match("notice"), client.match("cursor")], [undefined, undefined]);
  for (const router of [server, client]) {
    const match = router.match("score/7")!;
    assertEquals({ pattern: match.pattern, kind: match.kind, params: match.params }, {
      pattern: "score/{id}",
      kind: "request",
      params: { id: "7" },
    });
    assertStrictEquals(match.input, requests["score/{id}"].input);
    assertStrictEquals(match.output, requests["score/{id}"].output);
    assertEquals(router.match("chat:"), undefined);
  }
});

Deno.test("compileContract() accepts presence notices only on the client", () => {
  for (const each of [contract, onlyToServer, empty]) {
    assertEquals(compileContract(each, "client").match("presence:chat:a:b"), {
      pattern: "presence:{topic}",
      params: { topic: "chat:a:b" },
      kind: "message",
    });
    assertEquals(compileContract(each, "client").match("presence:"), undefined);
    assertEquals(compileContract(each, "server").match("presence:chat:a"), undefined);
  }
});

Deno.test("compileContract() returns one router for all sessions", () => {
  for (const side of ["server", "client"] as const) {
    assertStrictEquals(compileContract(contract, side), compileContract(contract, side));
  }
});

Deno.test("compileContract() accepts a contract of another copy of Skein, and nothing else", async () => {
  const copied: typeof import("./contract.ts") = await import("./contract.ts" + "?copy");
  const copy: Contract = copied.defineContract(contract.definition);
  assertEquals(compileContract(copy, "server").match("cursor")?.pattern, "cursor");
  const bare = contract.definition as unknown as Contract;
  assertThrows(() => compileContract(bare, "server"), TypeError, "Cannot use contract: ");
});

Deno.test("a matched schema checks the data, synchronously or not", async () => {
  const slow = defineContract({
    toServer: { name: z.string().refine((name) => Promise.resolve(name !== "root"), "Taken") },
  });
  const { input } = compileContract(slow, "server").match("name")!;
  assertEquals(await validate(input!, "root"), { ok: false, message: "Taken", path: [] });
  assertEquals(await validate(input!, "ada"), { ok: true, value: "ada" });
  const move = compileContract(contract, "server").match("game/7/move/1")!;
  assertEquals(validate(move.input!, "in"), { ok: true, value: "out" });
});

Deno.test("topics and data to send are typed by side", () => {
  expectType<
    Equal<ContractTopic<C, "client">, `chat:${string}` | "cursor" | `game/${string}/move/${string}`>
  >();
  expectType<Equal<ContractTopic<C, "server">, `chat:${string}` | "notice">>();
  expectType<Equal<ContractData<C, "client", "chat:a">, { text: string; at: string }>>();
  expectType<Equal<ContractData<C, "client", `chat:${string}`>, { text: string; at: string }>>();
  expectType<Equal<ContractData<C, "client", "game/1/move/2">, "in">>();
  expectType<
    Equal<ContractData<C, "server", "chat:a">, { text: string; from?: string | undefined }>
  >();
  expectType<Equal<ContractData<C, "server", "notice">, string | number>>();
  expectType<Equal<ContractData<C, "server", "cursor">, never>>();
  // Either topic is possible, so the data must fit both.
  expectType<
    Equal<
      ContractData<C, "client", "cursor" | "chat:a">,
      { x: number } & { text: string; at: string }
    >
  >();
  type Two = Contract<{ toServer: { a: StandardSchema; "b:{c}": StandardSchema } }>;
  expectType<Equal<ContractTopic<Two, "client">, "a" | `b:${string}`>>();
});

Deno.test("requests are typed for both sides", () => {
  expectType<Equal<ContractTopic<C, "requests">, "join" | `score/${string}`>>();
  expectType<Equal<ContractData<C, "requests", "join">, string>>();
  expectType<Equal<ContractReply<C, "join">, string[]>>();
  expectType<Equal<ContractData<C, "requests", "score/7">, null>>();
  expectType<Equal<ContractReply<C, "score/7">, number>>();
  expectType<Equal<ContractReply<C, "join" | "score/7">, string[] | number>>();
});

Deno.test("an omitted section has no topics", () => {
  type P = typeof onlyToServer;
  expectType<Equal<ContractTopic<P, "client">, "ping">>();
  expectType<Equal<ContractTopic<P, "server">, string & NoTopic<"the contract has no toClient">>>();
  expectType<
    Equal<ContractTopic<P, "requests">, string & NoTopic<"the contract has no requests">>
  >();
  expectType<Equal<ContractData<P, "server", ContractTopic<P, "server">>, never>>();
  expectType<Equal<MessageOf<P, "server">, ContractMessage<"ping", null>>>();
  expectType<Equal<MessageOf<P, "client">, PresenceMessage>>();
  expectType<
    Equal<ContractTopic<typeof empty, "client">, string & NoTopic<"the contract has no toServer">>
  >();
  expectType<Equal<MessageOf<typeof empty, "server">, never>>();
  expectType<Equal<MessageOf<typeof empty, "client">, PresenceMessage>>();
});

Deno.test("without a contract topics are strings and data is unknown", () => {
  expectType<Equal<ContractTopic<Contract, "client">, string>>();
  expectType<Equal<ContractData<Contract, "server", "x">, unknown>>();
  expectType<Equal<ContractTopic<Contract, "requests">, string>>();
  expectType<Equal<ContractData<Contract, "requests", "x">, unknown>>();
  expectType<Equal<ContractReply<Contract, string>, unknown>>();
  expectType<Equal<MessageOf<Contract, Side>, UntypedMessage>>();
  expectType<Equal<MessageOf<Contract, "client">, UntypedMessage>>();
  expectType<Equal<UntypedMessage["topic"], string>>();
  expectType<Equal<UntypedMessage["params"], Readonly<Record<string, string>>>>();
  expectType<Equal<UntypedMessage["pattern"], string | undefined>>();
});

Deno.test("MessageOf narrows by pattern in for await", async () => {
  async function* incoming(): AsyncGenerator<MessageOf<C, "server">> {
    await Promise.resolve();
    yield messageOf("chat:{room}", "chat:a", { room: "a" }, { text: "hi", at: 1 });
    yield messageOf("cursor", "cursor", {}, { x: 4 });
  }
  const seen: unknown[] = [];
  for await (const message of incoming()) {
    if (message.pattern === "chat:{room}") {
      expectType<Equal<typeof message.params, { readonly room: string }>>();
      expectType<Equal<typeof message.topic, `chat:${string}`>>();
      expectType<Equal<typeof message.data, { text: string; at: number }>>();
      message.reply({ anything: true });
      // @ts-expect-error There is no such parameter.
      assertEquals(message.params.id, undefined);
      seen.push(message.params.room, message.data.at);
      continue;
    }
    // @ts-expect-error Not every other message has a text.
    message.data?.text;
    if (message.pattern === "cursor") seen.push(message.data.x);
    // @ts-expect-error There is no such pattern.
    assert(message.pattern !== "chat:lobby");
  }
  assertEquals(seen, ["a", 1, 4]);
});

Deno.test("MessageOf narrows by pattern in a switch, and can be exhausted", () => {
  function name(message: MessageOf<C, "server">): string {
    switch (message.pattern) {
      case "chat:{room}":
        return message.params.room + message.data.text;
      case "cursor":
        return `${message.data.x}`;
      case "game/{id}/move/{n}":
        expectType<Equal<typeof message.data, "out">>();
        return message.params.id + message.params.n;
      case "join":
        expectType<Equal<typeof message.data, string>>();
        expectType<Equal<Parameters<typeof message.reply>, [data: string[]]>>();
        // @ts-expect-error The reply is a list.
        message.reply(4);
        return message.data;
      case "score/{id}":
        expectType<Equal<Parameters<typeof message.reply>, [data: string]>>();
        return message.params.id;
      default:
        return message satisfies never;
    }
  }
  assertEquals(name(messageOf("game/{id}/move/{n}", "", { id: "7", n: "1" }, "out")), "71");
  expectType<
    Equal<
      MessageOf<C, "client">["pattern"],
      "chat:{room}" | "notice" | "join" | "score/{id}" | "presence:{topic}"
    >
  >();
});

Deno.test("MessageOf includes presence notices on the client", () => {
  function name(message: MessageOf<C, "client">): string {
    if (message.pattern !== "presence:{topic}") return message.topic;
    expectType<Equal<typeof message.data, PresenceNotice>>();
    expectType<Equal<typeof message.topic, `presence:${string}`>>();
    return message.data.type === "join" ? message.data.user : message.params.topic;
  }
  const message = messageOf<"client">("presence:{topic}", "presence:a", { topic: "a" }, {
    type: "join",
    user: "ada",
    at: 0,
  });
  assertEquals(name(message), "ada");
});

Deno.test("PresenceMessage has the contract's data in every room", () => {
  const contract = defineContract({
    presence: { "room:{name}": z.object({ n: z.number().default(1) }), lobby: z.string() },
  });
  type P = typeof contract;
  expectType<Equal<ContractTopic<P, "presence">, `room:${string}` | "lobby">>();
  expectType<Equal<ContractData<P, "presence", "room:a">, { n?: number | undefined }>>();
  expectType<Equal<ContractData<P, "presence", "lobby">, string>>();
  expectType<Equal<MessageOf<P, "client">["data"], PresenceNotice<{ n: number } | string>>>();
  expectType<
    Equal<ContractTopic<C, "presence">, string & NoTopic<"the contract has no presence">>
  >();
  expectType<Equal<ContractTopic<Contract, "presence">, string>>();
  assertEquals(compileContract(contract, "presence").match("room:a")?.params, { name: "a" });
  assertEquals(compileContract(contract, "presence").match("hall"), undefined);
  assertEquals(compileContract(contract, "server").match("lobby"), undefined);
});

Deno.test("TopicMessage is the type of a subscriber's messages", () => {
  type Chat = ContractMessage<"chat:{room}", { text: string; from: string }>;
  type Notice = ContractMessage<"notice", string | number>;
  expectType<Equal<TopicMessage<C, "chat:a">, Chat>>();
  expectType<Equal<TopicMessage<C, `chat:${string}`>, Chat>>();
  expectType<Equal<TopicMessage<C, "notice">, Notice>>();
  expectType<Equal<TopicMessage<C, "chat:a" | "notice">, Chat | Notice>>();
  expectType<Equal<TopicMessage<C, ContractTopic<C, "server">>, Chat | Notice>>();
  expectType<Equal<TopicMessage<C, "cursor">, never>>();
  expectType<Equal<TopicMessage<Contract, string>, UntypedMessage>>();
  expectType<Equal<TopicMessage<Contract, "a">, UntypedMessage>>();
});

Deno.test("send and request can be written against the contract's types", () => {
  interface Ends<C extends Contract, S extends Side> extends AsyncIterable<MessageOf<C, S>> {
    send<const T extends ContractTopic<C, S>>(topic: T, data: ContractData<C, S, T>): void;
    request<const T extends ContractTopic<C, "requests">>(
      topic: T,
      input: ContractData<C, "requests", T>,
    ): Promise<ContractReply<C, T>>;
  }
  function check(
    client: Ends<C, "client">,
    server: Ends<C, "server">,
    untyped: Ends<Contract, Side>,
  ): void {
    const room: string = "a";
    client.send(`chat:${room}`, { text: "hi", at: "4" });
    client.send("game/1/move/2", "in");
    server.send("notice", Math.random() > 0.5 ? "a" : 4);
    untyped.send(room, new Date());
    // @ts-expect-error Not a topic of the contract.
    client.send("notice", "a");
    // @ts-expect-error An arbitrary string may not be a topic of the contract.
    client.send(room, { text: "hi", at: "4" });
    // @ts-expect-error The data of another topic.
    client.send("cursor", { text: "hi", at: "4" });
    // @ts-expect-error The input is sent, a string.
    client.send("chat:a", { text: "hi", at: 4 });
    // @ts-expect-error A request is not sent with send().
    client.send("join", "a");
    const joined: Promise<string[]> = client.request("join", "a");
    const score: Promise<number> = server.request(`score/${room}`, null);
    const either: Promise<unknown> = untyped.request(room, null);
    // @ts-expect-error The input of another request.
    server.request("join", null);
    const _all = [joined, score, either];
  }
  assertEquals(check.length, 3);
});
