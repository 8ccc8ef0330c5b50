import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { recordSessions } from "../session/insight/recording.ts";
import { encodeBinary } from "../session/wire/encode.ts";
import { playSession } from "./play_session.ts";
import { testServer, type TestServerOptions } from "./test_server.ts";
import { passTime, turns } from "./turns.ts";

/** A server whose handlers record their messages and the user. */
function noting(options: TestServerOptions<string> = {}) {
  const noted: unknown[] = [];
  const server = testServer<string>({
    ...options,
    onMessage(message, session) {
      noted.push([session.user, message.topic, message.data]);
      if (message.isRequest) message.reply("noted");
    },
    onClose: (_session, { code, by }) => void noted.push([code, by]),
  });
  return { noted, server };
}

const IN_BAND = {
  tokens: { inMessage: true },
  authenticate: ({ token }: { readonly token?: string | undefined }) => token ?? null,
};

Deno.test("playSession() passes handlers what recordSessions() recorded, at the same times", async () => {
  using time = new FakeTime();
  const lines: string[] = [];
  const recorder = recordSessions({ write: (line) => lines.push(line) });
  const before = noting({ ...IN_BAND, features: [recorder] });
  await using _before = before.server;
  const client = before.server.connect({ token: "ann", path: "/chat?room=1" });
  await client.request("ask", "first");
  await passTime(time, 2_000);
  client.send("bytes", new Uint8Array([1, 2, 3]));
  await client.request("ask", "last");
  await client.close();
  await turns();
  assertEquals(before.noted, [
    ["ann", "ask", "first"],
    ["ann", "bytes", new Uint8Array([1, 2, 3])],
    ["ann", "ask", "last"],
    [0, "remote"],
  ]);
  assert(!lines.join().includes('"ann"'), "the recording must not have the token");

  const after = noting(IN_BAND);
  await using _after = after.server;
  const start = Date.now();
  await using played = await playSession(after.server, lines, {
    token: "ann",
    wait: (ms) => passTime(time, ms),
  });
  assertEquals(after.noted, before.noted);
  assert(Date.now() - start >= 2_000);
  assertEquals(played.received.filter((text) => `${text}`.includes('"noted"')).length, 2);
});

Deno.test("recordSessions() omits tokens in every form, and playSession() fills them in", async () => {
  const renewal = '{"auth":"s3cret","id":1}';
  const renewals = [
    '{"\\u0061uth":"s3cret","id":1}',
    `{"topic":"say","data":{"auth":"mine"}}\n${renewal}`,
    encodeBinary(renewal, new Uint8Array([1])),
  ];
  // The server accepts no token in these frames.
  const malformed = [
    '{"auth":\n"s3cret","id":1}',
    encodeBinary(renewal.slice(0, -1), new Uint8Array()),
    new TextEncoder().encode(renewal),
  ];
  const tokens: unknown[] = [];
  const authenticate = ({ token }: { readonly token?: string | undefined }) => {
    tokens.push(token);
    return token ?? null;
  };
  for (const frame of [...renewals, ...malformed]) {
    const lines: string[] = [];
    const recorder = recordSessions({ write: (line) => lines.push(line) });
    await using server = testServer({ authenticate, features: [recorder] });
    await using connection = await server.open({ path: "/?token=s3cret" });
    connection.frames!.send(frame);
    await turns();
    const recorded = lines.map((line) => {
      const { base64 = "" } = JSON.parse(line);
      return line + new TextDecoder().decode(Uint8Array.fromBase64(base64));
    });
    assert(!recorded.join().includes("s3cret"), recorded.join());
    if (!renewals.includes(frame)) continue;
    assertEquals(tokens.splice(0), ["s3cret", "s3cret"]);
    const headers = { authorization: "Bearer first" };
    await using _played = await playSession(server, [...lines], { token: "again", headers });
    assertEquals(tokens.splice(0), ["first", "again"]);
  }
});

Deno.test("recordSessions() keeps JSON of several lines from a plain client", async () => {
  const lines: string[] = [];
  const before = noting({ features: [recordSessions({ write: (line) => lines.push(line) })] });
  await using _before = before.server;
  await using connection = await before.server.open({ protocols: [] });
  const data = { auth: "", text: "\u0007" };
  connection.frames!.send(JSON.stringify({ topic: "say", data }, null, 2));
  await turns();
  const after = noting();
  await using _after = after.server;
  await using _played = await playSession(after.server, lines);
  for (const { noted } of [before, after]) {
    assertEquals(noted.map((one) => (one as unknown[]).slice(1)), [["say", data]]);
  }
});

Deno.test("playSession() cuts the network when the recorded session lost it", async () => {
  const lines: string[] = [];
  const before = noting({ features: [recordSessions({ write: (line) => lines.push(line) })] });
  await using _before = before.server;
  await using session = await before.server.dial({ protocols: [] });
  session.send("say", 1);
  await turns();
  before.server.network.disconnect();
  await turns();
  const after = noting();
  await using _after = after.server;
  await using _played = await playSession(after.server, lines.join("\n"));
  for (const { noted } of [before, after]) {
    assertEquals(noted, [[noted.flat()[0], "say", 1], [1006, "network"]]);
  }
});

Deno.test("recordSessions() records the selected sessions, up to maxBytes", async () => {
  const lines: string[] = [];
  const recorder = recordSessions({
    write: (line) => lines.push(line),
    filter: ({ user }) => user === "ann",
    maxBytes: 500,
  });
  const { server } = noting({ authenticate: ({ token }) => token ?? null, features: [recorder] });
  await using _server = server;
  const signedIn = (user: string) => server.dial({ headers: { authorization: `Bearer ${user}` } });
  await using ann = await signedIn("ann");
  await using bob = await signedIn("bob");
  for (const session of [ann, bob]) {
    for (let i = 0; i < 10; i++) await session.request("say", "x".repeat(20));
  }
  const events = lines.map((line) => JSON.parse(line));
  assertEquals(new Set(events.map((event) => event.session)).size, 1);
  const frames = lines.filter((line) => line.includes('"text":'));
  assert(frames.length > 0 && frames.join("").length <= 500, `${frames.length} frames`);
  assertEquals(events.at(-1).cut, true);
});

Deno.test("recordSessions() counts lines, so that empty frames do not fill a disk", async () => {
  let length = 0;
  const write = (line: string) => void (length += line.length);
  await using server = testServer({ features: [recordSessions({ write, maxBytes: 5_000 })] });
  await using connection = await server.open();
  for (let i = 0; i < 1_000; i++) connection.frames!.send("\n");
  await turns();
  assert(length > 4_000 && length < 6_000, `${length} characters`);
});

Deno.test("recordSessions() reports an error of write, and the session continues", async () => {
  const errors: unknown[] = [];
  const full = new Error("disk is full");
  await using server = testServer({
    features: [recordSessions({
      write() {
        throw full;
      },
    })],
    onError: (error) => void errors.push(error),
    onMessage: (message) => message.reply("pong"),
  });
  await using session = await server.dial();
  assertEquals(await session.request("ping"), "pong");
  assert(errors.length > 0 && errors.every((error) => error === full));
});

Deno.test("playSession() rejects a recording without the session, or with several", async () => {
  const { server } = noting();
  await using _server = server;
  const line = (session: string) =>
    JSON.stringify({ session, atMs: 0, opened: { url: "/", protocol: "skein.1" } });
  const several = [line("a"), line("b")];
  for (
    const [recording, session, received] of [
      ["", undefined, "none"],
      [several, undefined, "a, b"],
      [several, "c", "a, b"],
    ] as const
  ) {
    await assertRejects(
      () => playSession(server, recording, session === undefined ? {} : { session }),
      TypeError,
      `received sessions: ${received}`,
    );
  }
  await using _played = await playSession(server, several, { session: "b" });
  assertEquals(server.manager.count, 1);
  assertThrows(() => recordSessions({ write: () => {}, maxBytes: 0 }), RangeError, "maxBytes");
});
