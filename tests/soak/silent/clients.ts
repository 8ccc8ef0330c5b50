/**
 * Clients of the soak test of silent servers. Usage: `clients.ts <url> <transport> <clients> <busy
 * clients>`. All clients subscribe to a topic, and the busy clients send one request after the
 * other. The process prints `{}` when all clients are connected. The command `report` on standard
 * input prints the events since then.
 *
 * @module
 */
import { type Client, connect, type TransportName } from "../../../mod.ts";
import { TextLineStream } from "../processes/lines.ts";

export interface SilentClientsReport {
  /** Sessions that closed for any reason. */
  readonly ended: number;
  /** Number of clients that opened another connection during their session. */
  readonly dialed: number;
  /** Number of clients that have a session. */
  readonly connected: number;
  /** Number of requests that received their reply. */
  readonly replies: number;
  /** Number of requests that failed. */
  readonly failures: number;
}

/** Number of clients that connect at the same time. */
const GROUP = 50;

const [url, transport, count, busy] = Deno.args;
const total = Number(count);
const clients: Client[] = [];
const dials = new Map<number, number>();
let [ended, replies, failures] = [0, 0, 0];
let isOver = false;

function begin(index: number): Client {
  const client = connect(url!, {
    transports: [transport as TransportName],
    instrumentation: {
      handshake: () => void dials.set(index, (dials.get(index) ?? 0) + 1),
      sessionClosed: () => void ended++,
    },
  });
  client.status.subscribe(() => {});
  return client;
}

async function work(client: Client): Promise<void> {
  while (!isOver) {
    try {
      await client.request("work", null);
      replies++;
    } catch {
      failures++;
    }
  }
}

while (clients.length < total) {
  const first = clients.length;
  const group = Array.from({ length: Math.min(GROUP, total - first) }, (_, i) => begin(first + i));
  clients.push(...group);
  await Promise.all(group.map(async (client) => {
    await client.whenConnected({ timeoutMs: 60_000 });
    await client.subscribe("news").ready;
  }));
}
for (const client of clients.slice(0, Number(busy))) void work(client);
console.log("{}");
const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  .pipeThrough(new TextLineStream());
for await (const _ of lines) {
  const report: SilentClientsReport = {
    ended,
    dialed: [...dials.values()].filter((count) => count > 1).length,
    connected: clients.filter(({ isConnected }) => isConnected).length,
    replies,
    failures,
  };
  console.log(JSON.stringify(report));
}
isOver = true;
await Promise.all(clients.map((client) => client.close()));
Deno.exit(0);
