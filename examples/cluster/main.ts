/**
 * Two nodes behind a balancer, on Redis or NATS. A room spans both nodes, and survives the loss of
 * either.
 *
 * ```sh
 * deno run -A examples/cluster/main.ts --redis    # then open http://localhost:8003
 * deno run -A examples/cluster/main.ts --nats
 * deno run -A examples/cluster/main.ts --redis redis://localhost:6379 --port 9003
 * deno run -A examples/cluster/main.ts --nats --once    # runs a scripted show, prints it, and ends
 * ```
 *
 * Without an address the program starts `redis-server` or `nats-server`. Open two pages. Then type
 * `kill 1`, `drain 1` or `start 1` in the terminal, or press the buttons in a page.
 *
 * @module
 */
import { Cluster } from "./cluster.ts";
import { type Verb, VERBS } from "./contract.ts";
import { serveControl } from "./control.ts";
import { type BrokerName, type BrokerServer, startBroker } from "./broker.ts";
import { ONCE, optionsOf, PORT } from "../shared/options.ts";
import { showOnce } from "./once.ts";

if (import.meta.main) {
  await main();
  Deno.exit(); // The signal listeners would keep the process running.
}

async function main(): Promise<void> {
  const { port, once, ...brokers } = optionsOf({
    run: "deno run -A examples/cluster/main.ts --redis",
    about: "Serves a room that spans two nodes on Redis or NATS.",
    args: withAddresses(Deno.args),
  }, {
    redis: {
      value: "[URL]",
      help: "connects the nodes through Redis; without an address it starts one",
    },
    nats: {
      value: "[HOST]",
      help: "connects the nodes through NATS; without an address it starts one",
    },
    port: { ...PORT, default: 8003 },
    once: ONCE,
  });
  await using broker = await brokerOf(brokers);
  await using cluster = await Cluster.start(broker, `http://localhost:${port}`);
  const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT"] : ["SIGINT", "SIGTERM"];
  async function end(): Promise<void> {
    // A second signal exits immediately.
    for (const signal of signals) Deno.removeSignalListener(signal, end);
    await cluster[Symbol.asyncDispose]();
    await broker[Symbol.asyncDispose]();
    Deno.exit(1);
  }
  for (const signal of signals) Deno.addSignalListener(signal, end);
  if (once) return await showOnce(cluster);
  await serveControl(cluster, port);
  console.log(`A room on two nodes at http://localhost:${port} (press Ctrl-C to stop)`);
  console.log("Commands: kill 1, drain 1, start 1, and the same with 2");
  await obey(cluster);
  // Standard input has ended. The buttons in the pages still work.
  await new Promise(() => {});
}

/** Runs the typed commands. */
async function obey(cluster: Cluster): Promise<void> {
  for await (const line of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const [verb, number] = line.trim().split(/\s+/);
    if (VERBS.includes(verb as Verb)) void cluster.do(verb as Verb, Number(number));
    else if (verb !== "") console.log("Type kill 1, drain 1 or start 1");
  }
}

async function brokerOf(
  brokers: Readonly<Record<BrokerName, string | undefined>>,
): Promise<BrokerServer> {
  for (const name of ["redis", "nats"] satisfies BrokerName[]) {
    const url = brokers[name];
    if (url === undefined) continue;
    if (url === "") return await startBroker(name);
    return { name, url, [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  console.error("Pass --redis or --nats, and optionally the address of a running server");
  return Deno.exit(2);
}

/** Adds an empty address to a broker option without one. */
function withAddresses(args: readonly string[]): string[] {
  return args.map((arg, i) => {
    const hasValue = args[i + 1]?.startsWith("--") === false;
    return /^--(redis|nats)$/.test(arg) && !hasValue ? `${arg}=` : arg;
  });
}
