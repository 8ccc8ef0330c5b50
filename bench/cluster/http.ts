/**
 * Compares the cost of a message over HTTP and over WebSocket, on two nodes connected by Redis.
 * Also measures how long it takes a client to receive publications again after its node was killed.
 *
 * ```sh
 * deno run -A tools/launch.ts run -A --unstable-net bench/cluster/http.ts --runs 3
 * ```
 *
 * CPU time is the total of both nodes and the broker. It does not include the proxy, which runs in
 * the generator's process.
 * @module
 */
import { type Client, connect } from "../../client.ts";
import { Balancer } from "../../examples/cluster/balancer.ts";
import { BROKERS, ProcessSite } from "../../tests/brokers/http_nodes.ts";
import { until } from "../../tests/waiting.ts";
import { argument, numberArgument } from "../args.ts";
import { Histogram } from "../../cli/load/histogram.ts";
import { Meter, nowUs } from "../meter.ts";

/** Number of clients. */
const CLIENTS = 50;

/** Publications per run, at a hundred per second. */
const PUBLICATIONS = 400;

/** Interval of publications, in milliseconds. */
const EVERY_MS = 10;

/** Duration of a run of requests, in milliseconds. */
const REQUESTS_MS = 4_000;

/** How a client reaches the nodes: its URL and transport. */
type Reach = (site: ProcessSite, index: number) => [url: string, transport: "websocket" | "http"];

const direct = ({ nodes }: ProcessSite, i: number) =>
  `ws://127.0.0.1:${nodes[i % nodes.length]!.port}/`;

const SETUPS: Readonly<Record<string, Reach>> = {
  "WebSocket": (site, i) => [direct(site, i), "websocket"],
  "HTTP, all requests at one node": (site, i) => [direct(site, i), "http"],
  "HTTP, nodes by turns": ({ proxy }) => [proxy.url.replace("http", "ws"), "http"],
};

const runs = numberArgument(Deno.args, "runs", 3);
const work = argument(Deno.args, "work")?.split(",") ?? ["down", "requests", "recovery"];
const results = new Map<string, string[]>();

for (let run = 0; run < runs; run++) {
  await using site = await ProcessSite.open(await BROKERS.redis![1](), { holds: "nothing" });
  for (const [name, reach] of Object.entries(SETUPS)) {
    if (work.includes("down")) note(`${name}: down`, await measureDown(site, reach));
    if (work.includes("requests")) note(`${name}: requests`, await measureRequests(site, reach));
  }
  if (!work.includes("recovery")) continue;
  await using balancer = new Balancer(0, site.nodes.map(({ port }) => port));
  const balanced: Reach = () => [`ws://127.0.0.1:${balancer.port}/`, "websocket"];
  const use = () => balancer.use(site.nodes.map(({ port }) => port));
  note("WebSocket: recovery", await measureRecovery(site, balanced, use));
  note(
    "HTTP, nodes by turns: recovery",
    await measureRecovery(site, SETUPS["HTTP, nodes by turns"]!),
  );
}
for (const [name, all] of results) {
  // deno-lint-ignore no-console
  console.log([name, ...all].join("\n  "));
}

function note(name: string, result: string): void {
  results.set(name, [...results.get(name) ?? [], result]);
}

function clientOf(site: ProcessSite, reach: Reach, index: number): Client {
  const [url, transport] = reach(site, index);
  return connect(url, {
    transports: [transport],
    backoff: { firstDelayMs: 50, maxDelayMs: 500 },
    delivery: "at-least-once",
  });
}

/** Measures publications to all clients. */
async function measureDown(site: ProcessSite, reach: Reach): Promise<string> {
  const clients = Array.from({ length: CLIENTS }, (_, i) => clientOf(site, reach, i));
  const latencies = new Histogram();
  await Promise.all(clients.map(async (client) => {
    const subscription = client.subscribe("room:said");
    await subscription.ready;
    void (async () => {
      for await (const { data } of subscription) latencies.add(nowUs() - Number(data));
    })();
  }));
  const speaker = connect(direct(site, 0), { transports: ["websocket"] });
  await speaker.whenConnected();
  const meter = await Meter.begin(...site.pids);
  for (let i = 0; i < PUBLICATIONS; i++) {
    speaker.send("say", nowUs());
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
  await until(() => latencies.count === PUBLICATIONS * CLIENTS);
  const { cpuUs } = await meter.end(latencies.count);
  await Promise.all([speaker, ...clients].map((client) => client.close()));
  return figures(cpuUs, latencies);
}

/** Measures requests of all clients, one at a time each. */
async function measureRequests(site: ProcessSite, reach: Reach): Promise<string> {
  const clients = Array.from({ length: CLIENTS }, (_, i) => clientOf(site, reach, i));
  const latencies = new Histogram();
  await Promise.all(clients.map((client) => client.whenConnected()));
  const meter = await Meter.begin(...site.pids);
  const end = performance.now() + REQUESTS_MS;
  await Promise.all(clients.map(async (client) => {
    while (performance.now() < end) {
      const startUs = nowUs();
      await client.request("where");
      latencies.add(nowUs() - startUs);
    }
  }));
  const { cpuUs, perSecond } = await meter.end(latencies.count);
  await Promise.all(clients.map((client) => client.close()));
  return `${Math.round(perSecond)} a second, ${figures(cpuUs, latencies)}`;
}

/**
 * Measures the time from the end of a client's node to the first publication that the client
 * receives.
 */
async function measureRecovery(
  site: ProcessSite,
  reach: Reach,
  onRestart: () => void = () => {},
): Promise<string> {
  await using client = clientOf(site, reach, 0);
  const heard: number[] = [];
  let firstAt = 0;
  let said = 0;
  let atKill = Infinity;
  const subscription = client.subscribe("room:said", { last: 0 });
  await subscription.ready;
  void (async () => {
    for await (const { data } of subscription) {
      heard.push(Number(data));
      if (Number(data) >= atKill && firstAt === 0) firstAt = performance.now();
    }
  })();
  const place = await client.request("where");
  const ids = await Promise.all(site.nodes.map(async (_, i) => {
    await using asking = connect(direct(site, i), { transports: ["websocket"] });
    return await asking.request("where");
  }));
  const node = ids.indexOf(place);
  const speaker = connect(direct(site, 1 - node), { transports: ["websocket"] });
  await speaker.whenConnected();
  const speak = setInterval(() => speaker.send("say", said++), EVERY_MS);
  await until(() => heard.length > 50);
  atKill = said;
  const killedAt = performance.now();
  const killing = site.kill(node);
  await until(() => firstAt > 0);
  await killing;
  onRestart();
  clearInterval(speak);
  await until(() => heard.at(-1) === said - 1);
  await speaker.close();
  const gaps = heard.filter((number, i) => i > 0 && number !== heard[i - 1]! + 1).length;
  return `${Math.round(firstAt - killedAt)} ms, ${gaps} gaps or repetitions of ${heard.length}`;
}

function figures(cpuUs: number | undefined, latencies: Histogram): string {
  const [p50, p99] = [latencies.quantileMs(0.5), latencies.quantileMs(0.99)];
  return `${cpuUs?.toFixed(1)} µs of CPU each, ${p50.toFixed(1)} ms (p99 ${p99.toFixed(1)})`;
}
