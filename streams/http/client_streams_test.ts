/** Streams that clients create over HTTP, and their shares, in memory and on SQLite. */
import { assertEquals, assertRejects } from "@std/assert";
import { NOBODY } from "../../base/quotas/accounts.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { LimitError } from "../../errors.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { StreamLogs } from "../logs/stream_logs.ts";
import { DurableStreamsHandler, type DurableStreamsHandlerOptions } from "./handler.ts";
import { ClientStreams } from "./client_streams.ts";
import { boundsOf, streamSettings } from "../options.ts";

/** Most streams of the tests. */
const MAX = 20;

/** A handler that reads the address and caller of a request from headers. */
class Node implements AsyncDisposable {
  readonly handler: DurableStreamsHandler;
  /** Details of responses with 413 and 429. */
  readonly rejections: string[] = [];

  constructor(broker: Broker, options: Partial<DurableStreamsHandlerOptions> = {}) {
    this.handler = new DurableStreamsHandler({
      broker,
      path: "/streams",
      maxStreams: MAX,
      clientAddress: ({ headers }) => headers.get("x-address") ?? undefined,
      authorize: ({ request }) => {
        const caller = request.headers.get("x-caller");
        return caller === null ? true : { caller };
      },
      ...options,
    });
  }

  async send(
    method: string,
    id: string,
    headers: Record<string, string>,
    body: string | null = null,
  ): Promise<number> {
    const request = new Request(`http://localhost/streams/${id}`, { method, headers, body });
    const response = await this.handler.fetch(request);
    const text = await response.text();
    if ([413, 429].includes(response.status)) this.rejections.push(JSON.parse(text).detail);
    return response.status;
  }

  /** Creates streams until one is rejected; returns their number. */
  async fill(name: string, headers: Record<string, string>, most = Infinity): Promise<number> {
    for (let i = 0; i < most; i++) {
      const status = await this.send("PUT", `${name}-${i}`, headers);
      if (status !== 201) return i;
    }
    return most;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handler.close();
  }
}

const EVE = { "x-address": "203.0.113.66" };

const ANN = { "x-address": "192.0.2.7" };

/**
 * One address uses its whole share; another one creates streams on another node, and none is lost.
 */
async function assertShares(near: Node, far: Node): Promise<void> {
  assertEquals(await near.fill("eve", EVE), MAX / 2);
  assertEquals(near.rejections, [
    "Cannot create: your address may have at most 10 streams while the server is busy",
  ]);
  // The other node counts the same, from its first created stream.
  assertEquals(await far.fill("ann", ANN, 3), 3);
  assertEquals(await far.send("PUT", "eve-more", EVE), 429);
  // A repeated creation uses no slot, and a deletion releases one.
  assertEquals(await near.send("PUT", "eve-0", EVE), 200);
  assertEquals(await near.send("DELETE", "eve-0", EVE), 204);
  assertEquals(await near.send("PUT", "eve-more", EVE), 201);
  assertEquals(await near.send("PUT", "eve-again", EVE), 429);
}

Deno.test("PUT creates streams for an address while another one has used its share, in memory", async () => {
  await using broker = new MemoryBroker();
  await using near = new Node(broker);
  await using far = new Node(broker);
  await assertShares(near, far);
});

Deno.test("PUT knows the accounts of streams in a file after a restart", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/streams.db`;
  {
    await using broker = await SqliteBroker.open(path);
    await using node = new Node(broker);
    assertEquals(await node.fill("eve", EVE), MAX / 2);
  }
  await using broker = await SqliteBroker.open(path);
  await using node = new Node(broker);
  assertEquals(await node.fill("ann", ANN, 1), 1);
  assertEquals(await node.send("PUT", "eve-more", EVE), 429);
  assertEquals(await node.fill("bob", { "x-address": "192.0.2.8" }, 5), 5);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("PUT counts streams for the caller that authorize names, at any address", async () => {
  await using broker = new MemoryBroker();
  await using node = new Node(broker, { maxStreamsPerUser: 3 });
  const from = (address: string) => ({ "x-caller": "backend", "x-address": address });
  assertEquals(await node.fill("one", from("192.0.2.1"), 2), 2);
  assertEquals(await node.fill("two", from("192.0.2.2")), 1);
  // A share that the application set always applies, and the error names it.
  assertEquals(node.rejections, ["Cannot create: your user may have at most 3 streams"]);
  assertEquals(await node.fill("other", { ...ANN, "x-caller": "other" }, 3), 3);
  const fork = { ...from("192.0.2.3"), "stream-forked-from": "/streams/one-0" };
  assertEquals(await node.send("PUT", "fork", fork), 429);
});

Deno.test("Concurrent PUTs create at most a share of streams", async () => {
  await using broker = new MemoryBroker();
  await using node = new Node(broker, { maxStreamsPerAddress: 3 });
  const ids = Array.from({ length: 8 }, (_, i) => `${i}`);
  const statuses = await Promise.all(ids.map((id) => node.send("PUT", id, EVE)));
  assertEquals(statuses.filter((status) => status === 201).length, 3);
  assertEquals(statuses.filter((status) => status === 429).length, 5);
});

Deno.test("Concurrent PUTs of one stream create it with the last slot of a share", async () => {
  await using broker = new MemoryBroker();
  await using node = new Node(broker, { maxStreamsPerAddress: 3 });
  assertEquals(await node.fill("one", EVE, 2), 2);
  const statuses = await Promise.all(
    Array.from({ length: 5 }, () => node.send("PUT", "last", EVE)),
  );
  assertEquals(statuses, [201, 200, 200, 200, 200]);
  assertEquals(await node.send("PUT", "more", EVE), 429);
});

Deno.test("PUT counts streams of the server and of unknown clients only for the total limit", async () => {
  await using broker = new MemoryBroker();
  const runtime = platformRuntime();
  const bounds = boundsOf(streamSettings({ path: "/", maxStreams: MAX }));
  await using streams = new StreamLogs({ runtime, broker, bounds, onError() {} });
  for (let i = 0; i < MAX / 2; i++) await streams.create(`own-${i}`, {});
  await using node = new Node(broker);
  assertEquals(await node.fill("unknown", {}, MAX / 2 - 1), MAX / 2 - 1);
  assertEquals(await node.fill("ann", ANN), 1);
  assertEquals(node.rejections, ["Cannot create: the server has 20 streams already (maxStreams)"]);
});

Deno.test("PUT and POST reserve bytes for others once a client has its share of a half full broker", async () => {
  await using broker = new MemoryBroker({ maxTotalBytes: 800_000 });
  await using node = new Node(broker);
  const body = "x".repeat(30_000);
  const send = (method: string, id: string, headers: Record<string, string>) =>
    node.send(method, id, { ...headers, "content-type": "text/plain" }, body);
  let status = await send("PUT", "eve", EVE);
  while (status < 300) status = await send("POST", "eve", EVE);
  assertEquals(status, 413);
  assertEquals(await send("PUT", "eve-more", EVE), 413);
  const share = "may have at most 100000 bytes of streams while the server is busy";
  assertEquals(node.rejections, [
    `Cannot append: the address that created the stream ${share}`,
    `Cannot create: your address ${share}`,
  ]);
  assertEquals(node.handler.stats.limited?.["maxTotalBytes"], 2);
  assertEquals(await send("PUT", "ann", ANN), 201);
  assertEquals(await send("POST", "ann", ANN), 204);
  assertEquals(await node.send("DELETE", "eve", EVE), 204);
  assertEquals(await send("PUT", "eve-more", EVE), 201);
});

Deno.test("ClientStreams.create() counts nothing for a failed creation", async () => {
  await using broker = new MemoryBroker();
  const runtime = platformRuntime();
  const bounds = boundsOf(streamSettings({ path: "/", maxStreams: MAX }));
  await using streams = new StreamLogs({ runtime, broker, bounds, onError() {} });
  const streamShares = { shares: { user: 1 }, strict: ["user"] } as const;
  const kept = new ClientStreams({ runtime, streams, maxStreams: MAX, streamShares });
  const account = { ...NOBODY, user: "ann" };
  for (let i = 0; i < 3; i++) {
    await kept.create({ id: "one", account }, () => Promise.resolve({ kind: "full" }));
    await kept.create({ id: "one", account }, () => Promise.reject(new Error("away"))).catch(
      () => {},
    );
  }
  const created = await kept.create(
    { id: "one", account },
    (keys) => streams.create("one", { owner: keys }),
  );
  assertEquals(created.kind, "created");
});

Deno.test("ClientStreams.create() releases the slot of a stream that another node deleted", async () => {
  await using broker = new MemoryBroker();
  let now = 0;
  const runtime = Object.assign(platformRuntime(), { monotonic: () => now });
  const bounds = boundsOf(streamSettings({ path: "/", maxStreams: MAX }));
  await using streams = new StreamLogs({ runtime, broker, bounds, onError() {} });
  const streamShares = { shares: { user: 1 }, strict: ["user"] } as const;
  const kept = new ClientStreams({ runtime, streams, maxStreams: MAX, streamShares });
  const account = { ...NOBODY, user: "ann" };
  const create = (id: string) =>
    kept.create({ id, account }, (keys) => streams.create(id, { owner: keys }));
  for (let i = 0; i < 3; i++) {
    assertEquals((await create(`${i}`)).kind, "created");
    await assertRejects(() => create("more"), LimitError);
    await streams.delete(`${i}`);
    now += 5_000; // Now the streams may be listed again.
  }
});
