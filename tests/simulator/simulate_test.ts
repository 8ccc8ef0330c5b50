import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { TimeoutError } from "../../errors.ts";
import { simulate } from "./simulate.ts";
import { timeline } from "./timeline.ts";

const HEAD = `
  import { SimulatedServer, simulatedClient } from "${import.meta.resolve("./programs.ts")}";
`;

/** Creates the URL of a module from its text. */
function moduleOf(text: string): string {
  return `data:text/typescript,${encodeURIComponent(HEAD + text)}`;
}

/** A server and clients whose code uses global clocks and randomness. */
const CLUSTER = moduleOf(`
  export default async function ({ simulation, network }) {
    const hosts = ["a", "b"].map((name) => simulation.host(name));
    const servers = hosts.map((host) => new SimulatedServer(network, host, () => ({
      authorize: () => true,
      requests: { draw: () => [Date.now(), Math.random(), crypto.randomUUID()] },
    })));
    for (const name of ["x", "y", "z"]) {
      const host = simulation.host(name);
      const client = simulatedClient(network, host, hosts);
      host.after(0, async () => {
        for (;;) {
          await new Promise((resolve) => setTimeout(resolve, 1_000 * Math.random()));
          const drawn = await client.request("draw").catch(String);
          const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(drawn));
          simulation.note(drawn + new Uint8Array(hash)[0], name);
        }
      });
    }
    await simulation.run(10_000);
    hosts[0].kill();
    await simulation.run(20_000);
  }
`);

Deno.test("simulate() runs a program whose clocks, timers and randomness come from the seed", async () => {
  const options = { network: { delayMs: 5, jitterMs: 20, lossRate: 0.05 } };
  const [first, again, other] = await Promise.all(
    [1, 1, 2].map((seed) => simulate(CLUSTER, { ...options, seed })),
  );
  assertEquals(first!.findings, [], timeline(first!.trace));
  assertEquals(first!.trace, again!.trace);
  assertEquals(first!.digest, again!.digest);
  assertNotEquals(first!.digest, other!.digest);
  assertEquals(first!.simulatedMs, 30_000);
  assert(first!.trace.some(({ host, text }) => host === "x" && text.startsWith("18934560")));
});

Deno.test("simulate() produces the same digest in another process", async () => {
  const script = `
    import { simulate } from ${JSON.stringify(import.meta.resolve("./simulate.ts"))};
    console.log((await simulate(${JSON.stringify(CLUSTER)}, { seed: 9 })).digest);
  `;
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-check", "--ext=ts", script],
    stderr: "inherit",
  }).output();
  const { digest } = await simulate(CLUSTER, { seed: 9 });
  assertEquals(new TextDecoder().decode(stdout).trim(), digest);
});

Deno.test("simulate() produces the same digest with more turns of the process", async () => {
  const [one, four] = await Promise.all(
    [1, 4].map((turns) => simulate(CLUSTER, { seed: 3, turns })),
  );
  assertEquals(one!.digest, four!.digest);
});

Deno.test("simulate() finds uncaught errors and unhandled rejections", async () => {
  const { findings } = await simulate(
    moduleOf(`
      export default async function ({ simulation }) {
        const [a, b, c] = ["a", "b", "c"].map((name) => simulation.host(name));
        a.after(10, () => void Promise.reject(new Error("a rejection")));
        b.after(20, () => reportError(new Error("an error")));
        c.after(30, () => simulation.note("a broken promise", "c", { kind: "finding" }));
        c.after(40, () => setTimeout(() => { throw new Error("a timer"); }, 5));
        await simulation.run(100);
      }
    `),
    { seed: 1 },
  );
  assertEquals(findings.map(({ atMs, host, text }) => [atMs, host, text]), [
    [10, "a", "does not handle a rejection: Error: a rejection"],
    [20, "b", "does not catch an error: Error: an error"],
    [30, "c", "a broken promise"],
    [45, "c", "throws Error: a timer"],
  ]);
  assert(findings[0]!.more?.includes("at "));
});

Deno.test("simulate() provides fetch and WebSocket to programs on its hosts", async () => {
  const { findings, trace } = await simulate(
    moduleOf(`
      export default async function ({ simulation, network }) {
        const [server, client] = [simulation.host("server"), simulation.host("client")];
        new SimulatedServer(network, server, () => ({
          fetch: (request) => new Response("hello to " + new URL(request.url).pathname),
          onMessage: ({ data }, session) => session.send("echo", data),
        }));
        client.after(0, async () => {
          const response = await fetch("https://server/page");
          simulation.note(await response.text(), "client");
          const socket = new WebSocket("wss://server/?protocol=skein.1");
          socket.onopen = () => socket.send(JSON.stringify({ topic: "say", data: 1 }));
          socket.onmessage = ({ data }) => simulation.note(Object.keys(JSON.parse(data))[0], "client");
        });
        await simulation.run(5_000);
        await fetch("https://server/page");
      }
    `),
    { seed: 1 },
  );
  assertEquals(
    trace.filter(({ host, kind }) => host === "client" && kind === undefined).map(({ text }) =>
      text
    ),
    ["hello to /page", "topic"],
  );
  assertEquals(findings.map(({ text }) => text), [
    "ends with TypeError: Cannot fetch: the call must be in an event of a host, received one of " +
    "the scenario",
  ]);
});

Deno.test("simulate() rejects by name what leaves the simulation", async () => {
  for (
    const [call, name] of [["Deno.serve(() => {})", "Deno.serve"], [
      "new Worker('data:,')",
      "Worker",
    ]]
  ) {
    const { findings } = await simulate(
      moduleOf(`export default async () => { await ${call}; }`),
      { seed: 1 },
    );
    assert(findings[0]!.text.includes(`received ${name};`), findings[0]!.text);
  }
});

Deno.test("simulate() rejects a module that does not load, or has no function", async () => {
  for (
    const [text, received] of [
      ["throw new Error('broken')", 'must load, received "broken"'],
      ["export default 1", "must be a function, received number"],
    ]
  ) {
    const error = await assertRejects(() => simulate(moduleOf(text!), { seed: 1 }), TypeError);
    assert(error.message.endsWith(received!), error.message);
  }
  const bad = () => simulate(moduleOf(""), { seed: 0.5 });
  await assertRejects(bad, RangeError, "Cannot simulate: seed must be an integer, received 0.5");
});

Deno.test("simulate() terminates a thread by time limit and by signal", async () => {
  const endless = moduleOf("export default () => { for (;;); }");
  const late = () => simulate(endless, { seed: 1, timeoutMs: 500 });
  await assertRejects(late, TimeoutError, "an event may never end");
  const controller = new AbortController();
  const aborted = simulate(endless, { seed: 1, signal: controller.signal });
  controller.abort(new Error("enough"));
  await assertRejects(() => aborted, Error, "enough");
});
