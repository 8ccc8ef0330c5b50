import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Client } from "../../../client/client.ts";
import type { Contract } from "../../../session/contract.ts";
import type { Session } from "../../../session/session.ts";
import type { ConnectOptions } from "../../../client/connect.ts";
import { pause } from "../../../base/wait.ts";
import { ConnectionError, TimeoutError } from "../../../errors.ts";
import type { TransportName } from "../../../transport/race/options.ts";
import type { Host } from "../host.ts";
import { simulatedClient, SimulatedServer, type SimulatedServerOptions } from "../programs.ts";
import { Simulation } from "../simulation.ts";
import type { LinkConditions } from "./conditions.ts";
import { SimulatedNetwork } from "./network.ts";
import { metrics } from "../../../operations/mod.ts";
import { streamFeatures, streamsOf } from "../../stream_features.ts";

const TRANSPORTS: readonly TransportName[] = ["webtransport", "websocket", "http"];

type Options = Partial<SimulatedServerOptions<string, Contract>>;

/** A server, and the parts for a client. */
function site(conditions: LinkConditions = {}, { seed = 1, options = {} as Options } = {}) {
  const simulation = new Simulation({ seed });
  const network = new SimulatedNetwork(simulation, { delayMs: 10, jitterMs: 2, ...conditions });
  const [host, node] = [simulation.host("client"), simulation.host("node")];
  const program = new SimulatedServer<string>(network, node, () =>
    ({
      authorize: () => true,
      history: { "news": { size: 100, ttlMs: 600_000, bytes: 1 << 20 } },
      requests: { double: ({ data }) => 2 * Number(data) },
      ...options,
    }) as SimulatedServerOptions<string, Contract>);
  const connect = (options: ConnectOptions = {}, servers: readonly Host[] = [node]): Client =>
    simulatedClient(network, host, servers, { onError() {}, ...options });
  const both = (conditions: LinkConditions) => {
    network.change(host, node, conditions);
    network.change(node, host, conditions);
  };
  return { simulation, network, host, node, program, connect, both };
}

/** Advances virtual time until a promise settles, for at most 200 s. */
async function soon<T>({ simulation }: { readonly simulation: Simulation }, promise: Promise<T>) {
  let isSettled = false;
  const settled = () => void (isSettled = true);
  promise.then(settled, settled);
  for (let i = 0; i < 2_000 && !isSettled; i++) await simulation.run(100);
  assert(isSettled, "the promise is pending after 200 s");
  return await promise;
}

/** Waits for a promise to reject, and returns the error. */
async function failure(
  { simulation }: { readonly simulation: Simulation },
  promise: Promise<unknown>,
): Promise<Error> {
  return await soon({ simulation }, assertRejects(() => promise, Error));
}

for (const transport of TRANSPORTS) {
  Deno.test(`SimulatedServer serves a client over ${transport}, with requests and topics`, async () => {
    const all = site({ lossRate: 0.05, splitRate: 0.5 });
    const client = all.connect({ transports: [transport] });
    assertEquals((await soon(all, client.whenConnected())).transport, transport);
    assertEquals(await soon(all, client.request("double", 21)), 42);
    const news = client.subscribe("news");
    await soon(all, news.ready);
    const got: unknown[] = [];
    const reading = (async () => {
      for await (const { data } of news) got.push(data);
    })();
    for (let i = 0; i < 20; i++) all.program.server.publish("news", "x".repeat(10_000) + i);
    await all.simulation.run(20_000);
    assertEquals(
      got.map((data) => String(data).slice(10_000)),
      Array.from({ length: 20 }, (_, i) => `${i}`),
    );
    await soon(all, client.close());
    await reading;
    await all.simulation.run(60_000);
    assertEquals(all.network.links, []);
    assertEquals(all.program.server.manager.all().length, 0);
  });

  Deno.test(`Host.kill() and a restart are detected by a client over ${transport}`, async () => {
    for (const power of [false, true]) {
      const all = site();
      const client = all.connect({ transports: [transport], onMessage() {} });
      const first = await soon(all, client.whenConnected());
      all.node.kill({ power });
      all.simulation.after(2_000, () => all.program.restart());
      await all.simulation.run(60_000);
      const second = await soon(all, client.whenConnected());
      assert(first.id !== second.id);
      assertEquals(await soon(all, client.request("double", 1)), 2);
    }
  });
}

for (const transport of TRANSPORTS) {
  Deno.test(`Host.start() starts without the connections of the last life over ${transport}`, async () => {
    const all = site();
    await soon(all, all.connect({ transports: [transport] }).whenConnected());
    all.host.kill();
    await all.simulation.run(1_000);
    all.host.start();
    await soon(all, all.connect({ transports: [transport] }).whenConnected());
    for (const link of all.network.links) link.disconnect();
    await all.simulation.run(60_000);
    assertEquals(all.program.server.manager.all().length, 1);
  });
}

Deno.test("SimulatedNetwork produces the same digest for a seed, over all transports, also in another process", async () => {
  const run = async (seed: number) => {
    const all = site({ lossRate: 0.1, reorderRate: 0.2, splitRate: 0.5, duplicateRate: 0.1 }, {
      seed,
    });
    const clients = TRANSPORTS.map((transport) => all.connect({ transports: [transport] }));
    clients.forEach(async (client, i) => {
      for await (const { data } of client.subscribe("news")) {
        all.simulation.note(`${i} got ${data}`);
      }
    });
    for (let i = 0; i < 20; i++) {
      all.simulation.after(1_000 * i, () => all.program.server.publish("news", i));
    }
    all.simulation.after(7_000, () => all.network.links.forEach((link) => link.disconnect()));
    all.simulation.after(12_000, () => all.node.kill());
    all.simulation.after(13_000, () => all.program.restart());
    await all.simulation.run(40_000);
    return all.simulation.digest;
  };
  const digests = [await run(5), await run(5), await run(6)];
  assertEquals(digests[0], digests[1]);
  assert(digests[0] !== digests[2]);
  if (Deno.args.includes("--digest")) return console.log(`digest=${digests[0]}`);
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: [
      "test",
      "-A",
      "--no-check",
      "--filter",
      "also in another process",
      new URL(import.meta.url).pathname,
      "--",
      "--digest",
    ],
    stdout: "piped",
    stderr: "null",
  }).output();
  assertEquals(/digest=(\w+)/.exec(new TextDecoder().decode(stdout))?.[1], digests[0]);
});

Deno.test("SimulatedNetwork.dialer() falls back if UDP is blocked, and if upgrades are stripped", async () => {
  const transportOf = async (conditions: LinkConditions) => {
    const all = site(conditions);
    const client = all.connect({ transports: [...TRANSPORTS] });
    return (await soon(all, client.whenConnected())).transport;
  };
  assertEquals(await transportOf({}), "webtransport");
  assertEquals(await transportOf({ blockUdp: true }), "websocket");
  assertEquals(await transportOf({ blockUdp: true, stripUpgrades: true }), "http");
});

Deno.test("SimulatedNetwork.dialer() moves to WebSocket when UDP becomes blocked", async () => {
  const all = site();
  const client = all.connect();
  assertEquals((await soon(all, client.whenConnected())).transport, "webtransport");
  all.both({ blockUdp: true });
  await all.simulation.run(120_000);
  assertEquals((await soon(all, client.whenConnected())).transport, "websocket");
});

Deno.test("SimulatedNetwork.dialer() fails with each handshake fault, and connects once the fault is over", async () => {
  for (const handshake of ["rejected", "hangs", "tls", 502] as const) {
    for (const transport of TRANSPORTS) {
      const all = site();
      all.network.change(all.host, all.node, { handshake });
      const client = all.connect({ transports: [transport] });
      await all.simulation.run(30_000);
      assert(client.status.current.name !== "connected", `${handshake} over ${transport}`);
      all.network.heal();
      assertEquals((await soon(all, client.whenConnected())).transport, transport);
    }
  }
});

Deno.test("SimulatedNetwork.dialWebTransport() times out if no server responds", async () => {
  const all = site();
  const dial = all.network.dialWebTransport(all.host);
  all.both({ blockUdp: true });
  assert(await failure(all, dial(new URL("https://node/"), {})) instanceof TimeoutError);
  const unknown = await failure(all, dial(new URL("https://nowhere/"), {}));
  assertEquals(unknown.message, "Cannot connect to nowhere: the name is unknown");
  assertEquals(all.network.links, []);
});

/** Both sides of a WebTransport session without messages. */
async function ends(conditions: LinkConditions = {}) {
  const all = site(conditions, { options: { webTransport: false } });
  const listen = all.network.webTransport(all.node);
  const requests = listen({ port: 443, hostname: "node", cert: "", key: "" })
    [Symbol.asyncIterator]();
  const dialing = all.network.dialWebTransport(all.host)(new URL("https://node/"), {});
  const { value: request } = await soon(all, requests.next());
  const server = request!.accept();
  return { ...all, server, client: await soon(all, dialing), request: request! };
}

Deno.test("SimulatedNetwork delivers the close of a session before the close of its endpoint", async () => {
  const all = site({}, { options: { webTransport: false } });
  const source = all.network.webTransport(all.node)({
    port: 443,
    hostname: "node",
    cert: "",
    key: "",
  });
  const requests = source[Symbol.asyncIterator]();
  const dialing = all.network.dialWebTransport(all.host)(new URL("https://node/"), {});
  const { value: request } = await soon(all, requests.next());
  const server = request!.accept();
  const client = await soon(all, dialing);
  server.close({ closeCode: 4503, reason: "drained" });
  await source.close();
  all.node.kill();
  assertEquals((await soon(all, client.closed)).closeCode, 4503);
});

Deno.test("SimulatedNetwork loses, duplicates and reorders datagrams by their rates", async () => {
  const numbers = async (conditions: LinkConditions) => {
    const all = await ends();
    all.network.change(all.host, all.node, { jitterMs: 0, ...conditions });
    const writer = all.client.datagrams.writable.getWriter();
    const got: number[] = [];
    const reading = (async () => {
      for await (const datagram of all.server.datagrams.readable) got.push(datagram[0]!);
    })();
    for (let i = 0; i < 200; i++) {
      await writer.write(Uint8Array.of(i));
      await all.simulation.run(1);
    }
    await all.simulation.run(1_000);
    all.client.close();
    await all.simulation.run(1_000);
    await reading;
    return got;
  };
  const sorted = (got: readonly number[]) => got.toSorted((a, b) => a - b);
  const every = Array.from({ length: 200 }, (_, i) => i);
  assertEquals(await numbers({}), every);
  const lossy = await numbers({ lossRate: 0.3 });
  assert(lossy.length > 110 && lossy.length < 170, `${lossy.length}`);
  assertEquals(lossy, sorted(lossy));
  const doubled = await numbers({ duplicateRate: 0.3 });
  assert(doubled.length > 230 && doubled.length < 290, `${doubled.length}`);
  assertEquals([...new Set(sorted(doubled))], every);
  const reordered = await numbers({ reorderRate: 0.3 });
  assert(reordered.some((number, i) => number !== i));
  assertEquals(sorted(reordered), every);
});

Deno.test("SimulatedNetwork delays a WebTransport stream only by its own losses", async () => {
  const all = await ends({ lossRate: 0.3 });
  const order: number[] = [];
  for (let i = 0; i < 30; i++) {
    const stream = await soon(all, all.client.createUnidirectionalStream());
    const writer = stream.getWriter();
    writer.write(Uint8Array.of(i)).then(() => writer.close());
  }
  (async () => {
    for await (const stream of all.server.incomingUnidirectionalStreams) {
      (async () => {
        for await (const [number] of stream) order.push(number!);
      })();
    }
  })();
  await all.simulation.run(60_000);
  assertEquals(order.toSorted((a, b) => a - b), Array.from({ length: 30 }, (_, i) => i));
  assert(order.some((number, i) => number !== i), "no stream overtook another one");
});

Deno.test("SimulatedNetwork closes a silent WebTransport connection on both sides after the idle timeout", async () => {
  for (const silent of [true, "client", "server"] as const) {
    const all = await ends();
    await all.simulation.run(20_000);
    const startMs = all.simulation.nowMs;
    const ended: Record<string, number> = {};
    for (const side of ["client", "server"] as const) {
      all[side].closed.catch((error: unknown) => {
        assert(error instanceof ConnectionError);
        ended[side] = all.simulation.nowMs - startMs;
      });
    }
    all.network.links[0]!.disconnect({ silent });
    await all.simulation.run(60_000);
    for (const side of ["client", "server"] as const) {
      const isTold = silent !== true && silent !== side;
      const ms = ended[side]!;
      assert(isTold ? ms === 0 : ms > 10_000 && ms < 21_000, `${silent} ${side} ${ms}`);
    }
    assertEquals(all.network.links, []);
  }
});

Deno.test("SimulatedNetwork cuts a stream in the middle of a write", async () => {
  const all = await ends({ splitRate: 1, jitterMs: 50 });
  const writer = (await soon(all, all.client.createUnidirectionalStream())).getWriter();
  const reading = (async () => {
    let bytes = 0;
    for await (const stream of all.server.incomingUnidirectionalStreams) {
      try {
        for await (const part of stream) {
          bytes += part.byteLength;
          all.network.links[0]?.disconnect();
        }
      } catch (error) {
        return { bytes, error };
      }
    }
    return undefined;
  })();
  writer.write(new Uint8Array(10_000)).catch(() => {});
  const { bytes, error } = (await soon(all, reading.catch((error) => ({ bytes: 0, error }))))!;
  assert(bytes > 0 && bytes < 10_000, `${bytes}`);
  assert(error instanceof ConnectionError);
});

Deno.test("SimulatedNetwork rejects a session with the server's status", async () => {
  const all = site({}, { options: { webTransport: false } });
  const listen = all.network.webTransport(all.node);
  const listener = listen({ port: 443, hostname: "node", cert: "", key: "" });
  const requests = listener[Symbol.asyncIterator]();
  const url = new URL("https://node/chat?x=1");
  const dial = () => all.network.dialWebTransport(all.host)(url, { protocols: ["a"] });
  const rejected = dial();
  rejected.catch(() => {});
  const { value: request } = await soon(all, requests.next());
  assertEquals([request!.url, request!.protocols], [url.href, ["a"]]);
  assertEquals(request!.remoteAddress.transport, "udp");
  request!.reject(429);
  assertEquals((await failure(all, rejected) as ConnectionError).status, 429);
  listener.stop();
  assertEquals((await failure(all, dial()) as ConnectionError).status, 503);
});

Deno.test("SimulatedNetwork queues bytes of a slow link on the server, within the limits of its queues", async () => {
  const all = site({}, {
    options: { session: { sendQueue: { maxBytes: 50_000 } } } as Options,
  });
  const client = all.connect({ transports: ["websocket"] });
  await soon(all, client.subscribe("ticks").ready);
  all.network.change(all.node, all.host, { bytesPerSecond: 1_000 });
  const [session] = all.program.server.manager.all();
  let mostBytes = 0;
  for (let i = 0; i < 100; i++) {
    all.program.server.publish("ticks", "x".repeat(1_000));
    await all.simulation.run(100);
    mostBytes = Math.max(mostBytes, session!.connection.frames!.bufferedAmount);
  }
  assert(mostBytes > 10_000, `${mostBytes}`);
  assert(mostBytes < 100_000, `${mostBytes}`);
});

Deno.test("SimulatedNetwork.sockets() delivers messages to plain pages, and the server detects silent ones", async () => {
  const opened: string[] = [];
  const all = site({}, {
    options: {
      onOpen: ({ id }) => void opened.push(id),
      onMessage: ({ topic, data }, session) =>
        void (session as unknown as Session).send("echo", `${topic} ${data}`),
    } as Options,
  });
  const socket = all.network.sockets(all.host)(new URL("wss://node/"));
  const got: unknown[] = [];
  socket.onmessage = ({ data }) => got.push(data);
  socket.onopen = () => socket.send(JSON.stringify({ type: "message", topic: "a", data: "b" }));
  await all.simulation.run(5_000);
  assertEquals([opened.length, all.program.server.manager.all().length], [1, 1]);
  assert(got.length > 0);
  all.network.links[0]!.disconnect({ silent: true });
  await all.simulation.run(200_000);
  assertEquals(all.program.server.manager.all().length, 0);
});

Deno.test("SimulatedNetwork.webSocket() opens no socket whose peer disappeared before the response", async () => {
  for (const vanishes of [false, true]) {
    const simulation = new Simulation({ seed: 1 });
    const network = new SimulatedNetwork(simulation, { delayMs: 10, jitterMs: 0 });
    const [node, page] = [simulation.host("node"), simulation.host("page")];
    let isReady = false;
    const listener = network.webSocket(node).listen(
      { port: 443, hostname: "node" },
      () => new Response(),
      async (upgrade) => {
        await pause(node.runtime, 100);
        const { connection, response } = upgrade.accept({ runtime: node.runtime });
        void connection.ready.then(() => isReady = true);
        return response;
      },
    );
    network.sockets(page)(new URL("wss://node/"));
    await simulation.run(100);
    if (vanishes) network.links[0]!.disconnect();
    await simulation.run(10_000);
    assertEquals(isReady, !vanishes);
    void listener.shutdown();
  }
});

Deno.test("SimulatedNetwork.front() forwards connections to running nodes, also after one has ended", async () => {
  const simulation = new Simulation({ seed: 1 });
  const network = new SimulatedNetwork(simulation);
  const front = simulation.host("front");
  const nodes = ["a", "b"].map((name) =>
    new SimulatedServer(network, simulation.host(name), () => ({ requests: { name: () => name } }))
  );
  network.front(front, nodes.map(({ host }) => host));
  for (const transports of [["websocket"], ["webtransport"], ["http"]] as TransportName[][]) {
    const clients = [1, 2].map((number) =>
      simulatedClient(network, simulation.host(`${transports}${number}`), [front], {
        transports,
        onError() {},
      })
    );
    const ask = () =>
      soon({ simulation }, Promise.all(clients.map((client) => client.request("name"))));
    if (transports[0] !== "http") assertEquals((await ask()).toSorted(), ["a", "b"]);
    nodes[0]!.host.kill();
    await simulation.run(90_000);
    assertEquals(await ask(), ["b", "b"]);
    nodes[0]!.restart();
    for (const client of clients) await soon({ simulation }, client.close());
  }
});

Deno.test("SimulatedNetwork.move() ends TCP only on the host, and QUIC continues", async () => {
  const addresses: (string | undefined)[] = [];
  const all = site({}, {
    options: { onOpen: ({ address }) => void addresses.push(address) } as Options,
  });
  const client = all.connect({ transports: ["webtransport"] });
  const first = await soon(all, client.whenConnected());
  all.network.move(all.host);
  await all.simulation.run(60_000);
  assertEquals((await soon(all, client.whenConnected())).id, first.id);
  const other = all.connect({ transports: ["websocket"] });
  const before = await soon(all, other.whenConnected());
  all.network.move(all.host);
  await all.simulation.run(1_000);
  assertEquals(all.program.server.manager.all().length, 3);
  assert((await soon(all, other.whenConnected())).id !== before.id);
  assertEquals(new Set(addresses).size, 3);
});

Deno.test("SimulatedNetwork.fetch() reaches the features of a server: metrics, API, unknown paths", async () => {
  const all = site({}, { options: { features: [metrics({ allow: "everybody" })] } as Options });
  const fetch = all.network.fetch(all.host);
  const response = await soon(all, fetch("https://node/metrics"));
  assertEquals(response.status, 200);
  assert((await soon(all, response.text())).includes("skein_sessions"));
  assertEquals((await soon(all, fetch("https://node/nothing"))).status, 426);
});

Deno.test("SimulatedNetwork.fetch() fails in the middle of a body if the server is killed", async () => {
  const outcomes = new Set<string>();
  for (let seed = 0; seed < 10; seed++) {
    const all = site({ splitRate: 0.5, jitterMs: 20 }, { seed });
    all.network.serve(all.node, 8080, () => new Response("x".repeat(40_000)));
    all.simulation.after(150, () => all.node.kill());
    const answer = all.network.fetch(all.host)("https://node:8080/").then(({ text }) => text);
    const response = all.network.fetch(all.host)("https://node:8080/");
    answer.catch(() => {});
    const outcome = response.then((response) => response.text()).then(
      (text) => `${text.length}`,
      ({ name }) => name,
    );
    outcomes.add(await soon(all, outcome));
  }
  assert(outcomes.has("TypeError"), [...outcomes].join());
});

Deno.test("SimulatedNetwork.fetch() follows a durable stream by server-sent events", async () => {
  const all = site({ splitRate: 0.5, lossRate: 0.05 }, {
    options: {
      features: streamFeatures({
        path: "/streams",
        authorize: () => true,
      }),
    } as unknown as Options,
  });
  const fetch = all.network.fetch(all.host);
  const writer = await soon(all, streamsOf(all.program.server).create<string>("answers/7"));
  const response = await soon(all, fetch("https://node/streams/answers/7?offset=-1&live=sse"));
  assertEquals([response.status, response.headers.get("content-type")], [200, "text/event-stream"]);
  const words = ["one", "two", "three"];
  words.forEach((word, i) =>
    all.simulation.after(1_000 * i, () => void writer.append(word).catch(() => {}))
  );
  all.simulation.after(5_000, () => void writer.close());
  const text = await soon(all, response.text());
  for (const word of words) assert(text.includes(`"${word}"`), text);
});

Deno.test("SimulatedNetwork keeps the connection of a client without power until the server has left, too", async () => {
  for (const transport of TRANSPORTS) {
    const all = site();
    const client = all.connect({ transports: [transport] });
    await soon(all, client.whenConnected());
    all.host.kill({ power: true });
    assert(all.network.links.every(({ isBroken }) => isBroken));
    await all.simulation.run(120_000);
    assertEquals(all.program.server.manager.count, 0);
    await soon(all, all.program.server.close());
    await all.simulation.run(10_000);
    assertEquals(all.network.links, [], transport);
  }
});
