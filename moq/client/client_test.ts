import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { ConnectionError, TimeoutError, UnsupportedError } from "../../errors.ts";
import { ALL_VERSIONS, HandTrack, MoqNetwork, pass, settledMoq } from "../../tests/moq/network.ts";
import { passTime, turns } from "../../tests/waiting.ts";
import { MoqClient } from "./client.ts";
import { MoqError } from "../wire/errors.ts";
import { MoqSession } from "../session/session.ts";
import { TrackMux } from "../track/mux.ts";

const rejected = () => new ConnectionError("Nobody listens");

function namesOf(client: MoqClient): { readonly names: string[]; readonly over: Promise<void> } {
  const names: string[] = [];
  const over = (async () => {
    for await (const { name } of client.status) names.push(name);
  })();
  return { names, over };
}

const ENDS: readonly (readonly [string, (network: MoqNetwork) => void])[] = [
  ["a loss", (network) => network.cut()],
  ["a graceful close", (network) => network.last.close()],
  ["a close with an error", (network) => network.last.closeWithError("internal", "Out of order")],
  ["a close of the connection", (network) => network.last.connection.close()],
];
for (const [what, end] of ENDS) {
  Deno.test(`MoqClient() reconnects after ${what}`, async () => {
    using time = new FakeTime();
    const network = new MoqNetwork();
    await using client = network.client();
    const { names } = namesOf(client);
    assertEquals(await settledMoq(client), "connected");
    const first = client.session;
    end(network);
    assertEquals(await settledMoq(client), "reconnecting");
    assertEquals([client.session, client.isConnected], [undefined, false]);
    const { current } = client.status;
    assert(current.name === "reconnecting");
    assertEquals([current.attempt, current.delayMs], [1, 1_000]);
    assertInstanceOf(current.cause.error, MoqError);
    assertEquals(current.cause.info?.by, what === "a loss" ? "network" : "remote");
    await pass(time, 1_000);
    assertEquals(await settledMoq(client), "connected");
    assert(client.session !== first && client.isConnected);
    assertEquals(names, ["connecting", "connected", "reconnecting", "connecting", "connected"]);
  });
}

for (const version of ALL_VERSIONS) {
  Deno.test(`MoqClient() announces its broadcasts again, over ${version}`, async () => {
    using time = new FakeTime();
    const network = new MoqNetwork(version);
    const mux = new TrackMux();
    const track = new HandTrack();
    mux.publish("/live/alice", track.serve);
    await using client = network.client({ mux });
    for (const cut of [true, false]) {
      await settledMoq(client);
      const announced = await network.last.acceptAnnounce("/live");
      const { path, active } = (await announced.next())!;
      assertEquals([path, active], ["/live/alice", true]);
      const reader = await network.last.subscribe("/live/alice", "video");
      await turns();
      await track.write(7);
      assertEquals((await reader.nextGroup())?.sequence, 7);
      if (!cut) continue;
      network.cut();
      await turns();
      await pass(time, 1_000);
    }
  });
}

Deno.test("MoqClient() waits longer for a peer that accepts sessions and drops them", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  await using client = network.client({ retry: { maxDelayMs: 8_000, stableMs: 5_000 } });
  const begin = Date.now();
  for (const delayMs of [1_000, 2_000, 4_000, 8_000, 8_000]) {
    assertEquals(await settledMoq(client), "connected");
    network.last.close();
    assertEquals(await settledMoq(client), "reconnecting");
    await pass(time, delayMs);
  }
  assertEquals(network.dials.map(({ at }) => (at - begin) / 1_000), [0, 1, 3, 7, 15, 23]);
  // A stable session resets the delay.
  await pass(time, 5_000);
  network.last.close();
  await turns();
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.attempt === 1 && current.delayMs === 1_000);
});

Deno.test("MoqClient() stops after maxAttempts, with the error of the last one", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  network.fail(9, rejected);
  await using client = network.client({ retry: { maxAttempts: 3 } });
  const { names, over } = namesOf(client);
  const track = client.subscribe("/live", "video");
  const announcements = client.acceptAnnounce("/");
  const waiting = assertRejects(() => client.whenConnected(), MoqError, "is exhausted");
  const group = assertRejects(() => track.nextGroup(), MoqError, "Nobody listens");
  await passTime(time, 60_000);
  const { name, error } = await client.closed;
  assertEquals([name, network.dials.length], ["exhausted", 4]);
  assertInstanceOf(error, MoqError);
  assertEquals(error.reason, "timeout");
  assertInstanceOf(error.cause, ConnectionError);
  assert(error.message.startsWith("The client gave up after 3 attempts"));
  await Promise.all([waiting, group, over]);
  await assertRejects(() => track.ready, MoqError);
  await assertRejects(() => announcements.next(), MoqError);
  assertThrows(() => client.subscribe("/live", "video"), MoqError, "Cannot subscribe");
  assertThrows(() => client.acceptAnnounce(), MoqError, "Cannot accept announcements");
  assertEquals(names.at(-1), "exhausted");
  assertEquals(client.subscriptions, []);
});

Deno.test("MoqClient() stops after giveUpAfterMs without a stable session", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  await using client = network.client({
    retry: { giveUpAfterMs: 10_000, maxDelayMs: 1_000, stableMs: 5_000 },
  });
  await settledMoq(client);
  // A day with a session does not count.
  await pass(time, 86_400_000);
  const begin = Date.now();
  const over = client.closed.then(() => Date.now());
  network.fail(2, rejected);
  for (let count = 0; client.status.current.name !== "exhausted"; count++) {
    assert(count < 20);
    network.last.close();
    await pass(time, 1_000);
  }
  assertEquals((await over - begin) / 1_000, 10);
});

const REJECTIONS: readonly (readonly [string, () => unknown])[] = [
  ["401", () => new ConnectionError("Rejected", { status: 401 })],
  ["403", () => new ConnectionError("Rejected", { status: 403 })],
  ["404", () => new ConnectionError("Rejected", { status: 404 })],
  ["unauthorized", () => new MoqError("session", "unauthorized", "No", { by: "remote" })],
  ["no common version", () => new MoqError("session", "unsupportedVersion", "No version")],
  ["a URL that cannot be dialed", () => new TypeError("Cannot dial MoQ")],
  ["a missing feature of the platform", () => new UnsupportedError("Cannot dial MoQ")],
];
for (const [what, error] of REJECTIONS) {
  Deno.test(`MoqClient() stops immediately on ${what}`, async () => {
    const network = new MoqNetwork();
    const thrown = error();
    network.fail(1, () => thrown);
    const client = network.client();
    assertEquals(await client.closed, { name: "rejected", error: thrown });
    assertEquals([network.dials.length, client.status.current.name], [1, "rejected"]);
    await client.close();
  });
}

Deno.test("MoqClient() retries after temporary failures", async () => {
  for (
    const error of [
      rejected(),
      new ConnectionError("Busy", { status: 429 }),
      new ConnectionError("Broken", { status: 503 }),
      new MoqError("session", "internal", "Broken", { by: "remote" }),
      new TimeoutError("Late", 1),
    ]
  ) {
    using time = new FakeTime();
    const network = new MoqNetwork();
    network.fail(1, () => error);
    await using client = network.client();
    assertEquals(await settledMoq(client), "reconnecting");
    await pass(time, 1_000);
    assertEquals(await settledMoq(client), "connected");
  }
});

Deno.test("MoqClient() stops if the server closes the new session as unauthorized", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  const client = network.client();
  await settledMoq(client);
  await pass(time, 20_000);
  // The token of a stable session may have expired: one more attempt.
  network.last.closeWithError("unauthorized", "Expired");
  assertEquals(await settledMoq(client), "reconnecting");
  await pass(time, 1_000);
  assertEquals(await settledMoq(client), "connected");
  network.last.closeWithError("unauthorized", "Expired");
  const { name, error } = await client.closed;
  assert(error instanceof MoqError);
  assertEquals({ name, reason: error.reason, by: error.by }, {
    name: "rejected",
    reason: "unauthorized",
    by: "remote",
  });
});

for (const version of ["moq-lite-05", "moq-lite-04"] as const) {
  Deno.test(`MoqClient() dials before it leaves after GOAWAY, over ${version}`, async () => {
    using time = new FakeTime();
    const network = new MoqNetwork(version);
    await using client = network.client();
    await settledMoq(client);
    await passTime(time, 60_000);
    const [first, old] = [network.last, client.session!];
    const left = first.goaway();
    assertEquals(await settledMoq(client), "reconnecting");
    assertEquals([client.session, old.isClosed], [old, false]);
    const { current } = client.status;
    assert(current.name === "reconnecting" && current.cause.error instanceof MoqError);
    assertEquals([current.cause.error.reason, current.cause.info], ["goingAway", undefined]);
    await pass(time, 1_000);
    assertEquals(await settledMoq(client), "connected");
    assert(client.session !== old && old.isClosed);
    await left;
    assertEquals((await first.closed).by, "remote");
    assertEquals(network.sessions.length, 2);
  });
}

Deno.test("MoqClient() reconnects when the transport requests a drain, in versions without GOAWAY", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork("gomoqt-dev");
  await using client = network.client();
  await settledMoq(client);
  network.pairs[0]!.link.drain("to-client");
  assertEquals(await settledMoq(client), "reconnecting");
  await pass(time, 1_000);
  assertEquals(await settledMoq(client), "connected");
  assert(network.sessions[0]!.isClosed);
});

Deno.test("MoqClient() keeps the old session after GOAWAY until the next one opens", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  await using client = network.client();
  await settledMoq(client);
  network.fail(1, rejected);
  void network.last.goaway({ timeoutMs: 2_000 });
  await turns();
  await pass(time, 1_000);
  assertEquals(await settledMoq(client), "reconnecting");
  assert(client.isConnected);
  await pass(time, 1_000);
  assert(!client.isConnected);
  await pass(time, 1_000);
  assertEquals(await settledMoq(client), "connected");
});

Deno.test("MoqClient() leaves after leaveAfterMs following GOAWAY, even without a next session", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  await using client = network.client({ retry: { leaveAfterMs: 3_000 } });
  await settledMoq(client);
  network.fail(3, rejected);
  const left = network.last.goaway();
  await turns();
  await pass(time, 2_999);
  assert(client.isConnected);
  await pass(time, 1);
  assert(!client.isConnected);
  await left;
  assertEquals((await network.last.closed).reason, "none");
});

const MIGRATIONS: readonly (readonly [string, string | undefined])[] = [
  ["", undefined],
  ["https://a.example/other", "https://a.example/other"],
  ["/other?x=1", "https://a.example/other?x=1"],
  ["https://b.example/", undefined],
  ["https://a.example:444/", undefined],
  ["http://a.example/", undefined],
  ["wss://a.example/", undefined],
  ["javascript:alert(1)", undefined],
  ["https://", undefined],
];
for (const [uri, expected] of MIGRATIONS) {
  Deno.test(`MoqClient() connects to ${expected ?? "its usual URL"} after GOAWAY to "${uri}"`, async () => {
    using time = new FakeTime();
    const network = new MoqNetwork();
    await using client = network.client({ url: "https://a.example/moq" });
    await settledMoq(client);
    void network.last.goaway({ uri });
    await turns();
    await pass(time, 1_000);
    assertEquals(await settledMoq(client), "connected");
    assertEquals(network.dials.map(({ uri }) => uri), [undefined, expected]);
  });
}

Deno.test("MoqClient() calls allowMigration, and returns to the usual URL afterwards", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  const asked: string[] = [];
  await using client = network.client({
    url: new URL("moqt://a.example"),
    allowMigration: (to, from) => {
      asked.push(`${from?.href} ${to.href}`);
      if (to.host === "c.example") throw new Error("never");
      return to.host === "b.example";
    },
  });
  await settledMoq(client);
  void network.last.goaway({ uri: "moqt://b.example" });
  await turns();
  // Without a delay, because it is another server.
  assertEquals(await settledMoq(client), "connected");
  void network.last.goaway({ uri: "moqt://c.example" });
  await turns();
  await pass(time, 2_000);
  assertEquals(await settledMoq(client), "connected");
  assertEquals(network.dials.map(({ uri }) => uri), [undefined, "moqt://b.example", undefined]);
  assertEquals(asked, [
    "moqt://a.example moqt://b.example",
    "moqt://b.example moqt://c.example",
  ]);
  assertEquals(network.errors.map(String), ["Error: never"]);
});

Deno.test("MoqClient() reconnects to its usual URL after GOAWAY if url throws", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  await using client = network.client({
    url: () => {
      throw new Error("The settings are gone");
    },
  });
  await settledMoq(client);
  void network.last.goaway({ uri: "https://a.example/" });
  await turns();
  await pass(time, 1_000);
  assertEquals(await settledMoq(client), "connected");
  assertEquals(network.dials.map(({ uri }) => uri), [undefined, undefined]);
  assertEquals(network.errors.map(String), ["Error: The settings are gone"]);
  await client.close();
  assertEquals((await client.closed).name, "closed");
});

Deno.test("MoqClient() is rejected if dial returns no session", async () => {
  for (const [made, kind] of [[undefined, "undefined"], [{}, "Object"]] as const) {
    await using client = new MoqClient({ dial: () => Promise.resolve(made as never) });
    const { name, error } = await client.closed;
    assertEquals([name, String(error)], [
      "rejected",
      `TypeError: Cannot connect: the result of dial must be a MoqSession, received ${kind}`,
    ]);
  }
});

Deno.test("MoqClient() closes a session that opens too late, and one with another mux", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  const late = Promise.withResolvers<void>();
  network.outcomes.push(async (_signal, context) => {
    await late.promise;
    return await network.dial(new AbortController().signal, context);
  });
  await using client = network.client({ connectTimeoutMs: 500 });
  await turns();
  await pass(time, 500);
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.cause.error instanceof TimeoutError);
  late.resolve();
  await turns();
  assert(network.last.isClosed);
  network.outcomes.push((signal) => network.dial(signal, { mux: new TrackMux() }));
  await pass(time, 1_000);
  const { name, error } = await client.closed;
  assertEquals(name, "rejected");
  assert(error instanceof TypeError && error.message.includes("mux"));
  assert(network.last.isClosed);
});

Deno.test("MoqClient.close() stops an attempt, a delay and a session, and leaves nothing behind", async () => {
  // While dialing.
  const network = new MoqNetwork();
  let aborted = false;
  network.outcomes.push((signal) =>
    new Promise((_, reject) =>
      signal.addEventListener("abort", () => {
        aborted = true;
        reject(signal.reason);
      })
    )
  );
  const dialing = network.client();
  await turns();
  await dialing.close();
  assertEquals([aborted, dialing.status.current.name], [true, "closed"]);
  assertEquals(await dialing.closed, { name: "closed", error: undefined });
  // During a delay.
  network.fail(1, rejected);
  const waiting = network.client();
  assertEquals(await settledMoq(waiting), "reconnecting");
  await Promise.all([waiting.close(), waiting.close()]);
  assertEquals((await waiting.closed).name, "closed");
  // With a session.
  const connected = network.client();
  await settledMoq(connected);
  const track = connected.subscribe("/live", "video");
  const announcements = connected.acceptAnnounce();
  const group = track.nextGroup();
  await connected.close();
  assertEquals(await group, null);
  assertEquals(await announcements.next(), null);
  assertEquals(await network.last.closed, {
    code: 0,
    reason: "none",
    message: "",
    by: "remote",
  });
  await assertRejects(() => connected.whenConnected(), MoqError, "is closed");
});

Deno.test("MoqClient() closes by its signal, even if it is already aborted", async () => {
  const network = new MoqNetwork();
  const controller = new AbortController();
  const client = network.client({ signal: controller.signal });
  await settledMoq(client);
  controller.abort();
  assertEquals((await client.closed).name, "closed");
  const never = network.client({ signal: controller.signal });
  assertEquals((await never.closed).name, "closed");
  assertEquals(network.dials.length, 1);
});

Deno.test("MoqClient.retryNow() skips the delay, and so does a browser that comes online", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  network.fail(2, rejected);
  await using client = network.client({ retry: { firstDelayMs: 10_000 } });
  assertEquals(await settledMoq(client), "reconnecting");
  client.retryNow();
  assertEquals(await settledMoq(client), "reconnecting");
  globalThis.dispatchEvent(new Event("online"));
  assertEquals(await settledMoq(client), "connected");
  client.retryNow();
  assertEquals(Date.now(), time.start);
});

Deno.test("MoqClient.retryNow() starts an attempt beside one that hangs, and so does a browser that comes online", async () => {
  for (
    const wake of [
      (client: MoqClient) => client.retryNow(),
      () => globalThis.dispatchEvent(new Event("online")),
    ]
  ) {
    using time = new FakeTime();
    const signals: AbortSignal[] = [];
    const network = new MoqNetwork();
    await using client = new MoqClient({
      connectTimeoutMs: Infinity,
      dial: async (signal, context) => {
        signals.push(signal);
        if (signals.length > 1) return await network.dial(signal, context);
        return await new Promise<never>((_, reject) => {
          signal.addEventListener("abort", () => reject(signal.reason));
        });
      },
    });
    assertEquals(await settledMoq(client), "connecting");
    for (let i = 0; i < 100; i++) wake(client);
    await pass(time, 999);
    assertEquals([await settledMoq(client), signals.length], ["connecting", 1]);
    await pass(time, 1);
    assertEquals([await settledMoq(client), signals.length], ["connected", 2]);
    assertEquals(signals.map(({ aborted }) => aborted), [true, false]);
  }
});

Deno.test("MoqClient.whenConnected() waits for the session, up to its timeout and signal", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  network.fail(1, rejected);
  await using client = network.client();
  const late = assertRejects(
    () => client.whenConnected({ timeoutMs: 500 }),
    TimeoutError,
    "Cannot wait for the session longer than 500 ms: Nobody listens",
  );
  const controller = new AbortController();
  const left = assertRejects(
    () => client.whenConnected({ signal: controller.signal }),
    Error,
    "enough",
  );
  const session = client.whenConnected();
  controller.abort(new Error("enough"));
  await turns();
  await pass(time, 1_000);
  await Promise.all([late, left]);
  assert(await session instanceof MoqSession);
  assertEquals(await session, client.session);
});

Deno.test("MoqClient() rejects invalid options", () => {
  const { dial } = new MoqNetwork();
  for (
    const options of [
      { connectTimeoutMs: -1 },
      { retry: { giveUpAfterMs: NaN } },
      { retry: { stableMs: -1 } },
      { retry: { leaveAfterMs: -1 } },
      { retry: { firstDelayMs: 0 } },
      { retry: { maxAttempts: 0 } },
    ]
  ) assertThrows(() => new MoqClient({ dial, ...options }), RangeError);
});

Deno.test("MoqClient() passes each session to the application", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  const told: MoqSession[] = [];
  await using client = network.client({ onSession: (session) => void told.push(session) });
  await settledMoq(client);
  network.cut();
  await pass(time, 1_000);
  assertEquals(await settledMoq(client), "connected");
  assertEquals(told.length, 2);
  assert(told[1] === client.session);
});

Deno.test("MoqClient() reconnects when onSession fails", async () => {
  for (const fail of [() => Promise.reject(new Error("No room")), () => failing("No room")]) {
    using time = new FakeTime();
    const network = new MoqNetwork();
    let isBroken = true;
    await using client = network.client({ onSession: () => isBroken ? fail() : undefined });
    await settledMoq(client);
    const { current } = client.status;
    assert(current.name === "reconnecting");
    assertMatch(String(current.cause.error), /No room/);
    isBroken = false;
    await pass(time, 1_000);
    assertEquals(await settledMoq(client), "connected");
  }
});

function failing(message: string): never {
  throw new Error(message);
}
