/**
 * Tests the lines about lost messages. By default, each side that notices a loss prints one line
 * with the remedy. It prints none once the application handles the loss.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { connect, type ConnectOptions, createServer } from "../mod.ts";
import { testServer, type TestServerOptions } from "../testing/mod.ts";
import type { TestServer } from "../testing/mod.ts";
import type { Client, ClientSubscribeOptions, Subscription } from "../client.ts";
import { captureConsole } from "./console_lines.ts";
import { type FaultyBroker, FaultyStore } from "./faulty_broker.ts";
import { Page } from "./peers/page.ts";
import { listen } from "./servers.ts";
import { passTime, turns, until } from "./waiting.ts";

/** Options of all calls of a case. */
interface Given {
  readonly server?: TestServerOptions<string>;
  readonly client?: ConnectOptions;
  readonly subscribe?: ClientSubscribeOptions;
  /** Called with each subscription. */
  readonly follow?: (subscription: Subscription) => unknown;
  /** Called with the client. */
  readonly watch?: (client: Client) => unknown;
}

/** The objects of a running case. */
interface Running {
  readonly server: TestServer<string>;
  readonly client: Client;
  subscribe(topic: string): Subscription;
}

interface Loss {
  /** Additional options that the loss needs. */
  readonly given?: Given | (() => Given);
  /** Loses messages of `topic`. */
  lose(running: Running, topic: string): Promise<void>;
  /** The line of each side that notices the loss. */
  readonly lines: readonly RegExp[];
  /** Ways to handle the loss at every end. */
  readonly handled: readonly Given[];
  /** The number of lines if messages of 40 topics are lost; by default, one of each side. */
  readonly stormLines?: number;
}

const hang = () => new Promise<void>(() => {});

/** Waits until a session of the client has closed, and lets the client connect again. */
async function reconnect({ client }: Running, closed: Promise<unknown>): Promise<void> {
  await closed;
  await until(() => client.status.current.name === "reconnecting");
  client.retryNow();
  await client.whenConnected();
  await turns();
}

/** Sends until the client's session has closed, and lets the client connect again. */
async function overflow(running: Running, send: () => void): Promise<void> {
  const { server, client } = running;
  const { closed } = await client.whenConnected();
  server.network.stall("to-client");
  for (let i = 0; i < 4_000; i++) {
    try {
      send();
    } catch {
      break; // The session has closed.
    }
    if (i % 64 === 0) await turns();
  }
  server.network.resume("to-client");
  await reconnect(running, closed);
}

const LOSSES: Readonly<Record<string, Loss>> = {
  "a send queue of the server is full": {
    async lose(running, topic) {
      const { server, subscribe } = running;
      await subscribe(topic).ready;
      await overflow(running, () => server.publish(topic, "x".repeat(1_000)));
    },
    lines: [
      /^This server closed a session with 4507, .* raise session\.sendQueue or set its policy, or set onClose/,
      /^The server closed the session with 4507, .* raise session\.sendQueue of the server .* follow client\.status/,
    ],
    handled: [
      { server: { onClose() {} }, watch: (client) => client.status.subscribe(() => {}) },
      { server: { onError() {} }, client: { onError() {} } },
    ],
  },
  "a handler of the server is too slow": {
    given: { server: { onMessage: hang, session: { receiveQueue: { maxMessages: 4 } } } },
    async lose(running, topic) {
      const { closed } = await running.client.whenConnected();
      for (let i = 0; i < 8; i++) running.client.send(topic, i);
      await reconnect(running, closed);
    },
    lines: [
      /^This server closed a session with 4507, because this server .* raise session\.receiveQueue, or set onClose/,
      /^The server closed the session with 4507, .* raise session\.receiveQueue of the server, or follow/,
    ],
    handled: [
      { server: { onClose() {} }, watch: (client) => client.status.subscribe(() => {}) },
    ],
  },
  "a handler of the client is too slow": {
    given: { client: { onMessage: hang, receiveQueue: { maxMessages: 4 } } },
    async lose(running, topic) {
      const { id, closed } = await running.client.whenConnected();
      const session = await until(() => running.server.manager.get(id));
      for (let i = 0; i < 8; i++) session.send(topic, i);
      await reconnect(running, closed);
    },
    lines: [
      /^A client closed its session with 4507, because the client .* raise receiveQueue of the client, or set onClose/,
      /^This client closed the session with 4507, because this client .* raise receiveQueue, or follow client\.status/,
    ],
    handled: [
      { server: { onClose() {} }, watch: (client) => client.status.subscribe(() => {}) },
    ],
  },
  "the server drops messages": {
    given: { server: { session: { sendQueue: { policy: "drop-oldest", maxMessages: 4 } } } },
    async lose({ server, subscribe }, topic) {
      const subscription = subscribe(topic);
      await subscription.ready;
      server.network.stall("to-client");
      for (let i = 0; i < 200; i++) server.publish(topic, "x".repeat(10_000));
      server.network.resume("to-client");
      await turns();
    },
    lines: [
      /^The server dropped \d+ messages of "a", .* raise session\.sendQueue .* set onDropped/,
    ],
    handled: [{ client: { onDropped() {} } }, { client: { onError() {} } }],
  },
  "the client drops messages": {
    given: {
      server: { onMessage() {} },
      client: { sendQueue: { policy: "drop-oldest", maxMessages: 4 } },
    },
    async lose({ server, client }, topic) {
      await client.whenConnected();
      server.network.stall("to-server");
      for (let i = 0; i < 200; i++) client.session?.send(topic, "x".repeat(10_000));
      server.network.resume("to-server");
      await turns();
    },
    lines: [
      /^A client dropped \d+ messages of "a", .* raise sendQueue of the client, or set onError/,
    ],
    handled: [{ server: { onError() {} } }],
  },
  "publications are no longer in the history": {
    given: { server: { history: { "{topic}": { size: 2 } } } },
    async lose(running, topic) {
      const { server, client, subscribe } = running;
      await subscribe(topic).ready;
      server.publish(topic, 0);
      await turns();
      const { closed } = await client.whenConnected();
      server.network.disconnect();
      for (let i = 0; i < 10; i++) server.publish(topic, i);
      await reconnect(running, closed);
    },
    lines: [/^Messages of "a" may be missing, because they are no longer in the .* set onRecovery/],
    handled: [{ subscribe: { onRecovery() {} } }, { client: { onError() {} } }],
    stormLines: 16,
  },
  "the broker was interrupted, and the topic has no history": {
    given: () => ({ server: { broker: new FaultyStore().connect() } }),
    async lose({ server, subscribe }, topic) {
      await subscribe(topic).ready;
      (server.topics.broker as FaultyBroker).interrupt(topic);
      await turns();
    },
    lines: [/^Messages of "a" may be missing, because the server's broker was .* set onRecovery/],
    handled: [{ subscribe: { onRecovery() {} } }, { client: { onError() {} } }],
    stormLines: 16,
  },
  "no loop reads a subscription": {
    async lose({ server, subscribe }, topic) {
      await subscribe(topic).ready;
      for (let i = 0; i < 12; i++) {
        server.publish(topic, "x".repeat(100_000));
        await turns();
      }
    },
    lines: [/^Messages on "a" have no reader: loop over the subscription/],
    handled: [
      { follow: (subscription) => Array.fromAsync(subscription).catch(() => {}) },
      { client: { onError() {} } },
    ],
    stormLines: 16,
  },
  "the server ends a subscription": {
    async lose({ server, subscribe }, topic) {
      const subscription = subscribe(topic);
      await subscription.ready;
      server.unsubscribe(server.manager.sessionsOf("ann")[0] as never, topic);
      await until(() => subscription.isEnded);
    },
    lines: [/^The subscription to "a" has ended \(removed\): .* Loop .* follow its status/],
    handled: [
      { follow: (subscription) => Array.fromAsync(subscription).catch(() => {}) },
      { follow: (subscription) => subscription.status.subscribe(() => {}) },
      { client: { onError() {} } },
    ],
    stormLines: 16,
  },
  "the server rejects a subscription": {
    given: { server: { authorize: () => false, onError() {} } },
    async lose({ subscribe }, topic) {
      const subscription = subscribe(topic);
      await until(() => subscription.isEnded);
    },
    lines: [/^The subscription to "a" was rejected \(forbidden\): .* Loop .* await ready/],
    handled: [
      { follow: (subscription) => subscription.ready.catch(() => {}) },
      { follow: (subscription) => Array.fromAsync(subscription).catch(() => {}) },
      { follow: (subscription) => subscription.status.subscribe(() => {}) },
      { client: { onError() {} } },
    ],
    stormLines: 16,
  },
};

/** Runs a case, and returns the printed lines. */
async function linesOf(
  loss: Loss,
  { expected, handled = {}, topics = ["a"] }: {
    /** The number of lines to wait for. */
    readonly expected: number;
    readonly handled?: Given;
    readonly topics?: string[];
  },
): Promise<string[]> {
  const given = typeof loss.given === "function" ? loss.given() : loss.given ?? {};
  using time = new FakeTime();
  using printed = captureConsole();
  await using server = testServer<string>({
    authenticate: () => "ann",
    authorize: () => true,
    limits: { maxTopicsPerSession: 1_000 },
    rates: { perSession: {} },
    ...given.server,
    ...handled.server,
  });
  await using client = server.connect({ ...given.client, ...handled.client });
  handled.watch?.(client);
  const subscribe = (topic: string) => {
    const subscription = client.subscribe(topic, { ...given.subscribe, ...handled.subscribe });
    handled.follow?.(subscription);
    return subscription;
  };
  for (const topic of topics) await loss.lose({ server, client, subscribe }, topic);
  await passTime(time, 5_000); // A client's session waits for its handlers.
  // The code that prints lines loads on first use, so the first run waits for the lines.
  await until(() => printed.lines.length >= expected);
  await turns();
  return printed.lines.map((line) => line.replace(/^Skein: /, ""));
}

for (const [name, loss] of Object.entries(LOSSES)) {
  Deno.test(`Each side prints one line if ${name}, with the remedy, unless it is handled`, async () => {
    const expected = loss.lines.length;
    const lines = await linesOf(loss, { expected });
    assertEquals(lines.length, expected, lines.join("\n"));
    for (const line of loss.lines) {
      assert(lines.some((printed) => line.test(printed)), `${line} in\n${lines.join("\n")}`);
    }
    for (const line of lines) assertOptions(line);
    for (const handled of loss.handled) {
      assertEquals(await linesOf(loss, { expected: 0, handled }), [], Deno.inspect(handled));
    }
  });

  Deno.test(`Few lines are printed if ${name} again and again`, async () => {
    const topics = Array.from({ length: 40 }, (_, i) => `t${i}`);
    const expected = loss.stormLines ?? loss.lines.length;
    const lines = await linesOf(loss, { expected, topics });
    assertEquals(lines.length, expected, lines.join("\n"));
  });
}

Deno.test("A server prints no line about a gap that a client claims", async () => {
  using printed = captureConsole();
  await using server = listen({ webTransport: false });
  await using page = await Page.open(server.url, "skein.1");
  // Lines are printed in order.
  for (const envelope of [{ gap: "a", reason: "unavailable" }, { dropped: 1 }]) {
    page.socket.send(JSON.stringify(envelope));
  }
  await until(() => printed.lines.length > 0);
  assertEquals(printed.lines.length, 1, printed.lines.join("\n"));
  assert(printed.lines[0]!.includes("A client dropped 1 message"), printed.lines[0]);
});

/** Checks that each option in a line exists. */
function assertOptions(line: string): void {
  const paths = line.match(/\b(?:session\.)?(?:on[A-Z]\w+|\w+Queue)\b/g) ?? [];
  for (const path of paths) assert(isOption(path), `${path} is an option: ${line}`);
  const isRemedy = paths.length > 0 || /[Ll]oop over the subscription/.test(line);
  assert(isRemedy, `no remedy: ${line}`);
}

/** A client whose `subscribe` checks options. It has ended, so it keeps nothing open. */
const CLIENT = connect("ws://127.0.0.1:1", { signal: AbortSignal.abort() });

/** Returns true if a call accepts an option, by its path. */
function isOption(path: string): boolean {
  const calls: ((options: never) => unknown)[] = [
    createServer,
    (options: ConnectOptions) => connect("ws://127.0.0.1:1", options),
    (options: ClientSubscribeOptions) => CLIENT.subscribe("a", options),
  ];
  const wrong = path.split(".").reduceRight<unknown>(
    (value, name) => ({ [name]: value }),
    Symbol(),
  );
  return calls.some((call) => {
    const { message } = assertThrows(() => call(wrong as never), TypeError);
    return !message.includes("unknown option");
  });
}
