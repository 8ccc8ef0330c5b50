import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { ConnectionError, TimeoutError } from "../../../errors.ts";
import { Simulation } from "../simulation.ts";
import type { LinkConditions } from "./conditions.ts";
import { SimulatedNetwork } from "./network.ts";
import type { SimulatedSocket } from "./sockets.ts";

const PORT = 6_379;

/** Two hosts; the broker echoes each message in upper case. */
function network(conditions: LinkConditions = {}, seed = 1) {
  const simulation = new Simulation({ seed });
  const hosts = { client: simulation.host("client"), broker: simulation.host("broker") };
  const net = new SimulatedNetwork(simulation, { delayMs: 10, jitterMs: 0, ...conditions });
  const accepted: SimulatedSocket[] = [];
  const listen = () =>
    net.listenSockets(hosts.broker, PORT, (socket) => {
      accepted.push(socket);
      socket.onMessage = (message) => socket.send(String(message).toUpperCase(), 1);
    });
  const stop = listen();
  const connect = (signal?: AbortSignal) =>
    net.connectSocket(hosts.client, hosts.broker, PORT, { signal });
  return { simulation, ...hosts, net, accepted, listen, stop, connect };
}

/** An open socket, with all received messages. */
async function connected(conditions: LinkConditions = {}, seed = 1) {
  const all = network(conditions, seed);
  const opening = all.connect();
  await all.simulation.run(1_000);
  const socket = await opening;
  const seen: string[] = [];
  socket.onMessage = (message) => seen.push(`${all.simulation.nowMs} ${message}`);
  socket.onClose = (reason) => seen.push(`${all.simulation.nowMs} ${reason}`);
  return { ...all, socket, seen };
}

/** Waits for a connection attempt to fail, and returns the error. */
async function failure(
  { simulation }: { readonly simulation: Simulation },
  attempt: Promise<unknown>,
): Promise<Error> {
  const failed = assertRejects(() => attempt, Error);
  await simulation.run(200_000);
  return await failed;
}

Deno.test("SimulatedSocket.send() delivers after the delay, in order, and counts bytes in transit", async () => {
  const { simulation, socket, accepted, seen, client, broker } = await connected();
  socket.send("a", 100);
  socket.send("b", 200);
  assertEquals({ bufferedBytes: socket.bufferedBytes, host: socket.host, peer: socket.peer }, {
    bufferedBytes: 300,
    host: client,
    peer: broker,
  });
  await simulation.run(10);
  assertEquals({
    socketBufferedBytes: socket.bufferedBytes,
    acceptedBufferedBytes: accepted[0]!.bufferedBytes,
    seen,
  }, { socketBufferedBytes: 0, acceptedBufferedBytes: 2, seen: [] });
  await simulation.run(10);
  assertEquals(seen, ["1020 A", "1020 B"]);
});

Deno.test("SimulatedSocket.send() keeps order under jitter and loss, and loses no message", async () => {
  const { simulation, socket, seen } = await connected({
    jitterMs: 50,
    jitter: "long-tail",
    lossRate: 0.2,
  });
  const sent = Array.from({ length: 500 }, (_, i) => `m${i}`);
  for (const message of sent) socket.send(message, 10);
  await simulation.run(120_000);
  assertEquals(seen.map((text) => text.split(" ")[1]), sent.map((text) => text.toUpperCase()));
});

Deno.test("SimulatedSocket.close() delivers sent messages, and then notifies the peer", async () => {
  const { simulation, net, socket, accepted, seen } = await connected();
  const closes: string[] = [];
  const received: unknown[] = [];
  accepted[0]!.onMessage = (message) => received.push(message);
  accepted[0]!.onClose = (reason) => closes.push(reason);
  socket.send("last", 4);
  socket.close();
  socket.send("never", 5);
  assertEquals(net.links.length, 1);
  await simulation.run(100);
  assertEquals({ received, closes, seen, links: net.links }, {
    received: ["last"],
    closes: ["closed"],
    seen: [],
    links: [],
  });
});

Deno.test("SimulatedSocket.onMessage receives earlier messages", async () => {
  const all = network();
  all.stop();
  all.net.listenSockets(all.broker, PORT, (socket) => socket.send("greeting", 8));
  const opening = all.connect();
  await all.simulation.run(1_000);
  const seen: unknown[] = [];
  (await opening).onMessage = (message) => seen.push(message);
  assertEquals(seen, ["greeting"]);
});

Deno.test("SimulatedNetwork.connectSocket() is rejected without a listener, and by a killed host", async () => {
  const all = network();
  all.stop();
  assertEquals(
    (await failure(all, all.connect())).message,
    "Cannot connect to broker: the connection was refused",
  );
  all.listen();
  all.broker.kill();
  const error = await failure(all, all.connect());
  assert(error instanceof ConnectionError);
  all.broker.start();
  await failure(all, all.connect());
  all.listen();
  const opening = all.connect();
  await all.simulation.run(20);
  assert((await opening).host === all.client);
});

Deno.test("SimulatedNetwork.connectSocket() without a response ends by its signal or the system's timeout", async () => {
  const all = network();
  all.broker.kill({ power: true });
  const controller = new AbortController();
  all.simulation.after(500, () => controller.abort(new Error("enough")));
  assertEquals((await failure(all, all.connect(controller.signal))).message, "enough");
  assert(await failure(all, all.connect()) instanceof TimeoutError);
  all.broker.start();
  all.listen();
  for (const change of [{ handshake: "hangs" }, { isBlocked: true }] as const) {
    all.net.change(all.client, all.broker, change);
    assert(await failure(all, all.connect()) instanceof TimeoutError);
  }
  assertEquals(all.net.links, []);
});

Deno.test("SimulatedNetwork.connectSocket() waits for a blocked direction, and opens when it heals", async () => {
  const all = network();
  all.net.change(all.broker, all.client, { isBlocked: true });
  let openedMs = 0;
  const opening = all.connect().then((socket) => {
    openedMs = all.simulation.nowMs;
    return socket;
  });
  all.simulation.after(5_000, () => all.net.heal());
  await all.simulation.run(10_000);
  assertEquals((await opening).peer, all.broker);
  assertEquals(openedMs, 5_010);
});

Deno.test("SimulatedLink.disconnect() notifies both sides, one side, or neither", async () => {
  for (const silent of [false, true, "client", "server"] as const) {
    const { simulation, net, socket, accepted, seen } = await connected();
    const closes: string[] = [];
    accepted[0]!.onClose = (reason) => closes.push(reason);
    socket.send("lost", 4);
    net.links[0]!.disconnect({ silent });
    await simulation.run(60_000);
    const isTold = (side: string) => silent === false || silent !== true && silent !== side;
    assertEquals(seen, isTold("client") ? ["1000 reset"] : []);
    assertEquals(closes, isTold("server") ? ["reset"] : []);
    socket.send("into the void", 13);
    assertEquals(socket.bufferedBytes, 0);
  }
});

Deno.test("Host.kill() closes sockets by a reset or after written data; both occur", async () => {
  const ends = new Map<string, number>();
  for (let seed = 0; seed < 20; seed++) {
    const { simulation, broker, socket, seen } = await connected({}, seed);
    socket.send("ping", 4);
    simulation.after(15, () => broker.kill());
    await simulation.run(1_000);
    const all = seen.map((text) => text.split(" ")[1]).join();
    ends.set(all, (ends.get(all) ?? 0) + 1);
  }
  assertEquals([...ends.keys()].sort(), ["PING,closed", "reset"]);
});

Deno.test("Host.kill() by a power loss is detected once the host runs again and receives data", async () => {
  const { simulation, broker, socket, seen } = await connected();
  broker.kill({ power: true });
  socket.send("first", 5);
  await simulation.run(10_000);
  assertEquals(seen, []);
  broker.start();
  await simulation.run(10_000);
  assertEquals(seen, []);
  socket.send("second", 6);
  await simulation.run(10_000);
  assertEquals(seen, ["21020 reset"]);
});

Deno.test("Host.kill() hides connections of the previous life from the next life of a host", async () => {
  for (const power of [false, true]) {
    const { simulation, client, broker, net, seen } = await connected();
    client.kill({ power: true });
    client.start();
    broker.kill({ power });
    broker.start();
    await simulation.run(10_000);
    assertEquals(seen, []);
    assertEquals(net.links.length, 0);
  }
});

Deno.test("Host.freeze() lets the system accept a socket, and its program later", async () => {
  const all = network();
  all.broker.freeze();
  const opening = all.connect();
  await all.simulation.run(100);
  const socket = await opening;
  const seen: unknown[] = [];
  socket.onMessage = (message) => seen.push(message);
  socket.send("hello", 5);
  await all.simulation.run(1_000);
  assertEquals({ accepted: all.accepted.length, bufferedBytes: socket.bufferedBytes, seen }, {
    accepted: 0,
    bufferedBytes: 5,
    seen: [],
  });
  all.broker.thaw();
  await all.simulation.run(100);
  assertEquals({ accepted: all.accepted.length, bufferedBytes: socket.bufferedBytes, seen }, {
    accepted: 1,
    bufferedBytes: 0,
    seen: ["HELLO"],
  });
});

Deno.test("SimulatedNetwork.change() blocks one direction, and waiting messages arrive in order", async () => {
  const { simulation, net, client, broker, socket, seen } = await connected();
  net.change(broker, client, { isBlocked: true });
  socket.send("a", 1);
  socket.send("b", 1);
  await simulation.run(5_000);
  assertEquals(seen, []);
  net.change(broker, client, { isBlocked: false });
  await simulation.run(5_000);
  assertEquals(seen, ["6010 A", "6010 B"]);
});

Deno.test("SimulatedNetwork.change() limits the bytes per second of all connections together", async () => {
  const { simulation, net, client, broker, socket, accepted, connect } = await connected();
  const opening = connect();
  await simulation.run(1_000);
  const second = await opening;
  net.change(client, broker, { bytesPerSecond: 1_000 });
  const arrivals: string[] = [];
  for (const end of accepted) {
    end.onMessage = (message) => arrivals.push(`${simulation.nowMs} ${message}`);
  }
  socket.send("a", 960); // And 40 bytes of headers.
  second.send("b", 460);
  assertEquals(socket.bufferedBytes, 960);
  assertEquals(net.backlogMs(client, broker), 1_500);
  net.change(client, broker, { bytesPerSecond: Infinity });
  assertEquals(net.backlogMs(client, broker), 1_500);
  await simulation.run(10_000);
  assertEquals(arrivals, ["3010 a", "3510 b"]);
  assertEquals(net.backlogMs(client, broker), 0);
});

Deno.test("SimulatedNetwork.backlogMs() does not change the order in which directions heal", async () => {
  const { simulation, net } = await connected();
  const [one, two] = [simulation.host("one"), simulation.host("two")];
  assertEquals(net.backlogMs(two, one), 0);
  net.change(one, two, { isBlocked: true });
  net.change(two, one, { isBlocked: true });
  net.heal();
  const healed = simulation.trace.filter(({ text }) => text === "heals").map(({ host }) => host);
  assertEquals(healed, ["one", "two"]);
});

Deno.test("SimulatedSocket.send() keeps the order after a message that a slow link delays", async () => {
  // The times of arrival are sums of floating-point numbers.
  for (let seed = 0; seed < 40; seed++) {
    const { simulation, net, client, broker, socket, accepted } = await connected({}, seed);
    let seen = "";
    accepted[0]!.onMessage = (message) => seen += message;
    await simulation.run(1_000 / (3 + seed));
    net.change(client, broker, { bytesPerSecond: 97 });
    socket.send("a", 1_000);
    net.change(client, broker, { bytesPerSecond: Infinity });
    for (const text of "bcdef") {
      await simulation.run(1 / 3);
      socket.send(text, 1);
    }
    await simulation.run(20_000);
    assertEquals(seen, "abcdef");
  }
});

Deno.test("SimulatedNetwork.change() rejects conditions out of range", () => {
  const { net, client, broker } = network();
  const rejections: readonly [LinkConditions, string][] = [
    [{ lossRate: 2 }, "lossRate must be from 0 to 1, received 2"],
    [{ delayMs: -1 }, "delayMs must be a number from 0, received -1"],
    [{ bytesPerSecond: 0 }, "bytesPerSecond must be above 0, received 0"],
    [{ handshake: 200 }, "an HTTP status from 400 to 599, received 200"],
    [{ jitter: "gaussian" } as never, "jitter must be uniform, exponential, long-tail"],
  ];
  for (const [conditions, text] of rejections) {
    assertThrows(() => net.change(client, broker, conditions), RangeError, text);
  }
  assertEquals(net.conditions(client, broker).lossRate, 0);
});

Deno.test("SimulatedNetwork draws random numbers per connection, so that another connection changes no delay", async () => {
  const times = async (others: number) => {
    const { simulation, socket, seen, connect } = await connected({ jitterMs: 20, lossRate: 0.1 });
    for (let i = 0; i < others; i++) {
      connect().then((other) => {
        for (let i = 0; i < 10; i++) other.send("noise", 1);
      });
    }
    for (let i = 0; i < 50; i++) socket.send(i, 1);
    await simulation.run(60_000);
    return seen;
  };
  assertEquals(await times(0), await times(3));
});

Deno.test("SimulatedNetwork traces packets on request, with the same digest", async () => {
  const run = async (trace: "facts" | "packets") => {
    const simulation = new Simulation({ seed: 3, trace });
    const [a, b] = [simulation.host("a"), simulation.host("b")];
    const net = new SimulatedNetwork(simulation, { lossRate: 0.2 });
    net.listenSockets(b, 1, (socket) => socket.onMessage = (m) => socket.send(m, 1));
    net.connectSocket(a, b, 1).then((socket) => socket.send("x", 1));
    await simulation.run(10_000);
    return { digest: simulation.digest, kinds: simulation.trace.map(({ kind }) => kind) };
  };
  const [facts, packets] = [await run("facts"), await run("packets")];
  assertEquals(facts.digest, packets.digest);
  assertEquals(facts.kinds, ["network"]);
  assertEquals(packets.kinds.filter((kind) => kind === "packet").length, 4);
});
