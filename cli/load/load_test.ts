// run_tests: alone, and first, as these tests wait for long in real time.
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { AuthenticationError, RequestError } from "../../errors.ts";
import { serve } from "../../server.ts";
import { hardenedWebSocket } from "../../transport/hardened/mod.ts";
import type { ServeOptions } from "../../server.ts";
import { fakeContext, type FakeContextOptions } from "../../tests/cli_context.ts";
import { load } from "../commands/load.ts";
import { main } from "../skein.ts";
import type { LoadResult } from "./run.ts";

/** Runs `skein load` with short times by default. */
async function run(
  url: string,
  args: readonly string[],
  { interruptAt, ...options }: FakeContextOptions & { interruptAt?: string } = {},
) {
  const context = fakeContext(options);
  if (interruptAt !== undefined) void context.untilError(interruptAt).then(context.interrupt);
  const short = ["--duration=300ms", "--warmup=50ms", "--ramp=0", "--interval=100ms"];
  const code = await main(["load", url, ...short, ...args], context, [load]);
  const result = args.includes("--json") && context.out.startsWith("{")
    ? JSON.parse(context.out) as LoadResult
    : undefined;
  return { code, out: context.out, err: context.err, result: result! };
}

/** A server that supports all modes. */
function start(options: ServeOptions = {}) {
  return serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen() {},
    onSessionRejected() {},
    authorize: () => true,
    onMessage(message, session) {
      if (message.isRequest) message.reply(message.data);
      else session.send(message.topic, message.data);
    },
    ...options,
  });
}

Deno.test("skein load measures echoes on every transport", async () => {
  await using server = start();
  for (const transport of ["websocket", "webtransport", "http"]) {
    const { code, result } = await run(server.url, [
      `--transport=${transport}`,
      "-n4",
      "--rate=100",
      "--json",
    ]);
    const { sessions, messages, latencyMs, errors } = result;
    assertEquals([code, errors], [0, {}], transport);
    assertEquals([sessions.open, sessions.connectMs.count], [4, 4]);
    assert(messages.sent > 0 && messages.sent === messages.received, transport);
    assertEquals(latencyMs.count, messages.received);
    assert(latencyMs.p50 > 0 && latencyMs.p50 <= latencyMs.p99, transport);
  }
});

Deno.test("skein load measures requests with custom data", async () => {
  const seen = new Set<string>();
  await using server = start({
    onMessage: (message) => {
      seen.add(JSON.stringify([message.topic, message.data]));
      message.reply(1);
    },
  });
  const { code, result } = await run(server.url, [
    "--mode=request",
    "--topic=sum",
    "--data=[1,2]",
    "-n2",
    "--rate=max",
    "--window=3",
    "--json",
  ]);
  assertEquals([code, result.errors], [0, {}]);
  assertEquals([...seen], ['["sum",[1,2]]']);
  assert(result.messages.received > 0);
  assertEquals(result.plan.rate, "max");
});

Deno.test("skein load counts each delivery of a publication", async () => {
  // A fast machine would exceed the default rate of publications.
  const publications = { perSecond: Infinity };
  await using server = start({ rates: { perSession: { publications } } });
  const { code, result } = await run(server.url, [
    "--mode=publish",
    "--topics=2",
    "--subscribers=3",
    "-n5",
    // Without a rate, a stall of the machine causes no burst that fills a queue.
    "--rate=max",
    "--window=4",
    "--json",
  ]);
  const { messages, errors } = result;
  assertEquals({ code, errors, missing: messages.missing, disordered: messages.disordered }, {
    code: 0,
    errors: {},
    missing: 0,
    disordered: 0,
  });
  assert(messages.sent > 0);
  assertEquals(messages.acknowledged, messages.sent);
  assertEquals(messages.received, messages.sent * 3);
});

Deno.test("skein load counts missing deliveries", async () => {
  let published = 0;
  await using server = start({
    // The second session loses its subscription during the load.
    authorize(session, _topic, action) {
      if (action === "publish" && ++published === 20) {
        for (const one of server.topics.subscribers("load")) {
          if (one !== session) server.unsubscribe(one, "load");
        }
      }
      return true;
    },
  });
  const { code, result } = await run(server.url, [
    "--mode=publish",
    "-n2",
    "--rate=200",
    "--json",
    "--timeout=200ms",
  ]);
  assertEquals(code, 1);
  assert(result.messages.missing > 0);
  assertEquals(result.errors["request: removed"], 1);
});

Deno.test("skein load holds idle sessions", async () => {
  await using server = start({ onMessage() {} });
  const { code, result, out } = await run(server.url, ["--mode=idle", "-n7", "--json"]);
  assertEquals({ code, open: result.sessions.open, sent: result.messages.sent }, {
    code: 0,
    open: 7,
    sent: 0,
  });
  assertEquals(JSON.parse(out).version, 1);
});

Deno.test("skein load measures a WebSocket server without Skein", async () => {
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => socket.send(data);
    return response;
  });
  const url = `ws://127.0.0.1:${server.addr.port}`;
  const { code, result } = await run(url, ["--plain", "-n3", "--rate=max", "--json"]);
  assertEquals({ code, errors: result.errors, open: result.sessions.open }, {
    code: 0,
    errors: {},
    open: 3,
  });
  assert(result.messages.received > 0);
});

Deno.test("skein load counts a stall of the server in full, from the intended times", async () => {
  let isStalled = false;
  let seen = 0;
  const waiting: (() => void)[] = [];
  const go = () => {
    isStalled = false;
    for (const reply of waiting.splice(0)) reply();
  };
  await using server = start({
    onMessage(message, session) {
      if (++seen === 20) {
        isStalled = true;
        setTimeout(go, 400);
      }
      const reply = () => session.send(message.topic, message.data);
      if (isStalled) waiting.push(reply);
      else reply();
    },
  });
  const { result } = await run(server.url, [
    "-n2",
    "--rate=100",
    "--duration=1s",
    "--json",
  ]);
  // A closed loop would count only two slow messages; here every message during the stall is slow.
  assertEquals(result.messages.sent, result.messages.received);
  assert(result.messages.sent > 40, `${result.messages.sent}`);
  assert(result.latencyMs.max > 250 && result.latencyMs.p90 > 100, `${result.latencyMs.p90}`);
});

Deno.test("skein load shares sessions and topics among threads", async () => {
  await using server = start();
  const { code, result } = await run(server.url, [
    "--mode=publish",
    "--workers=2",
    "--topics=2",
    "-n5",
    "--rate=20", // A busy machine that makes up for a pause fills no queue.
    "--json",
  ]);
  assertEquals({ code, errors: result.errors, open: result.sessions.open }, {
    code: 0,
    errors: {},
    open: 5,
  });
  assert(result.messages.received >= result.messages.sent * 2);
  assertEquals([result.messages.missing, result.generator.workers], [0, 2]);
});

Deno.test("skein load stops at Ctrl-C, and prints the result so far", async () => {
  await using server = start();
  for (const workers of ["--workers=1", "--workers=2"]) {
    const { code, result } = await run(server.url, [
      "--duration=1h",
      "--rate=100",
      "-n4",
      workers,
      "--json",
    ], { interruptAt: ", p50 " });
    assertEquals([code, result.isInterrupted], [130, true]);
    assert(result.messages.received > 0 && result.measuredMs < 60_000);
  }
});

Deno.test("skein load gives each session the next token of a command", async () => {
  const users = new Set<string>();
  await using server = start({
    tokens: { inMessage: true },
    authenticate({ token }) {
      if (!token) throw new AuthenticationError("A token, please");
      users.add(token);
      return token;
    },
  });
  const { code } = await run(server.url, [
    "--mode=idle",
    "-n4",
    "--token-command=echo ann; echo bob; echo; echo cid",
  ]);
  assertEquals([code, [...users].sort()], [0, ["ann", "bob", "cid"]]);
});

Deno.test("skein load reports a rejection once before the load, with a fix", async () => {
  const cases: [ServeOptions, string[], number, RegExp][] = [
    [
      {
        tokens: { inMessage: true },
        authenticate: () => Promise.reject(new AuthenticationError("No")),
      },
      ["--token=x"],
      3,
      /No \(401\)\. Give a token that the server accepts, with --token/,
    ],
    [{ path: "/chat" }, [], 3, /\(404\)\. Add the session path to the URL/],
    [{ onMessage() {} }, [], 1, /did not send the message on "load" back.*--mode idle works/s],
    [
      { authorize: () => false },
      ["--mode=publish"],
      1,
      /rejected with forbidden.*allow it in `authorize`/,
    ],
    [
      { onMessage: () => Promise.reject(new RequestError("unknown-topic", "No such topic")) },
      ["--mode=request"],
      1,
      /unknown-topic, No such topic\. The server does not reply to "load"/,
    ],
  ];
  for (const [options, args, wanted, text] of cases) {
    await using server = start(options);
    const { code, err, out } = await run(server.url, args);
    assertMatch(err, text);
    assertEquals([code, out], [wanted, ""], err);
  }
});

Deno.test("skein load names the limit that rejects sessions during the load", async () => {
  const limits: [NonNullable<ServeOptions["limits"]>, string][] = [
    [{ maxSessionsPerAddress: 2 }, "limits.maxSessionsPerAddress"],
    [{ maxSessions: 2 }, "limits.maxSessions"],
  ];
  for (const [limit, name] of limits) {
    await using server = start({ limits: limit });
    const { code, out } = await run(server.url, ["--mode=idle", "-n5"]);
    assertEquals(code, 1, out);
    assertStringIncludes(out, "× rejected: 4429");
    assertStringIncludes(out, `raise \`${name}\` of the server`);
  }
});

Deno.test("skein load counts sessions that close during the load by their close code", async () => {
  let seen = 0;
  // The platform's engine sometimes ends a busy connection without a close frame.
  await using server = start({
    webSocket: hardenedWebSocket(),
    onMessage(message, session) {
      session.send(message.topic, message.data);
      // Before the load, a check opens one session.
      const isLoaded = server.manager.count === 3;
      if (isLoaded && ++seen % 8 === 0) void session.close({ code: 4_999, reason: "enough" });
    },
  });
  const { code, result } = await run(server.url, ["-n3", "--rate=50", "--json"]);
  assertEquals(code, 1);
  assert(result.sessions.disconnects > 0);
  assertEquals(result.errors["disconnected: 4999 enough"], result.sessions.disconnects);
});

Deno.test("skein load exits with 3 if no server listens", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  for (const plain of [[], ["--plain"]]) {
    const { code, err } = await run(`http://127.0.0.1:${port}`, plain);
    assertEquals(code, 3);
    assertMatch(err, /Cannot (?:connect|open).*refused/);
  }
});

Deno.test("skein load rejects conflicting options, with the exit code 2", async () => {
  const cases: [string[], string][] = [
    [["--plain", "--mode=publish"], "--plain requires --mode echo or idle"],
    [["--plain", "--transport=http"], "--plain is a WebSocket"],
    [["--plain", "--token=a"], "--plain sends no token"],
    [["--mode=idle", "--data=1"], "--data is for --mode request"],
    [["--mode=idle", "--topics=2"], "--topics is for --mode publish"],
    [["--window=64"], "--window is for --rate max, received --rate 10"],
    [["--mode=request", "--data={"], "the value must be JSON"],
    [["--workers=3", "-n2"], "each thread needs a session"],
    [["--mode=publish", "--workers=2"], "each thread needs a topic"],
    [["--duration=5 days"], "the time must be like 500ms"],
    [["--rate=0"], "the value must be a number between 0.001"],
    [["-n0"], "the value must be an integer between 1"],
    [["--header=nonsense"], 'the form is "Name: value"'],
    [["--cert-hash=abc"], "32 bytes of SHA-256"],
    [["--token=a", "--token-command=b"], "--token and --token-command exclude each other"],
  ];
  for (const [args, text] of cases) {
    const { code, err } = await run("http://localhost:1", args);
    assertStringIncludes(err, text);
    assertEquals(code, 2, err);
  }
});

Deno.test("skein load prints a line for each interval, and a readable result", async () => {
  await using server = start();
  const { out, err } = await run(server.url, ["-n2", "--rate=100"]);
  assertMatch(err, /^measuring \d+\.\d s: 2\/2 sessions, .* messages\/s in, p50 .*, p99 /m);
  assertMatch(out, /^echo on ws:.* by websocket, 100 messages\/s, 128 B each, \d+\.\d s\n/);
  assertMatch(out, /^ {2}Latency {4}p50 \S+ \S+, p90 /m);
});

Deno.test("skein load redraws its plot within the width of a terminal", async () => {
  await using server = start();
  for (const columns of [30, 80]) {
    const { err, out } = await run(server.url, ["-n2", "--rate=100"], {
      isTerminal: true,
      columns,
    });
    assertStringIncludes(err, "\x1b[5F\x1b[J");
    assertMatch(err, /p99 .*[▁▂▃▄▅▆▇█]/);
    // deno-lint-ignore no-control-regex -- control characters move the cursor.
    for (const line of err.replace(/\x1b\[[0-9;]*[A-Za-z]/g, "").split("\n")) {
      assert(line.length < columns, `${line.length} of ${columns}: ${line}`);
    }
    assert(!out.includes("\x1b"));
  }
});

Deno.test("skein load shows no part of the URL that may be secret", async () => {
  await using server = start();
  const rejecting = start({ path: "/chat" });
  for (
    const [url, args] of [[server.url, []], [server.url, ["--json"]], [rejecting.url, []]] as const
  ) {
    const secret = new URL("?token=secret", url.replace("//", "//ann:secret@"));
    const { out, err } = await run(secret.href, ["--mode=idle", "-n1", ...args]);
    assert(out + err !== "" && !(out + err).includes("secret"), out + err);
  }
  await rejecting[Symbol.asyncDispose]();
});
