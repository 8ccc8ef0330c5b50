import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import "./recovery.ts";
import { type DialOutcome, Network, settled } from "../tests/clients.ts";
import { turns } from "../tests/waiting.ts";
import { platformRuntime } from "../base/runtime.ts";
import { RequestService } from "../session/serving/requests.ts";
import { drawing, HELLO, type Peer } from "../tests/sessions.ts";
import { Client } from "./client.ts";
import { denoPlatform } from "./deno.ts";
import type { ClientOptions } from "./client_options.ts";

/** The globals of a page that the tests' platform lacks. */
const page = globalThis as { document?: EventTarget & { hidden: boolean } };

/** A network whose dials hang until they are aborted, and the number of dials in progress. */
class HangingNetwork extends Network {
  open = 0;
  most = 0;

  readonly hang: DialOutcome = (signal) => {
    this.most = Math.max(this.most, ++this.open);
    return new Promise((_, reject) => {
      signal.addEventListener("abort", () => {
        this.open--;
        reject(signal.reason);
      }, { once: true });
    });
  };
}

/** The events that wake a client up, by name. */
const WAKES: readonly [what: string, wake: (client: Client, life: () => void) => void][] = [
  ["retryNow()", (client) => client.retryNow()],
  ["a hundred calls of retryNow()", (client) => {
    for (let i = 0; i < 100; i++) client.retryNow();
  }],
  ["the option life", (_, life) => life()],
  ["online", () => dispatchEvent(new Event("online"))],
  ["a page that is shown", () => dispatchEvent(new Event("visibilitychange"))],
  ["a page that thaws", () => page.document!.dispatchEvent(new Event("resume"))],
  [
    "a page from the browser's cache",
    () => dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true })),
  ],
  ["a changed network", () => {
    const { connection } = navigator as unknown as { connection: EventTarget };
    connection.dispatchEvent(new Event("change"));
  }],
];

/** Provides a document and a network until it is disposed. */
function withPage(): Disposable {
  page.document = Object.assign(new EventTarget(), { hidden: false });
  Object.defineProperty(navigator, "connection", { configurable: true, value: new EventTarget() });
  return {
    [Symbol.dispose]() {
      delete page.document;
      Reflect.deleteProperty(navigator, "connection");
    },
  };
}

function hanging(network: Network, options: ClientOptions = {}) {
  let life = () => {};
  const client = network.client({
    connectTimeoutMs: Infinity,
    life: {
      subscribe(wake) {
        life = wake;
        return () => {};
      },
    },
    ...options,
  });
  return { client, life: () => life() };
}

for (const [what, wake] of WAKES) {
  Deno.test(`Client starts one attempt beside one that hangs after ${what}`, async () => {
    using time = new FakeTime();
    using _page = withPage();
    const network = new HangingNetwork();
    network.outcomes.push(network.hang);
    const { client, life } = hanging(network);
    await using _client = client;
    await turns();
    await time.tickAsync(3_600_000);
    assertEquals([await settled(client), network.dials.length], ["connecting", 1]);
    wake(client, life);
    assertEquals(await settled(client), "connected");
    assertEquals({
      dials: network.dials.length,
      open: network.open,
      sessions: network.sessions.length,
    }, { dials: 2, open: 0, sessions: 1 });
  });
}

Deno.test("Client starts the attempt beside after a second, if the wake-up came sooner", async () => {
  using time = new FakeTime();
  const network = new HangingNetwork();
  network.outcomes.push(network.hang);
  const { client } = hanging(network);
  await using _client = client;
  await turns();
  client.retryNow();
  await time.tickAsync(999);
  assertEquals([await settled(client), network.dials.length], ["connecting", 1]);
  await time.tickAsync(1);
  assertEquals(await settled(client), "connected");
  assertEquals([network.dials.length, network.open], [2, 0]);
});

Deno.test("Client makes at most two attempts at a time, and repeated wake-ups do not abort the first", async () => {
  using time = new FakeTime();
  const network = new HangingNetwork();
  const first = Promise.withResolvers<void>();
  network.outcomes.push(async (signal) => {
    await Promise.race([first.promise, network.hang(signal)]);
    return network.accept();
  });
  for (let i = 0; i < 100; i++) network.outcomes.push(network.hang);
  const { client } = hanging(network);
  await using _client = client;
  await turns();
  for (let i = 0; i < 10; i++) {
    await time.tickAsync(1_000);
    for (let call = 0; call < 10; call++) client.retryNow();
    await turns();
  }
  assertEquals({ dials: network.dials.length, open: network.open, mostOpen: network.most }, {
    dials: 11,
    open: 2,
    mostOpen: 2,
  });
  first.resolve();
  assertEquals([await settled(client), network.sessions.length], ["connected", 1]);
  await client.close();
  assertEquals(network.last.isClosed, true);
});

Deno.test("Client keeps the first attempt if the one beside it fails, and the other way round", async () => {
  for (const firstFails of [false, true]) {
    using time = new FakeTime();
    const network = new Network();
    const first = Promise.withResolvers<void>();
    const second = Promise.withResolvers<void>();
    for (const { promise } of [first, second]) {
      network.outcomes.push(async () => {
        await promise;
        return network.accept();
      });
    }
    const { client } = hanging(network);
    await using _client = client;
    await turns();
    await time.tickAsync(1_000);
    client.retryNow();
    await turns();
    const [failing, opening] = firstFails ? [first, second] : [second, first];
    failing.reject(new Error("The network is gone"));
    assertEquals([await settled(client), network.dials.length], ["connecting", 2]);
    opening.resolve();
    assertEquals(await settled(client), "connected");
    assertEquals(network.dials.length, 2);
  }
});

Deno.test("Client stops both attempts when the server rejects one of them", async () => {
  using time = new FakeTime();
  const network = new HangingNetwork();
  network.outcomes.push(network.hang, network.reject(4403));
  const { client } = hanging(network);
  await using _client = client;
  await turns();
  await time.tickAsync(1_000);
  client.retryNow();
  assertEquals([await settled(client), network.open], ["rejected", 0]);
});

Deno.test("Client closes one of two sessions that open in the same turn", async () => {
  using time = new FakeTime();
  const network = new Network();
  const peers: Peer[] = [];
  for (let i = 0; i < 2; i++) network.outcomes.push(network.byHand((peer) => peers.push(peer)));
  const { client } = hanging(network, { handshakeTimeoutMs: 600_000 });
  await using _client = client;
  await turns();
  await time.tickAsync(1_000);
  client.retryNow();
  await turns();
  assertEquals(peers.length, 2);
  for (const peer of peers) peer.say(HELLO);
  assertEquals(await settled(client), "connected");
  const closed = await Promise.race([
    peers[0]!.closed.then(() => 0),
    peers[1]!.closed.then(() => 1),
  ]);
  await client.close();
  await peers[1 - closed]!.closed;
});

Deno.test("Client.close() ends both attempts, and leaves no timer", async () => {
  for (const wakesAfterMs of [0, 1_000]) {
    using time = new FakeTime();
    const network = new HangingNetwork();
    network.outcomes.push(network.hang, network.hang);
    const { client } = hanging(network);
    await turns();
    await time.tickAsync(wakesAfterMs);
    client.retryNow();
    await turns();
    await client.close();
    assertEquals([client.status.current.name, network.open], ["closed", 0]);
    client.retryNow();
    await time.tickAsync(60_000);
    assertEquals(network.dials.length, wakesAfterMs === 0 ? 1 : 2);
  }
});

Deno.test("Client.retryNow() skips a delay and leaves rejected, and a failure follows the usual delays", async () => {
  using time = new FakeTime();
  const network = new HangingNetwork();
  network.outcomes.push(network.nobody, network.reject(4403), network.hang, network.nobody);
  const { client } = hanging(network);
  await using _client = client;
  assertEquals(await settled(client), "reconnecting");
  for (let i = 0; i < 100; i++) client.retryNow();
  assertEquals([await settled(client), network.dials.length], ["rejected", 2]);
  for (let i = 0; i < 100; i++) client.retryNow();
  assertEquals([await settled(client), network.dials.length], ["connecting", 3]);
  await time.tickAsync(1_000);
  assertEquals(network.dials.length, 3, "Calls before the attempt don't count");
  client.retryNow();
  assertEquals([await settled(client), network.dials.length], ["connecting", 4]);
  assert(network.open === 1, "The one beside it failed");
});

/** A function of the application that a test settles; counts the calls that run. */
function asked<T>(values: readonly (T | "hang" | "deaf")[]) {
  const calls = { made: 0, running: 0, most: 0 };
  const call = ({ signal }: { readonly signal: AbortSignal }) => {
    const value = values[Math.min(calls.made++, values.length - 1)]!;
    calls.most = Math.max(calls.most, ++calls.running);
    if (value !== "hang" && value !== "deaf") {
      calls.running--;
      return value as T;
    }
    return new Promise<T>((_, reject) => {
      signal.addEventListener("abort", () => {
        if (value === "deaf") return;
        calls.running--;
        reject(signal.reason);
      });
    });
  };
  return { calls, call };
}

/** A result of each function with which a client connects; `null` means that there is no token. */
const GOOD = { token: null, url: "memory://server/" };

for (const what of ["token", "url"] as const) {
  for (const isDeaf of [false, true]) {
    Deno.test(`Client calls ${what}() again after a wake-up aborted its signal, ${isDeaf ? "and ignored it" : "once it has settled"}`, async () => {
      using time = new FakeTime();
      const network = new Network();
      const { calls, call } = asked<string | null>([isDeaf ? "deaf" : "hang", GOOD[what]]);
      const options: ClientOptions = { connectTimeoutMs: Infinity, runtime: drawing(0.5) };
      await using client = what === "token"
        ? network.client({ ...options, token: call })
        : new Client(call as () => string, denoPlatform(network.dial), options);
      client.status.subscribe(() => {});
      await turns();
      await time.tickAsync(60_000);
      assertEquals({
        status: await settled(client),
        calls: calls.made,
        dials: network.dials.length,
      }, { status: "connecting", calls: 1, dials: 0 });
      for (let i = 0; i < 100; i++) client.retryNow();
      await turns();
      if (isDeaf) {
        assertEquals(calls.made, 1);
        await time.tickAsync(1_000);
      }
      assertEquals(await settled(client), "connected");
      assertEquals({ calls: calls.made, mostRunning: calls.most, dials: network.dials.length }, {
        calls: 2,
        mostRunning: isDeaf ? 2 : 1,
        dials: 1,
      });
    });
  }
}

Deno.test("Client aborts the calls of token and url when it closes, whichever hangs", async () => {
  for (const what of ["token", "url"] as const) {
    const network = new Network();
    const { calls, call } = asked<string>(["hang"]);
    const client = what === "token"
      ? network.client({ token: call })
      : new Client(call, denoPlatform(network.dial));
    await turns();
    await client.close();
    assertEquals([calls.made, calls.running], [1, 0], what);
  }
});

Deno.test("Client does not call token twice at a time if the session is lost while it renews the token", async () => {
  for (const isDeaf of [false, true]) {
    using time = new FakeTime();
    const network = new Network();
    let peer: Peer | undefined;
    network.outcomes.push(network.byHand((made) => peer = made));
    const { calls, call } = asked<null>([null, isDeaf ? "deaf" : "hang", null]);
    const errors: unknown[] = [];
    await using client = network.client({ token: call, onError: (error) => errors.push(error) });
    await turns();
    peer!.say(HELLO);
    assertEquals(await settled(client), "connected");
    peer!.say({ renew: { withinMs: 30_000 } });
    await turns();
    assertEquals([calls.made, calls.running], [2, 1]);
    peer!.connection.close({ closeCode: 4408, reason: "" });
    await turns();
    await time.tickAsync(250);
    await turns();
    if (isDeaf) {
      assertEquals(calls.made, 2);
      await time.tickAsync(750);
    }
    assertEquals(await settled(client), "connected");
    assertEquals({ calls: calls.made, mostRunning: calls.most, errors }, {
      calls: 3,
      mostRunning: isDeaf ? 2 : 1,
      errors: [],
    });
  }
});

Deno.test("Client that waits aborts an early call of url that hangs when it wakes up", async () => {
  using time = new FakeTime();
  const network = new Network();
  const { calls, call } = asked<string>(["memory://server/", "hang", "memory://server/"]);
  await using client = new Client(call, denoPlatform(network.dial), { runtime: drawing(0.5) });
  client.status.subscribe(() => {});
  assertEquals(await settled(client), "connected");
  await time.tickAsync(10_000);
  network.cut();
  assertEquals(await settled(client), "reconnecting");
  assertEquals([calls.made, calls.running], [2, 1]);
  client.retryNow();
  assertEquals(await settled(client), "connected");
  assertEquals({ calls: calls.made, mostRunning: calls.most, dials: network.dials.length }, {
    calls: 3,
    mostRunning: 1,
    dials: 2,
  });
});

Deno.test("Client wakes up while a handover and then an attempt hang, and aborts both", async () => {
  using time = new FakeTime();
  const network = new HangingNetwork();
  network.server = { services: new RequestService(platformRuntime(), { canMove: true }) };
  network.outcomes.push(() => network.accept(), network.hang, network.hang);
  const { client } = hanging(network);
  await using _client = client;
  assertEquals(await settled(client), "connected");
  const moving = client.handOver();
  await turns();
  assertEquals([network.dials.length, network.open], [2, 1]);
  client.retryNow();
  await turns();
  assertEquals(network.dials.length, 2, "A connected client needs no attempt");
  network.cut();
  assertEquals([await moving, network.open], [false, 0]);
  await network.retry(time);
  assertEquals([await settled(client), network.dials.length], ["connecting", 3]);
  client.retryNow();
  await time.tickAsync(1_000);
  assertEquals(
    { status: await settled(client), dials: network.dials.length, open: network.open },
    { status: "connected", dials: 4, open: 0 },
  );
});

Deno.test("Client wakes up while it waits for the time of a drain, and while the attempt after it hangs", async () => {
  using time = new FakeTime();
  const network = new HangingNetwork();
  let peer: Peer | undefined;
  network.outcomes.push(network.byHand((made) => peer = made), network.hang);
  const { client } = hanging(network);
  await using _client = client;
  await turns();
  peer!.say(HELLO);
  assertEquals(await settled(client), "connected");
  peer!.say({ goaway: { reason: "", retryAfterMs: 3_000_000, closeAfterMs: 1 } });
  await turns();
  peer!.connection.close({ closeCode: 4503, reason: "" });
  await turns();
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.delayMs > 2_000_000);
  client.retryNow();
  assertEquals([await settled(client), network.dials.length], ["connecting", 2]);
  client.retryNow();
  await time.tickAsync(1_000);
  assertEquals(
    { status: await settled(client), dials: network.dials.length, open: network.open },
    { status: "connected", dials: 3, open: 0 },
  );
});

Deno.test("Client in a hidden page makes no attempt beside until the page is shown", async () => {
  using time = new FakeTime();
  using _page = withPage();
  const network = new HangingNetwork();
  network.outcomes.push(network.hang);
  const { client } = hanging(network);
  await using _client = client;
  await turns();
  await time.tickAsync(5_000);
  page.document!.hidden = true;
  dispatchEvent(new Event("visibilitychange"));
  assertEquals([await settled(client), network.dials.length], ["connecting", 1]);
  page.document!.hidden = false;
  dispatchEvent(new Event("visibilitychange"));
  assertEquals([await settled(client), network.dials.length], ["connected", 2]);
});
