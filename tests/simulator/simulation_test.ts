import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { SimulatedNetwork } from "./network/network.ts";
import { simulatedClient, SimulatedServer } from "./programs.ts";
import { Simulation } from "./simulation.ts";

Deno.test("Simulation.run() runs events by time and order, with their microtasks", async () => {
  const simulation = new Simulation({ seed: 1 });
  const seen: string[] = [];
  simulation.after(2, () => seen.push("c"));
  simulation.after(1, async () => {
    seen.push("a");
    for (let i = 0; i < 10; i++) await undefined;
    seen.push("a's microtasks");
  });
  simulation.after(1, () => seen.push("b"));
  const taken = simulation.after(1, () => seen.push("never"));
  simulation.cancel(taken);
  await simulation.run(2);
  assertEquals(seen, ["a", "a's microtasks", "b", "c"]);
  assertEquals(simulation.nowMs, 2);
});

Deno.test("Simulation.pending() lists timers of current lives that neither ran nor were stopped", () => {
  const simulation = new Simulation({ seed: 1 });
  const [a, b] = [simulation.host("a"), simulation.host("b")];
  const stopped = a.runtime.setTimeout(() => {}, 5);
  for (const { runtime } of [a, b]) runtime.setTimeout(() => {}, 10);
  a.runtime.clearTimeout(stopped);
  b.kill();
  assertEquals(Array.from(simulation.pending(), ({ host, atMs }) => [host?.name, atMs]), [[
    "a",
    10,
  ]]);
});

Deno.test("Simulation.run() rejects with the error of an event, and continues at the next call", async () => {
  const simulation = new Simulation({ seed: 1 });
  let ran = false;
  simulation.after(1, () => {
    throw new Error("a fault");
  });
  simulation.after(2, () => ran = true);
  await assertRejects(() => simulation.run(5), Error, "a fault");
  assertEquals([ran, simulation.nowMs], [false, 1]);
  await simulation.run(5);
  assertEquals([ran, simulation.nowMs], [true, 6]);
});

Deno.test("Host.runtime follows drift and jumps, and timers follow only the drift", async () => {
  const simulation = new Simulation({ seed: 1 });
  const host = simulation.host("a", { drift: 0.5, offsetMs: 10 });
  const { runtime } = host;
  const start = runtime.now();
  let firedMs = 0;
  runtime.setTimeout(() => firedMs = simulation.nowMs, 300);
  await simulation.run(100);
  assertEquals([runtime.now() - start, runtime.monotonic()], [150, 150]);
  host.jumpClock(-1_000);
  host.setDrift(0);
  await simulation.run(200);
  assertEquals([runtime.now() - start, runtime.monotonic()], [-650, 350]);
  assertEquals(firedMs, 200);
});

Deno.test("Host.freeze() holds events in order until thaw(), and kill() drops them", async () => {
  const simulation = new Simulation({ seed: 1 });
  const [frozen, killed] = [simulation.host("frozen"), simulation.host("killed")];
  const seen: string[] = [];
  for (const host of [frozen, killed]) {
    for (const ms of [10, 20]) host.after(ms, () => seen.push(`${host.name} ${ms}`));
    host.runtime.clearTimeout(host.runtime.setTimeout(() => seen.push("never"), 15));
    host.freeze();
  }
  await simulation.run(50);
  assertEquals(seen, []);
  killed.kill();
  killed.start();
  frozen.thaw();
  await simulation.run(1);
  assertEquals(seen, ["frozen 10", "frozen 20"]);
});

Deno.test("Host.runtime of an ended life starts no timers in the next one", async () => {
  const simulation = new Simulation({ seed: 1 });
  const host = simulation.host("a");
  const { runtime } = host;
  host.kill();
  host.start();
  const ran: string[] = [];
  runtime.setTimeout(() => ran.push("old timer"), 1);
  runtime.schedule(() => ran.push("old turn"));
  host.runtime.setTimeout(() => ran.push("new timer"), 1);
  await simulation.run(10);
  assertEquals(ran, ["new timer"]);
});

Deno.test("Host.runtime draws different numbers on each host and in each life, the same for a seed", () => {
  const draw = (seed: number) => {
    const simulation = new Simulation({ seed });
    const [a, b] = [simulation.host("a"), simulation.host("b")];
    const first = [a.runtime.randomUUID(), b.runtime.randomUUID()];
    a.kill();
    return [...first, a.start().randomUUID()];
  };
  assertEquals(draw(1), draw(1));
  assertEquals(new Set([...draw(1), ...draw(2)]).size, 6);
  for (const uuid of draw(3)) {
    assert(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/.test(uuid));
  }
});

/** A small cluster under faults; returns the digest, and all that clients received. */
async function cluster(seed: number, seconds: number) {
  const simulation = new Simulation({ seed });
  const network = new SimulatedNetwork(simulation, { delayMs: 5, jitterMs: 10, lossRate: 0.01 });
  const broker = new MemoryBroker({ runtime: simulation.host("broker").runtime });
  const servers = ["a", "b", "c"].map((name) =>
    new SimulatedServer(network, simulation.host(name), () => ({
      broker,
      authorize: () => true,
      history: { "news": { size: 10_000, ttlMs: 3_600_000, bytes: 1 << 24 } },
      onError: (error) => simulation.note(`error ${error}`),
      onSessionRejected: ({ reason }) => simulation.note(`rejected ${reason}`),
    }))
  );
  const received: string[][] = [];
  for (let i = 0; i < 10; i++) {
    const host = simulation.host(`client${i}`);
    const order = servers.map(({ host }) => host).sort(() => simulation.random() - 0.5);
    const client = simulatedClient(network, host, order, { onMessage() {}, onError() {} });
    const got: string[] = [];
    received.push(got);
    const news = client.subscribe("news", {
      onRecovery: ({ recovered }) => simulation.note(`recovered ${recovered}`, host.name),
    });
    (async () => {
      for await (const { data } of news) {
        got.push(String(data));
        simulation.note(`got ${data}`, host.name);
      }
    })().catch((error) => simulation.note(`ended ${error}`, host.name));
  }
  let count = 0;
  let isOver = false;
  const publish = () => {
    const alive = servers.filter(({ host }) => host.isAlive && !host.isFrozen);
    alive[Math.floor(simulation.random() * alive.length)]?.server.publish("news", ++count);
    if (!isOver) simulation.after(200, publish);
  };
  simulation.after(5_000, publish);
  const fault = () => {
    const server = servers[Math.floor(simulation.random() * servers.length)]!;
    const kind = Math.floor(simulation.random() * 3);
    if (kind === 0) {
      server.host.kill({ power: simulation.random() < 0.5 });
      simulation.after(3_000, () => server.restart());
    } else if (kind === 1) {
      server.host.freeze();
      simulation.after(4_000, () => server.host.thaw());
    } else {
      for (const link of network.links) {
        if (simulation.random() < 0.5) link.disconnect({ silent: simulation.random() < 0.5 });
      }
    }
    if (simulation.nowMs < seconds * 1_000) simulation.after(10_000, fault);
  };
  simulation.after(10_000, fault);
  await simulation.run(seconds * 1_000);
  isOver = true;
  await simulation.run(120_000); // The heartbeat detects a silent break.
  return {
    digest: simulation.digest,
    received,
    count,
    events: simulation.events,
    trace: simulation.trace,
  };
}

Deno.test("Simulation.run() is the same for each run of a seed, and different for another seed", async () => {
  const [first, again, other] = [await cluster(7, 60), await cluster(7, 60), await cluster(8, 60)];
  assertEquals(first.trace, again.trace);
  assertEquals(first.digest, again.digest);
  assertNotEquals(first.digest, other.digest);
  assert(first.count > 200);
  const all = Array.from({ length: first.count }, (_, i) => `${i + 1}`);
  for (const got of first.received) assertEquals(got, all.slice(all.indexOf(got[0]!)));
});

Deno.test("EventLoop.hold() stops virtual time until real work has settled, in the order of the calls", async () => {
  const simulation = new Simulation({ seed: 1 });
  const [a, b] = [simulation.host("a"), simulation.host("b")];
  const seen: string[] = [];
  const real = (ms: number) => new Promise<number>((resolve) => setTimeout(resolve, ms, ms));
  const note = (text: string) =>
    seen.push(`${simulation.current?.name} ${simulation.nowMs} ${text}`);
  a.after(5, () => {
    void simulation.hold(real(20)).then((ms) => note(`waited ${ms}`));
    void simulation.hold(real(1)).then((ms) => note(`waited ${ms}`));
    void simulation.hold(Promise.reject("rejected")).catch((error) => note(error));
  });
  b.after(5, () => note("runs"));
  b.after(6, () => note("runs"));
  await simulation.run(10);
  assertEquals(seen, [
    "b 5 runs",
    "a 5 waited 20",
    "a 5 waited 1",
    "a 5 rejected",
    "b 6 runs",
  ]);
});

Deno.test("EventLoop.hold() before run() is awaited in real time, and run() waits for it", async () => {
  const simulation = new Simulation({ seed: 1 });
  const seen: string[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  void simulation.hold(promise).then(() => seen.push("held"));
  simulation.after(1, () => seen.push("event"));
  const run = simulation.run(2);
  setTimeout(resolve, 10);
  await run;
  assertEquals(seen, ["held", "event"]);
  assertEquals(await simulation.hold(Promise.resolve(1)), 1);
});

Deno.test("EventLoop.hold() before run() returns the outcome of settled work as late as of other work", async () => {
  const seenWith = async (work: Promise<void>) => {
    const simulation = new Simulation({ seed: 1 });
    const seen: string[] = [];
    const part = async (name: string, held: Promise<void>) => {
      await simulation.hold(held);
      await simulation.sleep(1);
      seen.push(name);
    };
    void part("holds", work);
    // Takes more microtasks than settled work, but no real work.
    for (let i = 0; i < 9; i++) await Promise.resolve();
    void simulation.sleep(1).then(() => seen.push("goes on"));
    await simulation.run(2);
    return seen;
  };
  const slow = new Promise<void>((resolve) => setTimeout(resolve, 5));
  assertEquals(await seenWith(Promise.resolve()), ["goes on", "holds"]);
  assertEquals(await seenWith(slow), ["goes on", "holds"]);
});

Deno.test("EventLoop.hold() never settles for a host that is killed before", async () => {
  const simulation = new Simulation({ seed: 1 });
  const host = simulation.host("a");
  let settled = false;
  host.after(1, () => {
    simulation.after(0, () => host.kill());
    void simulation.hold(Promise.resolve()).then(() => settled = true);
  });
  await simulation.run(2);
  assertEquals(settled, false);
});

Deno.test("EventLoop.current names the host of each event", async () => {
  const simulation = new Simulation({ seed: 1 });
  const host = simulation.host("a");
  const seen: (string | undefined)[] = [];
  const look = () => seen.push(simulation.current?.name);
  host.after(1, () => Promise.resolve().then(look));
  simulation.after(2, look);
  await simulation.run(3);
  look();
  assertEquals(seen, ["a", undefined, undefined]);
});

Deno.test("EventLoop.run() rejects a concurrent run, and a program that never waits", async () => {
  const simulation = new Simulation({ seed: 1 });
  const host = simulation.host("spinning");
  const first = simulation.run(1);
  await assertRejects(() => simulation.run(1), TypeError, "received one that runs");
  await first;
  const spin = () => host.runtime.schedule(spin);
  host.after(1, spin);
  const error = await assertRejects(() => simulation.run(2), Error);
  assertEquals(
    error.message,
    "Cannot simulate: virtual time must pass, received 100001 events at 2 ms, the last one of host " +
      '"spinning"',
  );
});

Deno.test("EventLoop.digest depends on each event, but not on packets in the trace", async () => {
  const digestOf = async (trace: "facts" | "packets", atMs: number, name = "a") => {
    const simulation = new Simulation({ seed: 1, trace });
    const host = simulation.host(name);
    host.after(atMs, () => simulation.note("to b", "a", { kind: "packet", to: "b", lastsMs: 1 }));
    await simulation.run(10);
    assertEquals(simulation.trace.length, trace === "packets" ? 1 : 0);
    return simulation.digest;
  };
  assertEquals(await digestOf("facts", 1), await digestOf("packets", 1));
  assertNotEquals(await digestOf("facts", 1), await digestOf("facts", 2));
  assertNotEquals(await digestOf("facts", 1), await digestOf("facts", 1, "b"));
});

Deno.test("simulatedClient() asks a function for the host of each connection", async () => {
  const simulation = new Simulation({ seed: 1 });
  const network = new SimulatedNetwork(simulation);
  const [a, b] = ["a", "b"].map((name) =>
    new SimulatedServer(network, simulation.host(name), () => ({}))
  );
  const answers = [a!.host, b!.host];
  const client = simulatedClient(network, simulation.host("client"), () => answers.shift()!, {
    transports: ["websocket"],
    onMessage() {},
  });
  await simulation.run(1_000);
  assertEquals([a!.server.manager.count, b!.server.manager.count], [1, 0]);
  a!.host.kill();
  await simulation.run(5_000);
  assertEquals([client.isConnected, b!.server.manager.count], [true, 1]);
});
