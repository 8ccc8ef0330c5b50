/**
 * The broker that connects the nodes: Redis or NATS, already running or started by the example.
 *
 * In your own project, write `jsr:@skein/skein/redis` and `/nats` in place of the paths.
 *
 * @module
 */
import type { Broker } from "../../mod.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";

/** Maximum time until a broker has started, in milliseconds. */
const PATIENCE_MS = 30_000;

export type BrokerName = "redis" | "nats";

/** A broker. If the example started it, it stops with the example. */
export interface BrokerServer extends AsyncDisposable {
  readonly name: BrokerName;
  readonly url: string;
}

/** Creates the broker of a node. */
export function brokerFor(name: BrokerName, url: string): Broker {
  return name === "redis" ? new RedisBroker({ url }) : new NatsBroker({ servers: url });
}

/** Starts `redis-server` or `nats-server` on a free port, in a temporary folder. */
export async function startBroker(name: BrokerName): Promise<BrokerServer> {
  const port = freePort();
  const folder = await Deno.makeTempDir({ prefix: `skein-${name}-` });
  const process = spawn(...commandFor(name, port, folder));
  await untilListening(port);
  return {
    name,
    url: name === "redis" ? `redis://127.0.0.1:${port}` : `127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      process.kill("SIGKILL");
      await process.status;
      await Deno.remove(folder, { recursive: true });
    },
  };
}

export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

function commandFor(
  name: BrokerName,
  port: number,
  folder: string,
): [program: string, args: string[]] {
  if (name === "nats") {
    return ["nats-server", ["-a", "127.0.0.1", "-p", `${port}`, "-js", "-sd", folder]];
  }
  const settings = { port, bind: "127.0.0.1", dir: folder, save: "", appendonly: "no" };
  const args = Object.entries(settings).flatMap(([key, value]) => [`--${key}`, `${value}`]);
  return ["redis-server", args];
}

function spawn(program: string, args: string[]): Deno.ChildProcess {
  try {
    return new Deno.Command(program, { args, stdin: "null", stdout: "null", stderr: "null" })
      .spawn();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.error(
      `Cannot start ${program}: the program is not installed. Install it, ` +
        "or pass the address of a running one: --redis redis://HOST:PORT, or --nats HOST:PORT",
    );
    return Deno.exit(1);
  }
}

async function untilListening(port: number): Promise<void> {
  const end = Date.now() + PATIENCE_MS;
  while (true) {
    try {
      return (await Deno.connect({ hostname: "127.0.0.1", port })).close();
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
