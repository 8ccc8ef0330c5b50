import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { stub } from "@std/testing/mock";
import process from "node:process";
import {
  createServer,
  guest,
  RequestError,
  serve,
  type ServeOptions,
  type Server,
} from "../../mod.ts";
import { liveState } from "../../streams/mod.ts";
import { type FakeContext, fakeContext } from "../../tests/cli_context.ts";
import { makeColors } from "../context.ts";
import { jsonOf, type TalkEvent, textOfEvent } from "../connect/event.ts";
import { rejectionCure } from "../rejection_cure.ts";
import { main } from "../skein.ts";

function open(
  options: Partial<ServeOptions<string | typeof guest>> = {},
): Server<string | typeof guest> {
  return serve<string | typeof guest>({
    port: 0,
    onListen() {},
    webTransport: false,
    authenticate: ({ token }) => token ?? guest,
    tokens: { inMessage: true },
    userOf: (user) => user,
    authorize: (_session, topic) => topic !== "secret",
    includePublisher: true,
    rooms: ["room:{name}"],
    history: { "log:{name}": {} },
    requests: {
      sum: ({ data }) => (data as number[]).reduce((a, b) => a + b, 0),
      bytes: () => new Uint8Array([1, 255]),
      silent: ({ signal }) =>
        new Promise((resolve) => signal.addEventListener("abort", () => resolve(null))),
      async *count({ data }) {
        for (let i = 0; i < Number(data); i++) yield i;
      },
      async *forever({ signal }) {
        yield "begun";
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      },
    },
    onMessage(message, session) {
      if (message.topic === "normal") void session.close();
      else if (message.topic === "talk") session.send("news", "to \x1b[2Jyou");
      else if (message.topic === "lose") void session.connection.close({ closeCode: 3_000 });
    },
    ...options,
  });
}

/** Runs `skein connect` with piped lines, and reads the events. */
async function pipe(server: { url: string }, lines: readonly string[], ...args: string[]) {
  const context = fakeContext();
  context.type(lines.map((line) => `${line}\n`).join(""));
  context.endInput();
  const code = await main(["connect", server.url, "--json", ...args], context);
  const events = context.out.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  return { code, events, err: context.err };
}

/** Starts `skein connect` in a terminal, and waits for the prompt. */
async function terminal(server: { url: string }, ...args: string[]) {
  const folder = await Deno.makeTempDir();
  const context = fakeContext({ isTerminal: true, env: { XDG_STATE_HOME: folder } });
  const running = main(["connect", server.url, ...args], context);
  await context.until("commands.");
  return {
    context,
    running,
    folder,
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

const enter = (context: FakeContext, line: string) => context.type(`${line}\r`);

Deno.test("skein connect continues after Ctrl-Z, with the line that was being typed", async () => {
  await using server = open();
  await using at = await terminal(server);
  const { context, running } = at;
  const stopped = Promise.withResolvers<unknown[]>();
  {
    // The tests must not stop.
    using _kill = stub(process, "kill", (...args): true => {
      stopped.resolve(args);
      return true;
    });
    context.type("ask sum [1,\x1a");
    assertEquals(await stopped.promise, [process.pid, "SIGTSTP"]);
  }
  assertEquals(context.isRaw, false);
  process.emit("SIGCONT");
  assertEquals(context.isRaw, true);
  enter(context, "2]");
  await context.until("= sum 3");
  context.type("\x04");
  assertEquals(await running, 0);
});

Deno.test("skein connect says after --timeout that a reply is missing", async () => {
  await using server = open();
  const { code, events } = await pipe(server, ["ask silent"], "--timeout=20ms");
  const { type, topic, message } = events.at(-1);
  assertEquals([code, type, topic], [1, "error", "silent"]);
  assertEquals(message, 'No reply to "silent" within 20 ms');
});

Deno.test("connect in a pipe publishes, sends requests and closes with the input", async () => {
  await using server = open();
  const { code, events, err } = await pipe(server, [
    "# all results are events",
    "sub log:a",
    'pub log:a {"x": 1}',
    "ask count 2",
    '{"command": "ask", "topic": "sum", "data": [1, 2], "id": "mine"}',
    "ask bytes",
  ]);
  assertEquals([code, err], [0, ""]);
  const told = events.map(({ at, ms: _, ...event }) => {
    assertEquals(typeof at, "number");
    return event;
  });
  const of = (type: string) => told.filter((event) => event.type === type);
  assertEquals(of("status")[0].name, "connected");
  assertEquals(of("subscribed"), [{ type: "subscribed", topic: "log:a" }]);
  assertEquals(of("published"), [{ type: "published", topic: "log:a" }]);
  const [{ position, ...message }] = of("message");
  assertEquals(message, { type: "message", topic: "log:a", data: { x: 1 } });
  assertEquals(position.offset, 1);
  assertEquals(of("item").map(({ data }) => data), [0, 1]);
  assertEquals(of("end"), [{ type: "end", topic: "count", items: 2 }]);
  assertEquals(of("reply"), [
    { type: "reply", topic: "sum", data: 3, id: "mine" },
    { type: "reply", topic: "bytes", base64: "Af8=" },
  ]);
});

Deno.test("connect subscribes from a position in the history", async () => {
  await using server = open();
  const first = await pipe(server, ["sub log:a", ...[1, 2, 3].map((n) => `pub log:a ${n}`)]);
  const messages = first.events.filter(({ type }) => type === "message");
  const { epoch, offset, tag } = messages[0].position;
  for (const start of [`--after ${epoch}/${offset}/${tag}`, "--last 2"]) {
    const context = fakeContext();
    context.type(`sub log:a ${start}\n`);
    const running = main(["connect", server.url, "--json"], context);
    await context.until('"data":2');
    await context.until('"data":3');
    context.endInput();
    assertEquals(await running, 0);
    assert(!context.out.includes('"data":1'), context.out);
  }
});

Deno.test("connect in a pipe prints the history of a last command before it closes", async () => {
  await using server = open({ history: { "log:{name}": { size: 1_000, bytes: 4_194_304 } } });
  const texts = Array.from({ length: 1_000 }, (_, i) => `${i} `.padEnd(1_000, "x"));
  for (const text of texts) server.publish("log:a", text);
  const printed = async (...lines: string[]) => {
    const { code, events } = await pipe(server, lines);
    assertEquals(code, 0);
    return events.filter(({ type }) => type === "message");
  };
  const all = await printed("sub log:a --last 1000");
  assertEquals(all.map(({ data }) => data), texts);
  const { epoch, offset, tag } = all[99].position;
  const rest = await printed(`sub log:a --after ${epoch}/${offset}/${tag}`);
  assertEquals(rest.map(({ data }) => data), texts.slice(100));
  assertEquals(await printed("sub log:a", "sub log:empty --last 5", "sub plain --last 5"), []);
});

Deno.test("connect in a pipe reports failed commands, and exits with 1", async () => {
  await using server = open();
  const { code, events } = await pipe(server, [
    "ask nothing",
    "sub secret",
    "pub log:a hello",
    "unsub log:a",
    '{"command": "pub", "topic": "secret", "id": 5}',
  ]);
  assertEquals(code, 1);
  const wrong = await pipe(server, ['{"command": "nope", "id": 7}', '{"command": "ask", "id": 8}']);
  const ids = wrong.events.filter(({ type }) => type === "error").map(({ id }) => id);
  assertEquals(ids, [7, 8]);
  const errors = events.filter(({ type }) => type === "error").map(({ at: _, ...event }) => event);
  const byCode = (code: string) => errors.filter((error) => error.code === code);
  assertEquals(byCode("unanswered").map(({ topic }) => topic), ["nothing"]);
  assertEquals(byCode("forbidden").map(({ topic, id }) => [topic, id]), [
    ["secret", undefined],
    ["secret", 5],
  ]);
  assertEquals(errors.filter((error) => error.code === undefined).map(({ message }) => message), [
    'Cannot publish: data must be JSON, received hello; did you mean "hello" in quotes?',
    'Cannot unsubscribe: there is no subscription of "log:a"',
  ]);
});

Deno.test("connect shows rooms, and sets presence data", async () => {
  await using server = open();
  const context = fakeContext();
  const running = main(["connect", server.url, "--json", "--token", "ann"], context);
  context.type('presence room:a {"is": "here"}\npresence room:a\n');
  await context.until('"type":"set","at"');
  await context.until('"notice":{"type":"members"');
  context.type("presence room:a\nstatus\nstats\nhelp\n");
  await context.until('"type":"help"');
  context.type("quit\nsend never 1\n");
  assertEquals(await running, 0);
  const events = context.out.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  const of = (name: string) => events.find(({ type }) => type === name);
  assertEquals(of("members").members, [{ user: "ann", data: { is: "here" } }]);
  assertEquals(of("state").topics, [{ topic: "room:a" }]);
  assertEquals(of("stats").stats.state, "connected");
  assertEquals(of("sent"), undefined);
});

Deno.test("connect shows the rows of a state, and writes them", async () => {
  const states = liveState();
  await using server = open({ features: [states] });
  await using board = await states.open("board:1");
  await board.collection("cards").set("1", { title: "Tea" });
  const { code, events } = await pipe(server, [
    "rows board:1",
    'rows board:1 ["cards", "2", {"title": "Milk"}]',
    'rows board:1 ["cards", "1"]',
    "rows board:1",
    "unsubscribe board:1",
    "rows none",
    "rows board:1 7",
  ]);
  const told = events.filter(({ type }) => /^(rows|written|error)$/.test(type));
  assertEquals(told.map(({ at: _, ...event }) => event), [
    {
      type: "rows",
      topic: "board:1",
      rows: [{ collection: "cards", key: "1", value: { title: "Tea" } }],
    },
    { type: "written", topic: "board:1", version: 2 },
    { type: "written", topic: "board:1", version: 3 },
    {
      type: "rows",
      topic: "board:1",
      rows: [{ collection: "cards", key: "2", value: { title: "Milk" } }],
    },
    {
      type: "error",
      topic: "none",
      code: "not-found",
      message: 'There is no state "none": call states.open("none") of liveState() on the server; ' +
        "if its contract has states, the id must fit one of their patterns",
    },
    {
      type: "error",
      topic: "board:1",
      message: "Cannot write row: data must be [collection, key, value], or [collection, key] to " +
        "delete, received 7",
    },
  ]);
  const changed = events.filter(({ type }) => type === "row");
  assertEquals(changed.map(({ key, value }) => [key, value?.title]), [
    ["2", "Milk"],
    ["1", undefined],
  ]);
  assertEquals(code, 1);
});

Deno.test("connect uses the token of the environment, unless an option overrides it", async () => {
  await using server = open();
  for (const [args, user] of [[[], "env"], [["-t", "ann"], "ann"]] as const) {
    const context = fakeContext({ env: { SKEIN_TOKEN: "env" } });
    context.type("sub log:a\npub log:a\n");
    const running = main(["connect", server.url, "--json", ...args], context);
    await context.until(`"from":"${user}"`);
    context.endInput();
    assertEquals(await running, 0);
  }
});

Deno.test("connect follows a topic after the end of the input, until Ctrl-C", async () => {
  await using server = open();
  const context = fakeContext();
  context.type("sub news");
  context.endInput();
  const running = main(["connect", server.url, "--follow", "--json"], context);
  await context.until('"type":"subscribed"');
  server.publish("news", 7);
  await context.until('"data":7');
  context.interrupt();
  assertEquals(await running, 130);
});

Deno.test("connect names the reason if it cannot connect, and exits with 3", async () => {
  const listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const { port } = listener.addr;
  listener.close();
  for (const args of [[], ["--protocol", "plain"], ["--transport", "http"]]) {
    const { code, events, err } = await pipe({ url: `http://127.0.0.1:${port}` }, [], ...args);
    assertEquals([code, events], [3, []], err);
    assertMatch(err, new RegExp(`error: Cannot .*127\\.0\\.0\\.1:${port}`));
  }
});

Deno.test("connect distinguishes a server without Skein from one that waits for a token", () => {
  assertStringIncludes(rejectionCure(4408, "No hello in time")!, "--protocol plain");
  assertStringIncludes(rejectionCure(4408, "No token in time")!, "received no token");
  const rejected = "More than 100 rejections in 10 s: at most ";
  assertStringIncludes(
    rejectionCure(4429, `${rejected}64 requests at once`)!,
    "session.maxRequests",
  );
  const rate = "5 messages a second per session";
  assertStringIncludes(rejectionCure(4429, rejected + rate)!, "rates.perSession.messages");
});

Deno.test("connect names only options that the server has, for each close code", () => {
  const reasons = [
    "",
    "The send queue is full",
    "The message handler is too slow",
    "Origin",
    "hello",
  ];
  const limits = ["your address", "your user", "5 bytes a second per user", "64 requests at once"];
  const names = new Set<string>();
  for (let code = 4_000; code < 5_000; code++) {
    for (const reason of [...reasons, ...limits]) {
      const cure = rejectionCure(code, reason) ?? "";
      for (const [, name] of cure.matchAll(/`([\w.]+)`/g)) names.add(name!);
    }
  }
  assert(names.has("session.sendQueue") && names.has("session.receiveQueue"), [...names].join());
  for (const name of names) {
    const wrong = name.split(".").reduceRight<unknown>(
      (value, key) => ({ [key]: value }),
      Symbol(),
    );
    const { message } = assertThrows(() => createServer(wrong as never), TypeError);
    assert(!message.includes("unknown option"), message);
  }
});

Deno.test("connect reports a rejected session with its code", async () => {
  await using server = open({
    authenticate: () => null,
  });
  const { code, err } = await pipe(server, []);
  assertEquals(code, 3);
  assertMatch(err, /error: .*\(code 4401\)\. Give a token that the server accepts, with --token/);
});

Deno.test("connect exits when the server closes the session", async () => {
  await using server = open();
  const context = fakeContext();
  const running = main(["connect", server.url], context);
  context.type("send normal\n");
  await context.until("closed");
  assertEquals(await running, 0);
});

Deno.test("connect reports a lost connection, and restores the subscriptions", async () => {
  await using server = open();
  const context = fakeContext();
  const running = main(["connect", server.url, "--json"], context);
  context.type("sub news\nsend lose\n");
  await context.until('"name":"reconnecting"');
  await context.until('"name":"connected"');
  await context.until('"type":"recovery"');
  server.publish("news", 7);
  await context.until('"data":7');
  context.endInput();
  assertEquals(await running, 0);
});

Deno.test("connect sends only messages and requests to a plain server", async () => {
  await using server = open();
  const { code, events } = await pipe(
    server,
    ["ask sum [1, 2]", "send talk", "sub news", "status"],
    "--protocol",
    "plain",
  );
  assertEquals(code, 1);
  const of = (name: string) => events.filter(({ type }) => type === name);
  assertEquals(of("reply")[0].data, 3);
  assertStringIncludes(of("error")[0].message, "a plain session has only messages and requests");
  assertEquals(of("state")[0].status.transport, "websocket");
});

Deno.test("connect rejects wrong options before it connects", async () => {
  const cases: [string[], string][] = [
    [[], "Cannot run: URL is missing"],
    [["ftp://x.example"], "Cannot read URL"],
    [["localhost", "--header", "nothing"], 'the form is "Name: value", received "nothing"'],
    [["localhost", "--cert-hash", "12"], "must be 32 bytes of SHA-256"],
    [["localhost", "--transport", "tcp"], "must be one of webtransport, websocket, http"],
    [["localhost", "--protocol", "plain", "--token", "x"], "a plain session has no token"],
    [["localhost", "--timeout=-1"], "Cannot read --timeout"],
  ];
  for (const [args, message] of cases) {
    const context = fakeContext();
    assertEquals(await main(["connect", ...args], context), 2, args.join(" "));
    assertStringIncludes(context.err, message);
  }
});

Deno.test("connect in a terminal keeps the typed line whole while events arrive", async () => {
  await using server = open();
  await using session = await terminal(server);
  const { context, running } = session;
  assert(context.isRaw);
  enter(context, "sub news");
  await context.until("subscribed news");
  context.type("ask su");
  await context.until("ask su");
  server.publish("news", { hello: "you" });
  await context.until('news {"hello":"you"}');
  await context.until("ask su");
  enter(context, "m [1, 2]");
  await context.until("sum 3");
  context.type("\x04");
  assertEquals(await running, 0);
  assert(!context.isRaw);
});

Deno.test("connect in a terminal completes commands and topics", async () => {
  await using server = open();
  await using session = await terminal(server);
  const { context, running } = session;
  context.type("subs\t");
  await context.until("subscribe ");
  enter(context, "room:lobby");
  await context.until("subscribed room:lobby");
  context.type("pub roo\t");
  await context.until("room:lobby");
  enter(context, " 1");
  await context.until("published room:lobby");
  enter(context, "quit");
  assertEquals(await running, 0);
});

Deno.test("connect in a terminal cancels only the request at Ctrl-C, and quits at the third", async () => {
  await using server = open();
  await using session = await terminal(server);
  const { context, running } = session;
  enter(context, "ask forever");
  await context.until('"begun"');
  context.type("half");
  await context.until("half");
  context.type("\x03");
  await context.until("was cancelled: 1 item");
  await context.until("half");
  context.type("\x03");
  context.type("\x03");
  await context.until("press Ctrl-C again");
  context.type("\x03");
  assertEquals(await running, 130);
});

Deno.test("connect in a terminal keeps lines for the next session", async () => {
  await using server = open();
  await using session = await terminal(server);
  const { context, running, folder } = session;
  enter(context, "ask sum [4, 5]");
  await context.until("sum 9");
  context.type("\x04");
  assertEquals(await running, 0);
  const env = { XDG_STATE_HOME: folder };
  for (const [args, isKept] of [[[], true], [["--no-history"], false]] as const) {
    const next = fakeContext({ isTerminal: true, env });
    const again = main(["connect", server.url, ...args], next);
    await next.until("commands.");
    next.type("\x1b[A");
    if (isKept) await next.until("ask sum [4, 5]");
    next.type("\x15");
    enter(next, "quit");
    assertEquals(await again, 0);
    assertEquals(next.out.includes("ask sum [4, 5]"), isKept);
  }
});

Deno.test("connect in a terminal keeps a half-typed line when the server closes the session", async () => {
  const sessions: { close(): unknown }[] = [];
  await using server = open({ onOpen: (session) => void sessions.push(session) });
  await using session = await terminal(server);
  const { context, running, folder } = session;
  context.type("ask sum [4, ");
  await context.until("ask sum [4, ");
  await sessions[0]!.close();
  assertEquals(await running, 0);
  const next = fakeContext({ isTerminal: true, env: { XDG_STATE_HOME: folder } });
  const again = main(["connect", server.url], next);
  await next.until("commands.");
  next.type("\x1b[A");
  await next.until("ask sum [4, ");
  next.type("\x15");
  enter(next, "quit");
  assertEquals(await again, 0);
});

Deno.test("connect strips control characters from text of a peer", async () => {
  await using server = open();
  const context = fakeContext();
  const running = main(["connect", server.url], context);
  context.type("send talk\n");
  await context.until("news");
  await context.until("you");
  context.endInput();
  assertEquals(await running, 0);
  assert(!context.out.includes("\x1b"), context.out);
});

Deno.test("textOfEvent() strips control characters from position, reason and code", () => {
  const bad = "\x1b]0;a\x07\x9b31m\u202e";
  const position = { epoch: bad, offset: 1, tag: bad };
  const status = { name: "connected", session: bad, transport: "websocket" } as const;
  const events: TalkEvent[] = [
    { type: "message", topic: bad, data: bad, from: bad, position },
    { type: "recovery", topic: bad, recovery: { recovered: false, reason: bad as "too-old" } },
    { type: "state", url: "ws://a/", status, topics: [{ topic: bad, position }], waiting: 0 },
    { type: "silence", isOver: false },
    { type: "error", error: new RequestError(bad, bad) },
  ];
  for (const event of events) {
    const text = textOfEvent(event, { colors: makeColors(false), at: 0 });
    assertMatch(text, /^[^\p{Cc}\p{Cf}]*(?:\n[^\p{Cc}\p{Cf}]*)*$/u, event.type);
    assertEquals(jsonOf(event, 0).search(/[\p{Cc}\p{Cf}]/u), -1, event.type);
  }
});

Deno.test({
  name: "connect works in a real terminal",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using server = open();
    const folder = await Deno.makeTempDir();
    const program = new URL("../main.ts", import.meta.url).pathname;
    const root = new URL("../../", import.meta.url);
    const line = `'${Deno.execPath()}' run -A --no-check '${program}' connect ${server.url}`;
    await using child = new Deno.Command("script", {
      args: ["--quiet", "--return", "--command", line, "/dev/null"],
      cwd: root,
      env: { XDG_STATE_HOME: folder, TERM: "xterm", NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const writer = child.stdin.getWriter();
    const type = (text: string) => writer.write(new TextEncoder().encode(text));
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    const until = async (part: string) => {
      while (!text.includes(part)) {
        const { done, value } = await reader.read();
        assert(!done, `ended before ${part}: ${text}`);
        text += value;
      }
      text = text.slice(text.indexOf(part) + part.length);
    };
    await until("commands.");
    await type("re\t");
    await until("request ");
    await type("sum [20, 3]\r");
    await until("sum 23");
    await type("ask forever\r");
    await until("begun");
    await type("\x03");
    await until("was cancelled");
    await type("\x1b[A");
    await until("ask forever");
    await type("\x15\x04");
    await writer.close();
    const { code } = await child.status;
    await reader.cancel();
    assertEquals(code, 0);
    assertStringIncludes(await Deno.readTextFile(`${folder}/skein/history`), "request sum [20, 3]");
    await Deno.remove(folder, { recursive: true });
  },
});
