/**
 * Servers and clients with all features get time, randomness and turns only from their simulation.
 */
import { assertEquals } from "@std/assert";
import { z } from "zod";
import { Traps } from "../globals/traps.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { defineContract } from "../../session/contract.ts";
import type { Host } from "./host.ts";
import { SimulatedNetwork } from "./network/network.ts";
import { simulatedClient, SimulatedServer } from "./programs.ts";
import { Simulation } from "./simulation.ts";
import { inspector, metrics } from "../../operations/mod.ts";
import { httpApi } from "../../operations/http_api/mod.ts";
import { streamFeatures } from "../stream_features.ts";
import { resumable } from "../../streams/mod.ts";

const contract = defineContract({
  requests: {
    double: { input: z.number(), output: z.number() },
    count: { input: z.number(), stream: z.number() },
    kept: { input: z.number(), stream: z.number(), resume: true },
  },
  toClient: { "news": z.unknown(), "room:{name}": z.unknown() },
  toServer: { news: z.string() },
  presence: { "room:{name}": z.string() },
});

async function* range({ data: end }: { readonly data: number }): AsyncGenerator<number> {
  for (let i = 0; i < end; i++) yield await i;
}

/** Runs servers and clients with all features; returns the simulation at its end. */
async function everything(turns: number): Promise<Simulation> {
  const simulation = new Simulation({ seed: 5, turns });
  const network = new SimulatedNetwork(simulation, { delayMs: 2, jitterMs: 3 });
  const broker = new MemoryBroker({ runtime: simulation.host("broker").runtime });
  const servers = ["a", "b"].map((name) =>
    new SimulatedServer(network, simulation.host(name), () => ({
      contract,
      broker,
      authorize: () => true,
      authenticate: ({ token = "guest" }) => token,
      tokens: { inMessage: true },
      userOf: (user: string) => user,
      rooms: ["room:{name}"],
      history: { "news": { size: 100, ttlMs: 60_000 } },
      requests: {
        double: ({ data }) => data * 2,
        count: range,
        kept: { resumable, handle: range },
      },
      features: [
        ...streamFeatures({ path: "/streams", authorize: () => true }),
        httpApi({ path: "/api", authorize: () => true }),
        inspector({ path: "/inspector", authorize: () => true }),
        metrics({ allow: "everybody" }),
      ],
      limits: { maxSessionsPerUser: 2 },
      onError: (error) => simulation.note(`error ${error}`, name),
    }))
  );
  const work = (host: Host, name: string, run: () => Promise<unknown>, atMs = 1_000) => {
    host.after(atMs, () => {
      run().then(
        (result) => simulation.note(`${name}: ${JSON.stringify(result)}`, host.name),
        (error) => simulation.note(`${name} failed: ${error}`, host.name),
      );
    });
  };
  const clients = ["x", "y"].map((name) => {
    const host = simulation.host(name);
    const client = simulatedClient(network, host, servers.map(({ host }) => host), {
      contract,
      token: name,
      delivery: "at-least-once",
    });
    const news = client.subscribe("news");
    work(host, "news", async () => {
      for await (const { data } of news) return data;
      return undefined;
    });
    work(host, "publish", () => client.publish("news", `from ${name}`));
    work(host, "request", () => client.request("double", 4));
    work(host, "answer", () => Array.fromAsync(client.requestStream("count", 3)));
    work(host, "kept answer", () => Array.fromAsync(client.requestStream("kept", 3)));
    work(host, "health", async () => (await client.whenConnected()).transport);
    void client.subscribe("room:one");
    work(host, "presence", () => client.presence("room:one", name));
    return client;
  });
  for (const { host, server } of servers) {
    const ask = (method: string, path: string, body?: string, headers: HeadersInit = {}) => {
      const send = async () => {
        const url = `http://${host.name}${path}`;
        const init = { method, headers, body };
        const remoteAddr = { transport: "tcp", hostname: "127.0.0.1", port: 1 } as const;
        const response = await server.fetch(new Request(url, init), { remoteAddr });
        return [response.status, (await response.text()).length];
      };
      // A stream is read after it was created.
      work(
        host,
        `${method} ${path}`,
        send,
        path.startsWith("/streams/") && body === undefined ? 2_000 : 1_000,
      );
    };
    const json = { "content-type": "application/json", "idempotency-key": "one" };
    ask("POST", "/api/topics/news/publications", '{"data":1}', json);
    ask("GET", "/api/topics/news/history");
    ask("GET", "/api/openapi.json");
    ask("GET", "/inspector/");
    ask("GET", "/metrics");
    ask("GET", "/healthz");
    ask("PUT", `/streams/${host.name}`, "text", { "content-type": "text/plain" });
    ask("GET", `/streams/${host.name}`);
  }
  await simulation.run(30_000);
  for (const client of clients) void client.close();
  for (const { server } of servers) void server.drain();
  await simulation.run(60_000);
  return simulation;
}

Deno.test("Servers and clients use no globals for time and randomness", async () => {
  const { trace } = await everything(1); // Loads all modules, which may read a clock.
  const failed = trace.filter(({ text }) => /fail|error|\[[45]/.test(text));
  assertEquals(failed, []);
  using traps = new Traps();
  await everything(1);
  assertEquals(traps.uses, []);
});

Deno.test("Servers and clients need one turn of the process after each event", async () => {
  const [one, four] = [await everything(1), await everything(4)];
  assertEquals(one.trace, four.trace);
  assertEquals(one.digest, four.digest);
});
