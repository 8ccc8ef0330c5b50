import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { installGlobals } from "./globals.ts";
import { Simulation } from "./simulation.ts";

const START_MS = Date.UTC(2030, 0, 1);

Deno.test("installGlobals() gives each host its own clock, and restores the former globals", async () => {
  const { Date: RealDate, setTimeout: realTimeout } = globalThis;
  const simulation = new Simulation({ seed: 1 });
  const late = simulation.host("late", { offsetMs: -5_000 });
  const seen: unknown[] = [];
  {
    using _globals = installGlobals(simulation);
    late.after(1_000, () => {
      seen.push(Date.now(), new Date().getTime(), new Date(7).getTime(), performance.now());
      seen.push(Temporal.Now.instant().epochMilliseconds, Deno.hostname());
      seen.push(new Date() instanceof Date, Date.UTC(1970), performance.timeOrigin);
    });
    simulation.after(1_000, () => seen.push(Date.now()));
    await simulation.run(2_000);
  }
  const shown = START_MS - 4_000;
  assertEquals(seen, [
    ...[shown, shown, 7, 1_000, shown, "late", true, 0, START_MS - 5_000],
    START_MS + 1_000,
  ]);
  assertEquals(Date, RealDate);
  assertEquals(setTimeout, realTimeout);
  assert(Date.now() < START_MS);
});

Deno.test("installGlobals() runs timers in virtual time, on the host that started them", async () => {
  const simulation = new Simulation({ seed: 1 });
  const [a, b] = [simulation.host("a"), simulation.host("b")];
  const seen: string[] = [];
  const note = (text: string) =>
    seen.push(`${simulation.nowMs} ${simulation.current?.name} ${text}`);
  using _globals = installGlobals(simulation);
  a.after(0, () => {
    setTimeout(note, 10, "timeout");
    const interval = setInterval(() => note("interval"), 20);
    setTimeout(() => clearInterval(interval), 50);
    clearTimeout(setTimeout(note, 5, "never"));
    clearTimeout(+setTimeout(note, 5, "never, by its number"));
    const immediate = setImmediate(note, "never");
    clearImmediate(immediate);
    setImmediate(note, "immediate");
    queueMicrotask(() => note("microtask"));
    AbortSignal.timeout(30).onabort = ({ target }) => note((target as AbortSignal).reason.name);
  });
  b.after(0, () => void setTimeout(note, 10, "killed"));
  simulation.after(5, () => b.kill());
  await simulation.run(1_000);
  assertEquals(seen, [
    "0 a microtask",
    "0 a immediate",
    "10 a timeout",
    "20 a interval",
    "30 a TimeoutError",
    "40 a interval",
  ]);
});

Deno.test("installGlobals() draws all randomness from the seed", async () => {
  const draw = async (seed: number) => {
    const simulation = new Simulation({ seed });
    const drawn: unknown[] = [];
    using _globals = installGlobals(simulation);
    for (const name of ["a", "b"]) {
      simulation.host(name).after(1, () => {
        drawn.push(Math.random(), crypto.randomUUID());
        drawn.push([...crypto.getRandomValues(new Uint16Array(4))]);
      });
    }
    await simulation.run(2);
    return drawn;
  };
  const [first, again, other] = [await draw(1), await draw(1), await draw(2)];
  assertEquals(first, again);
  assertEquals(new Set([...first, ...other].map(String)).size, 12);
});

Deno.test("installGlobals() holds virtual time for crypto.subtle and for files", async () => {
  const digestOf = async () => {
    const simulation = new Simulation({ seed: 1 });
    using _globals = installGlobals(simulation);
    const bytes = new Uint8Array(100_000);
    for (const name of ["a", "b", "c"]) {
      simulation.host(name).after(1, async () => {
        const hash = await crypto.subtle.digest("SHA-256", bytes);
        simulation.note(`${new Uint8Array(hash)[0]}`, simulation.current?.name);
        await Deno.readTextFile(new URL(import.meta.url));
        simulation.note("read", simulation.current?.name);
      });
    }
    await simulation.run(2);
    assertEquals(simulation.trace.map(({ atMs, host }) => [atMs, host]), [
      ...["a", "b", "c"].map((host) => [1, host]),
      ...["a", "b", "c"].map((host) => [1, host]),
    ]);
    return simulation.digest;
  };
  assertEquals(await digestOf(), await digestOf());
});

Deno.test("installGlobals() holds virtual time once for work that its caller also holds", async () => {
  const simulation = new Simulation({ seed: 1 });
  using _globals = installGlobals(simulation);
  const { runtime } = simulation.host("a");
  let length = 0;
  simulation.after(1, async () => {
    const digest = crypto.subtle.digest("SHA-256", new Uint8Array(9));
    length = (await runtime.hold!(digest)).byteLength;
  }, simulation.hosts.get("a"));
  await simulation.run(2);
  assertEquals(length, 32);
});

Deno.test("installGlobals() rejects by name what leaves the simulation", () => {
  using _globals = installGlobals(new Simulation({ seed: 1 }));
  for (
    const [name, call] of Object.entries({
      "Deno.serve": () => Deno.serve(() => new Response()),
      "Deno.connect": () => Deno.connect({ port: 1 }),
      "Deno.open": () => Deno.open("file"),
      "Deno.Command": () => new Deno.Command("ls"),
      "fetch": () => fetch("http://a/"),
      "WebSocket": () => new WebSocket("ws://a/"),
      "Worker": () => new Worker("data:,", { type: "module" }),
      "MessageChannel": () => new MessageChannel(),
      "Atomics.waitAsync": () => Atomics.waitAsync(new Int32Array(1), 0, 0),
      "crypto.subtle.generateKey() with ECDSA": () =>
        crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign"]),
    })
  ) {
    const error = assertThrows(() => void call(), TypeError);
    assert(error.message.startsWith("Cannot simulate: "), error.message);
    assert(error.message.includes(`received ${name};`), error.message);
  }
});

Deno.test("installGlobals() accepts the globals of a simulated network", async () => {
  const simulation = new Simulation({ seed: 1 });
  {
    using _globals = installGlobals(simulation, {
      fetch: () => Promise.resolve(new Response("simulated")),
    });
    assertEquals(await (await fetch("http://a/")).text(), "simulated");
  }
  assertNotEquals(fetch.name, "");
});
