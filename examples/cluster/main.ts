/**
 * Two nodes behind a balancer, on Redis or on NATS: a room that spans both, and outlives either.
 *
 * ```sh
 * deno run -A examples/cluster/main.ts --redis    # then open http://localhost:8003
 * deno run -A examples/cluster/main.ts --nats
 * deno run -A examples/cluster/main.ts --redis redis://localhost:6379 --port 9003
 * deno run -A examples/cluster/main.ts --nats --once    # shows itself, prints that, and ends
 * ```
 *
 * Without an address it starts `redis-server` or `nats-server`. Open two pages; then say `kill 1`,
 * `drain 1` or `start 1` here, or press the buttons there.
 *
 * @module
 */
import { Cluster } from "./cluster.ts";
import { type Verb, VERBS } from "./contract.ts";
import { serveControl } from "./control.ts";
import { type Engine, type EngineName, startEngine } from "./engine.ts";
import { showOnce } from "./once.ts";

if (import.meta.main) {
  await main(Deno.args);
  Deno.exit(); // What listens for signals would go on.
}

async function main(args: readonly string[]): Promise<void> {
  const port = Number(valueOf(args, "--port") ?? 8003);
  await using engine = await engineOf(args);
  await using cluster = await Cluster.start(engine, `http://localhost:${port}`);
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    if (Deno.build.os === "windows" && signal === "SIGTERM") continue;
    Deno.addSignalListener(signal, async () => {
      await cluster[Symbol.asyncDispose]();
      await engine[Symbol.asyncDispose]();
      Deno.exit(1);
    });
  }
  if (args.includes("--once")) return await showOnce(cluster);
  await serveControl(cluster, port);
  console.log(`A room on two nodes at http://localhost:${port} (Ctrl-C ends it)`);
  console.log("kill 1, drain 1 and start 1 do that, with 2 as well");
  await obey(cluster);
  // Nobody types any more; pages still have their buttons.
  await new Promise(() => {});
}

/** Does what is typed. */
async function obey(cluster: Cluster): Promise<void> {
  for await (const line of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const [verb, number] = line.trim().split(/\s+/);
    if (VERBS.includes(verb as Verb)) void cluster.do(verb as Verb, Number(number));
    else if (verb !== "") console.log("Say kill 1, drain 1 or start 1");
  }
}

async function engineOf(args: readonly string[]): Promise<Engine> {
  for (const name of ["redis", "nats"] satisfies EngineName[]) {
    if (!args.includes(`--${name}`)) continue;
    const url = valueOf(args, `--${name}`);
    if (url === undefined) return await startEngine(name);
    return { name, url, [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  console.error("Say --redis or --nats; the address of one that runs may follow");
  return Deno.exit(2);
}

/** What follows an argument, unless that is another one. */
function valueOf(args: readonly string[], name: string): string | undefined {
  const at = args.indexOf(name);
  const value = at < 0 ? undefined : args[at + 1];
  return value?.startsWith("--") ? undefined : value;
}
