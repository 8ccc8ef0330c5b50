/**
 * Runs every example with its documented permissions, and checks the printed lines.
 *
 * @module
 */
import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { connect, dial, RequestError, SessionClosedError } from "../../mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { Board } from "../../examples/board/board.ts";
import { readPast } from "../../examples/board/past.ts";
import { contract as boards } from "../../examples/board/contract.ts";
import { mutations as changes } from "../../examples/board/mutations.ts";
import { serveChat } from "../../examples/chat/chat.ts";
import { Once, Recent } from "../../examples/chat/memory.ts";
import { isNatsMissing } from "../brokers/nats_server.ts";
import { isRedisMissing, RedisServer } from "../brokers/redis_server.ts";
import { lowPort } from "../networks/ports.ts";
import { soon } from "../waiting.ts";

const EXAMPLES = new URL("../../examples/", import.meta.url);

const HELLO = `
ann, tab 1  is here over webtransport
ann, tab 1  enters the lobby
ann, tab 1  sees who is in the lobby: ann
bob         is here over websocket
bob         enters the lobby
bob         sees who is in the lobby: ann, bob
ann, tab 1  sees bob joined the lobby
ann, tab 1  says in the lobby: Hello, Bob!
bob         sees ann in the lobby: Hello, Bob!
bob         says in the lobby: Hello, Ann.
ann, tab 1  sees bob in the lobby: Hello, Ann.
ann, tab 2  enters the lobby
ann, tab 2  sees who is in the lobby: ann, bob
ann, tab 2  receives an earlier line: ann: Hello, Bob!
ann, tab 2  receives an earlier line: bob: Hello, Ann.
bob         writes to ann: Tea at four?
ann, tab 1  sees a letter from bob to ann: Tea at four?
ann, tab 2  sees a letter from bob to ann: Tea at four?
bob         did not see "ann joined the lobby"
ann, tab 2  leaves
ann, tab 1  says in the lobby: Still here, with one tab closed.
bob         sees ann in the lobby: Still here, with one tab closed.
bob         did not see "ann left the lobby"
ann, tab 1  leaves
bob         sees ann left the lobby
bob         leaves
`;

const CLUSTER = `
ann sees itself on node 1
bob sees itself on node 2
ann sees ann and bob in the room
bob says Hello, Ann!
ann sees bob: Hello, Ann!
node 1 is killed
bob says Are you still there?
ann sees itself on node 2
ann sees all missed messages
ann sees bob: Are you still there?
node 1 is up again, and node 2 is drained
ann says Now I am where I was.
bob sees ann: Now I am where I was.
eve sees bob: Hello, Ann!
eve sees bob: Are you still there?
eve sees ann: Now I am where I was.
`;

/** File, permissions and printed lines; a pattern stands for a line that varies. */
const RUNS: readonly (readonly [file: string, flags: string[], lines: (string | RegExp)[]])[] = [
  ["echo.ts", ["-N"], ["hello Is anybody there?"]],
  ["streams.ts", ["-N"], [
    'a message came back: hello { to: "the server" }',
    "a request was answered: [ 1, 2, 3 ]",
  ]],
  ["authentication.ts", ["-N"], [
    "a bearer token: ann, reader",
    "a cookie: bob, editor",
    "a query token: bob, editor",
    "a token in band: ann, reader",
    "an unknown token: rejected with 4401 Unknown token",
    "a banned user: rejected with 4403 Banned",
    "a plain upgrade without a token: HTTP/1.1 401 Unauthorized",
    "before: ann may only read",
    "renewed: edited",
    "with another user's token: The token belongs to another user",
  ]],
  ["typed_contract.ts", ["-N"], [
    'ann pinned "Write the examples" to todo, with 0 tags',
    "count: 1",
    "rejected: unknown-topic",
    /^rejected: invalid at column: .+/,
  ]],
  ["durable_stream.ts", ["-N"], [
    ...[1, 2, 3].map((i) => `before the refresh: word ${i}`),
    ...[4, 5, 6].map((i) => `after the refresh: word ${i}`),
    "the writer stops: Enough for me",
    "the answer has ended",
  ]],
  ["embed_in_hono.ts", ["-N"], [
    "request: ann from 127.0.0.1",
    'online: [ "ann" ]',
    'published by a route: visits { page: "pricing" }',
    "no upgrade: 426 Expected a WebSocket upgrade",
  ]],
  ["durable_streams_in_hono.ts", ["-N"], [
    "followed: A stream keeps every word, and readers see where it ends.",
    "resumed: true",
    "events report the end: true",
  ]],
  ["webhooks.ts", ["-N"], [
    "ann: join online, rejected",
    "ann: join online",
    "ann: join room:tea",
    "ann: publish room:tea",
    "ann: leave room:tea",
  ]],
  ["slow_clients.ts", [], [
    /^close: closed with 4507 .+/,
    "drop-oldest: frames 1 2 3 4 9 10 11 12, notified of 4 dropped",
    "drop-newest: frames 1 2 3 4 5 6 7 8, notified of 4 dropped",
    "latest: frames 1 2 3 4 12, notified of 7 dropped",
    "by topic: frames 1 2 3 4 12, notified of 7 dropped",
    "with back-pressure: frames 1 2 3 4 5 6 7 8 9 10 11 12, notified of 0 dropped",
  ]],
  ["structured_stream.ts", ["-N"], [
    "alarm: boiler has 95 degrees",
    "alarm: boiler has 91 degrees",
    "in all: { readings: 5, highest: 95 }",
    "rejected: invalid",
    "the other stream was cut short, and the session is still here",
  ]],
  ["game_state.ts", ["-N"], [
    "over webtransport, by unreliable datagrams",
    "  events: ann joined, bob joined, bob turned around at 61",
    /^ {2}without state .*35.*, ann is drawn at 34, 35, 35.5, 36, 36.5, 37$/,
    "over websocket, by reliable datagrams",
    "  events: ann joined, bob joined, bob turned around at 61",
    "  without state 35, ann is drawn at 34, 35, 35.5, 36, 36.5, 37",
  ]],
  ["game_state/server.ts", ["-N"], [
    "ann is on the field",
    "at 0 %: states, none missing",
    "at 100 %: no states",
  ]],
  ["file_transfer/main.ts", ["-N", "-R", "-W"], [
    ...["webtransport", "websocket   "].flatMap((transport) => [
      `${transport} [#####...............]  25 %`,
      `${transport} cut`,
      new RegExp(`^${transport} resumes at \\d+ %$`),
      `${transport} [##########..........]  50 %`,
      `${transport} [###############.....]  75 %`,
      `${transport} [####################] 100 %`,
      `${transport} stored as …/holiday.bin, the same`,
    ]),
  ]],
  ["moq_clock.ts", ["-N"], [
    "moq-lite-05 over webtransport",
    "there is /clock",
    ...Array(3).fill(/^group \d+: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
  ]],
  ["moq_chat.ts", ["-N"], [
    "ann sees: bob is here",
    "bob sees: ann is here",
    "bob sees: ann: Hello, Bob!",
    "ann sees: bob: Hello, Ann. Is Eve coming?",
    "ann sees: eve is here",
    "eve sees: bob: Hello, Ann. Is Eve coming?",
    "bob sees: eve is here",
    "ann sees: eve: Me.",
    "bob sees: eve: Me.",
    "ann sees: bob left",
    "eve sees: bob left",
  ]],
  ["moq_video/server.ts", ["-N"], [
    "anna is on the air",
    "a watcher over webtransport",
    "  finds /live/anna",
    "  receives a group: key frame, +1, +2, +3, +4",
    "a watcher over websocket",
    "  finds /live/anna",
    "  receives a group: key frame, +1, +2, +3, +4",
    "  sees that /live/anna has ended",
  ]],
  ["whiteboard/server.ts", ["-N"], [
    "ann is here over webtransport",
    "bob is here over websocket",
    "bob sees ann draw blue",
    "ann sees the pointer of bob at 20,10",
    "eve is here over websocket",
    "on another server, eve sees a blue stroke by ann",
  ]],
  ["board/server.ts", ["-N"], [
    "bob sees To do: Write, Test, Publish; Doing: nothing; Done: nothing",
    "ann sees at once To do: Test, Publish; Doing: Write; Done: nothing",
    "both see To do: Publish; Doing: Write; Done: Test",
    "bob edits a card without a server: 1 change waits",
    "on another server, ann sees To do: Publish; Doing: Write; Done: Test twice",
  ]],
  ["inspect/server.ts", ["-N"], [
    "sessions of ada, jonas, kim, mira, noor, olek, viewer-7",
    /^olek: \d+ of 64 messages and \d+ of 1048576 bytes wait: /,
    "cookie: [redacted]",
    "the secret is shown: false",
  ]],
  ["all_cores.ts", ["-N", "-R"], [
    "ann is on worker 0",
    "bob is on worker 1",
    "ann sees: Hello from worker 1",
    "worker 0 ended, and another one starts",
    "ann sees: Are you still there?",
  ]],
  ["moq_relay.ts", ["-N"], [
    "/clock is there, through 2 relays",
    "ann sees tick",
    "bob sees tick",
    "ann sees tock",
    "bob sees tock",
    "two viewers, and subscriptions at the publisher: 1",
    "/clock is gone",
  ]],
  ["chat/server.ts", ["-N"], HELLO.trim().split("\n")],
];

for (const [file, flags, expected] of RUNS) {
  Deno.test(
    `examples/${file} --once shows its feature`,
    () => runsOnce(file, { flags, expected }),
  );
}

for (const [broker, ignore] of [["redis", isRedisMissing], ["nats", isNatsMissing]] as const) {
  const expected = [`2 nodes on ${broker}`, ...CLUSTER.trim().split("\n")];
  Deno.test({
    name: `examples/cluster/main.ts --${broker} --once survives the loss of both nodes`,
    ignore,
    fn: () => runsOnce("cluster/main.ts", { flags: ["-A"], args: [`--${broker}`], expected }),
  });
}

Deno.test({
  name: "examples/board/server.ts --redis serves a board on two nodes",
  ignore: isRedisMissing,
  async fn() {
    await using redis = await RedisServer.start();
    const port = lowPort({ beside: 1 });
    await using program = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--quiet", "-A", new URL("board/server.ts", EXAMPLES).href],
        ...["--port", `${port}`, "--redis", redis.url],
      ],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
    }).spawn();
    const lines = program.stdout.pipeThrough(new TextDecoderStream());
    let printed = "";
    for await (const text of lines.values({ preventCancel: true })) {
      printed += text;
      if (printed.includes(`:${port + 1} `)) break;
    }
    const open = async (name: string, node: number) => {
      const client = connect(`http://localhost:${port + node}/session?name=${name}`, {
        contract: boards,
        transports: ["websocket"],
      });
      const state = await client.state("board:plans", { mutations: changes });
      await soon(state.ready);
      const board = new Board(state, { onChange() {}, onRejected: console.error });
      return { state, board, [Symbol.asyncDispose]: () => client.close() };
    };
    {
      await using ann = await open("ann", 0);
      await using bob = await open("bob", 1);
      const { key: column } = ann.board.columns[0]!;
      await ann.board.addCard(column, "Write");
      for await (const cards of bob.state.collection("cards")) if (cards.size === 1) break;
      await bob.board.moveCard(bob.board.columns[0]!.cards[0]!.key, {
        column: bob.board.columns[2]!.key,
        index: 0,
      });
      for await (const _ of ann.state.collection("cards")) {
        if (ann.board.columns[2]!.cards.length === 1) break;
      }
      const stream = new URL(`http://localhost:${port + 1}/streams/board:plans?name=eve`);
      const past = await readPast(stream, { fetch });
      const counts = past.moments.map((at) => past.at(at).map(({ cards }) => cards.length));
      assertEquals([counts, past.isWhole], [[[0, 0, 0], [1, 0, 0], [0, 0, 1]], true]);
    }
    program.kill("SIGINT");
    await lines.cancel();
    assertEquals((await program.status).code, 0);
  },
});

/** Lists the programs: files in the folder itself, and others that run as a main module. */
async function programs(): Promise<string[]> {
  const found: string[] = [];
  for await (const { name, isFile } of Deno.readDir(EXAMPLES)) {
    if (isFile && name.endsWith(".ts")) found.push(name);
    if (isFile) continue;
    for await (const inner of Deno.readDir(new URL(`${name}/`, EXAMPLES))) {
      const path = `${name}/${inner.name}`;
      if (!path.endsWith(".ts")) continue;
      const source = await Deno.readTextFile(new URL(path, EXAMPLES));
      if (source.includes("optionsOf({") && path !== "shared/options.ts") found.push(path);
      else {assertEquals(
          /Deno\.args|import\.meta\.main/.test(source),
          path === "shared/options.ts",
          path,
        );}
    }
  }
  return found.sort();
}

Deno.test("Every example program explains its usage with --help, and names a wrong option", async () => {
  const all = await programs();
  assertEquals(all.length >= 23, true, all.join());
  const run = async (file: string, option: string) => {
    const flags = file.startsWith("cluster/") ? ["--allow-env"] : [];
    const { href } = new URL(file, EXAMPLES);
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      // Help neither listens nor reads; Redis's client library reads the environment anyway.
      // `deno task demo -- --help` passes the separator on.
      args: ["run", "--quiet", "--no-prompt", ...flags, href, "--", option],
      env: { NO_COLOR: "1" },
      stdin: "null",
      signal: AbortSignal.timeout(RUN_MS),
    }).output();
    return [code, new TextDecoder().decode(stdout), new TextDecoder().decode(stderr)] as const;
  };
  for (const file of all) {
    const [code, help, complaint] = await run(file, "--help");
    assertEquals({ file, code, complaint }, { file, code: 0, complaint: "" });
    assertMatch(
      help,
      new RegExp(`^.+\\.\n\nUsage: deno run .*examples/${file}.* \\[options\\]\n\n`),
    );
    assertMatch(help, /\n {2}--help +prints this text\n$/);
    const source = await Deno.readTextFile(new URL(file, EXAMPLES));
    if (source.includes("PORT")) assertMatch(help, /--port PORT .+\(default \d+\)/, file);
  }
  const [code, , complaint] = await run("echo.ts", "--prot");
  assertEquals(code, 2);
  assertMatch(complaint, /^Unknown option '--prot'.*\nSee --help\n$/);
  const [other, , wrong] = await run("echo.ts", "--port=99999");
  assertEquals([other, wrong], [
    2,
    "Cannot start: --port must be from 0 to 65535, received 99999\nSee --help\n",
  ]);
});

Deno.test("webhooks.ts prints why a receiver did not accept a post", async () => {
  const { stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "-N", new URL("webhooks.ts", EXAMPLES).href, "--once"],
    env: { NO_COLOR: "1" },
    stdin: "null",
    signal: AbortSignal.timeout(RUN_MS),
  }).output();
  const line = /^Cannot post \S+: http:\/\/localhost:\d+\/ responded with 503\n$/;
  assertMatch(new TextDecoder().decode(stderr), line);
});

/** Longest run of an example, in milliseconds; a longer run counts as hung. */
const RUN_MS = 300_000;

async function runsOnce(file: string, { flags, args = [], expected }: {
  readonly flags: readonly string[];
  readonly args?: readonly string[];
  readonly expected: readonly (string | RegExp)[];
}): Promise<void> {
  const url = new URL(file, EXAMPLES).href;
  // This example runs once in any case.
  const once = file === "slow_clients.ts" ? [] : ["--once"];
  const { code, signal, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", ...flags, url, ...args, ...once],
    env: { NO_COLOR: "1" },
    stdin: "null",
    signal: AbortSignal.timeout(RUN_MS),
  }).output();
  const lines = new TextDecoder().decode(stdout).trimEnd().split("\n");
  const complaint = new TextDecoder().decode(stderr);
  assertEquals(signal, null, `it printed ${stdout.length} bytes, and then hung\n${complaint}`);
  assertEquals(lines.length, expected.length, `${lines.join("\n")}\n${complaint}`);
  for (const [i, line] of expected.entries()) {
    if (typeof line === "string") assertEquals(lines[i], line);
    else assertMatch(lines[i]!, line);
  }
  assertEquals(code, 0, complaint);
}

Deno.test("serveChat() accepts a line once if it is resent after a lost reply", async () => {
  await using server = serveChat({ port: 0, onListen() {} });
  await using session = await dial(`${server.url}session?name=ann`);
  const line = { id: crypto.randomUUID(), room: "lobby", text: "Once" };
  const answer = await session.request("say", line);
  assertEquals(await session.request("say", line), answer);
  const [{ text }, ...more] = await session.request("recent", { room: "lobby" }) as [
    { text: string },
  ];
  assertEquals([text, more], ["Once", []]);
});

Deno.test("serveChat() with a file keeps lines and direct messages over a restart", async () => {
  const path = await Deno.makeTempFile();
  const line = { id: crypto.randomUUID(), room: "lobby", text: "Kept" };
  const letter = { id: crypto.randomUUID(), to: "bob", text: "Tea?" };
  for (const user of ["ann", "bob"]) {
    await using file = await SqliteBroker.open(path);
    await using server = serveChat({ port: 0, onListen() {}, history: file.history });
    await using session = await dial(`${server.url}session?name=${user}`);
    // Bob's reply was lost together with the first server.
    await session.request("say", line);
    if (user === "ann") await session.request("tell", letter);
    const textsOf = async (name: string, data: unknown) =>
      (await session.request(name, data) as { text: string }[]).map(({ text }) => text);
    assertEquals(await textsOf("recent", { room: "lobby" }), ["Kept"]);
    assertEquals(await textsOf("letters", null), ["Tea?"]);
  }
  await Deno.remove(path);
});

Deno.test("serveChat() reports since when a user without a page is away", async () => {
  await using server = serveChat({ port: 0, onListen() {}, presence: { graceMs: 600_000 } });
  await using ann = await dial(`${server.url}session?name=ann`);
  const sinceMs = Date.now();
  const enter = () => dial(`${server.url}session?name=bob`);
  const bob = await enter();
  let seen = "";
  await using again = new AsyncDisposableStack();
  for await (const { topic, data } of ann) {
    if (topic !== "people") continue;
    const entry = (data as { user: string; awaySince?: number }[])
      .find(({ user }) => user === "bob");
    if (entry === undefined) continue;
    const { awaySince } = entry;
    if (awaySince === undefined && seen === "away") break;
    if (awaySince === undefined && seen === "") {
      seen = "here";
      await bob.close();
    } else if (awaySince !== undefined && seen === "here") {
      assertEquals(awaySince >= sinceMs && awaySince <= Date.now(), true);
      seen = "away";
      again.use(await enter());
    }
  }
  assertEquals(seen, "away");
});

Deno.test("serveChat() rejects invalid names and rooms", async () => {
  await using server = serveChat({ port: 0, onListen() {} });
  for (const name of ["", " ", "a".repeat(25), "<b>", "a\nb"]) {
    const url = `${server.url}session?name=${encodeURIComponent(name)}`;
    const error = await assertRejects(() => dial(url), SessionClosedError);
    assertEquals(error.info?.code, 4400, name);
  }
  await using session = await dial(`${server.url}session?name=Zoë`);
  for (const topic of ["people", "letter", "room:", "room:A", "presence:room:lobby"]) {
    const error = await assertRejects(() => session.subscribe(topic), RequestError);
    assertEquals(error.failure.code, topic === "room:" ? "unknown-topic" : "forbidden", topic);
  }
});

Deno.test("Once retries an action that failed", async () => {
  const once = new Once({ maxIds: 10 });
  await assertRejects(() => once.do("x", () => Promise.reject(new Error("full"))), Error, "full");
  let count = 0;
  const act = () => Promise.resolve(count++);
  const times = await Promise.all([once.do("x", act), once.do("x", act)]);
  assertEquals([count, times[0]], [1, times[1]!]);
});

Deno.test("Recent and Once remove their oldest entries", () => {
  const recent = new Recent<number>({ maxPlaces: 2, maxLines: 2 });
  for (const [place, line] of [["a", 1], ["a", 2], ["a", 3], ["b", 4], ["a", 5]] as const) {
    recent.add(place, line);
  }
  recent.add("c", 6);
  assertEquals([recent.of("a"), recent.of("b"), recent.of("c")], [[3, 5], [], [6]]);

  const once = new Once({ maxIds: 1 });
  const done: number[] = [];
  for (const id of ["x", "x", "y", "x"]) void once.do(id, (at) => done.push(at));
  assertEquals(done.length, 3);
  assertEquals(new Set(done).size, 3);
});
