import { assertEquals, assertRejects } from "@std/assert";
import { lowPort } from "./networks/ports.ts";
import { RoundRobin } from "./networks/round_robin.ts";
import { until } from "./waiting.ts";

/** A node that responds with its name, or with pieces as the test releases them. */
class Node implements AsyncDisposable {
  asked = 0;
  upgrades = 0;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  #pieces!: ReadableStreamDefaultController<Uint8Array>;
  isStreaming = false;
  isCancelled = false;

  constructor(name: string) {
    this.#server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, async (asked) => {
      this.asked++;
      if (asked.headers.has("upgrade")) this.upgrades++;
      if (asked.method === "POST") return new Response(`${name} took ${await asked.text()}`);
      if (!asked.url.endsWith("/stream")) return new Response(name);
      const body = new ReadableStream<Uint8Array>({
        start: (pieces) => {
          this.#pieces = pieces;
          this.isStreaming = true;
        },
        cancel: () => void (this.isCancelled = true),
      });
      return new Response(body, { headers: { "content-type": "text/event-stream" } });
    });
  }

  get port(): number {
    return this.#server.addr.port;
  }

  say(text: string): void {
    this.#pieces.enqueue(new TextEncoder().encode(text));
  }

  end(): void {
    this.#pieces.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}

/** Reads a response piece by piece. */
class Reading {
  text = "";
  isOver = false;
  error: unknown;
  readonly #ending = new AbortController();

  constructor(url: string) {
    void this.#read(url);
  }

  stop(): void {
    this.#ending.abort();
  }

  async #read(url: string): Promise<void> {
    try {
      const { body } = await fetch(url, { signal: this.#ending.signal });
      for await (const piece of body!.pipeThrough(new TextDecoderStream())) {
        this.text += piece;
      }
    } catch (error) {
      this.error = error;
    }
    this.isOver = true;
  }
}

Deno.test("RoundRobin forwards requests to its nodes in turn, without their upgrade", async () => {
  await using one = new Node("one");
  await using two = new Node("two");
  await using proxy = await RoundRobin.start([one.port, two.port]);
  const responses: string[] = [];
  for (let i = 0; i < 4; i++) {
    const response = await fetch(`${proxy.url}a?b`, {
      method: i < 2 ? "GET" : "POST",
      ...i >= 2 && { body: `${i}` },
    });
    responses.push(await response.text());
  }
  assertEquals(responses, ["one", "two", "two took 2", "one took 3"]);
  assertEquals(proxy.passed[0]!.path, "/a?b");
  const socket = new WebSocket(proxy.url.replace("http", "ws"));
  await new Promise((resolve) => socket.onerror = resolve);
  assertEquals([one.upgrades, two.upgrades], [0, 0]);
  assertEquals(proxy.passed.map(({ node, status }) => [node, status]), [
    [0, 200],
    [1, 200],
    [1, 200],
    [0, 200],
    [0, 200],
  ]);
});

Deno.test("RoundRobin skips nodes that reject connections", async () => {
  await using node = new Node("one");
  await using proxy = await RoundRobin.start([lowPort(), node.port, lowPort()]);
  for (let i = 0; i < 3; i++) {
    assertEquals(
      await (await fetch(proxy.url, { method: "POST", body: "x" })).text(),
      "one took x",
    );
  }
  await using empty = await RoundRobin.start([lowPort()]);
  const response = await fetch(empty.url);
  await response.body?.cancel();
  assertEquals(response.status, 502);
});

Deno.test("RoundRobin holds back the first 4 KiB, each block of 4 KiB, or whole event streams", async () => {
  const half = "x".repeat(2_048);
  const seen = {
    nothing: [2_048, 4_096, 4_100],
    start: [0, 4_096, 4_100],
    blocks: [0, 4_096, 4_096],
    streams: [0, 0, 0],
  };
  for (const [holds, lengths] of Object.entries(seen)) {
    await using node = new Node("one");
    await using proxy = await RoundRobin.start([node.port], { holds: holds as "nothing" });
    const reading = new Reading(`${proxy.url}stream`);
    await until(() => node.isStreaming);
    for (const [i, text] of [half, half, "last"].entries()) {
      node.say(text);
      await until(() => reading.text.length >= lengths[i]!);
      // Another request shows that nothing more arrived before it.
      await (await fetch(`${proxy.url}other`)).text();
      assertEquals(reading.text.length, lengths[i], `${holds} ${i}`);
    }
    node.end();
    await until(() => reading.isOver);
    assertEquals([reading.text.length, reading.error], [4_100, undefined]);
  }
});

Deno.test("RoundRobin cuts off silent responses, and ends requests whose client is gone", async () => {
  await using node = new Node("one");
  await using quick = await RoundRobin.start([node.port], { idleMs: 100, holds: "nothing" });
  const silent = new Reading(`${quick.url}stream`);
  await until(() => silent.isOver);
  assertEquals(silent.error instanceof Error, true);
  await until(() => node.isCancelled);

  node.isCancelled = node.isStreaming = false;
  await using proxy = await RoundRobin.start([node.port], { holds: "nothing" });
  const left = new Reading(`${proxy.url}stream`);
  await until(() => node.isStreaming);
  node.say("hello");
  await until(() => left.text === "hello");
  left.stop();
  await until(() => node.isCancelled);
  assertEquals(left.isOver, true);
});

Deno.test("RoundRobin answers instead of a node, and loses responses, as the test decides", async () => {
  await using node = new Node("one");
  await using proxy = await RoundRobin.start([node.port]);
  proxy.onRequest = ({ method }) => method === "PUT" ? 500 : undefined;
  proxy.losesResponse = ({ method }) => method === "POST";
  await assertRejects(() => fetch(proxy.url, { method: "POST", body: "x" }));
  assertEquals([node.asked, proxy.passed.at(-1)!.status], [1, 200]);
  const own = await fetch(proxy.url, { method: "PUT" });
  assertEquals({ status: own.status, text: await own.text(), asked: node.asked }, {
    status: 500,
    text: "",
    asked: 1,
  });
});
