import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  AuthenticationError,
  CloseCode,
  ConnectionError,
  QueueFullError,
  RequestError,
  SessionClosedError,
} from "../errors.ts";
import { Network, settled } from "../tests/clients.ts";
import { turns } from "../tests/waiting.ts";
import { platformRuntime } from "../base/runtime.ts";
import { RequestService } from "../session/serving/requests.ts";
import { Client } from "./client.ts";
import { denoPlatform } from "./deno.ts";
import { drawing } from "../tests/sessions.ts";
import type { ClientOptions } from "./client_options.ts";

/** The status after a close, and the delay of the next attempt: the longest is 30 s. */
type Next = "closed" | "rejected" | "usual" | "longest" | "fresh";

/** The next status after each close code: in response to an attempt, and in a session. */
const CLOSES: Readonly<Record<keyof typeof CloseCode, readonly [attempt: Next, session: Next]>> = {
  normal: ["closed", "closed"],
  goingAway: ["usual", "usual"],
  abnormal: ["usual", "usual"],
  malformed: ["rejected", "longest"],
  unauthenticated: ["rejected", "usual"],
  forbidden: ["rejected", "rejected"],
  notFound: ["longest", "longest"],
  timedOut: ["usual", "usual"],
  tooLarge: ["usual", "usual"],
  tooMany: ["usual", "usual"],
  handlerFailed: ["usual", "usual"],
  draining: ["usual", "usual"],
  queueFull: ["usual", "usual"],
};

/** Codes of applications and of foreign peers. */
const OTHERS = [1, 1000, 1002, 1011, 3000, 4000, 4402, 4410, 4499, 4999];

/**
 * The next status after a rejection with an HTTP status; after all others the server counts as
 * unreachable.
 */
const STATUSES: Readonly<Record<number, Next>> = {
  400: "rejected",
  401: "rejected",
  403: "rejected",
  404: "longest",
};

const TOKEN: ClientOptions = { token: () => undefined };

/** Names the outcome, by the status of a client whose delays are half of the maximum. */
function nextOf(client: Client): Next {
  const { current } = client.status;
  if (current.name === "rejected" || current.name === "closed") return current.name;
  assert(current.name === "reconnecting", current.name);
  if (current.delayMs === 30_000) return "longest";
  return current.delayMs === 250 ? "usual" : "fresh";
}

Deno.test("Client is rejected only by a decision of the application, for every close code, end and time", async () => {
  using _time = new FakeTime();
  const all = Object.entries(CLOSES).map(([name, next]) =>
    [CloseCode[name as keyof typeof CloseCode], ...next] as const
  );
  const others = OTHERS.map((code) => [code, "usual", "usual"] as const);
  for (const [code, attempt, session] of [...all, ...others]) {
    for (const options of [{}, TOKEN, { token: "t" }]) {
      const isFunction = options === TOKEN;
      const network = new Network();
      network.outcomes.push(network.reject(code));
      await using client = network.client(options);
      await turns(12);
      const isFresh = isFunction && code === CloseCode.unauthenticated;
      assertEquals(nextOf(client), isFresh ? "fresh" : attempt, `${code} to an attempt`);
    }
    const network = new Network();
    await using client = network.client();
    assertEquals(await settled(client), "connected");
    network.pairs[0]!.server.close({ closeCode: code });
    await turns();
    assertEquals(nextOf(client), session, `${code} in a session`);
    const { current } = client.status;
    const kind = current.name === "reconnecting" ? current.cause.kind : undefined;
    assertEquals(kind, code === CloseCode.draining ? "unavailable" : undefined, `${code}`);
  }
});

Deno.test("Client is rejected only by HTTP statuses 400, 401 and 403, and reconnects after all others", async () => {
  using _time = new FakeTime();
  for (let status = 400; status < 600; status++) {
    const network = new Network();
    network.outcomes.push(() => {
      throw new ConnectionError("No", { status });
    });
    await using client = network.client();
    await turns();
    assertEquals(nextOf(client), STATUSES[status] ?? "usual", `${status}`);
    const { current } = client.status;
    assert("cause" in current && current.cause.code === 4000 + status);
    const kind = current.name === "reconnecting" ? current.cause.kind : undefined;
    assertEquals(kind, status === 503 ? "unavailable" : undefined, `${status}`);
  }
});

Deno.test("Client stays closed or rejected after its own final close, and retries after an invalid server", async () => {
  using _time = new FakeTime();
  for (
    const [code, next] of [
      [CloseCode.normal, "closed"],
      [CloseCode.unauthenticated, "rejected"],
      [CloseCode.forbidden, "rejected"],
      [CloseCode.notFound, "rejected"],
      [CloseCode.malformed, "longest"],
      [CloseCode.draining, "usual"],
    ] as const
  ) {
    const network = new Network();
    await using client = network.client(TOKEN);
    const session = await client.whenConnected();
    await session.close({ code, reason: "enough" });
    await turns();
    assertEquals(nextOf(client), next, `${code}`);
    const { current } = client.status;
    assert("cause" in current && current.cause.by === "local");
    assertEquals("kind" in current.cause, false);
  }
});

/**
 * A network with a service of topics, and a client that was rejected while a loop of each kind
 * runs.
 */
async function rejected(options: ClientOptions = {}) {
  const asked: string[] = [];
  const network = new Network({
    services: new RequestService(platformRuntime(), {
      subscribe: (_session, topic) => (asked.push(topic), {}),
    }),
    onMessage: ({ data }) => void asked.push(String(data)),
  });
  network.outcomes.push(network.nobody, network.reject(4403));
  const client = network.client({ outbox: { maxMessages: 2 }, ...options });
  const topic = client.subscribe("a");
  const settledBy: string[] = [];
  const note = (name: string, wait: Promise<unknown>) =>
    void wait.then(() => settledBy.push(`${name} ended`), () => settledBy.push(`${name} failed`));
  note("loop", Array.fromAsync(client));
  note("topic", Array.fromAsync(topic));
  note("ready", topic.ready);
  note("request", client.request("a"));
  note("retry", client.request("a", 1, { retry: true, timeoutMs: Infinity }));
  note("connected", client.whenConnected());
  client.send("say", "first");
  assertEquals(await settled(client), "reconnecting");
  client.retryNow();
  await turns();
  assertEquals(client.status.current.name, "rejected");
  return { network, client, topic, asked, settledBy };
}

Deno.test("Client keeps subscriptions, loops and its outbox while rejected, idle and bounded", async () => {
  using time = new FakeTime();
  const { network, client, topic, asked, settledBy } = await rejected();
  await using _ = client;
  assertEquals(settledBy.splice(0).sort(), ["connected failed", "request failed", "retry failed"]);
  await time.tickAsync(86_400_000);
  assertEquals(network.dials.length, 2, "no attempt on its own");
  client.send("say", "second");
  assertThrows(() => client.send("say", "third"), QueueFullError);
  const other = client.subscribe("b");
  for (const wait of [() => client.whenConnected(), () => client.request("a")]) {
    const error = await assertRejects(
      wait,
      SessionClosedError,
      "the client is rejected by memory:",
    );
    assertEquals(error.info?.code, 4403);
  }
  client.retryNow();
  assertEquals(client.status.current.name, "connecting");
  await client.whenConnected();
  await turns();
  assertEquals([topic, other].map(({ status }) => status.current), ["subscribed", "subscribed"]);
  assertEquals(asked.sort(), ["a", "b", "first", "second"]);
  assertEquals(settledBy.splice(0), ["ready ended"]);
});

Deno.test("Client.retryNow() returns to rejected after another rejection, and close() ends everything", async () => {
  using _time = new FakeTime();
  const { network, client, settledBy } = await rejected();
  network.outcomes.push(network.reject(4403));
  client.retryNow();
  await turns();
  assertEquals([client.status.current.name, network.dials.length], ["rejected", 3]);
  settledBy.splice(0);
  await client.close();
  assertEquals(await client.closed, { code: 0, reason: "", by: "local" });
  assertEquals(client.status.current.name, "closed");
  await turns();
  assertEquals(settledBy.sort(), ["loop ended", "ready failed", "topic ended"]);
  client.retryNow();
  await turns();
  assertEquals(network.dials.length, 3);
});

Deno.test("Client with endOnRejection closes immediately, and rejects everything that waits", async () => {
  using _time = new FakeTime();
  const network = new Network();
  network.outcomes.push(network.nobody, network.reject(4403));
  await using client = network.client({ endOnRejection: true, delivery: "at-least-once" });
  await using topic = client.subscribe("a");
  const waiting = [
    Array.fromAsync(client),
    Array.fromAsync(topic),
    client.request("a"),
    client.request("a", 1, { retry: true, timeoutMs: Infinity }),
    client.publish("a"),
    client.whenConnected(),
    topic.ready,
  ].map((wait) => assertRejects(() => wait, SessionClosedError, "(4403 No, by remote)"));
  assertEquals(await settled(client), "reconnecting");
  client.retryNow();
  await Promise.all(waiting);
  assertEquals(await client.closed, { code: 4403, reason: "No", by: "remote" });
  assertEquals([client.status.current.name, client.status.isEnded], ["rejected", true]);
  assertThrows(() => client.send("a"), SessionClosedError, "4403 No");
  assertThrows(() => client.subscribe("a"), SessionClosedError, "rejected");
});

Deno.test("Client closes after a normal close by the server, and its loops end without an error", async () => {
  const network = new Network();
  network.outcomes.push(network.reject(0));
  await using client = network.client();
  assertEquals(await settled(client), "closed");
  assertEquals(await Array.fromAsync(client), []);
  for (const call of [() => client.send("a"), () => client.subscribe("a")]) {
    assertThrows(call, SessionClosedError, "closed");
  }
});

Deno.test("Client makes one more attempt with a fresh token after 4401, at the first attempt and later", async () => {
  using time = new FakeTime();
  const network = new Network();
  let asked = 0;
  network.outcomes.push(network.reject(4401), () => network.accept());
  await using client = network.client({ token: () => void asked++ });
  await turns();
  assertEquals(nextOf(client), "fresh");
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.delayMs >= 500 && current.delayMs <= 1_500);
  await time.tickAsync(1_500);
  assertEquals([await settled(client), asked], ["connected", 2]);
  await time.tickAsync(5_000);
  network.outcomes.push(network.reject(4401), network.reject(4401));
  await network.reconnect(time);
  assertEquals([nextOf(client), asked], ["fresh", 3]);
  await time.tickAsync(1_500);
  assertEquals([await settled(client), asked], ["rejected", 4]);
});

Deno.test("Client that was rejected with 4401 tries a fresh token when it wakes up or comes back online", async () => {
  using time = new FakeTime();
  for (
    const [options, code, dials] of [
      [TOKEN, 4401, 3],
      [TOKEN, 4403, 1],
      [{ token: "t" }, 4401, 1],
      [{}, 4401, 1],
    ] as const
  ) {
    const network = new Network();
    network.outcomes.push(...Array.from({ length: 2 }, () => network.reject(code)));
    await using client = network.client(options);
    await turns(12);
    await time.tickAsync(1_500);
    assertEquals(await settled(client), "rejected");
    dispatchEvent(new Event("online"));
    await turns();
    assertEquals(network.dials.length, dials, `${code}`);
    assertEquals(client.status.current.name, dials === 3 ? "connected" : "rejected");
  }
});

Deno.test("Client checks its server and retries when the option life signals, until it is closed", async () => {
  using time = new FakeTime();
  let wake: (() => void) | undefined;
  const network = new Network();
  network.outcomes.push(network.nobody);
  const errors: unknown[] = [];
  const client = network.client({
    life: {
      subscribe(listener) {
        wake = listener;
        return () => {
          wake = undefined;
          throw new Error("No longer there");
        };
      },
    },
    onError: (error) => void errors.push(error),
  });
  assertEquals(await settled(client), "reconnecting");
  wake!();
  await turns();
  assertEquals([client.status.current.name, network.dials.length], ["connected", 2]);
  await time.tickAsync(1_000);
  network.pairs[0]!.link.stall("to-client");
  wake!();
  await time.tickAsync(5_000);
  await turns();
  assertEquals([client.status.current.name, network.dials.length], ["connected", 3]);
  await client.close();
  assertEquals(wake, undefined);
  assertEquals(String(errors.at(-1)), "Error: No longer there");
});

Deno.test("Client treats null as no token, like undefined", async () => {
  for (const token of [null, undefined, () => null, () => Promise.resolve(undefined)]) {
    const network = new Network();
    await using client = network.client({ token });
    assertEquals(await settled(client), "connected", String(token));
    assertEquals(network.dials[0]?.protocols, ["skein.1"]);
  }
});

Deno.test("Client waits at most an hour at a server's request", async () => {
  using time = new FakeTime();
  const network = new Network();
  await using client = network.client();
  assertEquals(await settled(client), "connected");
  network.last.goAway({ retryAfterMs: 30 * 86_400_000, reason: "Seconds, not milliseconds" });
  await turns();
  void network.last.close({ code: 4503 });
  await turns();
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.delayMs === 3_600_000);
  await time.tickAsync(3_600_000);
  assertEquals(await settled(client), "connected");
});

Deno.test("Client is rejected if token throws a rejection, and retries after every other error", async () => {
  const rejections: [error: Error, next: Next, code: number][] = [
    [new AuthenticationError("Signed out"), "rejected", 4401],
    [new AuthenticationError("Banned", { status: 403 }), "rejected", 4403],
    [new AuthenticationError("Busy", { status: 503 }), "usual", 4503],
    [new RequestError("unauthenticated", "Signed out"), "rejected", 4401],
    [new RequestError("forbidden", "Banned"), "rejected", 4403],
    [new RequestError("unavailable", "Later"), "usual", 1006],
    [new RequestError("constructor", "Odd"), "usual", 1006],
    [new TypeError("fetch failed"), "usual", 1006],
    [
      new SessionClosedError("Elsewhere", { info: { code: 4403, by: "remote", reason: "" } }),
      "usual",
      1006,
    ],
    [new ConnectionError("No", { status: 403 }), "usual", 1006],
    [new DOMException("Aborted", "AbortError"), "usual", 1006],
  ];
  for (const [error, next, code] of rejections) {
    using _time = new FakeTime();
    const network = new Network();
    let asked = 0;
    const token = () => ++asked === 1 ? Promise.reject(error) : null;
    await using client = network.client({ token });
    await turns();
    assertEquals(nextOf(client), next, error.message);
    const { current } = client.status;
    assert("cause" in current);
    const { cause } = current;
    assertEquals({ code: cause.code, reason: cause.reason, error: cause.error }, {
      code,
      reason: error.message,
      error,
    });
    assertEquals([network.dials.length, asked], [0, 1]);
    if (next === "rejected") await assertRejects(() => client.request("x"), SessionClosedError);
    client.retryNow();
    assertEquals(await settled(client), "connected");
  }
});

Deno.test("Client that token rejected retries after a wake-up, if a token may exist by then", async () => {
  using _time = new FakeTime();
  const network = new Network();
  let asked = 0;
  const token = () => ++asked === 1 ? Promise.reject(new AuthenticationError("Signed out")) : null;
  await using client = network.client({ token });
  assertEquals(await settled(client), "rejected");
  dispatchEvent(new Event("online"));
  assertEquals([await settled(client), asked], ["connected", 2]);
});

Deno.test("Client is not rejected if its url function throws a rejection", async () => {
  using _time = new FakeTime();
  const network = new Network();
  const url = () => Promise.reject(new AuthenticationError("Not a token"));
  await using client = new Client(url, denoPlatform(network.dial), { runtime: drawing(0.5) });
  client.status.subscribe(() => {});
  assertEquals(await settled(client), "reconnecting");
});

Deno.test("Client names its URL if token fails before the first dial", async () => {
  for (
    const [error, line] of [
      [new AuthenticationError("Signed out"), "The client of m://a/ was rejected: Signed out"],
      [
        new TypeError("fetch failed"),
        "Cannot connect to m://a/: token() failed: fetch failed; retrying, see client.status",
      ],
    ] as const
  ) {
    const told = Promise.withResolvers<unknown>();
    const network = new Network();
    await using _client = new Client("m://a/?token=secret", denoPlatform(network.dial), {
      token: () => Promise.reject(error),
      onError: (error) => told.resolve(error),
    });
    const heard = await told.promise;
    assert(heard instanceof SessionClosedError);
    assertEquals([heard.message, heard.cause], [line, error]);
  }
});
