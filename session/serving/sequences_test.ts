import { platformRuntime } from "../../base/runtime.ts";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { BrokerError, RequestError, SessionClosedError, TimeoutError } from "../../errors.ts";
import { clockAhead } from "../../tests/globals/clock.ts";
import { Network } from "../../tests/clients.ts";
import { endOf, serverByHand } from "../../tests/sessions.ts";
import type { Client } from "../../client/client.ts";
import { encodeMessage } from "../wire/encode.ts";
import { Delivery, flushed } from "../../client/outbox/delivery.ts";
import { Outbox } from "../../client/outbox/outbox.ts";
import { Sequences, type SequenceStore } from "./sequences.ts";
import { RequestService, type SessionServices } from "./requests.ts";
import { turns } from "../../tests/waiting.ts";

/** The shared state of nodes, in memory: a broker that can be unreachable or slow. */
class FakeBroker {
  readonly numbers = new Map<string, number>();
  readonly claims = new Map<string, { node: string; until: number }>();
  readonly calls: string[] = [];
  isAway = false;
  /** Delays the storing of a number. */
  gate: Promise<void> | undefined;

  node(node: string, claimMs = 4_000): SequenceStore {
    return {
      claimMs,
      claim: async (client) => {
        await this.#reach(`claim ${node}`);
        const held = this.claims.get(client);
        if (held !== undefined && held.node !== node && held.until > Date.now()) return false;
        this.claims.set(client, { node, until: Date.now() + claimMs });
        return true;
      },
      release: async (client) => {
        await this.#reach(`release ${node}`);
        if (this.claims.get(client)?.node === node) this.claims.delete(client);
      },
      newest: async (client) => {
        await this.#reach(`newest ${node}`);
        return this.numbers.get(client) ?? -1;
      },
      advance: async (client, number) => {
        await this.#reach(`advance ${number}`);
        await this.gate;
        const newest = this.numbers.get(client) ?? -1;
        this.numbers.set(client, Math.max(number, newest));
        return number > newest;
      },
    };
  }

  #reach(call: string): Promise<void> {
    this.calls.push(call);
    return this.isAway ? Promise.reject(new BrokerError("The broker is away")) : Promise.resolve();
  }
}

type Handler = (data: unknown) => void | Promise<void>;

function node(
  store: SequenceStore | undefined,
  handler: Handler,
  services: SessionServices = {},
): Network["server"] {
  const sequences = store && { sequences: store };
  return {
    services: new RequestService(platformRuntime(), { ...services, ...sequences }),
    onMessage: ({ data }) => handler(data),
  };
}

/** A node that records the messages that it handles. */
function recording(broker = new FakeBroker()): { network: Network; seen: unknown[] } {
  const seen: unknown[] = [];
  return { network: new Network(node(broker.node("a"), (data) => void seen.push(data))), seen };
}

const atLeastOnce = { delivery: "at-least-once" } as const;

Deno.test("Client with at-least-once has each message handled once, and releases acknowledged ones", async () => {
  const broker = new FakeBroker();
  const { network, seen } = recording(broker);
  await using client = network.client(atLeastOnce);
  const sent = [...Array.from({ length: 50 }, (_, i) => i), Uint8Array.of(1, 2)];
  for (const data of sent) client.send("t", data);
  assertEquals(client.outbox.messages, 51);
  await client.flushed();
  assertEquals([seen, client.outbox], [sent, { messages: 0, bytes: 0 }]);
  client.send("t", "later");
  await client.flushed();
  assertEquals([seen.at(-1), [...broker.numbers.values()]], ["later", [52]]);
});

Deno.test("A message whose handler outlives its session is not handled again in the next one", async () => {
  using time = new FakeTime();
  const seen: unknown[] = [];
  const gate = Promise.withResolvers<void>();
  const network = new Network(node(new FakeBroker().node("a"), (data) => {
    seen.push(data);
    return data === 1 ? gate.promise : undefined;
  }));
  await using client = network.client(atLeastOnce);
  for (const data of [1, 2, 3]) client.send("t", data);
  await turns(20);
  await network.reconnect(time);
  assertEquals({ sessions: network.sessions.length, seen, messages: client.outbox.messages }, {
    sessions: 2,
    seen: [1],
    messages: 3,
  });
  gate.resolve();
  await client.flushed();
  assertEquals(seen, [1, 2, 3]);
});

Deno.test("A session that closes while it waits leaves the turn to the running handler", async () => {
  const sequences = new Sequences(platformRuntime(), new FakeBroker().node("a"));
  const [first, second, third] = [1, 2, 3].map(() => ({ acknowledge() {}, fence() {} }));
  const client = sequences.open("ann", first!);
  const endTurn = await client.takeTurn();
  sequences.close(client, first!);
  sequences.open("ann", second!);
  const left = client.takeTurn();
  await turns();
  sequences.close(client, second!);
  (await left)();
  sequences.open("ann", third!);
  let isTaken = false;
  const turn = client.takeTurn().finally(() => isTaken = true);
  await turns();
  assertEquals(isTaken, false, "The first message is being handled");
  endTurn();
  (await turn)();
  sequences.close(client, third!);
});

Deno.test("A handler that does not return delays the next session by at most 30 s", async () => {
  using time = new FakeTime();
  const seen: unknown[] = [];
  const network = new Network(
    node(new FakeBroker().node("a", Infinity), (data) => {
      return seen.push(data) === 1 ? new Promise<void>(() => {}) : undefined;
    }),
  );
  network.server = { ...network.server, closeTimeoutMs: 10 };
  await using client = network.client(atLeastOnce);
  client.send("t", 1);
  await turns(20);
  await network.reconnect(time);
  await time.tickAsync(29_000);
  assertEquals(seen, [1]);
  await time.tickAsync(1_000);
  await turns(20);
  assertEquals([seen, client.outbox.messages], [[1, 1], 0]);
});

Deno.test("A handler that returns after its client was forgotten leaves later sessions together", async () => {
  using time = new FakeTime();
  const broker = new FakeBroker();
  const sequences = new Sequences(platformRuntime(), broker.node("a"));
  const [first, second, third, fourth] = Array.from(
    { length: 4 },
    () => ({ acknowledge() {}, fence() {} }),
  );
  const forgotten = sequences.open("ann", first!);
  const endLate = await forgotten.takeTurn();
  sequences.open("ann", second!);
  const next = forgotten.takeTurn();
  await time.tickAsync(30_000);
  (await next)();
  for (const session of [first!, second!]) sequences.close(forgotten, session);
  const client = sequences.open("ann", third!);
  const endTurn = await client.takeTurn();
  endLate();
  await turns();
  assertEquals(broker.claims.get("ann")?.node, "a");
  const isSame = sequences.open("ann", fourth!) === client;
  assertEquals(isSame, true, "Both sessions take turns");
  endTurn();
  for (const session of [third!, fourth!]) sequences.close(client, session);
  await turns();
  assertEquals(broker.claims.size, 0);
});

Deno.test("A clock that is set back lengthens neither the wait for a handler nor a claim", async () => {
  using time = new FakeTime();
  const broker = new FakeBroker();
  const sequences = new Sequences(platformRuntime(), broker.node("a"));
  const session = { acknowledge() {}, fence() {} };
  const client = sequences.open("ann", session);
  broker.isAway = true;
  (await client.takeTurn())();
  broker.isAway = false;
  using _set = clockAhead(-3_600_000);
  // The pause after the error was one second.
  await time.tickAsync(1_001);
  const endTurn = await client.takeTurn();
  assertEquals(broker.claims.get("ann")?.node, "a");
  let isTaken = false;
  const next = client.takeTurn().finally(() => isTaken = true);
  await time.tickAsync(10_000);
  using _again = clockAhead(-7_200_000);
  await time.tickAsync(20_000);
  await turns();
  assertEquals(isTaken, true);
  endTurn();
  (await next)();
  sequences.close(client, session);
});

Deno.test("A message that was handled but not stored yet is not handled again", async () => {
  using time = new FakeTime();
  const broker = new FakeBroker();
  const gate = Promise.withResolvers<void>();
  broker.gate = gate.promise;
  const { network, seen } = recording(broker);
  await using client = network.client(atLeastOnce);
  client.send("t", 1);
  await turns(20);
  await network.reconnect(time);
  assertEquals([seen, client.outbox.messages], [[1], 1]);
  gate.resolve();
  await client.flushed();
  assertEquals(seen, [1]);
});

Deno.test("Messages stored while their client was away are all acknowledged, and later ones too", async () => {
  using time = new FakeTime();
  const broker = new FakeBroker();
  const gate = Promise.withResolvers<void>();
  broker.gate = gate.promise;
  const { network, seen } = recording(broker);
  await using client = network.client(atLeastOnce);
  const count = 80;
  for (let i = 0; i < count; i++) client.send("t", i);
  await turns(200);
  assertEquals(seen.length, count);
  network.cut();
  gate.resolve();
  await turns(20);
  assertEquals([[...broker.numbers.values()], client.outbox.messages], [[count], count]);
  await network.retry(time);
  assertEquals([seen.length, client.outbox.messages], [count, 0]);
});

Deno.test("A client's numbers count only for its user: equal numbers of other users drop nothing", async () => {
  const broker = new FakeBroker();
  const seen: unknown[] = [];
  const services = new RequestService(platformRuntime(), { sequences: broker.node("a") });
  const settings = {
    services,
    onMessage: ({ data }: { data: unknown }) => void seen.push(data),
  };
  // A name with a colon is not mistaken for a user and a client.
  for (const user of ["ann", "bob", "3:ann", undefined]) {
    for (const _again of [false, true]) {
      await using hand = serverByHand(settings, user === undefined ? {} : { identity: { user } });
      hand.peer.say({ topic: "t", data: user ?? "nobody", seq: 5, client: "same" });
      await turns(20);
      assertEquals(hand.peer.envelopes.at(-1), { ack: 5 });
    }
  }
  assertEquals(seen, ["ann", "bob", "3:ann", "nobody"]);
  assertEquals(broker.numbers.size, 4);
});

Deno.test("A session that closed while another node held the claim leaves no claim behind", async () => {
  using time = new FakeTime();
  const broker = new FakeBroker();
  const store = broker.node("b");
  const read = Promise.withResolvers<void>();
  const sequences = new Sequences(platformRuntime(), {
    ...store,
    newest: async (client) => {
      await read.promise;
      return await store.newest(client);
    },
  });
  broker.claims.set("ann", { node: "a", until: Date.now() + 4_000 });
  const [first, second] = [{ acknowledge() {}, fence() {} }, { acknowledge() {}, fence() {} }];
  const client = sequences.open("ann", first);
  const left = client.takeTurn();
  await turns();
  sequences.close(client, first);
  await turns();
  assertEquals(sequences.open("ann", second), client);
  read.resolve();
  (await left)();
  let isTaken = false;
  const turn = client.takeTurn().finally(() => isTaken = true);
  await time.tickAsync(3_900);
  assertEquals(isTaken, false, "The other node still has it");
  await time.tickAsync(200);
  (await turn)();
  sequences.close(client, second);
});

Deno.test("A late number that is stored while the newest one is read is acknowledged", async () => {
  const broker = new FakeBroker();
  const store = broker.node("a");
  const read = Promise.withResolvers<void>();
  using sequences = new Sequences(platformRuntime(), {
    ...store,
    newest: async (client) => {
      const newest = await store.newest(client);
      await read.promise;
      return newest;
    },
  });
  const session = { acknowledge() {}, fence() {} };
  const client = sequences.open("ann", session);
  const turn = client.takeTurn();
  await turns();
  client.advance(4);
  await turns();
  assertEquals([client.kept, broker.numbers.get("ann")], [4, 4]);
  read.resolve();
  (await turn)();
  assertEquals([client.kept, client.isBusy], [4, false]);
  sequences.close(client, session);
});

Deno.test("A claim made during the release of the previous one is not released with it", async () => {
  const broker = new FakeBroker();
  const store = broker.node("a");
  const gate = Promise.withResolvers<void>();
  const sequences = new Sequences(platformRuntime(), {
    ...store,
    release: async (client) => {
      await gate.promise;
      await store.release(client);
    },
  });
  const session = { acknowledge() {}, fence() {} };
  const before = sequences.open("ann", session);
  (await before.takeTurn())();
  sequences.close(before, session);
  const after = sequences.open("ann", session);
  const turn = after.takeTurn();
  await turns();
  gate.resolve();
  const endTurn = await turn;
  await turns();
  assertEquals(broker.claims.get("ann")?.node, "a");
  endTurn();
  sequences.close(after, session);
});

Deno.test("A claim that expired during a handler is not renewed without the other node's number", async () => {
  using time = new FakeTime();
  const broker = new FakeBroker();
  const sequences = new Sequences(platformRuntime(), broker.node("a"));
  const session = { acknowledge() {}, fence() {} };
  const client = sequences.open("ann", session);
  const endTurn = await client.takeTurn();
  broker.isAway = true;
  await time.tickAsync(4_500);
  broker.isAway = false;
  // Meanwhile the client was on another node.
  const other = broker.node("b");
  assertEquals(await other.claim("ann"), true);
  await other.advance("ann", 5);
  await other.release("ann");
  await time.tickAsync(2_000);
  await turns();
  assertEquals(broker.claims.get("ann")?.node, "a", "Renewed for the message in progress");
  endTurn();
  const endNext = await client.takeTurn();
  assertEquals(client.handled, 5);
  endNext();
  sequences.close(client, session);
});

Deno.test("A client on another node waits for the running handlers of the first one", async () => {
  using time = new FakeTime();
  const broker = new FakeBroker();
  const seen: unknown[] = [];
  const gate = Promise.withResolvers<void>();
  const network = new Network(node(broker.node("a"), async (data) => {
    await gate.promise;
    seen.push(`a ${data}`);
  }));
  network.server = { ...network.server, closeTimeoutMs: 60_000 };
  await using client = network.client(atLeastOnce);
  for (const data of [1, 2]) client.send("t", data);
  await turns(20);
  network.server = node(broker.node("b"), (data) => void seen.push(`b ${data}`));
  await network.reconnect(time);
  await time.tickAsync(15_000);
  assertEquals([network.sessions.length, seen], [2, []]);
  gate.resolve();
  await time.tickAsync(1_000);
  await client.flushed();
  assertEquals(seen, ["a 1", "b 2"]);
});

Deno.test("A killed node delays its clients no longer than its claim lasts", async () => {
  using time = new FakeTime();
  const broker = new FakeBroker();
  const seen: unknown[] = [];
  const network = new Network(node(broker.node("b"), (data) => void seen.push(data)));
  await using client = network.client(atLeastOnce);
  client.send("t", 1);
  await client.flushed();
  const [key] = broker.numbers.keys();
  // Another node has the claim, and never releases it.
  network.cut();
  await turns(20);
  broker.claims.set(key!, { node: "a", until: Date.now() + 4_250 });
  client.send("t", 2);
  await network.retry(time);
  await time.tickAsync(3_900);
  assertEquals(seen, [1]);
  await time.tickAsync(200);
  await client.flushed();
  assertEquals(seen, [1, 2]);
});

Deno.test("Messages are handled while the broker is unreachable, and acknowledged once it is back", async () => {
  using time = new FakeTime();
  const broker = new FakeBroker();
  broker.isAway = true;
  const { network, seen } = recording(broker);
  await using client = network.client(atLeastOnce);
  for (const data of [1, 2, 3]) client.send("t", data);
  await turns(20);
  assertEquals([seen, client.outbox.messages], [[1, 2, 3], 3]);
  await time.tickAsync(5_000);
  // The same node remembers without the broker.
  await network.reconnect(time);
  assertEquals([seen, client.outbox.messages], [[1, 2, 3], 3]);
  broker.isAway = false;
  await time.tickAsync(1_000);
  await client.flushed();
  assertEquals([seen, [...broker.numbers.values()]], [[1, 2, 3], [3]]);
});

Deno.test("Sequences keeps the numbers of 10,000 departed clients while the broker is unreachable, and forgets the oldest", async () => {
  const broker = new FakeBroker();
  broker.isAway = true;
  using sequences = new Sequences(platformRuntime(), broker.node("a"));
  const session = { acknowledge() {}, fence() {} };
  const stays = sequences.open("stays", session);
  stays.advance(7);
  for (let at = 0; at <= 10_000; at++) {
    const client = sequences.open(`${at}`, session);
    client.advance(7);
    sequences.close(client, session);
  }
  await turns();
  const handled = ["stays", "0", "1", "2", "10000"].map((key) =>
    sequences.open(key, session).handled
  );
  // A connected client is not forgotten; there are 10,001 others besides it.
  assertEquals(handled, [7, -1, -1, 7, 7]);
});

Deno.test("Numbers are stored one at a time, always the newest next", async () => {
  const broker = new FakeBroker();
  const gate = Promise.withResolvers<void>();
  broker.gate = gate.promise;
  const network = new Network(node(broker.node("a"), () => {}));
  await using client = network.client(atLeastOnce);
  for (let i = 0; i < 40; i++) client.send("t", i);
  await turns(200);
  assertEquals(broker.calls.filter((call) => call.startsWith("advance")), ["advance 1"]);
  gate.resolve();
  await client.flushed();
  assertEquals(broker.calls.filter((call) => call.startsWith("advance")), [
    "advance 1",
    "advance 40",
  ]);
});

Deno.test("Numbered messages are handled one at a time, in order with others, at any concurrency", async () => {
  const log: string[] = [];
  const network = new Network({
    ...node(new FakeBroker().node("a"), () => {}),
    concurrency: 4,
    onMessage: async (message) => {
      log.push(`+${message.data}`);
      await turns(1);
      log.push(`-${message.data}`);
      if (message.isRequest) message.reply("done");
    },
  });
  await using client = network.client(atLeastOnce);
  for (const data of [1, 2, 3]) client.send("t", data);
  await client.flushed();
  assertEquals(log, ["+1", "-1", "+2", "-2", "+3", "-3"]);
});

Deno.test("A message whose handler failed counts as handled, and is not repeated", async () => {
  using time = new FakeTime();
  const seen: unknown[] = [];
  const network = new Network({
    ...node(new FakeBroker().node("a"), (data) => {
      seen.push(data);
      if (data === 1) throw new Error("Never again");
    }),
    onError: () => {},
  });
  await using client = network.client(atLeastOnce);
  for (const data of [1, 2]) client.send("t", data);
  await client.flushed();
  // No claim is left for the next session.
  await network.retry(time);
  assertEquals([seen, client.outbox.messages], [[1, 2], 0]);
});

Deno.test("A message without a number that fails because of the broker leaves its session open", async () => {
  const network = new Network({
    ...node(new FakeBroker().node("a"), () => {
      throw new BrokerError("Cannot append: the broker was away");
    }),
    onError: () => {},
  });
  await using client = network.client({});
  const session = await client.whenConnected();
  client.send("t", 1);
  await turns(20);
  assertEquals([session.state, network.last.stats.handlerFailures], ["connected", 1]);
});

Deno.test("A message whose handler failed because of the broker is repeated, with its successors", async () => {
  using time = new FakeTime();
  const seen: unknown[] = [];
  let isAway = true;
  const network = new Network({
    ...node(new FakeBroker().node("a"), (data) => {
      seen.push(data);
      if (data === 1 && isAway) throw new BrokerError("Cannot append: the broker was away");
    }),
    onError: () => {},
  });
  await using client = network.client(atLeastOnce);
  for (const data of [0, 1, 2]) client.send("t", data);
  await turns(20);
  assertEquals([seen, client.outbox.messages], [[0, 1], 2]);
  assertEquals((await endOf(network.last)).code, 4500);
  isAway = false;
  await network.retry(time);
  assertEquals([seen, client.outbox.messages], [[0, 1, 1, 2], 0]);
});

Deno.test("A loop has handled a message when it requests the next one, or ends", async () => {
  const desk = new RequestService(platformRuntime(), { sequences: new FakeBroker().node("a") });
  const network = new Network({ services: desk });
  await using client = network.client(atLeastOnce);
  await client.whenConnected();
  const messages = network.last[Symbol.asyncIterator]();
  const first = messages.next();
  for (const data of [1, 2]) client.send("t", data);
  assertEquals((await first).value?.data, 1);
  await turns(20);
  assertEquals(client.outbox.messages, 2);
  assertEquals((await messages.next()).value?.data, 2);
  await turns(20);
  assertEquals(client.outbox.messages, 1);
  await messages.return();
  await client.flushed();
});

Deno.test("Messages without a reader are acknowledged", async () => {
  const sequences = new FakeBroker().node("a");
  const network = new Network({ services: new RequestService(platformRuntime(), { sequences }) });
  await using client = network.client(atLeastOnce);
  client.send("t", 1);
  await client.flushed();
  assertEquals(client.outbox.messages, 0);
});

Deno.test("Client.publish() with at-least-once sends no more at once than a server lets wait", async () => {
  for (const store of [new FakeBroker().node("a"), undefined]) {
    const published: unknown[] = [];
    const services: SessionServices = {
      publish: async (_session, _topic, data) => {
        await turns(1);
        published.push(data);
      },
    };
    const network = new Network(node(store, () => {}, services));
    await using client = network.client({ ...atLeastOnce, onError: () => {} });
    const all = Array.from({ length: 100 }, (_, i) => i);
    await Promise.all(all.map((i) => client.publish("news", i)));
    assertEquals([published, network.last.stats.invalidMessages], [all, 0]);
  }
});

Deno.test("Client.publish() still takes effect when its caller aborts after a session accepted it", async () => {
  const published: unknown[] = [];
  const gate = Promise.withResolvers<void>();
  const services: SessionServices = {
    publish: async (_session, _topic, data) => {
      await gate.promise;
      published.push(data);
    },
  };
  const network = new Network(node(new FakeBroker().node("a"), () => {}, services));
  await using client = network.client(atLeastOnce);
  const abort = new AbortController();
  const given = assertRejects(
    () => client.publish("news", 1, { signal: abort.signal }),
    Error,
    "enough",
  );
  await turns(20);
  abort.abort(new Error("enough"));
  await given;
  gate.resolve();
  await client.flushed();
  assertEquals(published, [1]);
});

Deno.test("Client.flushed() and publish() reject for messages that a closed client leaves behind", async () => {
  const hang = () => new Promise<void>(() => {});
  const network = new Network(node(new FakeBroker().node("a", Infinity), hang, { publish: hang }));
  network.server = { ...network.server, closeTimeoutMs: 1 };
  const client: Client = network.client(atLeastOnce);
  client.send("t", 1);
  const flushed = assertRejects(() => client.flushed(), Error, "Cannot deliver");
  const published = assertRejects(() => client.publish("t"), Error, "Cannot publish");
  await turns(20);
  await client.close();
  await Promise.all([flushed, published]);
  const idle = network.client(atLeastOnce);
  await idle.whenConnected();
  await idle.close();
  await idle.flushed();
});

Deno.test("An outbox that ended before its delivery was known still reports its messages", async () => {
  await using hand = serverByHand();
  const outbox: Outbox = new Outbox(
    platformRuntime(),
    {},
    async (session) => { // The delivery module loads late.
      await Promise.resolve();
      await new Delivery(outbox).sendIn(session);
    },
  );
  outbox.add(encodeMessage("t", 1));
  const handing = outbox.sendIn(hand.session);
  outbox.end(new SessionClosedError("The client is closed"));
  void hand.session.close();
  await handing;
  await assertRejects(
    () => flushed(outbox, () => false, {}),
    SessionClosedError,
    "The client is closed",
  );
});

Deno.test("Client.flushed() rejects by signal and by timeout, and waiting messages are still sent", async () => {
  using time = new FakeTime();
  const { network, seen } = recording();
  network.outcomes.push(network.nobody);
  await using client = network.client(atLeastOnce);
  client.send("t", 1);
  const abort = new AbortController();
  const aborted = assertRejects(() => client.flushed({ signal: abort.signal }), Error, "Enough");
  const late = assertRejects(() => client.flushed({ timeoutMs: 100 }), TimeoutError, "outbox");
  await turns();
  abort.abort(new Error("Enough"));
  await aborted;
  await time.tickAsync(100);
  await late;
  await assertRejects(() => client.flushed({ signal: abort.signal }), Error, "Enough");
  await time.tickAsync(150);
  await turns(20);
  await client.flushed();
  assertEquals(seen, [1]);
});

Deno.test("Client.flushed() with at-most-once waits until a session accepted the messages", async () => {
  const seen: unknown[] = [];
  const network = new Network({ onMessage: ({ data }) => void seen.push(data) });
  await using client = network.client();
  client.send("t", 1);
  await client.flushed();
  await turns();
  assertEquals(seen, [1]);
});

Deno.test("A message above the server's size limit is dropped, and delays nothing", async () => {
  const seen: unknown[] = [];
  const rejected: string[] = [];
  const network = new Network({
    ...node(new FakeBroker().node("a"), (data) => void seen.push(data)),
    maxMessageBytes: 300,
  });
  await using client = network.client({
    ...atLeastOnce,
    onMessageRejected: ({ failure }) => void rejected.push(failure.code),
  });
  client.send("t", 1);
  client.send("t", "x".repeat(300));
  const tooLarge = assertRejects(
    () => client.publish("t", "x".repeat(260)),
    RequestError,
    "at most",
  );
  client.send("t", 2);
  await client.flushed();
  await tooLarge;
  assertEquals([seen, rejected], [[1, 2], ["too-large"]]);
});

Deno.test("Session acknowledges numbered messages, and rejects invalid numbers and names", async () => {
  const seen: unknown[] = [];
  const { services, onMessage } = node(new FakeBroker().node("a"), (data) => void seen.push(data));
  await using hand = serverByHand({ services: services!, onMessage: onMessage! });
  const nameless = 'Expected the first "seq" of a session with its "client"';
  const repeated = 'Expected "seq" above 7, received 7';
  const renamed = 'Expected the same "client" as before in this session';
  await hand.peer.reach(1);
  for (
    const [message, reply] of [
      [{ data: 0, seq: 1 }, nameless],
      [{ data: 1, seq: 7, client: "c" }, { ack: 7 }],
      [{ data: 2, seq: 7 }, repeated],
      [{ data: 3, seq: 20 }, { ack: 20 }],
      [{ data: 4, seq: 21, id: 5, client: "other" }, renamed],
      [{ data: 5, seq: 21, client: "c" }, { ack: 21 }],
    ] as const
  ) {
    hand.peer.say({ topic: "t", ...message });
    await turns(20);
    const error = { code: "malformed", message: reply };
    const rejection = { reply: "id" in message ? message.id : null, error };
    assertEquals(hand.peer.envelopes.at(-1), typeof reply === "string" ? rejection : reply);
  }
  assertEquals([seen, hand.peer.envelopes.length], [[1, 3, 5], 7]);
});

Deno.test("Session acknowledges numbers of rejected requests and the numbers after them", async () => {
  const gate = Promise.withResolvers<void>();
  const { services } = node(new FakeBroker().node("a"), () => {});
  await using hand = serverByHand({
    services: services!,
    maxRequests: 2,
    onMessage: async (message) => {
      await gate.promise;
      if (message.isRequest) message.reply("ok");
    },
  });
  hand.peer.say({ topic: "ask", id: 1, seq: 1, client: "c" });
  hand.peer.say({ topic: "ask", id: 2, seq: 2 });
  hand.peer.say({ topic: "ask", id: 2, seq: 3 });
  hand.peer.say({ topic: "ask", id: 3, seq: 4 });
  hand.peer.say({ topic: "note", seq: 5 });
  await turns(20);
  gate.resolve();
  await turns(40);
  const replies = hand.peer.envelopes.filter((envelope) => "reply" in envelope)
    .map(({ reply, data, error }) => [reply, data ?? (error as { code: string }).code]);
  assertEquals(replies, [[2, "too-many"], [3, "too-many"], [1, "ok"], [2, "ok"]]);
  assertEquals(hand.peer.envelopes.at(-1), { ack: 5 });
});

Deno.test("Session replies to a repeated request that was handled before, and continues", async () => {
  const seen: unknown[] = [];
  const { services } = node(new FakeBroker().node("a"), () => {});
  const open = () =>
    serverByHand({
      services: services!,
      onMessage: (message) => {
        seen.push(message.data);
        if (message.isRequest) message.reply("ok");
      },
    });
  await using first = open();
  first.peer.say({ topic: "ask", data: 1, id: 1, seq: 1, client: "c" });
  await turns(20);
  await using next = open();
  next.peer.say({ topic: "ask", data: 1, id: 1, seq: 1, client: "c" });
  next.peer.say({ topic: "note", data: 2, seq: 2 });
  await turns(40);
  assertEquals(seen, [1, 2]);
  const { error } = next.peer.envelopes.find((envelope) => "reply" in envelope) as {
    error: { code: string; message: string };
  };
  const message = "The request was handled before, and its reply is lost";
  assertEquals(error, { code: "unanswered", message });
  assertEquals(next.peer.envelopes.at(-1), { ack: 2 });
});

Deno.test("10,000 messages over a connection that breaks repeatedly are each handled once, in order", async () => {
  using time = new FakeTime();
  let state = 7;
  const random = () => (state = state * 48_271 % 2_147_483_647) / 2_147_483_647;
  const broker = new FakeBroker();
  const seen: unknown[] = [];
  const handler: Handler = async (data) => {
    if (random() < 0.3) await turns(Math.ceil(random() * 3));
    seen.push(data);
  };
  const nodes = ["a", "b"].map((name) => ({
    ...node(broker.node(name), handler),
    closeTimeoutMs: 100,
  }));
  const network = new Network(nodes[0]);
  await using client = network.client({
    ...atLeastOnce,
    outbox: { maxMessages: 300, maxBytes: 1e6 },
    backoff: { firstDelayMs: 2, maxDelayMs: 4 },
  });
  const count = 10_000;
  for (let i = 0; i < count || client.outbox.messages > 0;) {
    while (i < count && client.outbox.messages < 300 && random() < 0.95) client.send("t", i++);
    await turns(Math.ceil(random() * 4));
    if (random() < 0.05 && client.isConnected) {
      network.pairs.at(-1)!.link.stall(random() < 0.5 ? "to-client" : "to-server");
    }
    if (random() < 0.2) {
      network.cut();
      network.server = nodes[Math.floor(random() * 2)]!;
    }
    await time.tickAsync(50);
  }
  assert(network.sessions.length > 50, `${network.sessions.length} sessions`);
  assertEquals(seen, Array.from({ length: count }, (_, i) => i));
  assertEquals([...broker.numbers.values()], [count]);
});
